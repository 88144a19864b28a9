"""What tests of fleets ask of a screening."""

from groundspeed.fleet.screen.findings import Finding, Screening


def judged(screening: Screening, **wanted: object) -> list[Finding]:
    """Findings that were judged, and whose fields are as wanted."""
    return [
        f
        for f in screening.findings
        if f.verdict != "INCONCLUSIVE" and all(getattr(f, k) == v for k, v in wanted.items())
    ]


def named(screening: Screening) -> set[tuple[str, int | None]]:
    """Units that are WARN or FAIL."""
    return {(f.node, f.gpu) for f in judged(screening) if f.verdict in ("WARN", "FAIL")}
