"""The table of predicted against measured, by case and by part."""

import numpy as np
from rich.console import Console

from groundspeed.display.terminal import make_table, plain, safe, shown, shown_interval
from groundspeed.verify.verification import Comparison, Verification, VerifiedCase

MACHINE_CHANGED = 0.05
"""Beyond this, a reference product says that the machine is not what was calibrated."""

PART_FLOOR = 0.01
"""Parts below this share of their phase are left out of the table."""


def show_verification(console: Console, result: Verification) -> None:
    """Predicted against measured for each case, then for each part."""
    depth = f", {result.layers} layers"
    console.print(
        f"[bold]{safe(result.model)}[/bold]{depth}, random weights, {result.dtype}, on "
        f"{safe(result.device)}"
    )
    known = result.cases[0].ttft_s.datasheet is not None
    table = make_table(
        "case", "", *(["datasheet"] if known else []), "calibrated", "measured", "error",
        "inside", "machine"
    )  # fmt: skip
    for case in result.cases:
        name = f"batch {case.batch}, prompt {case.prompt_tokens}"
        for title, comparison, limit in (
            ("TTFT", case.ttft_s, "compute"),
            ("TPOT", case.tpot_s, "memory"),
        ):
            cells = _cells(comparison, known=known)
            table.add_row(name, title, *cells, _machine(case, limit))
            name = ""
    console.print(table)
    console.print(
        f"median error: TTFT {result.ttft_median_error_fraction:.1%}, "
        f"TPOT {result.tpot_median_error_fraction:.1%}; "
        f"{result.inside_share:.0%} of the measured values lie inside the predicted 90 % interval"
    )
    console.print(machine_remark(result))
    console.print()
    show_parts(console, result)
    console.print(plain(f"largest part of the error: {result.blame}"))
    console.print(f"predictions sealed before the run: sha256 {result.predictions_sha256[:16]}...")
    if result.shapes_seen:
        console.print(
            plain(f"note: the calibration had measured {', '.join(result.shapes_seen)}"),
            style="yellow",
        )
    for note in result.notes:
        console.print(plain(f"note: {note}"), style="yellow")


def show_run(console: Console, result: Verification) -> None:
    """Three columns: datasheet, calibrated, measured."""
    console.print(
        f"[bold]{safe(result.model)}[/bold] with random weights, {result.dtype}: predicted first, "
        "then really run"
    )
    table = make_table("case", "", "datasheet", "calibrated", "measured", "error")
    for case in result.cases:
        name = f"batch {case.batch}, prompt {case.prompt_tokens}"
        for title, comparison, unit in (
            ("TTFT", case.ttft_s, "s"),
            ("TPOT", case.tpot_s, "s"),
            ("token/s", case.output_tokens_per_s, ""),
        ):
            predicted, measured = comparison.predicted, comparison.measured
            table.add_row(
                name,
                title,
                shown(comparison.datasheet, unit) if comparison.datasheet else "none",
                shown_interval(predicted.value, predicted.low, predicted.high, unit),
                shown_interval(measured.value, measured.low, measured.high, unit),
                f"{comparison.error_fraction:+.1%}",
            )
            name = ""
    console.print(table)
    console.print(
        f"median error: TTFT {result.ttft_median_error_fraction:.1%}, "
        f"TPOT {result.tpot_median_error_fraction:.1%} "
        f"(TPOT is the mean of the tokens after the first; output {result.cases[0].output_tokens})"
    )


def machine_remark(result: Verification) -> str:
    """How the machine itself stood against its calibration, in a sentence."""
    changes: dict[str, list[float]] = {}
    for case in result.cases:
        for change in case.machine:
            changes.setdefault(change.limit, []).append(change.change_fraction)
    if not changes:
        return ""
    listed = ", ".join(
        f"{limit} {np.median(c):+.0%} ({min(c):+.0%} to {max(c):+.0%})"
        for limit, c in changes.items()
    )
    remark = f"reference products now against the calibration: {listed}"
    if any(abs(x) > MACHINE_CHANGED for c in changes.values() for x in c):
        remark += (
            "; the machine itself changed, which no law can foresee. With that taken out the "
            f"errors are TTFT {result.ttft_median_error_of_law_fraction:.1%}, "
            f"TPOT {result.tpot_median_error_of_law_fraction:.1%}"
        )
    return remark


def _machine(case: VerifiedCase, limit: str) -> str:
    return next((f"{c.change_fraction:+.0%}" for c in case.machine if c.limit == limit), "")


def _cells(comparison: Comparison, *, known: bool) -> list[str]:
    predicted, measured = comparison.predicted, comparison.measured
    cells = [shown(comparison.datasheet, "s") if comparison.datasheet else ""] if known else []
    return [
        *cells,
        shown_interval(predicted.value, predicted.low, predicted.high, "s"),
        shown_interval(measured.value, measured.low, measured.high, "s"),
        f"{comparison.error_fraction:+.1%}",
        "yes" if comparison.inside else "no",
    ]


def show_parts(console: Console, result: Verification) -> None:
    """Which operator is wrong: median over the cases of each part's error."""
    table = make_table("part", "phase", "share of phase", "error", "costs the phase")
    keys = dict.fromkeys((p.phase, p.group) for case in result.cases for p in case.parts)
    for phase, group in keys:
        shares, errors, costs = [], [], []
        for case in result.cases:
            whole = case.ttft_s if phase == "prefill" else case.tpot_s
            for part in case.parts:
                if (part.phase, part.group) == (phase, group):
                    shares.append(part.measured_s / whole.measured.value)
                    errors.append(part.error_fraction)
                    costs.append((part.predicted_s - part.measured_s) / whole.measured.value)
        if np.median(shares) >= PART_FLOOR:
            table.add_row(
                group,
                phase,
                f"{np.median(shares):.1%}",
                f"{np.median(errors):+.0%}",
                f"{np.median(costs):+.1%}",
            )
    console.print(table)
