"""What ``calibrate --server`` and ``verify --server`` do: find out, load, fit, write, show."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from groundspeed.commands.options import deliver
from groundspeed.display.terminal import make_console, make_table, plain, safe
from groundspeed.engine_fit.calibrate_server import (
    Request,
    Target,
    calibrate_server,
    find_target,
)
from groundspeed.engine_fit.loads import Observation
from groundspeed.engine_fit.passive import (
    KEY,
    fit_passive,
    read_files,
    read_live,
    read_prometheus,
)
from groundspeed.engine_fit.results import (
    fit_results,
    observations_of,
    read_results,
    target_of_results,
)
from groundspeed.engine_fit.verify_server import ServerVerification, verify_server
from groundspeed.estimator.engines.own_engine import (
    SUFFIX,
    OwnEngine,
    engine_folder,
    find_own_engine,
    save_own_engine,
)

Z90 = 1.645
"""Half the width of a 90 % interval of a normal distribution, in standard deviations."""

UNKNOWN_PERCENT = 150.0

UNITS = {"_s": (1e6, "us"), "_factor": (1.0, ""), "_steps": (1.0, "steps")}


def calibrate_live(
    request: Request,
    *,
    output: Path | None,
    force: bool,
    as_json: bool,
    quiet: bool,
    passive: tuple[str, ...] | None = None,
) -> None:
    """Calibrate the engine of a live server, write its profile, and show it.

    ``passive``: saved pages of metrics or a Prometheus server; empty: the server's own page; None:
    by load.
    """
    console = make_console()
    target = find_target(request)
    silent = quiet or as_json
    if not silent:
        console.print(plain(describe_target(target, request)))
    if passive is not None:
        own, _ = fit_passive(target, _observe(request, passive))
    else:
        own, _, _ = calibrate_server(
            request, target,
            (lambda _: None) if silent else (lambda text: console.print(plain(text))),
        )  # fmt: skip
    _deliver(own, target, output=output, force=force, as_json=as_json)


def calibrate_from_results(
    request: Request,
    paths: list[Path],
    *,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Calibrate an engine from results of load tools, write its profile, and show it."""
    rows = read_results(paths)
    target = target_of_results(request, rows)
    own, _ = fit_results(target, observations_of(rows))
    _deliver(own, target, output=output, force=force, as_json=as_json)


def _deliver(
    own: OwnEngine, target: Target, *, output: Path | None, force: bool, as_json: bool
) -> None:
    """Write an engine profile and show it."""
    path = output or engine_folder() / f"{target.name}{SUFFIX}"
    # A calibration of the same name is continued or repeated: its profile is replaced.
    save_own_engine(own, path, force=force or output is None)
    if as_json:
        deliver(json.dumps(own.model_dump(mode="json"), indent=1), None, force=False)
        return
    console = make_console()
    show_own_engine(console, own)
    console.print(plain(f"\nengine profile written to {path}"))
    console.print(plain(f"use it: groundspeed estimate ... --engine-profile {own.name}"))


def _observe(request: Request, passive: tuple[str, ...]) -> Observation:
    """Read the metrics of the users' own load."""
    if not passive:
        return read_live(request.url, os.environ.get(KEY), request.budget_s)
    if len(passive) == 1 and "://" in passive[0]:
        return read_prometheus(passive[0].rstrip("/"), request.budget_s)
    return read_files([Path(p) for p in passive], request.budget_s)


def verify_live(
    request: Request, engine_profile: str | None, *, output: Path | None, force: bool,
    as_json: bool, quiet: bool,
) -> bool:  # fmt: skip
    """Verify predictions of a live server, and show how they did; return whether they passed."""
    console = make_console()
    own = find_own_engine(engine_profile) if engine_profile else None
    if own is not None and (o := request.options).tp * o.pp * o.ep * o.dp == 1:
        # It is served as it was calibrated, unless another parallelism is stated.
        options = replace(
            o, tp=own.tp, pp=own.pp, ep=own.ep, dp=own.dp, dtype=own.dtype, kv_dtype=own.kv_dtype,
            token_budget=own.token_budget, max_sequences=own.max_sequences,
        )  # fmt: skip
        request = replace(request, options=options, engine=request.engine or own.engine)
    target = find_target(request)
    silent = quiet or as_json
    if not silent:
        console.print(plain(describe_target(target, request)))
    result = verify_server(
        request, target, own,
        (lambda _: None) if silent else (lambda text: console.print(plain(text))),
    )  # fmt: skip
    if as_json or output is not None:
        deliver(result.model_dump_json(indent=1), output, force=force)
    else:
        show_server_verification(console, result)
    return result.passed


