"""Read what monitors and burn-in tools print about one node: nvidia-smi, gpu-burn.

Their output names no node, so the file's name stands for it.

    rows = monitor_rows(text, "n001")
"""

import re
from collections.abc import Iterator

import pandas as pd

DMON_HEADER = re.compile(r"^#\s*gpu\b(.*)$", re.IGNORECASE)
DMON_METRICS = {"pwr": ("power_w", "W"), "gtemp": ("temperature_c", "C"),
                "mtemp": ("memory_temp_c", "C"), "sm": ("sm_util", "%"), "mem": ("mem_util", "%"),
                "mclk": ("memory_clock_mhz", "MHz"), "pclk": ("sm_clock_mhz", "MHz"),
                "pviol": ("power_violation", "%"), "tviol": ("thermal_violation", "%"),
                "sbecc": ("ecc_corrected", ""), "dbecc": ("ecc_uncorrected", ""),
                "pci": ("pcie_replay", "")}  # fmt: skip
"""Metric and unit of each column of ``nvidia-smi dmon``; others are left out."""

BURN = re.compile(r"\((-?\d+(?:\.\d+)?) Gflop/s\)")
BURN_ERRORS = re.compile(r"errors:\s*([\d\s-]+?)\s+(?:\(WARNING!\)\s*)?temps:")
BURN_TEMPS = re.compile(r"temps:\s*(.*)$")
BURN_VERDICT = re.compile(r"^\s*GPU (\d+): (OK|FAULTY)\s*$", re.MULTILINE)

Row = dict[str, object]


def is_monitor(text: str) -> bool:
    """Return whether a text is the output of a tool that this module reads."""
    head = text[:20_000]
    return bool(
        re.search(r"^#\s*gpu\s+(pwr|gtemp|sm|pclk)", head, re.MULTILINE | re.IGNORECASE)
        or ("proc'd:" in head and "Gflop/s" in head)
    )


def monitor_rows(text: str, node: str) -> pd.DataFrame:
    """Return the rows of a monitor's output, the medians of each GPU where it repeats itself."""
    rows = list(_burn(text) if "proc'd:" in text else _dmon(text))
    frame = pd.DataFrame.from_records(rows, columns=["gpu", "metric", "value", "unit"])
    if frame.empty:
        return frame.assign(node=node)
    counted = frame["metric"].isin(("gemm_errors",))
    parts = [
        frame[~counted].groupby(["gpu", "metric", "unit"], sort=False)["value"].median(),
        frame[counted].groupby(["gpu", "metric", "unit"], sort=False)["value"].max(),
    ]
    whole: pd.DataFrame = pd.concat(parts).reset_index()
    return whole.assign(node=node)


def _dmon(text: str) -> Iterator[Row]:
    columns: list[str] = []
    for line in text.splitlines():
        header = DMON_HEADER.match(line.strip())
        if header:
            columns = header[1].split()
            continue
        cells = line.split()
        if (
            line.lstrip().startswith("#")
            or len(cells) != len(columns) + 1
            or not cells[0].isdigit()
        ):
            continue
        for name, cell in zip(columns, cells[1:], strict=True):
            metric = DMON_METRICS.get(name)
            if metric is not None and re.fullmatch(r"-?\d+(\.\d+)?", cell):
                yield {"gpu": int(cells[0]), "metric": metric[0], "value": float(cell),
                       "unit": metric[1]}  # fmt: skip


def _burn(text: str) -> Iterator[Row]:
    """Yield the rates after the start, the errors and temperatures of gpu-burn."""
    rates: list[list[float]] = []
    for line in re.split(r"[\r\n]+", text):
        if "proc'd:" not in line:
            continue
        rates.append([float(r) for r in BURN.findall(line)])
        errors, temps = BURN_ERRORS.search(line), BURN_TEMPS.search(line)
        if errors:
            for gpu, count in enumerate(errors[1].split("-")):
                if count.strip().isdigit():
                    yield {"gpu": gpu, "metric": "gemm_errors", "value": float(count), "unit": ""}
        if temps:
            for gpu, heat in enumerate(re.findall(r"(\d+) C", temps[1])):
                yield {"gpu": gpu, "metric": "temperature_c", "value": float(heat), "unit": "C"}
    # The first lines have zeros for GPUs that have not reported yet: only the last state counts.
    for gpu, rate in enumerate(rates[-1] if rates else ()):
        yield {"gpu": gpu, "metric": "gemm_gflops", "value": rate, "unit": "GFLOPS"}
    for match in BURN_VERDICT.finditer(text):
        if match[2] == "FAULTY":
            yield {"gpu": int(match[1]), "metric": "gemm_errors", "value": 1.0, "unit": ""}
