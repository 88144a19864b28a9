"""Convert between the units in which rates and times are written.

scale_of("PFLOPS"), scale_of("Gb/s")
"""

import re

PREFIX = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
          "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}  # fmt: skip

TIMES = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "milliseconds": 1e-3, "us": 1e-6,
         "µs": 1e-6, "usec": 1e-6, "microseconds": 1e-6, "ns": 1e-9}  # fmt: skip

OPERATIONS = re.compile(r"(?i:([kmgtp]?)fl?ops?(?:/s(?:ec)?)?|([kmgtp]?)i?ops(?:/s)?)")
BYTES = re.compile(r"([kKMGTP]i?)?(?:B|[Bb]ytes?)(?:/s(?:ec)?|ps)")
BITS = re.compile(r"([kKMGTP]i?)?(?:b|bits?)(?:/s(?:ec)?|ps)")


def scale_of(unit: str) -> tuple[str, float] | None:
    """Return the quantity that a unit measures and its factor to the SI unit; None if unknown.

    A capital B is a byte and a small b a bit, as in the output of network tools; ``gb/s``, all in
    small letters, is what people write for bytes.

    >>> scale_of("PFLOPS"), scale_of("Gb/s"), scale_of("gb/s"), scale_of("bananas")
    (('flop/s', 1000000000000000.0), ('bytes/s', 125000000.0), ('bytes/s', 1000000000.0), None)
    """
    text = unit.strip()
    if text.lower() in TIMES:
        return "s", TIMES[text.lower()]
    match = OPERATIONS.fullmatch(text)
    if match:
        return "flop/s", PREFIX[(match.group(1) or match.group(2) or "").upper()]
    match = BYTES.fullmatch(text) or (
        BYTES.fullmatch(text[:1].upper() + text[1:].replace("b", "B", 1))
        if text.islower() and not text.startswith("b") and "bit" not in text and "bps" not in text
        else None
    )
    if match:
        return "bytes/s", PREFIX[match.group(1) or ""]
    match = BITS.fullmatch(text)
    if match:
        return "bytes/s", PREFIX[match.group(1) or ""] / 8.0
    return None


def factor(unit: str, wanted: str) -> float | None:
    """Return the factor from one unit to another; None if they measure different things.

    >>> factor("PFLOPS", "TFLOPS"), factor("ms", "GB/s")
    (1000.0, None)
    """
    if unit == wanted:
        return 1.0
    here, there = scale_of(unit), scale_of(wanted)
    if here is None or there is None or here[0] != there[0]:
        return None
    return here[1] / there[1]
