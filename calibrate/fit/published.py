"""Read single published measurements that anchor laws of devices without measurements of our own.

``published.csv`` has one figure with its source in each row: the rate of one matmul, stream or
collective. They serve two purposes:

- They correct laws that are transferred from another device (anchors).
- Two of them give imported profiles laws for small operations. Published tables of large kernels
  contain no norms and no activations, but their cost follows from the time of the smallest kernel
  in a CUDA graph and from the rate of a copy.

    laws = transfer_law(source_profile, "mi300x", anchors_of("mi300x"))
"""

import csv
from importlib import resources
from typing import TYPE_CHECKING

from groundspeed.profiles.busbw import bus_factor
from groundspeed.profiles.datasheet import DeviceSpec
from groundspeed.profiles.laws import Coefficient, HeldOutError, Law
from groundspeed.profiles.operations import ELEMENTWISE_ITEMS_MOVED

if TYPE_CHECKING:
    import pandas as pd

HALF_WIDTH_90 = 0.35
"""Half width of the 90 % interval, in log time, of a small operation predicted from the rate of a
copy and the time of the smallest kernel. Published norms and activations take 0.7 to 1.4 times the
predicted time."""

LARGE_BYTES = 2e9
"""[bytes] Upper end of the fit range of the copy law."""


def published(gpu: str) -> list[dict[str, str]]:
    """Return the rows of ``published.csv`` for a device, by its datasheet id."""
    text = (resources.files("groundspeed.calibrate.fit") / "published.csv").read_text(
        encoding="utf-8"
    )
    return [row for row in csv.DictReader(text.splitlines()) if row["gpu"] == gpu]


def anchors_of(gpu: str) -> "pd.DataFrame | None":
    """Return a device's published figures as anchors for :func:`transfer_law`; None if none."""
    import pandas as pd

    rows = []
    for row in published(gpu):
        value = float(row["value"])
        anchor: dict[str, object] = {"operation": row["operation"]}
        if row["operation"] == "matmul":
            m, n, k = (float(row[c]) for c in ("m", "n", "k"))
            anchor |= {"dtype": row["dtype"], "m": m, "n": n, "k": k}
            seconds = 2.0 * m * n * k / value
        elif row["operation"] == "stream":
            anchor |= {"dtype": row["dtype"], "mode": row["op"], "bytes": float(row["bytes"])}
            seconds = float(row["bytes"]) / value
        elif row["operation"] == "collective":
            size, ranks = float(row["bytes"]), int(row["world_size"])
            anchor |= {"op": row["op"], "world_size": str(ranks), "bytes": size}
            seconds = size * bus_factor(row["op"], ranks) / value
        else:
            continue
        rows.append(anchor | {"time_us": seconds * 1e6})
    return pd.DataFrame(rows) if rows else None


def small_operation_laws(datasheet: DeviceSpec, *, dtype: str = "bfloat16") -> tuple[Law, ...]:
    """Return laws of a copy and of small operations, from two published figures.

    The figures are the device's copy rate and the launch time of an H200. The result is empty if
    the device has no published copy rate or is not from NVIDIA; its laws must then be transferred
    from another device.
    """
    copies = [
        r for r in published(datasheet.id) if r["operation"] == "stream" and r["op"] == "copy"
    ]
    if not copies or datasheet.vendor != "nvidia":
        return ()
    launches = [r for r in published("h200-sxm") if r["operation"] == "launch"]
    startup_s, bandwidth = float(launches[0]["value"]), float(copies[0]["value"])
    source = f"{copies[0]['source']}; {launches[0]['source']}"
    regimes = [("stream", {"mode": "copy", "dtype": "float64"}, {"bytes": (1e5, LARGE_BYTES)})]
    regimes += [
        (
            "elementwise",
            {"op": op, "dtype": dtype},
            {"rows": (1.0, 65536.0), "width": (64.0, 262144.0)},
        )
        for op in ELEMENTWISE_ITEMS_MOVED
    ]
    return tuple(
        Law(
            operation=operation,
            config_key=config_key,
            model_form="soft_roofline",
            coefficients={
                "startup_s": _coefficient_with_interval(startup_s),
                "bandwidth_bytes_per_s": _coefficient_with_interval(bandwidth),
            },
            fit_range=box,
            points=2,
            held_out=HeldOutError(
                points=0,
                method="none: derived from two published figures",
                median_fraction=HALF_WIDTH_90 / 2.4,
                q90_fraction=HALF_WIDTH_90,
                log_q05=-HALF_WIDTH_90,
                log_q50=0.0,
                log_q95=HALF_WIDTH_90,
            ),
            origin="imported",
            source=source,
        )
        for operation, config_key, box in regimes
    )


def _coefficient_with_interval(value: float) -> Coefficient:
    return Coefficient(
        value=value, low=value / (1 + HALF_WIDTH_90), high=value * (1 + HALF_WIDTH_90)
    )
