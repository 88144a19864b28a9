"""``groundspeed compare``: GPUs, deployments or engines for one workload, side by side."""

from typing import TYPE_CHECKING, Annotated

import typer

from groundspeed.commands.options import Force, Json, Output, ProfileDir, deliver
from groundspeed.profiles.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from groundspeed.estimator.decisions.compare import Option

KEYS = ("gpu", "tp", "pp", "ep", "dp", "engine", "version", "dtype", "kv_dtype", "price", "name")


def compare_command(
    model: Annotated[
        str, typer.Argument(help="Model: a shipped name, a hub name or the path of a config.json.")
    ],
    option: Annotated[
        list[str],
        typer.Option(
            "--option",
            help=(
                "One option to compare, e.g. gpu=h200,tp=8,engine=sglang. Give it twice or more."
            ),
        ),
    ],
    isl: Annotated[int, typer.Option(help="Input length: tokens of a prompt.")] = 1024,
    osl: Annotated[
        int, typer.Option(help="Output length: tokens generated for each request.")
    ] = 1024,
    concurrency: Annotated[
        str,
        typer.Option(
            help=(
                "Clients of the server: a number, a list (1,8,64) or a range of powers of "
                "two (1..128)."
            )
        ),
    ] = "1..128",
    length_low: Annotated[
        float,
        typer.Option(
            help="Shortest request, as a fraction of --isl and --osl (lengths are uniform)."
        ),
    ] = 1.0,
    length_high: Annotated[
        float,
        typer.Option(
            help="Longest request, as a fraction of --isl and --osl (lengths are uniform)."
        ),
    ] = 1.0,
    profile_dir: ProfileDir = None,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """Say where each option wins, and where the difference is inside the noise.

    Example: groundspeed compare llama-3.3-70b --option gpu=h200,tp=4 --option gpu=mi300x,tp=4
    """
    from groundspeed.commands.estimate_server import parse_concurrency
    from groundspeed.estimator.decisions.compare import compare_servers
    from groundspeed.estimator.serving.workload import ServingWorkload

    options = [_option(text, model, profile_dir) for text in option]
    names = [o.name for o in options]
    if len(set(names)) < len(names):
        raise InputError("two options are the same", where="--option",
                         remedy="tell them apart with name=…")  # fmt: skip
    workload = ServingWorkload(isl, osl, length_low=length_low, length_high=length_high)
    comparison = compare_servers(options, workload, parse_concurrency(concurrency))
    if as_json or output is not None:
        deliver(comparison.model_dump_json(indent=1), output, force=force)
        return
    from groundspeed.display.show_comparison import show_servers
    from groundspeed.display.terminal import make_console

    show_servers(make_console(), comparison)


def _option(text: str, model: str, profile_dir: "Path | None") -> "Option":
    from groundspeed.estimator import find_model
    from groundspeed.estimator.decisions.compare import Option
    from groundspeed.estimator.engines.engine import find_engine
    from groundspeed.estimator.hardware.find_hardware import find_hardware
    from groundspeed.estimator.serving.deployment import Deployment
    from groundspeed.estimator.serving.server import Server
    from groundspeed.profiles.errors import did_you_mean

    values: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.strip().partition("=")
        if not equals or not value:
            raise InputError(f"'{part}' is no key=value", where="--option")
        if key not in KEYS:
            raise InputError(f"unknown key '{key}'", where="--option",
                             remedy=did_you_mean(key, KEYS))  # fmt: skip
        values[key] = value
    if "gpu" not in values:
        raise InputError(f"'{text}' names no gpu", where="--option", remedy="gpu=h200,tp=8")

    def whole(key: str) -> int:
        try:
            return int(values.get(key, "1"))
        except ValueError as error:
            raise InputError(f"{key} is '{values[key]}', not a number", where="--option") from error

    price: float | None = None
    if "price" in values:
        try:
            price = float(values["price"])
        except ValueError as error:
            raise InputError(f"price is '{values['price']}', not a number") from error
        if not 0 < price < 10_000:
            raise InputError(f"{price:g} is no price of a GPU for an hour", where="--option")
    hardware = find_hardware(values["gpu"], profile_dir=profile_dir)
    rocm = hardware.spec is not None and hardware.spec.vendor == "amd"
    engine = find_engine(
        values.get("engine", "vllm"),
        version=values.get("version", ""),
        platform="rocm" if rocm else "cuda",
    )
    deployment = Deployment(
        tp=whole("tp"), pp=whole("pp"), ep=whole("ep"), dp=whole("dp"),
        dtype=values.get("dtype"), kv_dtype=values.get("kv_dtype"),
    )  # fmt: skip
    shown = [f"{deployment.devices} x {values['gpu']}", engine.name]
    name = values.get("name") or " ".join(shown)
    return Option(name, Server(find_model(model), deployment, engine, hardware.best), price)
