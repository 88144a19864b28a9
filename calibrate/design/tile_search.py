"""Find the best tile of our own matrix product for each shape, and remember it.

How a product is cut decides its speed by a factor of two, and the best cut depends on the shape.
So every tile that can compute a shape is timed briefly, the fastest is then measured properly
with fresh samples, and the journal and the profile say which it was: a resumed run does not tune
again, and a reader sees what the number stands on.
"""

from collections.abc import Callable, Iterable, Mapping

from groundspeed.calibrate.design.measurement_plan import Mode, PlannedCase, planned
from groundspeed.calibrate.timing.stopping import StopRule

TUNING = StopRule(min_samples=5, min_time_s=0.005, half_width_fraction=0.05, time_cap_s=0.1)
"""Enough to tell tiles apart that differ by more than the noise."""

Trial = Callable[[PlannedCase], float | None]
"""Time of one run of a case [s], or None if it is wrong or cannot run."""

Shape = Mapping[str, float]


def tuned_shapes(mode: Mode) -> list[Shape]:
    """From a decode step to a large square; the large square alone in a minute."""
    sizes = [(8192, 8192, 8192)]
    if mode.name != "quick":
        sizes += [(side, side, side) for side in (1024, 2048, 4096)]
        sizes += [(rows, 8192, 8192) for rows in (16, 64, 512)]
    return [{"m": float(m), "n": float(n), "k": float(k)} for m, n, k in sizes]


def trials(shape: Shape) -> list[PlannedCase]:
    """One case for each tile that can compute a shape."""
    from groundspeed.kernels.kernel import DTYPES
    from groundspeed.kernels.matmul.matmul_triton import TILES, TritonMatmul, can_run

    n, k = int(shape["n"]), int(shape["k"])
    return [
        planned(TritonMatmul("bfloat16", tile=tile), shape, prefix=f"tune {tile.name}: ")
        for tile in TILES
        if can_run(tile, n, k, DTYPES["bfloat16"])
    ]


def fastest(cases: Iterable[PlannedCase], trial: Trial) -> PlannedCase | None:
    """The case that takes the least time.

    Returns
    -------
    PlannedCase or None
        None if none of them ran correctly.
    """
    timed = [(time_s, i, case) for i, case in enumerate(cases) if (time_s := trial(case))]
    return min(timed, key=lambda t: t[:2])[2] if timed else None


def tile_name(case: PlannedCase) -> str:
    """The tile of a trial, as a tag of the point measured with it."""
    return f"tile:{case.label.removeprefix('tune ').removesuffix(': ')}"
