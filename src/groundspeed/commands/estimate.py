"""``groundspeed estimate``: predict TTFT, TPOT and throughput of a model on a GPU."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundspeed.commands.options import Force, Json, Output, ProfileDir, deliver
from groundspeed.profiles.errors import InputError

if TYPE_CHECKING:
    from groundspeed.estimator import Model, Workload
    from groundspeed.estimator.hardware.find_hardware import HardwareChoice


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
    isl: Annotated[int, typer.Option(help="Input length: tokens in each prompt.")] = 1024,
    osl: Annotated[
        int, typer.Option(help="Output length: tokens generated for each request.")
    ] = 1024,
    concurrency: Annotated[
        str | None,
        typer.Option(
            help=(
                "Number of clients of a server, each with one request at a time: a number, a list "
                "(1,8,64) or a range that doubles (1..128). Not given: --batch."
            )
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help=(
                "Serving engine: vllm, sglang, trtllm, or bare (no engine). Default: vllm if a "
                "server is predicted, none for a static batch."
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
                "attention weights and its own sequences."
            )
        ),
    ] = 1,
    replicas: Annotated[
        int,
        typer.Option(help="Independent copies of the deployment, which share the clients equally."),
    ] = 1,
    dtype: Annotated[
        str | None,
        typer.Option(
            help=(
                "Data type of the weights: bfloat16, fp8, fp8_block, int4, nvfp4, ... Default: "
                "that of the checkpoint."
            )
        ),
    ] = None,
    kv_dtype: Annotated[
        str | None,
        typer.Option(
            help="Data type of the KV cache, e.g. fp8. Default: that of the checkpoint, else "
            "16 bit. Used only if a server is predicted."
        ),
    ] = None,
    batch: Annotated[
        int,
        typer.Option(
            help="Number of sequences in a static batch. If a server is predicted without "
            "--concurrency: number of clients."
        ),
    ] = 1,
    length_low: Annotated[
        float,
        typer.Option(
            help=(
                "Shortest request, as a fraction of --isl and --osl (above 0); lengths are "
                "uniformly distributed between --length-low and --length-high."
            )
        ),
    ] = 1.0,
    length_high: Annotated[
        float,
        typer.Option(
            help="Longest request, as a fraction of --isl and --osl (at most 2); lengths are "
            "uniformly distributed between --length-low and --length-high."
        ),
    ] = 1.0,
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
            help="Open loop: CSV file with one request per row and the columns arrival_s "
            "(arrival time in seconds), isl, osl. Not given: no trace."
        ),
    ] = None,
    cached: Annotated[
        float,
        typer.Option(
            help="Fraction of each prompt that is already in the prefix cache, from 0 to below 1."
        ),
    ] = 0.0,
    draft_tokens: Annotated[
        int,
        typer.Option(
            help="Draft tokens per sequence and step of speculative decoding, 0 to 64; 0: none."
        ),
    ] = 0,
    acceptance: Annotated[
        float,
        typer.Option(
            help="Probability (0 to 1) that a draft token is accepted, given that those before it "
            "were. Used with --draft-tokens."
        ),
    ] = 0.0,
    token_budget: Annotated[
        int | None,
        typer.Option(
            help=(
                "Maximum number of tokens in one step (vLLM: --max-num-batched-tokens). Default: "
                "the engine's own default."
            )
        ),
    ] = None,
    max_sequences: Annotated[
        int | None,
        typer.Option(
            help="Maximum number of sequences that run at once (vLLM: --max-num-seqs). Default: "
            "the engine's own default."
        ),
    ] = None,
    engine_version: Annotated[
        str,
        typer.Option(
            help="Version of the engine, e.g. 0.12. Default: the newest whose host costs are known."
        ),
    ] = "",
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
        float | None,
        typer.Option(
            help=(
                "Price of one GPU-hour in any currency: also show the cost of a million output "
                "tokens. Not given: no cost."
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
        float,
        typer.Option(
            help="Fraction of the datasheet peak, from 0 to 1, that --method naive assumes."
        ),
    ] = 0.6,
    profile_dir: ProfileDir = None,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """Predict TTFT, TPOT and throughput of a static batch on one device, or of a server.

    A server is predicted if the weights are quantized in the checkpoint or if one of these is
    given: --concurrency, --engine, --rate, --trace, --prefill-decode, --measured, --plot, --slo,
    --price, --simulate, or a --tp, --pp, --ep, --dp or --replicas above 1.

    Example: groundspeed estimate deepseek-r1 --gpu h200 --tp 8 --isl 3200 --osl 800
    --concurrency 1..128
    """
    from groundspeed.estimator import Workload, find_model
    from groundspeed.estimator.hardware.find_hardware import find_hardware

    method = {"article": "naive"}.get(method, method)
    if method not in ("operators", "naive"):
        raise InputError(
            f"unknown method '{method}'", where="--method", remedy="use operators or naive"
        )
    shape = find_model(model, assume=assume)
    choices = [find_hardware(name, profile_dir=profile_dir) for name in gpu]
    served = (concurrency, engine, rate, trace, prefill_decode, measured, plot, slo, price)
    many = max(tp, pp, ep, dp, replicas) > 1
    if any(option is not None for option in served) or many or simulate or shape.weights:
        from groundspeed.commands.estimate_server import (
            ServingRequest,
            estimate_serving,
            parse_concurrency,
            parse_pools,
            parse_slo,
            read_trace,
        )
        from groundspeed.estimator.serving.deployment import Deployment
        from groundspeed.estimator.serving.workload import ServingWorkload

        if replicas < 1:
            raise InputError(f"--replicas must be at least 1, not {replicas}")
        arrivals = read_trace(trace) if trace else None
        request = ServingRequest(
            workload=ServingWorkload(
                prompt_tokens=isl,
                output_tokens=osl,
                kind="trace" if arrivals else "poisson" if rate is not None else "closed",
                length_low=length_low,
                length_high=length_high,
                num_prompts=num_prompts,
                request_rate_per_s=rate,
                cached_share=cached,
                drafted_tokens=draft_tokens,
                acceptance=acceptance,
                arrivals=arrivals,
            ),
            deployment=Deployment(tp=tp, pp=pp, ep=ep, dp=dp, dtype=dtype, kv_dtype=kv_dtype),
            engine=engine or "vllm",
            engine_version=engine_version,
            token_budget=token_budget,
            max_sequences=max_sequences,
            concurrency=parse_concurrency(concurrency or str(batch)),
            replicas=replicas,
            simulate=simulate,
            slo=parse_slo(slo),
            pools=parse_pools(prefill_decode),
            measured=measured,
            plot=plot,
            price=price,
        )
        estimate_serving(shape, choices, request, as_json=as_json, output=output, force=force)
        return
    workload = Workload(
        batch=batch, prompt_tokens=isl, output_tokens=osl, dtype=dtype or shape.dtype
    )
    if method == "naive":
        _naive_estimate(shape, choices, workload, utilization, as_json, output, force)
        return
    from groundspeed.estimator import DatasheetHardware, ProfileHardware, predict

    columns = []
    for hardware in choices:
        if hardware.spec is not None and (len(choices) == 1 or hardware.profile is None):
            name = hardware.spec.id if len(choices) > 1 else f"datasheet {hardware.spec.id}"
            columns.append((name, predict(shape, DatasheetHardware(hardware.spec), workload)))
        if hardware.profile is not None:
            name = hardware.name if len(choices) > 1 else "calibrated"
            columns.append((name, predict(shape, ProfileHardware(hardware.profile), workload)))
    if as_json or output is not None:
        document = {
            "hardware": [{"name": h.name, "chosen": h.reason} for h in choices],
            "predictions": [p.model_dump(mode="json") for _, p in columns],
        }
        deliver(json.dumps(document, indent=1), output, force=force)
        return
    from groundspeed.display.show_profile import show_breakdown, show_predictions
    from groundspeed.display.terminal import make_console, plain, safe

    console = make_console()
    best = columns[-1][1]
    console.print(
        f"[bold]{safe(shape.id)}[/bold]  {shape.parameters / 1e9:.2f} B parameters, "
        f"prompt {isl}, output {osl}, batch {batch}, {workload.dtype}"
    )
    for hardware in choices:
        console.print(plain(f"{hardware.name}: {hardware.reason}"), style="dim")
    console.print()
    show_predictions(console, columns)
    if len(columns) <= 2 and len(choices) == 1:
        show_breakdown(console, best)
    console.print()
    for name, prediction in columns if len(choices) > 1 else columns[-1:]:
        prefix = f"{name}: " if len(choices) > 1 else ""
        console.print(plain(f"{prefix}{prediction.limits}"))
    for note in sorted({note for _, p in columns for note in p.notes}):
        console.print(plain(f"note: {note}"), style="yellow")
    console.print(best.tpot_definition, style="dim")


def _naive_estimate(
    shape: "Model",
    choices: "list[HardwareChoice]",
    workload: "Workload",
    utilization: float,
    as_json: bool,
    output: Path | None,
    force: bool,
) -> None:
    from groundspeed.estimator.decisions.naive_method import naive_estimate

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
