"""Read BabelStream: memory bandwidth by kernel, in MB/s (10^6 bytes per second).

Its table has one line for each kernel, with the best rate and the shortest, longest and mean time;
``--csv`` prints the same with commas. The bytes that a kernel moves are counted as BabelStream
counts them: two arrays for copy, mul and dot, three for add and triad. If several devices wrote
into one file (``mpiexec``), a profile of their class gets the medians, and a warning lists each.
"""

import re
import statistics

from groundspeed.calibrate.importers.imported import (
    Imported,
    ImportedCurve,
    ImportRequest,
    imported_point,
)
from groundspeed.calibrate.importers.log_lines import plain_lines
from groundspeed.profiles.errors import InputError

MODES = {"copy": "copy", "triad": "triad", "dot": "read", "mul": "scale", "add": "add"}
"""The ``mode`` of our ``stream`` operation for each BabelStream kernel."""

LINE = re.compile(r"^(Copy|Mul|Add|Triad|Dot)\s+([\d.eE+]+)\s+([\d.eE+-]+)")
CSV_LINE = re.compile(
    r"^(Copy|Mul|Add|Triad|Dot),\d+,\d+,(\d+),([\d.eE+]+),([\d.eE+-]+),", re.IGNORECASE
)
MEGA = 1e6
LARGEST_MB_PER_S = 1e8
"""[MB/s] Largest rate that is accepted, 100 TB/s; a larger number must be in another unit."""


def read_babelstream(request: ImportRequest) -> Imported:
    """Read the table or the CSV that BabelStream prints.

    Raises
    ------
    InputError
        If the text is not BabelStream's output, is not in MBytes/sec, or has an impossible rate.
    """
    where, text = str(request.path), request.text
    csv = "function,num_times" in text
    if not csv and ("Function" not in text or "Bytes/sec" not in text):
        other = " (it is the gpu-stream of SuperBench)" if "STREAM_COPY" in text else ""
        raise InputError(
            f"not the output of BabelStream{other}: no line 'Function MBytes/sec'", where=where
        )
    if any(unit in text for unit in ("MiBytes/sec", "GBytes/sec", "mibytes_per_sec")):
        raise InputError(
            "the rates are in another unit than MBytes/sec",
            where=where,
            remedy="run BabelStream without --mibibytes",
        )
    precision = re.search(r"Precision: (\w+)", text)
    single = precision is not None and precision[1] == "float"
    found: dict[str, list[tuple[float, float]]] = {}
    for _, line in plain_lines(text):
        if match := CSV_LINE.match(line):
            single = match[2] == "4"
            name, rate, shortest = match[1].lower(), float(match[3]), float(match[4])
        elif match := LINE.match(line):
            name, rate, shortest = match[1].lower(), float(match[2]), float(match[3])
        else:
            continue
        if not 0.0 < rate < LARGEST_MB_PER_S or shortest <= 0.0:
            raise InputError(
                f"{match[1]} has a rate of {rate:g} MB/s and a time of {shortest:g} s: the rate "
                f"must be above 0 and below {LARGEST_MB_PER_S:g} MB/s, the time above 0 s",
                where=where,
            )
        found.setdefault(name, []).append((rate, shortest))
    dtype = "float32" if single else "float64"
    device = re.search(r"Using (?:\w+ )?device:? (.+)", text)
    curves = []
    for name, runs in found.items():
        rate = statistics.median(r for r, _ in runs)
        moved = statistics.median(r * MEGA * t for r, t in runs)
        point = imported_point({"bytes": moved}, moved / (rate * MEGA), moved)
        key = {"mode": MODES[name], "dtype": dtype}
        curves.append(ImportedCurve("stream", key, "babelstream", (point,)))
    return Imported(
        device=device[1].strip() if device else None, curves=curves, warnings=_several(found)
    )


def _several(found: dict[str, list[tuple[float, float]]]) -> tuple[str, ...]:
    """Return a sentence if the file holds several devices or runs."""
    count = max((len(runs) for runs in found.values()), default=1)
    if count < 2:
        return ()
    listed = "; ".join(
        f"{name} {', '.join(f'{rate / 1e3:.0f}' for rate, _ in runs)} GB/s"
        for name, runs in found.items()
    )
    return (f"{count} devices or runs in one file, the profile has their medians: {listed}",)
