"""The commands about a live server: what belongs together, and what has no effect."""

import pytest
from typer.testing import CliRunner

from groundspeed.cli import app
from groundspeed.profiles.errors import InputError

SERVER = ("--server", "127.0.0.1:9")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("calibrate", *SERVER), "--gpu: the device of the server is needed"),
        (("calibrate", *SERVER, "--gpu", "h200", "--quick"), "--quick: has no effect with"),
        (("calibrate", *SERVER, "--gpu", "h200", "--plan"), "--plan: has no effect with"),
        (("calibrate", "--metrics-only"), "--metrics-only: has no effect without --server"),
        (("calibrate", "--tp", "2"), "--tp: has no effect without --server"),
        (("calibrate", "--budget", "9s"), "--budget: has no effect without --server"),
        (("calibrate", *SERVER, "--gpu", "h200", "--metrics", "a"), "--metrics: belongs to"),
        (("calibrate", *SERVER, "--gpu", "h200", "--name", "../x"), "--name: '../x' is no name"),
        (("calibrate", *SERVER, "--gpu", "h200"), "nothing listens there"),
        (("calibrate", *SERVER, "--gpu", "h20000"), "nothing listens there"),
        (("verify", "qwen3-8b", *SERVER, "--gpu", "h200", "--layers", "3"), "--layers: has no"),
        (("verify", "qwen3-8b", "--engine-profile", "x"), "--engine-profile: has no effect wi"),
        (("verify", "qwen3-8b", *SERVER, "--gpu", "h200"), "nothing listens there"),
        (("verify", "qwen3-8b", *SERVER, "--gpu", "h200", "--engine-profile", "nonesuch"),
         "no engine profile 'nonesuch'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(words: tuple[str, ...], told: str) -> None:
    result = CliRunner().invoke(app, list(words))
    assert isinstance(result.exception, InputError)
    assert told in str(result.exception)
