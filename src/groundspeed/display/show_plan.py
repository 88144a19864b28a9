"""Print a plan: the Pareto front, the best deployment, and the command that starts it."""

from rich.console import Console

from groundspeed.display.terminal import digits, make_table, plain, safe
from groundspeed.estimator.decisions.plan_records import Plan, PlanPoint, PoolPoint

MOST_ROWS = 16


def show_plan(console: Console, plan: Plan) -> None:
    """Print the Pareto front, from the most tokens/s per GPU to the most tokens/s per user."""
    console.print(
        f"[bold]{safe(plan.model)}[/bold]  prompt {plan.prompt_tokens}, output "
        f"{plan.output_tokens}; objective: {safe('; '.join(plan.objective) or 'none')}; "
        f"{plan.tried} candidates on {safe(' or '.join(plan.gpus))}, {plan.simulated} simulated"
    )
    console.print()
    priced = any(p.cost_per_million_output_tokens is not None for p in plan.points)
    bounds = any(p.stands_on == "datasheet" for p in plan.points)
    table = make_table(
        "deployment", "clients", "TTFT, ms", "P99", "TPOT, ms", "P99", "token/s per GPU",
        "token/s per user", *(["price/1M"] if priced else []),
        *(["objective met"] if plan.objective else []),
    )  # fmt: skip
    points = list(plan.points)
    if len(points) > MOST_ROWS:
        step = (len(points) - 1) / (MOST_ROWS - 1)
        kept = {round(i * step) for i in range(MOST_ROWS)}
        points = [p for i, p in enumerate(points) if i in kept or _is_best(plan, p)]
    for p in points:
        row = [
            ("> " if _is_best(plan, p) else "  ") + deployment_name(p, with_gpu=len(plan.gpus) > 1),
            str(p.concurrency),
            digits(p.ttft_s * 1e3),
            digits(p.ttft_p99_s * 1e3),
            digits(p.tpot_s * 1e3),
            digits(p.tpot_p99_s * 1e3),
            digits(p.tokens_per_s_per_gpu),
            digits(p.tokens_per_s_per_user),
        ]
        if priced:
            cost = p.cost_per_million_output_tokens
            row.append(f"{cost:.2f}" if cost is not None else "")
        if plan.objective:
            row.append(_met(p))
        table.add_row(*(plain(c) for c in row))
    console.print(table)
    console.print()
    console.print(plain(plan.advice))
    if bounds:
        console.print(
            plain("bound: from datasheet peaks, which no kernel reaches; nothing was measured"),
            style="yellow",
        )
    for line in plan.skipped:
        console.print(plain(f"left out: {line}"), style="red")
    if plan.best is not None and plan.launch is not None:
        console.print(plain(f"replicas: {plan.best.replicas}; command for each: {plan.launch}"))
        if plan.router is not None:
            console.print(plain(f"before them: {plan.router}"))
        if plan.remark:
            console.print(plain(f"note: {plan.remark}"), style="yellow")
    if plan.pools:
        console.print()
        _show_pools(console, plan.pools, priced=priced)
    if priced:
        console.print("price/1M: price of a million output tokens", style="dim")


def _show_pools(console: Console, pools: tuple[PoolPoint, ...], *, priced: bool) -> None:
    table = make_table(
        "prefill pool", "decode pool", "clients", "TTFT, ms", "TPOT, ms", "token/s per GPU",
        *(["price/1M"] if priced else []), "limited by",
    )  # fmt: skip
    for p in pools:
        cost = p.cost_per_million_output_tokens
        table.add_row(
            *(
                plain(c)
                for c in (
                    p.prefill, p.decode, str(p.concurrency), digits(p.ttft_s * 1e3),
                    digits(p.tpot_s * 1e3), digits(p.tokens_per_s_per_gpu),
                    *([f"{cost:.2f}" if cost is not None else ""] if priced else []),
                    p.limited_by,
                )
            )
        )  # fmt: skip
    console.print("separate pools, in a steady state (not simulated):")
    console.print(table)


def _met(p: PlanPoint) -> str:
    if not p.meets:
        return "no"
    if p.stands_on == "datasheet":
        return "bound"
    return "surely" if p.surely else "yes"


def deployment_name(p: PlanPoint, *, with_gpu: bool = True) -> str:
    """Return replicas, parallelism and GPU of a point, e.g. ``2 x tp4 ep4 on h200``."""
    ways = f"tp{p.tp}" + "".join(
        f" {name}{n}" for name, n in (("pp", p.pp), ("dp", p.dp), ("ep", p.ep)) if n > 1
    )
    return f"{p.replicas} x {ways}" + (f" on {p.gpu}" if with_gpu else "")


def _is_best(plan: Plan, p: PlanPoint) -> bool:
    def key(q: PlanPoint) -> tuple[object, ...]:
        return (q.gpu, q.tp, q.pp, q.ep, q.dp, q.replicas, q.concurrency)

    return plan.best is not None and key(p) == key(plan.best)
