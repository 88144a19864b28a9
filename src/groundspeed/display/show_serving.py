"""Print predictions for a server: latency, throughput, time by operator, memory, costs, errors."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.text import Text

from groundspeed.display.terminal import (
    bar,
    digits,
    make_table,
    plain,
    safe,
    shown,
    shown_interval,
    with_bars,
)
from groundspeed.estimator.backtest.adjust import Adjustment
from groundspeed.estimator.backtest.backtest import RowResult, Summary
from groundspeed.estimator.serving.pools import Disaggregated
from groundspeed.estimator.serving.workload import PartTime, Prediction

GIB = 2.0**30


def show_batch(console: Console, columns: Sequence[tuple[str, Prediction]]) -> None:
    """Print TTFT, TPOT and throughput of a static batch, with one column for each hardware."""
    table = make_table("", *(safe(name) for name, _ in columns))
    rows: dict[str, list[str]] = {}
    for _, p in columns:
        exact = p.origin == "datasheet"
        low, high = p.rate_factors
        for title, unit, value, ends in (
            ("TTFT", "s", p.ttft_s, (p.ttft_low_s, p.ttft_high_s)),
            ("TPOT", "s", p.tpot_s, (p.tpot_low_s, p.tpot_high_s)),
            ("E2E", "s", p.e2e_s, (p.e2e_low_s, p.e2e_high_s)),
            ("output token/s", "", p.output_tokens_per_s, (low, high)),
            ("total token/s", "", p.total_tokens_per_s, (low, high)),
        ):
            cell = ""
            if value is not None and ends[0] is not None and ends[1] is not None:
                scale = value if unit == "" else 1.0
                interval = shown_interval(value, scale * ends[0], scale * ends[1], unit)
                cell = shown(value, unit) if exact else interval
            rows.setdefault(title, []).append(cell)
    for title, cells in rows.items():
        table.add_row(title, *cells)
    console.print(table)


def show_serving(
    console: Console,
    columns: Sequence[tuple[str, Sequence[Prediction]]],
    measured: Mapping[int, Mapping[str, float]],
) -> None:
    """Print TTFT, TPOT and throughput over concurrency: datasheet, calibrated and measured."""
    for metric, title, scale in (
        ("ttft_s", "TTFT, ms", 1e3),
        ("tpot_s", "TPOT, ms", 1e3),
        ("output_tokens_per_s", "output, token/s", 1.0),
    ):
        names = [name for name, _ in columns]
        table = make_table(title, *names, *(["measured", "error"] if measured else []))
        for i, first in enumerate(columns[0][1]):
            offered = first.offered_requests_per_s
            head = f"{offered:.3g} requests/s" if offered else f"concurrency {first.concurrency}"
            row: list[Text | str] = [head]
            for _, predictions in columns:
                p = predictions[i]
                found = getattr(p, metric)
                if found is None:  # one output token has no TPOT
                    row.append("")
                    continue
                text = digits(found * scale)
                if metric != "output_tokens_per_s" and p.origin != "datasheet":
                    low = getattr(p, metric.replace("_s", "_low_s")) * scale
                    high = getattr(p, metric.replace("_s", "_high_s")) * scale
                    text += f" [{digits(low)}, {digits(high)}]"
                row.append(text + (" saturated" if p.saturated and metric == "ttft_s" else ""))
            if measured:
                seen = measured.get(first.concurrency, {}).get(metric)
                predicted = getattr(columns[-1][1][i], metric)
                row.append(digits(seen * scale) if seen else "")
                row.append(f"{predicted / seen - 1.0:+.0%}" if seen and predicted else "")
            table.add_row(*row)
        console.print(table)
        console.print()


def show_parts(console: Console, prediction: Prediction) -> None:
    """Print the time of one decode step and of one prefill, by operator."""
    p = prediction
    prompts = f"{p.concurrency} x " if p.kind == "static" and p.concurrency > 1 else ""
    requests = "request" if p.running_sequences == 1 else "requests"
    for title, parts in (
        (f"decode step of {p.running_sequences} {requests}", p.decode_parts),
        (f"prefill of {prompts}{p.prompt_tokens} tokens", p.prefill_parts),
    ):
        if not parts:
            continue
        bars = with_bars(console)
        table = make_table(title, "time", "90 % interval", "share", "bound by", *[""] * bars)
        for part in parts:
            if part.share >= 0.005:
                table.add_row(*_part_row(part), *[bar(part.share, width=12)] * bars)
        console.print(table)
        console.print()


def _part_row(part: PartTime) -> list[Text | str]:
    divisor = 1e-3 if part.time_s >= 1e-3 else 1e-6
    unit = "ms" if divisor == 1e-3 else "us"
    return [
        plain(part.group + (" (extrapolated)" if part.extrapolated else "")),
        f"{digits(part.time_s / divisor)} {unit}",
        f"{digits(part.low_s / divisor)} to {digits(part.high_s / divisor)}",
        f"{part.share:.0%}",
        part.bound,
    ]


def show_memory(console: Console, prediction: Prediction, prefix: str = "") -> None:
    """Print what fills the memory of a device, and how many requests fit at once."""
    console.print(
        plain(
            f"{prefix}memory of {_each(prediction.devices)}: weights "
            f"{prediction.weight_bytes / GIB:.1f} GiB, engine "
            f"{prediction.reserved_bytes / GIB:.1f} GiB, KV cache "
            f"{prediction.cache_bytes / GIB:.1f} GiB = {prediction.cache_tokens:,} tokens "
            f"({shown(prediction.cache_bytes_per_sequence, 'bytes')} per request); at most "
            f"{prediction.most_sequences:,} requests of this length fit at once"
        )
    )


def _each(devices: int) -> str:
    return "the device" if devices == 1 else f"each of the {devices} devices"


def show_costs(console: Console, predictions: Sequence[Prediction], prefix: str = "") -> None:
    """Print energy efficiency and price, at the first and the last concurrency."""
    ends = [predictions[0], predictions[-1]] if len(predictions) > 1 else [predictions[0]]
    if ends[0].output_tokens_per_joule is not None:
        shown_ends = " to ".join(digits(p.output_tokens_per_joule or 0.0) for p in ends)
        least = "at least " if ends[0].power_origin == "cap" else ""
        reason = "the power cap" if ends[0].power_origin == "cap" else "measured"
        console.print(
            plain(
                f"{prefix}energy: {least}{shown_ends} output token/J at {ends[0].power_w:.0f} W "
                f"per device ({reason})"
            )
        )
    if ends[0].cost_per_million_output_tokens is not None:
        costs = " to ".join(f"{p.cost_per_million_output_tokens or 0.0:.2f}" for p in ends)
        console.print(plain(f"{prefix}price of a million output tokens: {costs}"))


def show_percentiles(console: Console, predictions: Sequence[Prediction]) -> None:
    """Print mean, P50, P90 and P99 of each latency, and the goodput under the objective."""
    table = make_table("latency, ms", "metric", "mean", "P50", "P90", "P99")
    for p in predictions:
        for name in ("ttft", "tpot", "itl", "e2e"):
            latency = getattr(p, name)
            if latency is None:  # one output token has no TPOT
                continue
            values = [latency.mean, latency.p50, latency.p90, latency.p99]
            head = f"concurrency {p.concurrency}" if name == "ttft" else ""
            table.add_row(head, name.upper(), *(digits(v * 1e3) for v in values))
    console.print(table)
    console.print()


def show_goodput(console: Console, predictions: Sequence[Prediction]) -> None:
    """Print how many requests meet the limits on TTFT and TPOT."""
    for p in predictions:
        if p.goodput_requests_per_s is not None:
            head = (
                f"{p.offered_requests_per_s:.3g} requests/s offered"
                if (p.offered_requests_per_s)
                else f"concurrency {p.concurrency}"
            )
            console.print(
                plain(
                    f"{head}: {p.goodput_requests_per_s:.3g} of "
                    f"{p.requests_per_s:.3g} requests/s meet the objective"
                )
            )
    console.print()


def show_pools(console: Console, pools: Disaggregated) -> None:
    """Print the prediction for separate pools of prefill and decode replicas."""
    console.print(
        plain(
            f"{pools.prefill_replicas} prefill + {pools.decode_replicas} decode replicas "
            f"({pools.devices} devices), limited by {pools.limited_by}"
        )
    )
    table = make_table("", "TTFT", "KV transfer", "TPOT", "output", "prefill load", "decode batch")
    table.add_row(
        "",
        shown_interval(pools.ttft_s, pools.ttft_low_s, pools.ttft_high_s, "s"),
        shown(pools.transfer_s, "s"),
        shown_interval(pools.tpot_s, pools.tpot_low_s, pools.tpot_high_s, "s"),
        shown(pools.output_tokens_per_s, "token/s"),
        f"{pools.prefill_load:.0%}",
        f"{pools.sequences_per_decode_replica:.0f}",
    )
    console.print(table)


NAMES = {
    "ttft_ms": "TTFT",
    "tpot_ms": "TPOT",
    "e2e_latency_ms": "E2E",
    "output_tok_s": "output token/s",
    "total_tok_s": "total token/s",
}


def show_adjustments(console: Console, adjustments: Sequence[Adjustment]) -> None:
    """Print the correction factors fitted to a few rows, and their effect on the other rows."""
    table = make_table(
        "group", "metric", "rows used", "factor", "other rows", "median error before", "after"
    )
    for a in adjustments:
        table.add_row(
            plain(a.group),
            NAMES[a.metric],
            str(a.used),
            f"{a.factor:.3f}",
            str(a.rest),
            f"{a.before_median_percent:.1f} %" if a.before_median_percent is not None else "",
            f"{a.after_median_percent:.1f} %" if a.after_median_percent is not None else "",
        )
    console.print(table)
    console.print()


MOST_ROWS_SHOWN = 30
"""More rows do not fit a screen; ``--json`` has them all."""


def show_rows(console: Console, results: Sequence[RowResult]) -> None:
    """Print prediction, interval and measurement of each row, if they fit a screen."""
    judged = [r for r in results if r.measured and not r.skipped_reason]
    if len(judged) > MOST_ROWS_SHOWN:
        return
    table = make_table("row", "metric", "predicted", "90 % interval", "measured", "error", "")
    for r in judged:
        name = " ".join(
            r.labels[key] for key in ("model", "gpu", "batch_or_concurrency") if r.labels.get(key)
        )
        for metric, measured in r.measured.items():
            if (value := r.predicted.get(metric)) is None:
                continue
            low, high = r.low[metric], r.high[metric]
            table.add_row(
                plain(f"{r.row} {name}"),
                NAMES[metric],
                digits(value),
                f"{digits(low)} to {digits(high)}",
                digits(measured),
                f"{value / measured - 1.0:+.1%}",
                "" if low <= measured <= high else "outside",
            )
    console.print(table)
    console.print()


def show_summary(
    console: Console, summaries: Sequence[Summary], results: Sequence[RowResult]
) -> None:
    """Print the errors by group and metric, then how many rows were skipped and why."""
    table = make_table(
        "group", "metric", "rows", "median error", "mean", "P90", "bias", "inside 90 %"
    )
    for s in summaries:
        table.add_row(
            plain(s.group),
            NAMES[s.metric],
            str(s.n),
            f"{s.median_ape_percent:.1f} %",
            f"{s.mape_percent:.1f} %",
            f"{s.p90_ape_percent:.1f} %",
            f"{s.bias_percent:+.1f} %",
            f"{s.inside_interval_percent:.0f} %",
        )
    console.print(table)
    saturated = sum(r.saturated for r in results)
    if saturated:
        console.print(
            plain(f"{saturated} rows are saturated: their TTFT is queueing time and is not counted")
        )
    reasons: dict[str, int] = {}
    for r in results:
        if r.skipped_reason:
            reasons[r.skipped_reason] = reasons.get(r.skipped_reason, 0) + 1
    for reason, count in sorted(reasons.items(), key=lambda item: -item[1]):
        console.print(f"[yellow]{count} skipped:[/yellow] {safe(reason)}")
