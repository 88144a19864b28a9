"""Predict what ``groundspeed estimate`` was asked for, on each GPU, and print it or write it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from groundspeed.commands.options import deliver

if TYPE_CHECKING:
    from groundspeed.estimating.parsing import Measured
    from groundspeed.estimator import Hardware, Model, Prediction, Workload
    from groundspeed.estimator.deployment.build_server import ServerOptions
    from groundspeed.estimator.engines.engine import Engine
    from groundspeed.estimator.hardware.find_hardware import HardwareChoice
    from groundspeed.estimator.serving.pools import Disaggregated

Columns = list[tuple[str, "list[Prediction]"]]
"""Predictions over concurrency, by the name of their column."""


@dataclass(frozen=True)
class EstimateRequest:
    """A model, a load and a deployment, to be predicted on some GPUs."""

    model: "Model"
    hardware: "list[HardwareChoice]"
    workload: "Workload"
    """The load; its concurrency is replaced by each value of ``concurrency``."""
    options: "ServerOptions"
    concurrency: tuple[int, ...]
    """Numbers of clients, or of sequences of a static batch."""
    percentiles: bool = False
    slo: tuple[float, float] | None = None
    """[s] Limits on TTFT and TPOT."""
    pools: tuple[int, int] | None = None
    """Replicas for prefill and for decode (disaggregated serving); None: not separated."""
    prices: tuple[float | None, ...] = ()
    """[currency/hour] Price of one GPU of each kind; empty: no costs."""


def predict_columns(request: EstimateRequest) -> Columns:
    """Predict each concurrency on each GPU.

    With one GPU, the bound from its datasheet stands beside the prediction from its profiles.
    """
    from groundspeed.estimator import DatasheetHardware

    columns: Columns = []
    prices = request.prices or (None,) * len(request.hardware)
    for choice, price in zip(request.hardware, prices, strict=True):
        engine = request.options.engine_on(choice)
        alone = len(request.hardware) == 1
        if choice.spec is not None and (alone or choice.profile is None):
            name = "datasheet" if alone else f"{choice.name} (datasheet)"
            bound = DatasheetHardware(choice.spec)
            columns.append((name, _predict(request, _without_costs(engine), bound, price)))
        if choice.profile is not None:
            name = "calibrated" if alone else choice.name
            columns.append((name, _predict(request, engine, choice.best, price)))
    return columns


def estimate(
    request: EstimateRequest,
    *,
    measured: "Measured",
    plot: Path | None,
    as_json: bool,
    output: Path | None,
    force: bool,
) -> None:
    """Predict, then print the results or write them as JSON."""
    columns = predict_columns(request)
    pools = predict_pools(request) if request.pools else None
    if plot is not None:
        from groundspeed.display.plot_serving import plot_serving

        plot_serving(columns, measured, plot, force=force)
    if as_json or output is not None:
        document: dict[str, object] = {
            "hardware": [
                {"name": h.name, "chosen": h.reason, "notes": h.notes} for h in request.hardware
            ],
            "predictions": [
                {"column": name, **p.model_dump(mode="json")} for name, ps in columns for p in ps
            ],
        }
        if pools is not None:
            document["disaggregated"] = pools.model_dump(mode="json")
        deliver(json.dumps(document, indent=1), output, force=force)
        return
    _show(request, columns, measured, pools)
    if plot is not None:
        from groundspeed.display.terminal import make_console, plain

        make_console().print(plain(f"plot {plot}"))


def _show(
    request: EstimateRequest, columns: Columns, measured: "Measured", pools: "Disaggregated | None"
) -> None:
    from groundspeed.display.show_serving import (
        show_batch,
        show_costs,
        show_goodput,
        show_memory,
        show_parts,
        show_percentiles,
        show_pools,
        show_serving,
    )
    from groundspeed.display.terminal import make_console, plain, safe

    console = make_console()
    model, best = request.model, columns[-1][1]
    last, w = best[-1], request.workload
    engine = "no engine" if last.engine == "bare" else safe(last.engine)
    console.print(
        f"[bold]{safe(model.id)}[/bold]  {model.parameters / 1e9:.2f} B parameters, "
        f"{model.active_parameters / 1e9:.2f} B active; {safe(last.formats)}; "
        f"{engine} on {last.devices} device{'s' if last.devices > 1 else ''}; "
        f"prompt {w.prompt_tokens}, output {w.output_tokens}"
        + (f", batch {last.concurrency}" if w.kind == "static" else "")
    )
    for choice in request.hardware:
        console.print(plain(f"{choice.name}: {choice.reason}"), style="dim")
    console.print()
    if w.kind == "static":
        show_batch(console, [(name, ps[0]) for name, ps in columns])
        console.print()
    else:
        show_serving(console, columns, measured)
    if request.percentiles:
        show_percentiles(console, best)
    if request.slo is not None:
        show_goodput(console, best)
    several = len(request.hardware) > 1
    if not several:
        show_parts(console, last)
    for name, predictions in columns if several else columns[-1:]:
        prefix = f"{name}: " if several else ""
        p = predictions[-1]
        show_memory(console, p, prefix)
        show_costs(console, predictions, prefix)
        console.print(plain(f"{prefix}{p.limits}"))
        console.print(plain(f"{prefix}{p.ttft_explained}"))
        for line in p.answered_by:
            console.print(plain(f"{prefix}{line}"), style="dim")
    console.print(plain(f"assumed: {'; '.join(last.assumed)}"), style="dim")
    notes = [n for choice in request.hardware for n in choice.notes]
    notes += [note for _, ps in columns for p in ps for note in p.notes]
    for note in dict.fromkeys(notes):
        console.print(plain(f"note: {note}"), style="yellow")
    if pools is not None:
        console.print()
        show_pools(console, pools)
    if last.tpot_s is not None:
        console.print(last.tpot_definition, style="dim")


def _without_costs(engine: "Engine") -> "Engine":
    """Return the engine with all host costs set to zero, so the datasheet column is a bound."""
    from groundspeed.estimator.engines.costs import Costs

    nothing = Costs(step_s=0.0, layer_s=0.0, sequence_s=0.0, collective_s=0.0, request_s=0.0)
    return engine.model_copy(update={"costs": nothing})


def _predict(
    request: EstimateRequest, engine: "Engine", hardware: "Hardware", price: float | None
) -> "list[Prediction]":
    from groundspeed.estimator import Server

    server = Server(request.model, request.options.deployment, engine, hardware)
    return [
        server.predict(
            replace(request.workload, concurrency=concurrency),
            slo=request.slo,
            price_per_hour=price,
        )
        for concurrency in request.concurrency
    ]


def predict_pools(request: EstimateRequest) -> "Disaggregated":
    """Predict separate pools of prefill and decode replicas on the last GPU.

    Raises
    ------
    InputError
        If the bandwidth between devices is not known.
    """
    from groundspeed.estimator.deployment.build_server import build_server
    from groundspeed.estimator.serving.pools import Pools, link_between, predict_disaggregated

    choice = request.hardware[-1]
    server = build_server(request.model, choice, request.options)
    if request.pools is None:
        raise AssertionError("called with pools only")
    workload = replace(request.workload, concurrency=request.concurrency[-1])
    link = link_between(server, server, sum(request.pools) * server.deployment.devices)
    pools = Pools(server, server, request.pools[0], request.pools[1], link)
    return predict_disaggregated(pools, workload)
