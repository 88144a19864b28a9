"""Print a plan: the Pareto front, the best deployment, and the command that starts it."""

from rich.console import Console

from groundspeed.display.terminal import digits, make_table, plain, safe
from groundspeed.estimator.decisions.plan import Plan, PlanPoint

MOST_ROWS = 16


def show_plan(console: Console, plan: Plan) -> None:
    """Print the Pareto front, from the most tokens/s per GPU to the most tokens/s per user."""
    limits = [
        f"{name} {limit * 1e3:g} ms"
        for name, limit in (("TTFT", plan.ttft_limit_s), ("TPOT", plan.tpot_limit_s))
        if limit is not None
    ]
    console.print(
        f"[bold]{safe(plan.model)}[/bold]  prompt {plan.prompt_tokens}, output "
        f"{plan.output_tokens}; objective: {', '.join(limits) or 'none'}; {plan.tried} candidates "
        f"on {plan.points[0].gpus} x {safe(' or '.join(sorted({p.gpu for p in plan.points})))}"
    )
    console.print()
    names = sorted({p.gpu for p in plan.points})
    priced = any(p.cost_per_million_output_tokens is not None for p in plan.points)
    table = make_table(
        "deployment", "clients", "TTFT, ms", "TPOT, ms", "token/s/GPU", "token/s/user",
        *(["price/1M"] if priced else []), "objective met",
    )  # fmt: skip
    points = list(plan.points)
    if len(points) > MOST_ROWS:
        step = (len(points) - 1) / (MOST_ROWS - 1)
        kept = {round(i * step) for i in range(MOST_ROWS)}
        points = [p for i, p in enumerate(points) if i in kept or p == plan.best]
    for p in points:
        row = [
            ("> " if plan.best and _same(p, plan.best) else "  ")
            + deployment_name(p, with_gpu=len(names) > 1),
            str(p.concurrency),
            digits(p.ttft_s * 1e3),
            digits(p.tpot_s * 1e3),
            digits(p.tokens_per_s_per_gpu),
            digits(p.tokens_per_s_per_user),
        ]
        if priced:
            cost = p.cost_per_million_output_tokens
            row.append(f"{cost:.2f}" if cost is not None else "")
        row.append("surely" if p.surely and p.meets else "yes" if p.meets else "no")
        table.add_row(*(plain(c) for c in row))
    console.print(table)
    console.print()
    console.print(plain(plan.advice))
    for line in plan.skipped:
        console.print(plain(f"left out: {line}"), style="red")
    if plan.best is not None and plan.launch is not None:
        console.print(plain(f"replicas: {plan.best.replicas}; command for each: {plan.launch}"))
    if priced:
        console.print("price/1M: price of a million output tokens", style="dim")


def deployment_name(p: PlanPoint, *, with_gpu: bool = True) -> str:
    """Return replicas, parallelism and GPU of a point, e.g. ``2 x tp4 ep4 on h200``."""
    ways = f"tp{p.tp}" + (f" dp{p.dp}" if p.dp > 1 else "") + (f" ep{p.ep}" if p.ep > 1 else "")
    return f"{p.replicas} x {ways}" + (f" on {p.gpu}" if with_gpu else "")


def _same(a: PlanPoint, b: PlanPoint) -> bool:
    return (a.gpu, a.tp, a.ep, a.dp, a.concurrency) == (b.gpu, b.tp, b.ep, b.dp, b.concurrency)
