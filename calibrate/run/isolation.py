"""Measure a device's best cases again without its neighbours, and report what changed.

All GPUs of a node are measured at the same time, because a node works like that. They share the
host's memory, the PCIe switches, and the power and cooling of one chassis. One of them is therefore
measured again alone afterwards. A rate that differs is reported in every profile of the node.

    notes = compare_isolated(request, profile, others=7)
"""

from collections.abc import Iterator

import torch

from groundspeed.calibrate.design.measurement_plan import HOST_LINK_BYTES, matmul_kernel
from groundspeed.calibrate.run.campaign import Request, make_harness
from groundspeed.calibrate.timing.measure_case import measure
from groundspeed.calibrate.timing.telemetry import open_telemetry
from groundspeed.kernels.kernel import Case, Kernel, UnsupportedCaseError
from groundspeed.kernels.links.host_link import HostLink
from groundspeed.kernels.memory.stream import TorchStream
from groundspeed.profiles.schema import Point, Profile
from groundspeed.profiles.summary import best_point

NOTABLE = 0.03
"""Relative difference between two runs below which nothing is reported."""


def compare_isolated(request: Request, profile: Profile, others: int) -> list[str]:
    """Measure a profile's best cases again while the other devices are idle.

    Parameters
    ----------
    request : Request
        The device, opened in this process.
    profile : Profile
        Profile of that device, measured together with others.
    others : int
        Number of other devices measured at the same time.

    Returns
    -------
    list of str
        One sentence for each rate that differs by more than 3 % and whose intervals do not overlap.
    """
    notes = []
    running = request.running
    telemetry = open_telemetry(running.device.kind, running.torch_device.index or 0)
    with torch.inference_mode(), telemetry:
        bench = make_harness(request, telemetry)
        for name, kernel, case, together in best_cases(profile):
            try:
                alone = measure(kernel, case, bench).point
            except (MemoryError, RuntimeError, UnsupportedCaseError) as error:
                notes.append(f"{name} could not be measured alone for comparison ({error})")
                continue
            change = together.time_s / alone.time_s - 1.0
            apart = together.low_s > alone.high_s or together.high_s < alone.low_s
            if abs(change) > NOTABLE and apart:
                notes.append(
                    f"measured together with {others} other devices; alone, the rate of {name} is "
                    f"{change:+.0%} (on device {request.running.torch_device.index or 0})"
                )
    return notes


def best_cases(profile: Profile) -> Iterator[tuple[str, Kernel, Case, Point]]:
    """Yield the best GEMM of each data type, the best read and copy stream, and the host link."""
    cache = profile.device.last_level_cache_bytes
    for curve in profile.curves:
        points = [p for p in curve.points if p.valid]
        if curve.backend != "torch" or not points:
            continue
        if curve.operation == "matmul":
            dtype = curve.config_key["dtype"]
            point = best_point("matmul", points, cache)
            yield f"matmul {dtype}", matmul_kernel(dtype), point.case, point
        elif curve.operation == "stream" and curve.config_key["mode"] in ("read", "copy"):
            mode = curve.config_key["mode"]
            point = best_point("stream", points, cache)
            yield f"memory {mode}", TorchStream(mode), point.case, point
        elif curve.operation == "host_link":
            direction, memory = curve.config_key["direction"], curve.config_key["memory"]
            name = f"host link {direction} {memory}"
            yield name, HostLink(direction, memory), {"bytes": HOST_LINK_BYTES}, points[0]
