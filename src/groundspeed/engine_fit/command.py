"""What ``calibrate --server`` does: find out, load, fit, write, show."""

import json
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
from groundspeed.estimator.engines.own_engine import (
    SUFFIX,
    OwnEngine,
    engine_folder,
    save_own_engine,
)

UNITS = {"_s": (1e6, "us"), "_factor": (1.0, ""), "_steps": (1.0, "steps")}


def calibrate_live(
    request: Request, *, output: Path | None, force: bool, as_json: bool, quiet: bool
) -> None:
    """Calibrate the engine of a live server, write its profile, and show it."""
    console = make_console()
    target = find_target(request)
    path = output or engine_folder() / f"{target.name}{SUFFIX}"
    silent = quiet or as_json
    if not silent:
        console.print(plain(describe_target(target, request)))
    own, _, _ = calibrate_server(
        request, target, (lambda _: None) if silent else (lambda text: console.print(plain(text)))
    )
    # A calibration of the same name is continued or repeated: its profile is replaced.
    save_own_engine(own, path, force=force or output is None)
    if as_json:
        deliver(json.dumps(own.model_dump(mode="json"), indent=1), None, force=False)
        return
    show_own_engine(console, own)
    console.print(plain(f"\nengine profile written to {path}"))
    console.print(plain(f"use it: groundspeed estimate ... --engine-profile {own.name}"))


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
        error = f"{(2.718281828 ** (1.645 * spread) - 1.0) * 100:.0f}%" if spread else ""
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


def _percent(predicted: float | None, measured: float | None) -> str:
    if predicted is None or measured is None:
        return ""
    return f"{100.0 * (predicted / measured - 1.0):+.0f}%"
