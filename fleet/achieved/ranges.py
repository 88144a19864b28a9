"""Compare a class with what healthy GPUs of its SKU reach, so that a slow fleet is not the norm.

A class is compared with its own median, so a fleet that is slow as a whole looks healthy. For SKUs
that others have published, the median itself is compared with their numbers. The floor is loose (a
benchmark that a table does not describe may be a slower one), so what it catches is a fleet that is
wrong by much.

    range_of("NVIDIA H100 80GB HBM3", "matmul bfloat16")
"""

import functools
import tomllib
from importlib import resources

from groundspeed.profiles.datasheet import find_device
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.record import Record

DCGM_SHARE = 0.75
"""[1] Floor as a share of what published devices reach: how DCGM sets those of its diagnostic."""


class AchievedRange(Record):
    """What healthy GPUs of one SKU reach in one quantity."""

    gpu: str
    """Id of the datasheet."""
    quantity: str
    typical: float
    """[FLOP/s or bytes/s]"""
    unit: str
    source: str
    floor: float | None = None
    """[FLOP/s or bytes/s] Published floor; None: :data:`DCGM_SHARE` of ``typical``."""

    @property
    def least(self) -> float:
        """[FLOP/s or bytes/s] Rate that every healthy GPU of this SKU exceeds."""
        return self.floor if self.floor is not None else DCGM_SHARE * self.typical


@functools.cache
def achieved_ranges() -> dict[tuple[str, str], AchievedRange]:
    """Return all published ranges, by datasheet and quantity."""
    text = (resources.files("groundspeed.fleet.achieved") / "ranges.toml").read_text("utf-8")
    ranges = [AchievedRange.model_validate(r) for r in tomllib.loads(text)["range"]]
    return {(r.gpu, r.quantity): r for r in ranges}


def range_of(sku: str, quantity: str) -> AchievedRange | None:
    """Return the published range of a SKU in a quantity; None if none is known.

    Parameters
    ----------
    sku : str
        Name of the GPU as tables and drivers give it.
    quantity : str
        As :func:`groundspeed.fleet.metric_names.quantity_of` gives it.
    """
    try:
        gpu = find_device(sku).spec.id
    except InputError:
        return None
    return achieved_ranges().get((gpu, quantity))
