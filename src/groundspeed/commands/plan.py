"""``groundspeed plan``: find the cheapest deployment that meets latency limits."""

from pathlib import Path
from typing import Annotated

import typer

from groundspeed.commands.options import Force, Json, Output, ProfileDir, deliver


def plan_command(
    model: Annotated[
        str,
        typer.Argument(
            help="Model: a shipped name, a Hugging Face name or the path of a config.json."
        ),
    ],
    gpu: Annotated[
        list[str],
        typer.Option(
            "--gpu",
            help=(
                "GPU: a name (h200), or the id or file of a profile. Repeat it to let the plan "
                "choose among several GPUs."
            ),
        ),
    ],
    gpus: Annotated[
        int, typer.Option(help="Number of available GPUs, of each --gpu; at least 1.")
    ] = 8,
    isl: Annotated[int, typer.Option(help="Input length: tokens in each prompt.")] = 1024,
    osl: Annotated[
        int, typer.Option(help="Output length: tokens generated for each request.")
    ] = 1024,
    slo: Annotated[
        str | None,
        typer.Option(
            help=(
                "Limits in ms on the mean TTFT and TPOT, e.g. ttft=500,tpot=50. Not given: no "
                "limit. Exit code 1 if no deployment meets them."
            )
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help="Serving engine: vllm, sglang or trtllm.")] = "vllm",
    engine_version: Annotated[
        str,
        typer.Option(
            help="Version of the engine, e.g. 0.12. Default: the newest whose host costs are known."
        ),
    ] = "",
    price: Annotated[
        list[float] | None,
        typer.Option(
            help="Price of one GPU-hour in any currency, once for each --gpu in the same order. "
            "Not given: the best plan is the one with the most tokens/s per GPU."
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Data type of the weights, e.g. fp8. Default: the checkpoint's."),
    ] = None,
    kv_dtype: Annotated[
        str | None,
        typer.Option(
            help=("Data type of the KV cache, e.g. fp8. Default: the checkpoint's, else 16 bit.")
        ),
    ] = None,
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
    plot: Annotated[
        Path | None,
        typer.Option(help="Plot the Pareto front to this .png or .svg file. Not given: no plot."),
    ] = None,
    profile_dir: ProfileDir = None,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """Find the cheapest deployment within latency limits; show the Pareto front and launch command.

    Example: groundspeed plan llama-3.3-70b --gpu h200 --dtype fp8 --slo ttft=1000,tpot=30
    """
    from groundspeed.estimating.parsing import parse_slo
    from groundspeed.estimator import find_model
    from groundspeed.estimator.decisions.plan import Candidate, make_plan
    from groundspeed.estimator.engines.limits import engine_on
    from groundspeed.estimator.hardware.find_hardware import find_hardware
    from groundspeed.estimator.serving.workload import Workload
    from groundspeed.profiles.errors import InputError

    prices: list[float | None] = [*(price or [])] or [None] * len(gpu)
    if len(prices) != len(gpu):
        raise InputError(f"{len(prices)} prices for {len(gpu)} GPUs", where="--price",
                         remedy="give --price once for each --gpu, in the same order")  # fmt: skip
    candidates = []
    for name, each in zip(gpu, prices, strict=True):
        hardware = find_hardware(name, profile_dir=profile_dir)
        chosen = engine_on(engine, hardware.best, version=engine_version)
        candidates.append(Candidate(name, hardware.best, chosen, gpus, each))
    limits = parse_slo(slo)
    finite = [x if x != float("inf") else None for x in limits] if limits else [None, None]
    plan = make_plan(
        find_model(model),
        candidates,
        Workload(isl, osl, length_low=length_low, length_high=length_high),
        ttft_limit_s=finite[0],
        tpot_limit_s=finite[1],
        dtype=dtype,
        kv_dtype=kv_dtype,
    )
    if plot is not None:
        from groundspeed.display.plot_plan import plot_plan

        plot_plan(plan, plot, force=force)
    if as_json or output is not None:
        deliver(plan.model_dump_json(indent=1), output, force=force)
    else:
        from groundspeed.display.show_plan import show_plan
        from groundspeed.display.terminal import make_console

        show_plan(make_console(), plan)
    if plan.best is None and limits is not None:
        raise typer.Exit(1)
