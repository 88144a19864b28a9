"""``groundspeed plan``: find the cheapest deployment that meets latency limits."""

from pathlib import Path
from typing import Annotated

import typer

from groundspeed.commands.options import Force, Json, Output, ProfileDir, deliver
from groundspeed.commands.server_options import (
    Acceptance,
    Draft,
    Dtype,
    EngineProfile,
    EngineVersion,
    GpuLink,
    GpusPerNode,
    InterNode,
    KvDtype,
    MaxModelLen,
    MaxSequences,
    MemoryFraction,
    TokenBudget,
)


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
                "Limits in ms on TTFT, TPOT and latency, on means or percentiles, e.g. "
                "ttft=500,tpot=50,ttft_p99=2000. Not given: no limit. Exit code 1 if no "
                "deployment meets them."
            )
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Serving engine: vllm, sglang, trtllm or atom (AMD). Default: that of the engine "
            "profile, else vllm."
        ),
    ] = None,
    engine_version: EngineVersion = "",
    engine_profile: EngineProfile = None,
    price: Annotated[
        list[float] | None,
        typer.Option(
            help="Price of one GPU-hour in any currency, once for each --gpu in the same order. "
            "Not given: the best plan is the one with the most tokens/s per GPU."
        ),
    ] = None,
    dtype: Dtype = None,
    kv_dtype: KvDtype = None,
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
    cached: Annotated[
        float,
        typer.Option(
            help="Fraction of each prompt that is already in the prefix cache, from 0 to below 1."
        ),
    ] = 0.0,
    draft_tokens: Annotated[
        int,
        typer.Option(help="Draft tokens per sequence and step of speculative decoding; 0: none."),
    ] = 0,
    acceptance: Acceptance = None,
    draft: Draft = None,
    pools: Annotated[
        bool,
        typer.Option(
            "--pools/--no-pools",
            help="Also try prefill and decode on pools of their own, of one GPU or of two.",
        ),
    ] = True,
    token_budget: TokenBudget = None,
    max_sequences: MaxSequences = None,
    memory_fraction: MemoryFraction = None,
    max_model_len: MaxModelLen = None,
    gpus_per_node: GpusPerNode = None,
    inter_node: InterNode = None,
    gpu_link: GpuLink = None,
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
    from groundspeed.estimating.parsing import parse_rate
    from groundspeed.estimator import find_model
    from groundspeed.estimator.decisions.objective import parse_limits
    from groundspeed.estimator.decisions.placements import Formats
    from groundspeed.estimator.decisions.plan import make_plan, served_as
    from groundspeed.estimator.decisions.plan_records import Candidate, Request
    from groundspeed.estimator.deployment.build_server import ServerOptions
    from groundspeed.estimator.engines.own_engine import engine_of
    from groundspeed.estimator.hardware.find_hardware import find_hardware
    from groundspeed.estimator.serving.speculation import speculate
    from groundspeed.estimator.serving.workload import Workload
    from groundspeed.profiles.errors import InputError

    prices: list[float | None] = [*(price or [])] or [None] * len(gpu)
    if len(prices) != len(gpu):
        raise InputError(f"{len(prices)} prices for {len(gpu)} GPUs", where="--price",
                         remedy="give --price once for each --gpu, in the same order")  # fmt: skip
    for option, value in (("--acceptance", acceptance), ("--draft", draft)):
        if value is not None and not draft_tokens:
            raise InputError("needs --draft-tokens", where=option)
    options = ServerOptions(
        dtype=dtype, kv_dtype=kv_dtype, engine=engine_of(engine_profile, engine, "vllm"),
        engine_version=engine_version, engine_profile=engine_profile,
        token_budget=token_budget, max_sequences=max_sequences, memory_fraction=memory_fraction,
        max_model_len=max_model_len, gpus_per_node=gpus_per_node,
        inter_node_bytes_per_s=parse_rate(inter_node, "--inter-node"),
        gpu_link_bytes_per_s=parse_rate(gpu_link, "--gpu-link"),
    )  # fmt: skip
    candidates = []
    for name, each in zip(gpu, prices, strict=True):
        hardware = find_hardware(name, profile_dir=profile_dir)
        chosen = options.engine_on(hardware)
        candidates.append(Candidate(name, hardware.best, chosen, gpus, each))
    limits = parse_limits(slo)
    plan = make_plan(
        Request(
            find_model(model), candidates,
            speculate(
                Workload(
                    isl, osl, length_low=length_low, length_high=length_high, cached_share=cached
                ),
                draft_tokens, acceptance, draft or "head",
            ),
            limits, Formats(dtype, kv_dtype, options.deployment.network), served_as(model), pools,
        )
    )  # fmt: skip
    if plot is not None:
        from groundspeed.display.plot_plan import plot_plan

        plot_plan(plan, plot, force=force)
    if as_json or output is not None:
        deliver(plan.model_dump_json(indent=1), output, force=force)
    else:
        from groundspeed.display.show_plan import show_plan
        from groundspeed.display.terminal import make_console

        show_plan(make_console(), plan)
    if plan.best is None and limits:
        raise typer.Exit(1)
