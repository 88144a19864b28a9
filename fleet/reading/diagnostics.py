"""Read what diagnostics print about one node: DCGM's ``dcgmi diag -j`` and gpu-fryer.

Neither names its node, so the file's name stands for it. A test of DCGM that failed on a GPU is
counted (`groundspeed.fleet.counters`); rates that a test printed (PCIe, FLOP/s) are readings like
any others.

    rows = diagnostic_rows(text, "n001")
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from groundspeed.profiles.errors import InputError

Row = dict[str, object]

FRYER = re.compile(r"^GPU #(\d+):\s*(\d+(?:\.\d+)?) Gflops/s", re.MULTILINE)
FRYER_RUN = re.compile(r"(?:Run with|--use-)\s*(fp32|bf16|fp8)", re.IGNORECASE)
FRYER_HEAT = re.compile(r"^\s*Temperature:\s*(\d+(?:\.\d+)?)", re.MULTILINE)
FRYER_LIMITS = re.compile(r"Throttling HW: (true|false), Thermal SW: (true|false), "
                          r"Thermal HW: (true|false)")  # fmt: skip

DCGM_RATES = (
    (re.compile(r"GPU to Host bandwidth:\s*([\d.]+)\s*GB/s"), "d2h_bandwidth", "GB/s"),
    (re.compile(r"Host to GPU bandwidth:\s*([\d.]+)\s*GB/s"), "h2d_bandwidth", "GB/s"),
    (re.compile(r"bidirectional bandwidth:\s*([\d.]+)\s*GB/s"), "host_bidirectional", "GB/s"),
    (re.compile(r"(?:calculated at approximately|averaged)\s*([\d.]+)\s*gigaflops", re.IGNORECASE),
     "diag_gemm", "GFLOPS"),
)  # fmt: skip
"""Rates that DCGM's tests print about a GPU."""


DCGM_TABLE = re.compile(r"^\+-+\+-+\+\s*\n\|\s*Diagnostic\s*\|\s*Result\s*\|", re.MULTILINE)


def is_diagnostic(text: str) -> bool:
    """Return whether a text is the output of a tool that this module reads."""
    head = text[:200_000]
    if DCGM_TABLE.search(head):
        return True
    if text.lstrip()[:1] == "{":
        return "test_categories" in head and "DCGM" in head[:2000]
    return bool(FRYER.search(text)) and "Gflops/s" in head


def diagnostic_rows(text: str, node: str, where: str) -> pd.DataFrame:
    """Return the rows of a diagnostic of one node.

    Raises
    ------
    InputError
        If it is neither whole JSON of DCGM nor a summary of gpu-fryer.
    """
    if DCGM_TABLE.search(text):
        raise InputError(
            "is the table of dcgmi, which has no results of single GPUs",
            where=where,
            remedy="give the JSON of: dcgmi diag -j",
        )
    rows = list(_dcgm(text, where) if text.lstrip()[:1] == "{" else _fryer(text))
    frame = pd.DataFrame.from_records(rows, columns=["gpu", "metric", "value", "unit", "note"])
    return frame.assign(node=node)


def _dcgm(text: str, where: str) -> Iterator[Row]:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"is cut: its JSON ends at line {error.lineno}", where=where) from error
    for key in ("DCGM Diagnostic", "DCGM GPU Diagnostic"):
        for category in (document.get(key) or {}).get("test_categories") or []:
            kind = str(category.get("category", ""))
            for test in category.get("tests") or []:
                for result in (test or {}).get("results") or []:
                    yield from _dcgm_result(kind, str(test.get("name", "test")), result or {})


def _dcgm_result(kind: str, test: str, result: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the readings of one test on one GPU, or on a list of GPUs in old versions."""
    if result.get("entity_group", "GPU") != "GPU":
        return
    named = str(result.get("entity_id", result.get("gpu_id", result.get("gpu_ids", ""))))
    # A result of a reduced document or of an old version stands for the node.
    gpus: list[int | None] = [int(n) for n in re.findall(r"\d+", named)] or [None]
    status = str(result.get("status", "")).lower()
    warnings = [str(w.get("warning", "")) if isinstance(w, dict) else str(w)
                for w in result.get("warnings") or []]  # fmt: skip
    info = result.get("info") or []
    told = "\n".join([*(map(str, info) if isinstance(info, list) else [str(info)]), *warnings])
    name = "_".join(
        re.findall(r"[a-z0-9]+", f"{kind if kind == 'Deployment' else ''} {test}".lower())
    )
    for gpu in gpus:
        if status in ("pass", "fail", "warn"):
            yield {"gpu": gpu, "metric": f"dcgm_{name}_failed", "value": float(status == "fail"),
                   "unit": "", "note": warnings[0] if warnings else ""}  # fmt: skip
        for pattern, metric, unit in DCGM_RATES:
            if found := pattern.search(told):
                yield {"gpu": gpu, "metric": metric, "value": float(found[1]), "unit": unit,
                       "note": ""}  # fmt: skip


def _fryer(text: str) -> Iterator[Row]:
    """Yield the summary of each run of gpu-fryer: rate, temperature, throttling of each GPU."""
    marks = list(FRYER_RUN.finditer(text))
    cuts = [0, *(m.start() for m in marks), len(text)]
    names = ["", *(m[1].lower() for m in marks)]
    for name, begin, end in zip(names, cuts[:-1], cuts[1:], strict=True):
        part = text[begin:end]
        found = list(FRYER.finditer(part))
        metric = f"gemm_{name}" if name else "gemm"
        for i, match in enumerate(found):
            gpu = int(match[1])
            stop = found[i + 1].start() if i + 1 < len(found) else len(part)
            about = part[match.end() : stop]
            yield {"gpu": gpu, "metric": metric, "value": float(match[2]), "unit": "GFLOPS",
                   "note": ""}  # fmt: skip
            if heat := FRYER_HEAT.search(about):
                yield {"gpu": gpu, "metric": "temperature_c", "value": float(heat[1]),
                       "unit": "C", "note": ""}  # fmt: skip
            if limits := FRYER_LIMITS.search(about):
                yield {"gpu": gpu, "metric": "throttled", "value": float("true" in limits.groups()),
                       "unit": "", "note": ""}  # fmt: skip
