"""``groundspeed estimate``: predict TTFT, TPOT and throughput of a model on a GPU."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from groundspeed.estimating.load import load_of, refuse_unmodelled
from groundspeed.profiles.errors import InputError

if TYPE_CHECKING:
    from groundspeed.estimator import Model
    from groundspeed.estimator.hardware.find_hardware import HardwareChoice
    from groundspeed.estimator.serving.workload import Kind


def estimate_command(
    model: Annotated[
        str,
        typer.Argument(
            help=(
                "Model: a shipped name (qwen2.5-32b), a Hugging Face name (Qwen/Qwen2.5-32B) or "
                "the path of a config.json."
            )
        ),
    ],
    gpu: Annotated[
        list[str],
        typer.Option(
            "--gpu",
            help=(
                "GPU: a name (h200, h100-sxm), which selects its newest profile, else its "
                "datasheet; or the id or file of a profile. Repeat it to compare GPUs."
            ),
        ),
    ],
    isl: Annotated[
        int | None, typer.Option(help="Input length: tokens in each prompt. Default: 1024.")
    ] = None,
    osl: Annotated[
        int | None,
        typer.Option(help="Output length: tokens generated for each request. Default: 1024."),
    ] = None,
    concurrency: Annotated[
        str | None,
        typer.Option(
            help=(
                "Number of clients of a server, each with one request at a time: a number, a list "
                "(1,8,64) or a range that doubles (1..128). Not given: a static batch, or one "
                "client if an option of a server is given."
            )
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help=(
                "Serving engine: vllm, sglang, trtllm, atom (AMD), or bare (no engine). "
                "Default: vllm for a server, bare for a static batch."
            )
        ),
    ] = None,
    tp: Annotated[
        int,
        typer.Option(help="Tensor parallel size: number of GPUs that each layer is split over."),
    ] = 1,
    pp: Annotated[
        int,
        typer.Option(help="Pipeline parallel size: number of stages the layers are split into."),
    ] = 1,
    ep: Annotated[
        int,
        typer.Option(
            help="Expert parallel size: number of GPU groups that whole experts are spread over; "
            "1 splits every expert over all GPUs."
        ),
    ] = 1,
    dp: Annotated[
        int,
        typer.Option(
            help=(
                "Data parallel size of attention: number of groups of --tp GPUs, each with all "
                "attention weights and its own sequences; experts are spread over all GPUs "
                "(tp x dp). vLLM: --tensor-parallel-size and --data-parallel-size; SGLang: "
                "--tp-size is tp x dp, with --dp-size and --enable-dp-attention."
            )
        ),
    ] = 1,
    replicas: Annotated[
        int,
        typer.Option(help="Independent copies of the deployment, which share the clients equally."),
    ] = 1,
    dtype: Dtype = None,
    kv_dtype: KvDtype = None,
    gpus_per_node: GpusPerNode = None,
    inter_node: InterNode = None,
    gpu_link: GpuLink = None,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Number of sequences in a static batch, which start and end together. Not with "
            "--concurrency. Default: 1, if no server is predicted."
        ),
    ] = None,
    length_low: Annotated[
        float | None,
        typer.Option(
            help=(
                "Shortest request, as a fraction of --isl and --osl (above 0); lengths are "
                "uniformly distributed between --length-low and --length-high. Default: 1."
            )
        ),
    ] = None,
    length_high: Annotated[
        float | None,
        typer.Option(
            help="Longest request, as a fraction of --isl and --osl (at most 2); lengths are "
            "uniformly distributed between --length-low and --length-high. Default: 1."
        ),
    ] = None,
    num_prompts: Annotated[
        int | None,
        typer.Option(help="Number of requests in the whole benchmark. Default: 10 per client."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help=(
                "Open loop: mean arrival rate in requests/s (Poisson arrivals). Not given: a "
                "closed loop of --concurrency clients."
            )
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Open loop: recorded requests, as CSV (arrival_s in seconds, isl, osl), JSON "
            "lines (Mooncake, aiperf sessions, Bailian) or the JSON of vllm bench serve "
            "--save-detailed. Shared prefixes meet a simulated prefix cache. Not given: no trace."
        ),
    ] = None,
    cached: Annotated[
        float | None,
        typer.Option(
            help="Fraction of each prompt that is already in the prefix cache, from 0 to below 1. "
            "Not given: 0, or what a trace says."
        ),
    ] = None,
    draft_tokens: Annotated[
        int | None,
        typer.Option(
            help="Draft tokens per sequence and step of speculative decoding, 1 to 64. Not given: "
            "no speculation."
        ),
    ] = None,
    acceptance: Acceptance = None,
    draft: Draft = None,
    token_budget: TokenBudget = None,
    max_sequences: MaxSequences = None,
    memory_fraction: MemoryFraction = None,
    max_model_len: MaxModelLen = None,
    engine_version: EngineVersion = "",
    engine_profile: EngineProfile = None,
    prefill_decode: Annotated[
        str | None,
        typer.Option(
            help=(
                "Disaggregated serving: number of replicas for prefill and for decode, e.g. 2+6. "
                "Not given: every replica does both."
            )
        ),
    ] = None,
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate",
            help="Also show percentiles of TTFT, TPOT and end-to-end latency from a simulation of "
            "the scheduler.",
        ),
    ] = False,
    slo: Annotated[
        str | None,
        typer.Option(
            help=(
                "Latency limits in ms, e.g. ttft=500,tpot=50: also predict the goodput, the rate "
                "of requests within the limits. Not given: no goodput."
            )
        ),
    ] = None,
    price: Annotated[
        list[float] | None,
        typer.Option(
            help=(
                "Price of one GPU-hour in any currency, once for all GPUs or once for each --gpu "
                "in the same order: also show the cost of a million output tokens. Not given: no "
                "cost."
            )
        ),
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(
            help=(
                "CSV file of measurements to show beside the prediction: batch_or_concurrency, "
                "and any of ttft_ms, tpot_ms, output_tok_s, total_tok_s."
            )
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Plot throughput over latency to this .png or .svg file.")
    ] = None,
    image_tokens: Annotated[
        int,
        typer.Option(
            help="Tokens of images in each prompt, added to --isl. The time of the encoder that "
            "makes them is not included."
        ),
    ] = 0,
    eager: Annotated[bool, typer.Option("--eager", hidden=True)] = False,
    lora_rank: Annotated[int | None, typer.Option(hidden=True)] = None,
    host_cache: Annotated[str | None, typer.Option(hidden=True)] = None,
    assume: Annotated[
        str | None,
        typer.Option(
            help="'dense' reads a model of an unknown architecture as a plain dense decoder. Not "
            "given: an unknown architecture is an error."
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="'operators' predicts each operator; 'naive' divides the FLOPs by --utilization "
            "times the datasheet peak (static batch only; old name: 'article')."
        ),
    ] = "operators",
    utilization: Annotated[
        float | None,
        typer.Option(
            help="Fraction of the datasheet peak, from 0 to 1, that --method naive assumes. "
            "Default: 0.6."
        ),
    ] = None,
    profile_dir: ProfileDir = None,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """Predict TTFT, TPOT and throughput of a static batch, or of a server under load.

    A static batch is predicted with --batch or without options of a load: all sequences start and
    end together. A server is predicted with --concurrency (closed loop), --rate or --trace (open
    loop), or one of --engine, --slo, --simulate, --measured, --plot, --prefill-decode,
    --num-prompts, --length-low, --length-high, --max-sequences.

    Example: groundspeed estimate deepseek-r1 --gpu h200 --tp 8 --isl 3200 --osl 800
    --concurrency 1..128
    """
    from groundspeed.estimating.output import EstimateRequest, estimate
    from groundspeed.estimating.parsing import (
        parse_concurrency,
        parse_pools,
        parse_rate,
        parse_slo,
        prices_of,
        read_measured,
    )
    from groundspeed.estimator import Workload, find_model
    from groundspeed.estimator.deployment.build_server import ServerOptions
    from groundspeed.estimator.engines.own_engine import engine_of
    from groundspeed.estimator.hardware.find_hardware import find_hardware
    from groundspeed.estimator.serving.speculation import speculate
    from groundspeed.estimator.traffic.read_trace import read_trace

    given = {
        "--batch": batch, "--concurrency": concurrency, "--rate": rate, "--trace": trace,
        "--engine": engine, "--engine-profile": engine_profile,
        "--engine-version": engine_version or None,
        "--slo": slo,
        "--simulate": simulate or None, "--measured": measured, "--plot": plot,
        "--prefill-decode": prefill_decode, "--num-prompts": num_prompts,
        "--length-low": length_low, "--length-high": length_high,
        "--max-sequences": max_sequences, "--token-budget": token_budget, "--price": price,
        "--memory-fraction": memory_fraction, "--max-model-len": max_model_len,
        "--draft-tokens": draft_tokens, "--acceptance": acceptance, "--kv-dtype": kv_dtype,
        "--draft": draft,
        "--cached": cached, "--image-tokens": image_tokens or None,
        "--utilization": utilization, "--isl": isl, "--osl": osl,
        "--gpus-per-node": gpus_per_node, "--inter-node": inter_node, "--gpu-link": gpu_link,
        **{f"--{n}": v if v != 1 else None
           for n, v in (("tp", tp), ("pp", pp), ("ep", ep), ("dp", dp), ("replicas", replicas))},
    }  # fmt: skip
    named = [name for name, value in given.items() if value is not None]
    refuse_unmodelled({"--eager": eager, "--lora-rank": lora_rank, "--host-cache": host_cache})
    naive = _is_naive(method)
    load = load_of(named, naive=naive)
    recorded = read_trace(trace) if trace else None
    if recorded is not None:  # what is shown of a prompt is shown of the mean one
        means = (recorded.mean_prompt_tokens, recorded.mean_output_tokens)
        isl, osl = (max(1, round(mean)) for mean in means)
    isl, osl = (1024 if length is None else length for length in (isl, osl))
    isl += image_tokens
    shape = find_model(model, assume=assume)
    choices = [find_hardware(name, profile_dir=profile_dir) for name in gpu]
    if naive:
        lengths = (1 if batch is None else batch, isl, osl)
        share = 0.6 if utilization is None else utilization
        _naive_estimate(shape, choices, lengths, dtype, share, as_json, output, force)
        return
    kind: Kind = "static" if load == "static" else "closed"
    if load == "open":
        kind = "trace" if recorded else "poisson"
    clients = parse_concurrency(concurrency or str(batch if batch is not None else 1), load)
    request = EstimateRequest(
        model=shape,
        hardware=choices,
        workload=speculate(Workload(
            prompt_tokens=isl,
            output_tokens=osl,
            kind=kind,
            length_low=1.0 if length_low is None else length_low,
            length_high=1.0 if length_high is None else length_high,
            num_prompts=num_prompts,
            request_rate_per_s=rate,
            cached_share=cached,
            trace=recorded,
        ), draft_tokens or 0, acceptance, draft or "head"),
        options=ServerOptions(
            tp=tp, pp=pp, ep=ep, dp=dp, replicas=replicas, dtype=dtype, kv_dtype=kv_dtype,
            engine=engine_of(engine_profile, engine, "bare" if load == "static" else "vllm"),
            engine_version=engine_version, engine_profile=engine_profile,
            token_budget=token_budget, max_sequences=max_sequences,
            memory_fraction=memory_fraction, max_model_len=max_model_len,
            gpus_per_node=gpus_per_node,
            inter_node_bytes_per_s=parse_rate(inter_node, "--inter-node"),
            gpu_link_bytes_per_s=parse_rate(gpu_link, "--gpu-link"),
        ),
        concurrency=clients,
        percentiles=simulate,
        slo=parse_slo(slo),
        pools=parse_pools(prefill_decode),
        prices=prices_of(price, len(gpu)),
    )  # fmt: skip
    estimate(
        request,
        measured=read_measured(measured) if measured else {},
        plot=plot,
        as_json=as_json,
        output=output,
        force=force,
    )


def _is_naive(method: str) -> bool:
    """Return whether the back-of-the-envelope method was chosen.

    Raises
    ------
    InputError
        If there is no such method.
    """
    method = {"article": "naive"}.get(method, method)
    if method not in ("operators", "naive"):
        raise InputError(
            f"unknown method '{method}'", where="--method", remedy="use operators or naive"
        )
    return method == "naive"


def _naive_estimate(
    shape: "Model",
    choices: "list[HardwareChoice]",
    lengths: tuple[int, int, int],
    dtype: str | None,
    utilization: float,
    as_json: bool,
    output: Path | None,
    force: bool,
) -> None:
    from groundspeed.estimator.decisions.naive_method import NaiveWorkload, naive_estimate
    from groundspeed.estimator.model.quantization import weight_format

    batch, isl, osl = lengths
    workload = NaiveWorkload(
        batch=batch,
        prompt_tokens=isl,
        output_tokens=osl,
        dtype=weight_format(dtype) if dtype else shape.dtype,
    )
    estimates = []
    for hardware in choices:
        if hardware.spec is None:
            raise InputError(
                f"--method naive needs a datasheet, but '{hardware.name}' has none",
                remedy="give the name of a GPU, e.g. --gpu h200",
            )
        estimates.append(naive_estimate(shape, hardware.spec, workload, utilization=utilization))
    if as_json or output is not None:
        document = {"estimates": [e.model_dump(mode="json") for e in estimates]}
        deliver(json.dumps(document, indent=1), output, force=force)
        return
    from groundspeed.display.show_profile import show_naive_estimate
    from groundspeed.display.terminal import make_console

    console = make_console()
    for estimate in estimates:
        show_naive_estimate(console, estimate)
