"""A long table of timings as CSV: one operation, its columns, ``time_us``.

    dtype,library,m,n,k,time_us
    bfloat16,cublas,1,4096,4096,11.2

Columns are those of :data:`groundspeed.profiles.operations.OPERATIONS`, as in ``fit_law``; each
combination of the others (data type, library, ...) is a curve of its own. Of a table with
thousands of rows, a few hundred that cover it become the points of the profile, and the law is
fitted to them: a profile is to be read.
"""

import io

import numpy as np
import pandas as pd

from groundspeed.calibrate.design.point_selection import choose_points
from groundspeed.calibrate.fit.dataframe import config_key_columns, with_derived
from groundspeed.calibrate.importers.imported import (
    Imported,
    ImportedCurve,
    ImportRequest,
    imported_point,
)
from groundspeed.profiles.errors import InputError, did_you_mean
from groundspeed.profiles.operations import OPERATIONS
from groundspeed.profiles.schema import Point

MOST_POINTS = 192
"""Of one curve: a law from 96 points is at the noise floor of published tables."""


def read_csv(request: ImportRequest) -> Imported:
    """Read a table of timings.

    Raises
    ------
    InputError
        If the operation is not named, a column is missing, or a value is no positive number.
    """
    where = str(request.path)
    operation = request.op
    if operation is None or operation not in OPERATIONS:
        remedy = did_you_mean(operation, OPERATIONS) if operation else "name it with --op matmul"
        raise InputError(
            f"a table does not say which operation it is of ({operation or 'none given'})",
            where=where,
            remedy=remedy,
        )
    spec = OPERATIONS[operation]
    try:
        frame = pd.read_csv(io.StringIO(request.text))
    except (ValueError, pd.errors.ParserError) as error:
        raise InputError(f"is no table of comma-separated values ({error})", where=where) from error
    frame = with_derived(operation, frame)
    needed = [*spec.columns, *spec.categories, "time_us"]
    missing = [c for c in needed if c not in frame.columns]
    if missing:
        raise InputError(
            f"lacks the column {', '.join(missing)}",
            where=where,
            remedy=f"{operation} needs {', '.join(needed)}",
        )
    for name in (*spec.columns, "time_us"):
        numbers = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=float)
        bad = ~(np.isfinite(numbers) & (numbers > 0))
        if bad.any():
            row = int(np.argmax(bad)) + 2
            raise InputError(
                f"{name} is '{frame[name].iloc[row - 2]}', not a positive number",
                where=f"{where}, line {row}",
            )
        frame[name] = numbers
    curves = []
    dropped = 0
    names = config_key_columns(operation, frame)
    for values, group in frame.groupby(names, sort=True):
        config_key = {n: str(v) for n, v in zip(names, values, strict=True)}
        chosen = group.loc[choose_points(operation, group, budget=MOST_POINTS)]
        dropped += len(group) - len(chosen)
        columns = {c: chosen[c].to_numpy(dtype=float) for c in spec.columns}
        flops, moved = spec.flops(columns, config_key), spec.bytes(columns, config_key)
        points: list[Point] = [
            imported_point(
                {c: float(v[i]) for c, v in columns.items()},
                float(chosen["time_us"].iloc[i]) * 1e-6,
                float(moved[i]),
                flops=float(flops[i]),
            )
            for i in range(len(chosen))
        ]
        backend = config_key.get("library", "csv")
        curves.append(ImportedCurve(operation, config_key, backend, points))
    note = f"{dropped} of {len(frame)} rows are not among the points: the others cover them"
    return Imported(device=None, curves=curves, warnings=(note,) if dropped else ())
