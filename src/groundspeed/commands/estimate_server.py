"""The part of ``groundspeed estimate`` that predicts a server (engine, parallelism, load).

``estimate`` predicts a static batch itself and calls :func:`estimate_serving` for a server.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from groundspeed.commands.options import deliver
from groundspeed.profiles.errors import InputError

if TYPE_CHECKING:
    from groundspeed.estimator import Model
    from groundspeed.estimator.engines.engine import Engine
    from groundspeed.estimator.hardware.find_hardware import HardwareChoice
    from groundspeed.estimator.hardware.law_lookup import Hardware
    from groundspeed.estimator.serving.deployment import Deployment
    from groundspeed.estimator.serving.pools import Disaggregated
    from groundspeed.estimator.serving.workload import ServingPrediction, ServingWorkload

Measured = dict[int, dict[str, float]]
"""Measured metrics by concurrency, in seconds and tokens/s."""


@dataclass(frozen=True)
class ServingRequest:
    """The options of one estimate on the command line."""

    workload: "ServingWorkload"
    """Load of the server; its concurrency is replaced by each value of ``concurrency``."""
    deployment: "Deployment"
    engine: str
    engine_version: str
    """Version of the engine; the newest with known constants if empty."""
    token_budget: int | None
    """Maximum number of tokens in one step; None: the engine's default."""
    max_sequences: int | None
    """Maximum number of sequences that run at once; None: the engine's default."""
    concurrency: tuple[int, ...]
    """Numbers of clients, all replicas together."""
    replicas: int
    simulate: bool
    """Whether percentiles are shown."""
    slo: tuple[float, float] | None
    """[s] Limits on TTFT and TPOT."""
    pools: tuple[int, int] | None
    """Replicas for prefill and for decode (disaggregated serving); None: not separated."""
    measured: Path | None
    """CSV file of measurements to show beside the prediction."""
    plot: Path | None
    price: float | None = None
    """[currency/hour] Price of one GPU."""


def parse_concurrency(text: str) -> tuple[int, ...]:
    """Parse a list of concurrencies such as ``1,2,4..128``; ``a..b`` doubles from a up to b.

    >>> parse_concurrency("1,4..32")
    (1, 4, 8, 16, 32)
    """
    values: list[int] = []
    for part in text.split(","):
        ends = part.strip().split("..")
        try:
            numbers = [int(end) for end in ends]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 2) or any(not 1 <= n <= 1_000_000 for n in numbers):
            raise InputError(
                f"'{part}' is not a whole number from 1 to 1,000,000",
                where="--concurrency",
                remedy="give a list such as 1,2,4..128",
            )
        value = numbers[0]
        while value < numbers[-1]:
            values.append(value)
            value *= 2
        values.append(numbers[-1])
    return tuple(dict.fromkeys(values))


def parse_slo(text: str | None) -> tuple[float, float] | None:
    """Parse limits in ms such as ``ttft=500,tpot=50`` to (TTFT, TPOT) in seconds.

    A limit that is not given is infinite. None gives None.

    Raises
    ------
    InputError
        If a part is not ``ttft=NUMBER`` or ``tpot=NUMBER``.
    """
    if text is None:
        return None
    limits = {"ttft": float("inf"), "tpot": float("inf")}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        try:
            limits[name.lower()] = float(value.lower().removesuffix("ms")) * 1e-3
        except ValueError:
            name = ""
        if name.lower() not in ("ttft", "tpot"):
            raise InputError(f"'{part}' is not a limit on ttft or tpot", where="--slo",
                             remedy="give limits in ms, such as ttft=500,tpot=50")  # fmt: skip
    return limits["ttft"], limits["tpot"]


def parse_pools(text: str | None) -> tuple[int, int] | None:
    """Parse ``2+6`` to the numbers of prefill and decode replicas (2, 6); None gives None.

    Raises
    ------
    InputError
        If the text is not two whole numbers joined by a plus sign.
    """
    if text is None:
        return None
    first, plus, second = text.partition("+")
    if not (plus and first.strip().isdigit() and second.strip().isdigit()):
        raise InputError(
            f"'{text}' is not of the form PREFILL+DECODE",
            where="--prefill-decode",
            remedy="give two numbers of replicas, such as 2+6",
        )
    return int(first), int(second)


