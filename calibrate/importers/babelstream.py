"""BabelStream: memory bandwidth by kernel, in MB (10^6 bytes) a second.

Its table has a line a kernel with the best rate and the shortest, longest and mean time; how many
arrays a kernel touches is the benchmark's own count: two for copy, mul and dot, three for add and
triad.
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
"""Of its kernels, in our words."""

LINE = re.compile(r"^(Copy|Mul|Add|Triad|Dot)\s+([\d.eE+]+)\s+([\d.eE+-]+)", re.MULTILINE)
MEGA = 1e6
LARGEST_MB_PER_S = 1e8
"""A hundred TB/s: what is above is another unit."""


def read_babelstream(request: ImportRequest) -> Imported:
    """Read BabelStream's output.

    Raises
    ------
    InputError
        If it is not that, counts in binary megabytes, or has a rate that no memory has.
    """
    where, text = str(request.path), request.text
    if "Function" not in text or "Bytes/sec" not in text:
        raise InputError(
            "is no output of BabelStream (no line 'Function MBytes/sec …')", where=where
        )
    if "MiBytes/sec" in text or "GBytes/sec" in text:
        raise InputError(
            "counts in another unit than MBytes/sec",
            where=where,
            remedy="run it without --mibibytes",
        )
    precision = re.search(r"Precision: (\w+)", text)
    dtype = "float32" if precision and precision[1] == "float" else "float64"
    device = re.search(r"Using (?:\w+ )?device:? (.+)", text)
    curves = []
    for match in LINE.finditer(text):
        rate, shortest = float(match[2]), float(match[3])
        if not 0.0 < rate < LARGEST_MB_PER_S or shortest <= 0.0:
            raise InputError(f"{match[1]} has a rate of {rate:g} MB/s", where=where)
        moved = rate * MEGA * shortest
        point = imported_point({"bytes": moved}, shortest, moved)
        mode = MODES[match[1].lower()]
        curves.append(
            ImportedCurve("stream", {"mode": mode, "dtype": dtype}, "babelstream", (point,))
        )
    return Imported(device=device[1].strip() if device else None, curves=curves)
