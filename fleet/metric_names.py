"""Say which quantity a metric measures, whatever a tool calls it.

``matmul_bf16``, ``gemm-flops/bf16_tc``, ``cublas_gemm_bf16`` and ``matmul_bfloat16`` are one
quantity, and a reference or a published range can be compared with each. A name that does not say
which quantity it is has none, and is then not compared.

    quantity_of("gemm-flops_FP16_TC")
"""

import re

from groundspeed.fleet.metrics import facts_of

DTYPES: tuple[tuple[str, str], ...] = (
    (r"bf16|bfloat16", "bfloat16"), (r"tf32|tensorfloat32", "tf32"),
    (r"fp16|f16|float16|half|hgemm", "float16"), (r"fp8|float8|e4m3|f8", "fp8"),
    (r"nvfp4|mxfp4|fp4", "fp4"), (r"int8|i8", "int8"),
    (r"fp64|f64|float64|double|dgemm", "float64"),
    (r"fp32|f32|float32|single|sgemm", "float32"),
)  # fmt: skip

STREAMS: tuple[tuple[str, str], ...] = (
    (r"triad", "triad"), (r"copy|d2d|dtod", "copy"), (r"(^|_)(scale|mul)(_|$)", "scale"),
    (r"(^|_)add(_|$)", "add"), (r"(^|_)dot(_|$)", "dot"), (r"read", "read"),
    (r"write|init|fill", "write"),
)  # fmt: skip

COLLECTIVES: tuple[tuple[str, str], ...] = (
    (r"all_?reduce", "all_reduce"), (r"all_?gather", "all_gather"),
    (r"reduce_?scatter", "reduce_scatter"), (r"all_?to_?all", "all_to_all"),
)  # fmt: skip


def quantity_of(metric: str, unit: str = "") -> str | None:
    """Return the quantity that a metric measures; None if its name does not say it.

    >>> quantity_of("matmul_bf16"), quantity_of("gemm-flops/FP16"), quantity_of("mem-bw/H2D_Mem_BW")
    ('matmul bfloat16', 'matmul float16 vector', 'host_link h2d')
    """
    name = re.sub(r"[^a-z0-9]+", "_", metric.lower()).strip("_")
    kind = facts_of(metric, unit=unit).kind
    if kind in ("tensor", "vector"):
        dtype = _first(DTYPES, name)
        if dtype is None:
            return None
        return f"matmul {dtype}{' vector' if _is_vector(name, dtype) else ''}"
    if kind == "host_link" and not re.search(r"(cpu|numa|socket|node)_?\d", name):
        direction = _first(
            ((r"h2d|htod|host_to_d", "h2d"), (r"d2h|dtoh|d\w*_to_host", "d2h")), name
        )
        return f"host_link {direction}" if direction else None
    if kind == "memory":
        mode = _first(STREAMS, name)
        return f"memory {mode}" if mode else None
    if kind == "nvlink" and "latency" not in name and "algbw" not in name:
        collective = _first(COLLECTIVES, name)
        return f"collective {collective}" if collective else None
    return None


def _first(patterns: tuple[tuple[str, str], ...], name: str) -> str | None:
    return next((value for pattern, value in patterns if re.search(pattern, name)), None)


def _is_vector(name: str, dtype: str) -> bool:
    """Return whether a product ran without tensor cores.

    SuperBench marks those with tensor cores (``gemm-flops/fp16_tc``), others those without.
    """
    if "vector" in name or "non_tc" in name:
        return True
    return name.startswith("gemm_flops") and not re.search(r"(^|_)tc(_|$)", name) and (
        dtype not in ("bfloat16", "tf32", "int8", "fp8", "fp4")
    )  # fmt: skip
