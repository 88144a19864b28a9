"""Filters for the findings of a screening, shared by the tests of ``fleet``."""

from groundspeed.fleet.screen.findings import Finding, Screening


def judged(screening: Screening, **wanted: object) -> list[Finding]:
    """Return the findings with a verdict other than INCONCLUSIVE whose fields equal ``wanted``."""
    return [
        f
        for f in screening.findings
        if f.verdict != "INCONCLUSIVE" and all(getattr(f, k) == v for k, v in wanted.items())
    ]


def named(screening: Screening) -> set[tuple[str, int | str | None]]:
    """Return (node, GPU) of every finding with verdict WARN or FAIL."""
    return {(f.node, f.gpu) for f in judged(screening) if f.verdict in ("WARN", "FAIL")}
