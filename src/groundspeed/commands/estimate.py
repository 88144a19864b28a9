"""``groundspeed estimate``: from a model and a GPU's name to TTFT, TPOT and throughput."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundspeed.commands.options import Force, Json, Output, ProfileDir, deliver
from groundspeed.profiles.errors import InputError

if TYPE_CHECKING:
    from groundspeed.api import FoundHardware
    from groundspeed.estimator import Model, Workload


def estimate_command(
    model: Annotated[str, typer.Argument(help="qwen2.5-32b, a hub name, or a config.json.")],
    gpu: Annotated[
        list[str], typer.Option("--gpu", help="h200, h100-sxm, a profile; repeat to compare.")
    ],
    isl: Annotated[int, typer.Option(help="Prompt tokens.")] = 1024,
    osl: Annotated[int, typer.Option(help="Output tokens.")] = 1024,
    batch: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    dtype: Annotated[str, typer.Option(help="Of weights, activations and cache.")] = "bfloat16",
    method: Annotated[
        str, typer.Option(help="'operators', or 'article': FLOPs / peak / 60 %.")
    ] = "operators",
    utilization: Annotated[float, typer.Option(help="For the article's method.")] = 0.6,
    profile_dir: ProfileDir = None,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """Predict TTFT, TPOT and throughput of a model on one device.

    Example: groundspeed estimate qwen2.5-32b --gpu h20 --isl 1024 --osl 1024
    """
    from groundspeed.api import find_hardware
    from groundspeed.estimator import Workload, find_model

    if method not in ("operators", "article"):
        raise InputError(
            f"unknown method '{method}'", where="--method", remedy="use operators or article"
        )
    workload = Workload(batch=batch, prompt_tokens=isl, output_tokens=osl, dtype=dtype)
    shape = find_model(model)
    found = [find_hardware(name, profile_dir=profile_dir) for name in gpu]
    if method == "article":
        _article(shape, found, workload, utilization, as_json, output, force)
        return
    from groundspeed.estimator import DatasheetHardware, ProfileHardware, predict

    columns = []
    for hardware in found:
        if hardware.spec is not None and (len(found) == 1 or hardware.profile is None):
            name = hardware.spec.id if len(found) > 1 else f"data sheet {hardware.spec.id}"
            columns.append((name, predict(shape, DatasheetHardware(hardware.spec), workload)))
        if hardware.profile is not None:
            name = hardware.name if len(found) > 1 else "calibrated"
            columns.append((name, predict(shape, ProfileHardware(hardware.profile), workload)))
    if as_json or output is not None:
        document = {
            "hardware": [{"name": h.name, "chosen": h.why} for h in found],
            "predictions": [p.model_dump(mode="json") for _, p in columns],
        }
        deliver(json.dumps(document, indent=1), output, force=force)
        return
    from groundspeed.show import show_breakdown, show_predictions
    from groundspeed.terminal import make_console, plain, safe

    console = make_console()
    best = columns[-1][1]
    console.print(
        f"[bold]{safe(shape.id)}[/bold]  {shape.parameters / 1e9:.2f} B parameters, "
        f"prompt {isl}, output {osl}, batch {batch}, {dtype}"
    )
    for hardware in found:
        console.print(plain(f"{hardware.name}: {hardware.why}"), style="dim")
    console.print()
    show_predictions(console, columns)
    if len(columns) <= 2 and len(found) == 1:
        show_breakdown(console, best)
    console.print()
    for name, prediction in columns if len(found) > 1 else columns[-1:]:
        prefix = f"{name}: " if len(found) > 1 else ""
        console.print(plain(f"{prefix}{prediction.limits}"))
    for note in sorted({note for _, p in columns for note in p.notes}):
        console.print(plain(f"note: {note}"), style="yellow")
    console.print(best.tpot_definition, style="dim")


def _article(
    shape: "Model",
    found: "list[FoundHardware]",
    workload: "Workload",
    utilization: float,
    as_json: bool,
    output: Path | None,
    force: bool,
) -> None:
    from groundspeed.estimator.article import article_estimate

    estimates = []
    for hardware in found:
        if hardware.spec is None:
            raise InputError(
                f"the article's method needs a data sheet, '{hardware.name}' has none",
                remedy="name a GPU",
            )
        estimates.append(article_estimate(shape, hardware.spec, workload, utilization=utilization))
    if as_json or output is not None:
        document = {"estimates": [e.model_dump(mode="json") for e in estimates]}
        deliver(json.dumps(document, indent=1), output, force=force)
        return
    from groundspeed.show import show_article
    from groundspeed.terminal import make_console

    console = make_console()
    for estimate in estimates:
        show_article(console, estimate)
