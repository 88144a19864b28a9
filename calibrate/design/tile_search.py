"""Find the fastest tile of this project's Triton GEMM for each shape, and record it.

The tile changes the speed of a GEMM by up to a factor of two, and the best tile depends on the
shape. Every tile that can compute a shape is timed briefly, and the fastest is then measured with
fresh samples. The journal and the profile record the tile. A resumed run therefore does not repeat
the search, and a reader sees which tile was measured.
"""

from collections.abc import Callable, Iterable, Mapping

from groundspeed.calibrate.design.measurement_plan import Mode, PlannedCase, planned
from groundspeed.calibrate.timing.stopping import StopRule

TUNING = StopRule(min_samples=5, min_time_s=0.005, half_width_fraction=0.05, time_cap_s=0.1)
"""Stop rule that is precise enough to separate tiles that differ by more than the noise."""

Trial = Callable[[PlannedCase], float | None]
"""[s] Function that returns the time of one run of a case, or None if its result is wrong or it
cannot run."""

Shape = Mapping[str, float]


def tuned_shapes(mode: Mode) -> list[Shape]:
    """Shapes to tune: a decode step to a large square; in quick mode the large square only."""
    sizes = [(8192, 8192, 8192)]
    if mode.name != "quick":
        sizes += [(side, side, side) for side in (1024, 2048, 4096)]
        sizes += [(rows, 8192, 8192) for rows in (16, 64, 512)]
    return [{"m": float(m), "n": float(n), "k": float(k)} for m, n, k in sizes]


def trials(shape: Shape) -> list[PlannedCase]:
    """Plan one case for each tile that can compute a shape."""
    from groundspeed.kernels.kernel import DTYPES
    from groundspeed.kernels.matmul.matmul_triton import TILES, TritonMatmul, can_run

    n, k = int(shape["n"]), int(shape["k"])
    return [
        planned(TritonMatmul("bfloat16", tile=tile), shape, prefix=f"tune {tile.name}: ")
        for tile in TILES
        if can_run(tile, n, k, DTYPES["bfloat16"])
    ]


def fastest(cases: Iterable[PlannedCase], trial: Trial) -> PlannedCase | None:
    """Return the case that takes the least time.

    Returns
    -------
    PlannedCase or None
        None if no case ran correctly.
    """
    timed = [(time_s, i, case) for i, case in enumerate(cases) if (time_s := trial(case))]
    return min(timed, key=lambda t: t[:2])[2] if timed else None


def tile_name(case: PlannedCase) -> str:
    """Return the tag that names the tile of a trial case, e.g. for the point measured with it."""
    return f"tile:{case.label.removeprefix('tune ').removesuffix(': ')}"
