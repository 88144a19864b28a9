"""Print predicted and measured times of a verification, by case and by part of the model."""

import numpy as np
from rich.console import Console

from groundspeed.display.terminal import make_table, plain, safe, shown, shown_interval
from groundspeed.verify.verification import Comparison, Verification, VerifiedCase

MACHINE_CHANGED = 0.05
"""Change of a reference GEMM's time above which the machine counts as changed since calibration."""

PART_FLOOR = 0.01
"""Smallest share of a phase that a part must have to be shown in the table."""


def show_verification(console: Console, result: Verification) -> None:
    """Print predicted and measured times for each case, then for each part of the model."""
    depth = f", {result.layers} layers"
    console.print(
        f"[bold]{safe(result.model)}[/bold]{depth}, random weights, {result.dtype}, on "
        f"{safe(result.device)}"
    )
    known = result.cases[0].ttft_s.datasheet is not None
    table = make_table(
        "case", "metric", *(["datasheet"] if known else []), "calibrated", "measured", "error",
        "inside", "drift"
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
    console.print(plain(f"largest contribution to the error: {result.blame}"))
    console.print(f"SHA-256 of predictions, before the run: {result.predictions_sha256[:16]}...")
    if result.shapes_seen:
        console.print(
            plain(f"note: the calibration measured these shapes: {', '.join(result.shapes_seen)}"),
            style="yellow",
        )
    for note in result.notes:
        console.print(plain(f"note: {note}"), style="yellow")


def show_run(console: Console, result: Verification) -> None:
    """Print the datasheet bound, the calibrated prediction and the measurement of each case."""
    console.print(
        f"[bold]{safe(result.model)}[/bold] with random weights, {result.dtype}: predicted "
        "first, then run and measured"
    )
    table = make_table("case", "metric", "datasheet", "calibrated", "measured", "error")
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
        f"(TPOT is the mean time per token after the first of {result.cases[0].output_tokens})"
    )


def machine_remark(result: Verification) -> str:
    """Describe in a sentence how the speed of the machine changed since its calibration."""
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
    remark = f"drift (time of the reference GEMMs now against the calibration): {listed}"
    if any(abs(x) > MACHINE_CHANGED for c in changes.values() for x in c):
        remark += (
            "; the machine itself changed, which no law can predict. Without this change the "
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
    """Print the median error of each part over the cases, to show which operator is wrong."""
    table = make_table("part", "phase", "share of phase", "error", "effect on phase")
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
