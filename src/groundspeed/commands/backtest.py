"""``groundspeed backtest``: compare predictions with measurements of real servers."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundspeed.commands.options import Force, Json, Output, ProfileDir, Quiet, deliver
from groundspeed.commands.server_options import EngineProfile
from groundspeed.profiles.errors import InputError

if TYPE_CHECKING:
    from groundspeed.estimator.backtest.adjust import Adjustment
    from groundspeed.estimator.hardware.law_lookup import Hardware


def _print_columns(wanted: bool) -> None:  # typer calls it with the value
    if not wanted:
        return
    from groundspeed.display.terminal import make_console, make_table, safe
    from groundspeed.estimator.backtest.columns import COLUMNS

    table = make_table("column", "holds", "other names")
    table.columns[1].justify = table.columns[2].justify = "left"
    for name, (holds, others) in COLUMNS.items():
        table.add_row(name, safe(holds), ", ".join(others))
    make_console().print(table)
    raise typer.Exit


def backtest_command(
    file: Annotated[
        Path,
        typer.Argument(
            help=(
                "CSV file of measurements (columns model, gpu, isl, osl, batch_or_concurrency, "
                "ttft_ms, tpot_ms, ...), or JSON of vllm bench serve, SGLang bench_serving, "
                "guidellm, aiperf, genai-perf, llmperf, inference-perf or inference-benchmarker."
            )
        ),
    ],
    by: Annotated[
        str | None,
        typer.Option(
            help="Column that groups the summary, e.g. gpu. Default: one summary of all rows."
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(help="GPU of rows that do not name one. Not given: such rows are skipped."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Model of rows that do not name one. Not given: such rows are skipped."),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="Serving engine of rows that do not name one. Default: vllm.")
    ] = None,
    tp: Annotated[
        int | None,
        typer.Option(
            help="Tensor parallel size of rows that do not state one. Default: from the number of "
            "GPUs of the row, else 1."
        ),
    ] = None,
    engine_profile: EngineProfile = None,
    attribute: Annotated[
        bool,
        typer.Option(
            "--attribute",
            help="Also list how much of the error each constant could explain: cost per step, "
            "layer or request, prefill kernels, ...",
        ),
    ] = False,
    adjust: Annotated[
        int | None,
        typer.Option(
            help=(
                "Number of measured rows per --by group, at least 1, from which a correction "
                "factor for the predictions is learned. Not given: no correction."
            )
        ),
    ] = None,
    columns: Annotated[
        bool,
        typer.Option(
            "--columns",
            help="Print the columns of a table and their other names, and exit.",
            is_eager=True,
            callback=_print_columns,
        ),
    ] = False,
    profile_dir: ProfileDir = None,
    quiet: Quiet = False,
    as_json: Json = False,
    output: Output = None,
    force: Force = False,
) -> None:
    """Predict every row of a table of measurements and show the prediction errors.

    Example: groundspeed backtest measured.csv --by engine
    """
    from groundspeed.display.terminal import progress_bar
    from groundspeed.estimator.backtest.backtest import METRICS, backtest, summarize
    from groundspeed.estimator.backtest.columns import read_measurements
    from groundspeed.estimator.engines.own_engine import find_own_engine
    from groundspeed.estimator.hardware.find_hardware import find_hardware

    given = {"gpu": gpu, "model": model, "engine": engine, "tp": str(tp) if tp else None}
    source: Iterable[dict[str, str]] = read_measurements(file)
    rows = [
        {**{k: v for k, v in given.items() if v}, **{k: v for k, v in row.items() if v}}
        for row in source
    ]
    if not rows:
        raise InputError("has no rows", where=str(file))
    missing = [c for c in ("model", "gpu") if not any(r.get(c) for r in rows)]
    if missing:
        raise InputError(
            f"no row names a {missing[0]}",
            where=str(file),
            remedy=f"add the column {missing[0]} or give --{missing[0]}",
        )
    if by is not None and not any(by in r for r in rows):
        known = ", ".join(sorted({k for r in rows for k in r} - set(METRICS)))
        raise InputError(
            f"has no column '{by}' for --by", where=str(file), remedy=f"its columns are {known}"
        )
    own = find_own_engine(engine_profile) if engine_profile else None

    def find(name: str) -> "Hardware":
        return find_hardware(name, profile_dir=profile_dir).best

    with progress_bar("predicting", quiet=quiet or as_json) as report:
        done = 0

        def tick() -> None:
            nonlocal done
            done += 1
            report(done, len(rows), "")

        results = backtest(rows, find, own=own, progress=tick)
    if all(r.skipped_reason for r in results):
        reasons = sorted({r.skipped_reason for r in results})
        raise InputError(
            f"none of {len(results)} rows can be predicted: {'; '.join(reasons[:3])}",
            where=str(file),
        )
    if not any(r.measured for r in results):
        raise InputError(
            "no row has a measurement",
            where=str(file),
            remedy=f"add one of the columns {', '.join(METRICS)}",
        )
    adjustments: list[Adjustment] = []
    if adjust is not None:
        from groundspeed.estimator.backtest.adjust import adjust as adjust_results

        results, adjustments = adjust_results(results, adjust, by)
    summaries = summarize(results, by)
    if as_json or output is not None:
        document = {
            "summary": [s.model_dump(mode="json") for s in summaries],
            "adjustments": [a.model_dump(mode="json") for a in adjustments],
            "rows": [
                {
                    **r.labels,
                    "row": r.row,
                    **{f"pred_{m}": v for m, v in r.predicted.items()},
                    **{f"low_{m}": v for m, v in r.low.items()},
                    **{f"high_{m}": v for m, v in r.high.items()},
                    **{m: v for m, v in r.measured.items()},
                    "saturated": r.saturated,
                    "skipped_reason": r.skipped_reason or None,
                }
                for r in results
            ],
        }
        deliver(json.dumps(document, indent=1), output, force=force)
        return
    from groundspeed.display.show_serving import show_adjustments, show_rows, show_summary
    from groundspeed.display.terminal import make_console, plain

    console = make_console()
    if adjustments:
        show_adjustments(console, adjustments)
    show_rows(console, results)
    show_summary(console, summaries, results)
    if attribute:
        from groundspeed.estimator.backtest.attribute import attribute_errors

        console.print()
        for line in attribute_errors(rows, results, find, own):
            console.print(plain(line))
    defaulted = sorted(
        name
        for name in (
            "engine",
            "weight_dtype",
            "num_prompts",
            "length_low",
            "token_budget",
            "tp",
            "draft_tokens",
        )
        if any(not r.get(name) for r in rows)
    )
    if defaulted:
        console.print(
            plain(
                f"not given in every row: {', '.join(defaulted)}; assumed there: the engine's "
                "defaults, the checkpoint's data type, 10 prompts per client, fixed lengths, no "
                "speculation"
            ),
            style="dim",
        )
