"""Print profiles, laws, naive estimates, datasheets and comparisons of profiles."""

from rich.console import Console
from rich.text import Text

from groundspeed.display.show_links import show_links
from groundspeed.display.terminal import (
    bar,
    digits,
    make_table,
    plain,
    safe,
    scale_for,
    shown,
    with_bars,
)
from groundspeed.estimator.decisions.naive_method import NaiveEstimate
from groundspeed.profiles.datasheet import DeviceSpec
from groundspeed.profiles.difference import ProfileComparison
from groundspeed.profiles.schema import Device, Profile
from groundspeed.profiles.utilization import utilization
from groundspeed.profiles.validation import Violation


def show_device_line(console: Console, device: Device, datasheet: DeviceSpec | None) -> None:
    """Print the properties of the device and the peaks of its datasheet."""
    units = "threads" if device.kind == "cpu" else "compute units"
    facts = [f"{device.compute_units} {units}"] if device.compute_units else []
    if device.memory_bytes:
        facts.append(f"{device.memory_bytes / 2**30:.0f} GiB")
    if device.last_level_cache_bytes:
        facts.append(f"{device.last_level_cache_bytes / 2**20:.0f} MiB last-level cache")
    facts += device.instruction_sets
    console.print(f"[bold]{safe(device.name)}[/bold]  {safe(', '.join(facts))}")
    if datasheet is None:
        console.print("datasheet: none for this device, so its rates are shown without utilization")
        return
    claims = [
        f"{name} {shown(q.value, 'FLOP/s')}" for name, q in datasheet.peak_flops_per_s.items()
    ]
    if datasheet.memory_bandwidth_bytes_per_s:
        claims.append(f"memory {shown(datasheet.memory_bandwidth_bytes_per_s.value, 'bytes/s')}")
    console.print(plain(f"datasheet ({datasheet.id}): {', '.join(claims)}"))


def show_rates(console: Console, profile: Profile) -> None:
    """Print the best achieved rates with 90 % intervals, next to the datasheet's peaks."""
    known, bars = any(r.utilization is not None for r in profile.rates), with_bars(console)
    columns = ["quantity", "achieved", "90 % interval"]
    columns += ["datasheet", "utilization", ""] if known else [""]
    table = make_table(*columns)
    for rate in profile.rates:
        divisor, unit = scale_for(rate.value, rate.unit)
        interval = f"{digits(rate.low / divisor)} to {digits(rate.high / divisor)}"
        row: list[Text | str] = [
            plain(rate.quantity),
            f"{digits(rate.value / divisor)} {unit}",
            interval,
        ]
        if known:
            claimed = f"{digits(rate.datasheet / divisor)} {unit}" if rate.datasheet else ""
            share = f"{rate.utilization:.0%}" if rate.utilization else ""
            row += [
                claimed,
                share,
                bar(rate.utilization) if rate.utilization and bars else plain(rate.note),
            ]
        else:
            row.append(plain(rate.note))
        table.add_row(*row)
    console.print(table)


def show_utilization(console: Console, profile: Profile) -> None:
    """Print the utilization of a model's layers, which replaces the usual guess "about 60 %"."""
    utilizations = utilization(profile)
    if not utilizations:
        return
    shares = any(u.share is not None for u in utilizations)
    columns = ["layers of models", "rows (m)", "achieved"]
    table = make_table(*columns, *(["utilization", "90 % interval", ""] if shares else [""]))
    for u in utilizations:
        unit = "FLOP/s" if u.phase == "prefill" else "bytes/s"
        row: list[Text | str] = [
            plain(f"{u.phase} {u.config_key}"),
            f"{u.rows:,}",
            shown(u.rate, unit),
        ]
        if shares:
            inside = f"{u.low:.0%} to {u.high:.0%}" if u.low and u.high else ""
            share = f"{u.share:.0%}" if u.share else ""
            row += [share, inside, bar(u.share, width=12) if u.share and with_bars(console) else ""]
        else:
            row.append("extrapolated" if u.extrapolated else "")
        table.add_row(*row)
    console.print(table)


def show_laws(console: Console, profile: Profile) -> None:
    """Print the coefficients of each law and its error on held-out points."""
    table = make_table(
        "law", "start-up", "compute", "bandwidth", "points", "median error", "P90 error"
    )
    for law in profile.laws:
        if law.piecewise_linear is not None:
            continue  # these laws are in the table of collectives
        values = law.values()
        compute = values.get("compute_flops_per_s")
        table.add_row(
            plain(f"{law.operation} {' '.join(law.config_key.values())}"),
            shown(values["startup_s"], "s"),
            shown(compute, "FLOP/s") if compute else "",
            shown(values["bandwidth_bytes_per_s"], "bytes/s"),
            str(law.points),
            f"{law.held_out.median_fraction:.1%}",
            f"{law.held_out.q90_fraction:.1%}",
        )
    if table.row_count:
        console.print(table)


