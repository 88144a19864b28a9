"""Read a CSV table of kernel timings: one operation, one row for each case.

    dtype,library,m,n,k,time_us
    bfloat16,cublas,1,4096,4096,11.2

The columns are those of the operation in :data:`groundspeed.profiles.operations.OPERATIONS`, as in
``fit_law``, and ``time_us``. Each combination of the config key columns (data type, library, ...)
becomes a separate curve. From each curve, at most ``MOST_POINTS`` rows that cover the whole range
are kept, so that people can still read the profile; the law is fitted to these rows.
"""

import io

import numpy as np
import pandas as pd

from groundspeed.calibrate.design.point_selection import choose_points
from groundspeed.calibrate.fit.dataframe import add_derived_columns, config_key_columns
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
"""Most points kept of a curve; 96 already give a law at the noise floor of published tables."""


def read_csv(request: ImportRequest) -> Imported:
    """Read a CSV table of timings.

    Raises
    ------
    InputError
        If ``request.op`` is not a known operation, a column is missing, or a value is not a
        positive number.
    """
    where = str(request.path)
    operation = request.op
    if operation is None or operation not in OPERATIONS:
        remedy = did_you_mean(operation, OPERATIONS) if operation else "give it with --op matmul"
        raise InputError(
            f"the table does not say which operation was timed (--op: {operation or 'none'})",
            where=where,
            remedy=remedy,
        )
    spec = OPERATIONS[operation]
    try:
        frame = pd.read_csv(io.StringIO(request.text))
    except (ValueError, pd.errors.ParserError) as error:
        raise InputError(f"not a table in CSV format ({error})", where=where) from error
    frame = add_derived_columns(operation, frame)
    needed = [*spec.columns, *spec.categories, "time_us"]
    missing = [c for c in needed if c not in frame.columns]
    if missing:
        raise InputError(
            f"the table lacks the column {', '.join(missing)}",
            where=where,
            remedy=f"{operation} needs the columns {', '.join(needed)}",
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
    note = f"{dropped} of {len(frame)} rows were not kept: the kept rows cover the same range"
    return Imported(device=None, curves=curves, warnings=(note,) if dropped else ())
