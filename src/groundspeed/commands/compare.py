"""``groundspeed compare``: compare GPUs, deployments or engines for one workload."""

from typing import TYPE_CHECKING, Annotated

import typer

from groundspeed.commands.options import Force, Json, Output, ProfileDir, deliver
from groundspeed.profiles.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from groundspeed.estimator.decisions.compare import Option

KEYS = (
    "gpu", "tp", "pp", "ep", "dp", "replicas", "engine", "version", "dtype", "kv_dtype", "price",
    "name",
)  # fmt: skip
"""Keys of one ``--option``."""


def compare_command(
    model: Annotated[
        str,
        typer.Argument(
            help="Model: a shipped name, a Hugging Face name or the path of a config.json."
        ),
    ],
    option: Annotated[
        list[str],
        typer.Option(
            "--option",
            help=(
                "One deployment, e.g. gpu=h200,tp=8,engine=sglang; give two or more. Keys: gpu "
                "(required), tp, pp, ep, dp, replicas (default 1), engine (default vllm), version, "
                "dtype, kv_dtype, price (of one GPU-hour), name."
            ),
        ),
    ],
    isl: Annotated[int, typer.Option(help="Input length: tokens in each prompt.")] = 1024,
    osl: Annotated[
        int, typer.Option(help="Output length: tokens generated for each request.")
    ] = 1024,
    concurrency: Annotated[
        str,
        typer.Option(
            help=(
                "Number of clients of the server, each with one request at a time: a number, a "
                "list (1,8,64) or a range that doubles (1..128)."
            )
        ),
    ] = "1..128",
    length_low: Annotated[
        float,
        typer.Option(
            help="Shortest request, as a fraction of --isl and --osl (above 0); lengths are "
            "uniformly distributed between --length-low and --length-high."
        ),
    ] = 1.0,
    length_high: Annotated[
        float,
        typer.Option(
            help="Longest request, as a fraction of --isl and --osl (at most 2); lengths are "
            "uniformly distributed between --length-low and --length-high."
        ),
    ] = 1.0,
    profile_dir: ProfileDir = None,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """Compare deployments: which one wins at each load, and where the difference is only noise.

    Example: groundspeed compare llama-3.3-70b --option gpu=h200,tp=4 --option gpu=mi300x,tp=4
    """
    from groundspeed.estimating.parsing import parse_concurrency
    from groundspeed.estimator.decisions.compare import compare_servers
    from groundspeed.estimator.serving.workload import Workload

    options = [_option(text, model, profile_dir) for text in option]
    names = [o.name for o in options]
    if len(set(names)) < len(names):
        raise InputError("two options have the same name", where="--option",
                         remedy="give each its own, such as name=a")  # fmt: skip
    workload = Workload(isl, osl, length_low=length_low, length_high=length_high)
    comparison = compare_servers(options, workload, parse_concurrency(concurrency))
    if as_json or output is not None:
        deliver(comparison.model_dump_json(indent=1), output, force=force)
        return
    from groundspeed.display.show_comparison import show_servers
    from groundspeed.display.terminal import make_console

    show_servers(make_console(), comparison)


def _option(text: str, model: str, profile_dir: "Path | None") -> "Option":
    from groundspeed.estimator.decisions.compare import Option
    from groundspeed.estimator.deployment.build_server import ServerOptions, build_server
    from groundspeed.estimator.hardware.find_hardware import find_hardware
    from groundspeed.profiles.errors import did_you_mean

    values: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.strip().partition("=")
        if not equals or not value:
            raise InputError(f"'{part}' is not key=value", where="--option", remedy="gpu=h200,tp=8")
        if key not in KEYS:
            raise InputError(f"unknown key '{key}'", where="--option",
                             remedy=did_you_mean(key, KEYS))  # fmt: skip
        values[key] = value
    if "gpu" not in values:
        raise InputError(f"'{text}' has no gpu", where="--option", remedy="add gpu=, e.g. gpu=h200")

    def whole(key: str) -> int:
        try:
            return int(values.get(key, "1"))
        except ValueError as error:
            raise InputError(
                f"{key} is '{values[key]}', not a whole number", where="--option"
            ) from error

    price: float | None = None
    if "price" in values:
        try:
            price = float(values["price"])
        except ValueError as error:
            raise InputError(
                f"price is '{values['price']}', not a number", where="--option"
            ) from error
        if not 0 < price < 10_000:
            raise InputError(
                f"the price of a GPU-hour must be above 0 and below 10,000, not {price:g}",
                where="--option",
            )
    hardware = find_hardware(values["gpu"], profile_dir=profile_dir)
    options = ServerOptions(
        tp=whole("tp"), pp=whole("pp"), ep=whole("ep"), dp=whole("dp"),
        replicas=whole("replicas"), dtype=values.get("dtype"), kv_dtype=values.get("kv_dtype"),
        engine=values.get("engine", "vllm"), engine_version=values.get("version", ""),
    )  # fmt: skip
    server = build_server(model, hardware, options)
    shown = [f"{server.deployment.all_devices} x {values['gpu']}", server.engine.name]
    return Option(values.get("name") or " ".join(shown), server, price)