def show_profile(console: Console, profile: Profile) -> None:
    """Print everything in a profile, the summary first."""
    environment = profile.environment
    show_device_line(console, profile.device, profile.datasheet)
    console.print(
        plain(
            f"{profile.id}  {profile.mode}, {environment.date_utc}, "
            + "".join(f"{k} {v}, " for k, v in environment.libraries.items())
            + (f"{environment.virtualization}, " if environment.virtualization else "")
            + f"telemetry: {environment.telemetry}"
        ),
        style="dim",
    )
    show_warnings(console, profile)
    console.print()
    show_utilization(console, profile)
    console.print()
    show_rates(console, profile)
    console.print()
    show_links(console, profile)
    show_laws(console, profile)
    for s in profile.stability:
        console.print(
            f"{s.limit} reference GEMM: {s.verdict}, spread ±{s.spread_fraction:.1%}, "
            f"drift {s.drift_fraction:+.1%} over {s.repeats} repeats",
            style="dim",
        )


def show_warnings(console: Console, profile: Profile) -> None:
    """Print the warnings of a profile, which limit how far its numbers can be trusted."""
    for warning in profile.warnings:
        console.print(plain(f"note: {warning}"), style="yellow")


def show_violations(console: Console, violations: list[Violation]) -> None:
    """Print the violations that a profile check found, one line each."""
    for v in violations:
        style = "red" if v.severity == "error" else "yellow"
        console.print(plain(f"{v.severity}: {v.where}: {v.what}"), style=style)


def show_naive_estimate(console: Console, estimate: NaiveEstimate) -> None:
    """Print the naive estimate, rounded and exact, and the effects that it leaves out."""
    console.print(
        f"[bold]{safe(estimate.model)}[/bold] on {estimate.hardware}, "
        f"{shown(estimate.peak_flops_per_s, 'FLOP/s')} {estimate.workload.dtype}, "
        f"prompt {estimate.workload.prompt_tokens}, output {estimate.workload.output_tokens}, "
        f"batch {estimate.workload.batch}: --method naive"
    )
    table = make_table("quantity", "rounded", "exact", "unit")
    table.add_column("", justify="left")
    for row in estimate.rows:
        table.add_row(
            row.quantity,
            f"{row.printed / row.scale:.{row.decimals}f}",
            f"{row.exact / row.scale:.6g}",
            row.unit,
            row.comment,
        )
    console.print(table)
    console.print("\nThis estimate leaves out:")
    for line in estimate.left_out:
        console.print(plain(f"  - {line}"))


def show_datasheet(console: Console, spec: DeviceSpec) -> None:
    """Print each number of a datasheet with its source."""
    console.print(
        f"[bold]{safe(spec.name)}[/bold]  {safe(spec.architecture)}, datasheet {safe(spec.id)}"
    )
    table = make_table("quantity", "value", "confidence")
    table.add_column("source", justify="left", overflow="fold")
    for name, quantity in spec.quantities().items():
        unit = next((u for end, u in UNIT_OF if name.endswith(end) or end in name), None)
        value = shown(quantity.value, unit) if unit else f"{quantity.value:g}"
        if name.endswith("_hz"):
            value = f"{quantity.value / 1e6:.0f} MHz"
        source = spec.sources[quantity.source]
        title = source.title + (f" ({quantity.note})" if quantity.note else "")
        table.add_row(plain(name), value, source.confidence, plain(title))
    console.print(table)
    for note in spec.notes:
        console.print(plain(f"note: {note}"), style="yellow")


UNIT_OF = (
    ("peak_flops_per_s", "FLOP/s"),
    ("bytes_per_s", "bytes/s"),
    ("bytes", "bytes"),
)


def show_comparison(console: Console, comparison: ProfileComparison) -> None:
    """Print the achieved rates of two profiles side by side, and other differences."""
    console.print(plain(f"{comparison.first} -> {comparison.second}"), style="bold")
    table = make_table("quantity", "first", "second", "change", "beyond noise")
    for c in comparison.rates:
        divisor, unit = scale_for(c.first, c.unit)
        table.add_row(
            plain(c.quantity),
            f"{digits(c.first / divisor)} {unit}",
            f"{digits(c.second / divisor)} {unit}",
            f"{c.change_fraction:+.1%}",
            "unknown" if c.beyond_noise is None else "yes" if c.beyond_noise else "",
        )
    console.print(table)
    if comparison.median_change_fraction is not None:
        console.print(f"median absolute change: {comparison.median_change_fraction:.1%}")
    for change in comparison.environment:
        console.print(plain(f"{change.what}: {change.first} -> {change.second}"), style="dim")
    if comparison.only_in_one:
        console.print(
            plain(f"only in one profile: {', '.join(comparison.only_in_one)}"), style="yellow"
        )
