"""``groundspeed estimate``: from a model and a GPU's name to TTFT, TPOT and throughput."""

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
    model: Annotated[str, typer.Argument(help="qwen2.5-32b, a hub name, or a config.json.")],
    gpu: Annotated[
        list[str], typer.Option("--gpu", help="h200, h100-sxm, a profile; repeat to compare.")
    ],
    isl: Annotated[int, typer.Option(help="Prompt tokens.")] = 1024,
    osl: Annotated[int, typer.Option(help="Output tokens.")] = 1024,
    concurrency: Annotated[
        str | None, typer.Option(help="Clients of a server: 1,2,4..128.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="vllm, sglang, trtllm or bare; vllm for a server.")
    ] = None,
    tp: Annotated[int, typer.Option(help="Tensor parallel.")] = 1,
    pp: Annotated[int, typer.Option(help="Pipeline stages.")] = 1,
    ep: Annotated[int, typer.Option(help="Expert parallel.")] = 1,
    dp: Annotated[int, typer.Option(help="Attention data parallel.")] = 1,
    replicas: Annotated[int, typer.Option(help="Copies that share the clients.")] = 1,
    dtype: Annotated[
        str | None, typer.Option(help="Of the weights; the checkpoint's if not given.")
    ] = None,
    kv_dtype: Annotated[str | None, typer.Option(help="Of the cache.")] = None,
    batch: Annotated[int, typer.Option(help="Sequences of a static batch, no server.")] = 1,
    length_low: Annotated[float, typer.Option(help="Shortest, as a fraction of nominal.")] = 1.0,
    length_high: Annotated[float, typer.Option(help="Longest.")] = 1.0,
    num_prompts: Annotated[
        int | None, typer.Option(help="Requests of the benchmark; ten a client if not given.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Open loop: requests a second (Poisson).")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Open loop: CSV of arrival_s, isl, osl.")
    ] = None,
    cached: Annotated[float, typer.Option(help="Share of a prompt in a prefix cache.")] = 0.0,
    draft_tokens: Annotated[int, typer.Option(help="Speculated tokens a step.")] = 0,
    acceptance: Annotated[float, typer.Option(help="Chance that one is right.")] = 0.0,
    token_budget: Annotated[int | None, typer.Option(help="Tokens a step may hold.")] = None,
    max_sequences: Annotated[int | None, typer.Option(help="Sequences that run at once.")] = None,
    engine_version: Annotated[str, typer.Option(help="The newest known if not given.")] = "",
    prefill_decode: Annotated[
        str | None, typer.Option(help="Separate pools: 2+6 replicas of this deployment.")
    ] = None,
    simulate: Annotated[bool, typer.Option("--simulate", help="Show percentiles.")] = False,
    slo: Annotated[str | None, typer.Option(help="ttft=500,tpot=50 in ms: goodput.")] = None,
    price: Annotated[
        float | None, typer.Option(help="Of one GPU-hour: cost per million tokens.")
    ] = None,
    measured: Annotated[
        Path | None, typer.Option(help="CSV of measured rows, beside the prediction.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Throughput against latency: .png, .svg.")
    ] = None,
    assume: Annotated[
        str | None, typer.Option(help="'dense': read an unknown architecture as a plain decoder.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="'operators' predicts each operator; 'naive' divides FLOPs by the datasheet's "
            "peak and --utilization, as people do by hand ('article' is its old name)."
        ),
    ] = "operators",
    utilization: Annotated[
        float,
        typer.Option(help="Share of the peak, from 0 to 1, that --method naive assumes."),
    ] = 0.6,
    profile_dir: ProfileDir = None,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """Predict TTFT, TPOT and throughput: of a static batch on one device, or of a server.

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
                f"--method naive needs a datasheet, '{hardware.name}' has none",
                remedy="name a GPU",
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
