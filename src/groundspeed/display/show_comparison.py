"""Table of a comparison: options side by side, the winner named, ties shown."""

from rich.console import Console

from groundspeed.display.terminal import digits, make_table, plain
from groundspeed.estimator.decisions.compare import NAMES, ServingComparison

SCALE = {"ttft_s": 1e3, "tpot_s": 1e3}
UNITS = {
    "ttft_s": "ms",
    "tpot_s": "ms",
    "tokens_per_s_per_gpu": "token/s",
    "tokens_per_price": "token",
}


def show_servers(console: Console, comparison: ServingComparison) -> None:
    """Print one table per metric: the value of each option, the winner and its lead."""
    for metric in dict.fromkeys(r.metric for r in comparison.rows):
        table = make_table(
            f"{NAMES[metric]}, {UNITS[metric]}", *comparison.options, "winner", "lead", "noise"
        )
        for row in comparison.rows:
            if row.metric != metric:
                continue
            values = [
                digits(v * SCALE.get(metric, 1.0)) if v is not None else "saturated"
                for v in row.values
            ]
            table.add_row(
                f"concurrency {row.concurrency}",
                *values,
                plain(row.winner or row.tie or "none"),
                f"{row.ratio - 1.0:.0%}" if row.ratio else "",
                f"{row.noise - 1.0:.0%}" if row.noise else "",
            )
        console.print(table)
        console.print()
    for line in comparison.skipped:
        console.print(plain(f"left out: {line}"), style="red")
    for line in comparison.summary:
        console.print(plain(line))