def read_trace(path: Path) -> tuple[tuple[float, int, int], ...]:
    """Read the requests of a trace from a CSV file with the columns arrival_s, isl and osl.

    Returns
    -------
    tuple of (float, int, int)
        Arrival time [s], prompt tokens and output tokens of each request, by arrival time.

    Raises
    ------
    InputError
        If a column is missing, a value is not a number or out of range, or there are no rows.
    """
    from groundspeed.profiles.files import read_rows

    arrivals = []
    for line, row in enumerate(read_rows(path), start=2):
        try:
            arrival, isl, osl = float(row["arrival_s"]), int(row["isl"]), int(row["osl"])
        except (KeyError, ValueError) as error:
            raise InputError(
                f"every row needs a number in arrival_s, isl and osl ({error})",
                where=f"{path}, line {line}",
            ) from error
        if not (0.0 <= arrival < 1e9 and isl > 0 and osl > 0):
            raise InputError(
                "arrival_s must be at least 0, isl and osl at least 1", where=f"{path}, line {line}"
            )
        arrivals.append((arrival, isl, osl))
    if not arrivals:
        raise InputError("has no requests (only a header)", where=str(path))
    return tuple(sorted(arrivals))


def estimate_serving(
    model: "Model",
    choices: "list[HardwareChoice]",
    request: ServingRequest,
    *,
    as_json: bool,
    output: Path | None,
    force: bool,
) -> None:
    """Predict each concurrency on each GPU; print the results or write them as JSON.

    With one GPU, the bound from its datasheet is shown beside the prediction from its profile.
    """
    from groundspeed.estimator.hardware.law_lookup import DatasheetHardware, ProfileHardware

    columns: list[tuple[str, list[ServingPrediction]]] = []
    for hardware in choices:
        engine = _engine(request, hardware)
        if hardware.spec is not None and (len(choices) == 1 or hardware.profile is None):
            bare = _datasheet_engine(engine)
            name = "datasheet" if len(choices) == 1 else f"{hardware.name} (datasheet)"
            datasheet = DatasheetHardware(hardware.spec)
            columns.append((name, _predict(model, request, bare, datasheet)))
        if hardware.profile is not None:
            name = "calibrated" if len(choices) == 1 else hardware.name
            profile = ProfileHardware(hardware.profile)
            columns.append((name, _predict(model, request, engine, profile)))
    measured = read_measured(request.measured) if request.measured else {}
    pools = _pools(model, request, choices[-1]) if request.pools else None
    if request.plot is not None:
        from groundspeed.display.plot_serving import plot_serving

        plot_serving(columns, measured, request.plot)
    if as_json or output is not None:
        document: dict[str, object] = {
            "hardware": [{"name": h.name, "chosen": h.reason} for h in choices],
            "predictions": [
                {"column": name, **p.model_dump(mode="json")} for name, ps in columns for p in ps
            ],
        }
        if pools is not None:
            document["disaggregated"] = pools.model_dump(mode="json")
        deliver(json.dumps(document, indent=1), output, force=force)
        return
    from groundspeed.display.show_serving import (
        show_costs,
        show_memory,
        show_parts,
        show_percentiles,
        show_pools,
        show_serving,
    )
    from groundspeed.display.terminal import make_console, plain, safe

    console = make_console()
    best = columns[-1][1]
    last = best[-1]
    w = request.workload
    console.print(
        f"[bold]{safe(model.id)}[/bold]  {model.parameters / 1e9:.1f} B parameters, "
        f"{model.active_parameters / 1e9:.1f} B active; {safe(last.formats)}; "
        f"{safe(last.engine)} on {last.devices} devices; prompt {w.prompt_tokens}, "
        f"output {w.output_tokens}"
    )
    for hardware in choices:
        console.print(plain(f"{hardware.name}: {hardware.reason}"), style="dim")
    console.print()
    show_serving(console, columns, measured)
    if request.simulate:
        show_percentiles(console, best)
    if len(choices) == 1:
        show_parts(console, last)
    show_memory(console, last)
    show_costs(console, best)
    console.print(plain(f"TTFT is {last.ttft_explained}"))
    console.print(plain(f"assumed: {'; '.join(last.assumed)}"), style="dim")
    for note in dict.fromkeys(note for _, ps in columns for p in ps for note in p.notes):
        console.print(plain(f"note: {note}"), style="yellow")
    if pools is not None:
        console.print()
        show_pools(console, pools)
    if request.plot is not None:
        console.print(plain(f"plot {request.plot}"))
    console.print(last.tpot_definition, style="dim")


