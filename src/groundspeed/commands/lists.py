"""``groundspeed gpus`` and ``groundspeed models``: what ships, and the names that find it."""

import json

from groundspeed.commands.options import Force, Json, Output, deliver


def gpus_command(as_json: Json = False, output: Output = None, force: Force = False) -> None:
    """List the GPUs with a datasheet, and which of them have a profile that ships.

    Example: groundspeed gpus
    """
    from groundspeed.estimator.hardware.find_hardware import shipped_profile
    from groundspeed.profiles.datasheet import load_datasheets

    sheets = load_datasheets()
    shipped = {name: shipped_profile(name) for name in sheets}
    if as_json or output is not None:
        document = [
            {
                "id": s.id,
                "name": s.name,
                "names": list(s.short_names + s.aliases),
                "memory_bytes": s.memory_bytes.value if s.memory_bytes else None,
                "memory_bandwidth_bytes_per_s": s.memory_bandwidth_bytes_per_s.value
                if s.memory_bandwidth_bytes_per_s
                else None,
                "peak_flops_per_s": {d: q.value for d, q in s.peak_flops_per_s.items()},
                "profile": profile.id if (profile := shipped[s.id]) else None,
            }
            for s in sheets.values()
        ]
        deliver(json.dumps(document, indent=1), output, force=force)
        return
    from groundspeed.display.terminal import make_console, make_table, safe, shown

    table = make_table("gpu", "memory", "bandwidth", "bf16 or fp16", "profile")
    table.columns[4].justify = "left"
    for s in sheets.values():
        peak = s.peak("bfloat16") or s.peak("float16")
        bandwidth = s.memory_bandwidth_bytes_per_s
        profile = shipped[s.id]
        table.add_row(
            safe(s.id),
            f"{s.memory_bytes.value / 1e9:.0f} GB" if s.memory_bytes else "",
            shown(bandwidth.value, "bytes/s") if bandwidth else "",
            shown(peak.value, "FLOP/s") if peak else "",
            safe(profile.id) if profile else "datasheet only",
        )
    make_console().print(table)


def models_command(as_json: Json = False, output: Output = None, force: Force = False) -> None:
    """List the models that ship; any other is read from its config.json.

    Example: groundspeed models
    """
    from groundspeed.estimator.model.catalog import shipped_models

    models = shipped_models()
    if as_json or output is not None:
        document = [
            {
                "id": key,
                "hub_names": facts["hub_names"],
                "aliases": facts.get("aliases", []),
                "parameters": facts["parameters"],
            }
            for key, facts in models.items()
        ]
        deliver(json.dumps(document, indent=1), output, force=force)
        return
    from groundspeed.display.terminal import make_console, make_table, safe

    table = make_table("model", "parameters", "on the hub")
    table.columns[2].justify = "left"
    for key, facts in models.items():
        count = facts["parameters"]
        named = f"{count / 1e9:.1f} billion" if isinstance(count, int | float) else ""
        table.add_row(safe(key), named, safe(facts["hub_names"][0] if facts["hub_names"] else ""))
    make_console().print(table)
