"""Read the output of BabelStream: memory bandwidth by kernel, in MB/s (10^6 bytes per second).

Its table has one line for each kernel, with the best rate and the shortest, longest and mean time.
The bytes that a kernel moves are counted as BabelStream counts them: two arrays for copy, mul and
dot, three for add and triad.
"""

import re

from groundspeed.calibrate.importers.imported import (
    Imported,
    ImportedCurve,
    ImportRequest,
    imported_point,
)
from groundspeed.profiles.errors import InputError

MODES = {"copy": "copy", "triad": "triad", "dot": "read", "mul": "scale", "add": "add"}
"""The ``mode`` of our ``stream`` operation for each BabelStream kernel."""

LINE = re.compile(r"^(Copy|Mul|Add|Triad|Dot)\s+([\d.eE+]+)\s+([\d.eE+-]+)", re.MULTILINE)
MEGA = 1e6
LARGEST_MB_PER_S = 1e8
"""[MB/s] Largest rate that is accepted, 100 TB/s; a larger number must be in another unit."""


def read_babelstream(request: ImportRequest) -> Imported:
    """Read the text that BabelStream prints.

    Raises
    ------
    InputError
        If the text is not BabelStream's output, is not in MBytes/sec, or has an impossible rate.
    """
    where, text = str(request.path), request.text
    if "Function" not in text or "Bytes/sec" not in text:
        raise InputError(
            "not the output of BabelStream (no line 'Function MBytes/sec …')", where=where
        )
    if "MiBytes/sec" in text or "GBytes/sec" in text:
        raise InputError(
            "the rates are in another unit than MBytes/sec",
            where=where,
            remedy="run BabelStream without --mibibytes",
        )
    precision = re.search(r"Precision: (\w+)", text)
    dtype = "float32" if precision and precision[1] == "float" else "float64"
    device = re.search(r"Using (?:\w+ )?device:? (.+)", text)
    curves = []
    for match in LINE.finditer(text):
        rate, shortest = float(match[2]), float(match[3])
        if not 0.0 < rate < LARGEST_MB_PER_S or shortest <= 0.0:
            raise InputError(
                f"{match[1]} has a rate of {rate:g} MB/s and a time of {shortest:g} s: the rate "
                f"must be above 0 and below {LARGEST_MB_PER_S:g} MB/s, the time above 0 s",
                where=where,
            )
        moved = rate * MEGA * shortest
        point = imported_point({"bytes": moved}, shortest, moved)
        mode = MODES[match[1].lower()]
        curves.append(
            ImportedCurve("stream", {"mode": mode, "dtype": dtype}, "babelstream", (point,))
        )
    return Imported(device=device[1].strip() if device else None, curves=curves)