def show_server_verification(console: Console, result: ServerVerification) -> None:
    """Print each load with predicted and measured times, and what would have to be wrong."""
    console.print(plain(f"\npredictions sealed before the first request: {result.sealed_sha256}"))
    table = make_table(
        "load", "TTFT, ms", "predicted", "", "TPOT, ms", "predicted", "", "token/s", "predicted", ""
    )
    for x in result.loads:
        cells = [safe(f"{x.concurrency} x {x.prompt_tokens} + {x.output_tokens}")]
        for c in (x.ttft_ms, x.tpot_ms, x.output_tok_s):
            if c is None:
                cells += ["-", "-", ""]
                continue
            mark = "" if c.inside else " !"
            cells += [f"{c.measured:,.4g}", f"{c.predicted:,.4g}", f"{100 * c.error:+.0f}%{mark}"]
        table.add_row(*cells)
    console.print()
    console.print(table)
    console.print(
        plain(
            f"\nmedian error {result.tpot_median_percent:.1f} % (TPOT), "
            f"{result.ttft_median_percent:.1f} % (TTFT); {result.inside_share:.0%} of the measured "
            "times inside their 90 % intervals (! outside)"
        )
    )
    for s in result.suspects:
        console.print(
            plain(f"{s.constant} would explain {s.explains:.0%} of the errors if it were "
                  f"{s.factor:.2f} times what it is")
        )  # fmt: skip


def describe_target(target: Target, request: Request) -> str:
    """Say in a line what was found."""
    d = target.server.deployment
    ways = " ".join(
        f"{n} {v}" for n, v in (("tp", d.tp), ("pp", d.pp), ("ep", d.ep), ("dp", d.dp)) if v > 1
    )
    version = target.facts.version or "of unknown version"
    return (
        f"{target.server.engine.title} {version} at {request.url}, {target.model.id} on "
        f"{target.server.hardware.id}{f' ({ways})' if ways else ''}; at most "
        f"{request.budget_s:.0f} s of load"
    )


def show_own_engine(console: Console, own: OwnEngine) -> None:
    """Print the constants with their errors, and each load with what is predicted of it."""
    table = make_table("constant", "value", "unit", "error (90 %)")
    for name, value in own.costs.items():
        scale, unit = next(((s, u) for end, (s, u) in UNITS.items() if name.endswith(end)),
                           (1.0, ""))  # fmt: skip
        spread = own.spread.get(name)
        error = _error(spread) if spread is not None else ""
        table.add_row(name, f"{value * scale:.4g}", unit, error)
    console.print()
    console.print(table)
    loads = make_table("load", "requests", "TTFT, ms", "fitted", "", "TPOT, ms", "fitted", "")
    for x in own.loads:
        loads.add_row(
            safe(f"{x.concurrency} x {x.prompt_tokens} + {x.output_tokens}"), str(x.requests),
            f"{x.ttft_ms:,.1f}", f"{x.predicted_ttft_ms:,.1f}",
            _percent(x.predicted_ttft_ms, x.ttft_ms),
            f"{x.tpot_ms:,.2f}" if x.tpot_ms else "-",
            f"{x.predicted_tpot_ms:,.2f}" if x.predicted_tpot_ms else "-",
            _percent(x.predicted_tpot_ms, x.tpot_ms),
        )  # fmt: skip
    console.print()
    console.print(loads)
    console.print(
        plain(
            f"\n{own.policy} scheduling, {own.token_budget} tokens per step; loads that the fit "
            f"left out were within {own.tpot_factor:.2f} (TPOT) and {own.ttft_factor:.2f} (TTFT), "
            "nine times in ten"
        )
    )
    for note in own.notes:
        console.print(plain(f"note: {note}"))


def _error(spread: float) -> str:
    """Return the 90 % error of a constant; one that the loads do not show is not a number."""
    percent = 100.0 * math.expm1(Z90 * spread)
    return f"{percent:.0f}%" if percent < UNKNOWN_PERCENT else "not shown by these loads"


def _percent(predicted: float | None, measured: float | None) -> str:
    if predicted is None or measured is None:
        return ""
    return f"{100.0 * (predicted / measured - 1.0):+.0f}%"
