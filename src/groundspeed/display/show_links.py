"""Print curves of bus bandwidth over message size, one line per collective.

The small plot in each line shows at which size the library switches protocols.
"""

from rich.console import Console

from groundspeed.display.terminal import make_table, plain, shown, sparkline
from groundspeed.profiles.busbw import busbw
from groundspeed.profiles.schema import Curve, Profile


def show_links(console: Console, profile: Profile) -> None:
    """Print one line per collective: latency, best busbw, a small plot of busbw, law error."""
    curves = [c for c in profile.curves if c.operation == "collective"]
    if not curves:
        return
    links = profile.interconnect
    if links is not None:
        version = f" {links.version}" if links.version else ""
        hosts = f"{len(links.hosts)} host" + ("s" if len(links.hosts) > 1 else "")
        console.print(
            plain(f"{links.backend}{version}, {links.ranks} ranks on {hosts}, {links.launcher}"),
            style="dim",
        )
    sizes = sorted({p.case["bytes"] for c in curves for p in c.points})
    reach = " to ".join(size_name(s) for s in (sizes[0], sizes[-1]))
    table = make_table("collective", "latency", "best busbw", "at size")
    table.add_column(f"busbw, {reach}", justify="left", no_wrap=True)
    table.add_column("law error", justify="right")
    for curve in curves:
        points = sorted((p for p in curve.points if p.valid), key=lambda p: p.case["bytes"])
        if not points:
            continue
        op, ranks = curve.config_key["op"], int(curve.config_key["world_size"])
        rates = [busbw(op, ranks, p.bytes, p.time_s) for p in points]
        best = max(range(len(points)), key=lambda i: rates[i])
        law = profile.law("collective", **curve.config_key)
        table.add_row(
            plain(curve_name(curve)),
            shown(points[0].time_s, "s"),
            shown(rates[best], "bytes/s"),
            size_name(points[best].case["bytes"]),
            sparkline(rates),
            f"{law.held_out.median_fraction:.1%}" if law else "",
        )
    console.print(table)


def curve_name(curve: Curve) -> str:
    """Return the name of a collective's curve, e.g. ``all_reduce x8 on 2 hosts graph``.

    It holds the operation, the number of ranks and, where they are known, hosts and graph mode.
    """
    name = f"{curve.config_key['op']} x{curve.config_key['world_size']}"
    if "hosts" in curve.config_key:
        name += f" on {curve.config_key['hosts']} hosts"
    return name + (" graph" if curve.config_key.get("mode") == "graph" else "")


def size_name(size_bytes: float) -> str:
    """Format a message size in binary units, e.g. ``64 KiB``."""
    for unit, name in ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.3g} {name}"
    return f"{size_bytes:.0f} B"