def _engine(request: ServingRequest, hardware: "HardwareChoice") -> "Engine":
    from groundspeed.estimator.engines.engine import find_engine
    from groundspeed.estimator.serving.server import override_limits

    rocm = hardware.spec is not None and hardware.spec.vendor == "amd"
    engine = find_engine(
        request.engine, version=request.engine_version, platform="rocm" if rocm else "cuda"
    )
    return override_limits(engine, request.token_budget, request.max_sequences)


def _datasheet_engine(engine: "Engine") -> "Engine":
    """Return the engine with all host costs set to zero, so the datasheet column is a bound."""
    from groundspeed.estimator.engines.engine import Costs

    nothing = Costs(step_s=0.0, layer_s=0.0, sequence_s=0.0, collective_s=0.0, request_s=0.0)
    return engine.model_copy(update={"costs": nothing})


def _predict(
    model: "Model", request: ServingRequest, engine: "Engine", hardware: "Hardware"
) -> "list[ServingPrediction]":
    from groundspeed.estimator.serving.server import Server

    server = Server(model, request.deployment, engine, hardware)
    predictions = []
    for concurrency in request.concurrency:
        each = -(-concurrency // request.replicas)
        workload = replace(request.workload, concurrency=each)
        prediction = server.predict(workload, slo=request.slo, price_per_hour=request.price)
        if request.replicas > 1:
            prediction = prediction.model_copy(
                update={
                    "concurrency": concurrency,
                    "devices": prediction.devices * request.replicas,
                    **{
                        name: getattr(prediction, name) * request.replicas
                        for name in ("output_tokens_per_s", "total_tokens_per_s", "requests_per_s")
                    },
                }
            )
        predictions.append(prediction)
    return predictions


def _pools(model: "Model", request: ServingRequest, hardware: "HardwareChoice") -> "Disaggregated":
    from groundspeed.estimator.serving.pools import Pools, predict_disaggregated
    from groundspeed.estimator.serving.server import Server

    server = Server(model, request.deployment, _engine(request, hardware), hardware.best)
    assert request.pools is not None
    workload = replace(request.workload, concurrency=request.concurrency[-1])
    link = hardware.spec.scaleup_bandwidth_bytes_per_s if hardware.spec else None
    if link is None:
        raise InputError(
            f"the scale-up bandwidth of {hardware.name} is not known, which --prefill-decode needs"
        )
    pools = Pools(server, server, request.pools[0], request.pools[1], link.value)
    return predict_disaggregated(pools, workload)


def read_measured(path: Path) -> Measured:
    """Read measurements by concurrency from a CSV file with the columns of ``backtest``.

    ``batch_or_concurrency`` (or ``concurrency``) is required in every row; ``ttft_ms``,
    ``tpot_ms``, ``output_tok_s`` and ``total_tok_s`` are optional.

    Raises
    ------
    InputError
        If the concurrency is missing or a value is not a number.
    """
    from groundspeed.profiles.files import read_rows

    rows: Measured = {}
    for row in read_rows(path):
        try:
            concurrency = int(float(row.get("batch_or_concurrency") or row["concurrency"]))
            rows[concurrency] = {
                metric: float(row[column]) * scale
                for metric, column, scale in (
                    ("ttft_s", "ttft_ms", 1e-3),
                    ("tpot_s", "tpot_ms", 1e-3),
                    ("output_tokens_per_s", "output_tok_s", 1.0),
                    ("total_tokens_per_s", "total_tok_s", 1.0),
                )
                if row.get(column)
            }
        except (KeyError, ValueError) as error:
            raise InputError(
                "every row needs a whole number in batch_or_concurrency, and numbers in the other "
                f"columns ({error})",
                where=str(path),
            ) from error
    return rows
