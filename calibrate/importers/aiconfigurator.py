"""Import the tables of NVIDIA's aiconfigurator-core: kernel timings of a dozen GPUs (Apache-2.0).

    pip install aiconfigurator-core pyarrow
    groundspeed profile import aiconfigurator --device h200

Times are medians of six CUDA-graph replays, in milliseconds. An 8-bit matmul includes the
quantization of its activations. Tables that are known to be bad are left out: times of eager
launches and kernels on a slow path (several times as slow as the same cases elsewhere), and copies
of another GPU's table (found by the physics check, or because their times equal those of the other
table). The tables of AISimulate, its successor, have the same layout.

From each table, a few hundred rows that cover its range become the points of a curve.
"""

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from groundspeed.calibrate.design.point_selection import choose_points
from groundspeed.calibrate.importers.imported import (
    Imported,
    ImportedCurve,
    ImportRequest,
    imported_point,
)
from groundspeed.profiles.datasheet import DeviceSpec, find_device
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.operations import ITEM_BYTES, OPERATIONS, WEIGHT_BYTES
from groundspeed.profiles.schema import Point
from groundspeed.profiles.summary import BEYOND_CACHE

if TYPE_CHECKING:
    import pandas as pd

SYSTEMS = {
    "a100_sxm": "a100-sxm-80gb",
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "b200_sxm": "b200-sxm",
    "b300_sxm": "b300-sxm",
    "gb200": "gb200",
    "gb300": "gb300",
    "l40s": "l40s",
    "rtx_pro_6000_server": "rtx-pro-6000-server",
}
"""Maps the names of aiconfigurator's systems to the ids of our datasheets."""

# Number of rows kept of each curve.
IN_RANGE_POINTS = 96
OUTSIDE_POINTS = 48
ATTENTION_POINTS = 112
DECODE_POINTS = 192
LATENT_POINTS = 64
EXPERT_POINTS = 400


@dataclass(frozen=True)
class Table:
    """Where the rows of one operation are, and how to convert them to our columns."""

    operation: str
    file: str
    """Glob pattern below a system's folder: family, ``{library}``, version, file name."""
    libraries: tuple[str, ...]
    """Libraries in order of preference: the first one that has a data type is used for it."""
    read: "Callable[[pd.DataFrame], pd.DataFrame]"
    """Function that renames and filters the rows."""
    points: int
    """Number of rows kept of each curve."""
    each_library: bool = False
    """True if libraries differ so much that each one needs a separate law."""
    same_kernel: frozenset[str] = frozenset()
    """Data types for which all libraries call the same kernels, so that one law serves all."""
    leave_out: frozenset[tuple[str, str]] = frozenset()
    """(library, data type) pairs whose timings are known to be wrong."""


def _matmul(rows: "pd.DataFrame") -> "pd.DataFrame":
    return rows.rename(columns={"gemm_dtype": "dtype"})


def _attention(rows: "pd.DataFrame", context: str) -> "pd.DataFrame":
    # Rows with a sliding window are dropped. An 8-bit KV cache with 16-bit queries is a config key.
    if "window_size" in rows.columns:  # older tables have no such column
        rows = rows[rows["window_size"] <= 0]
    rows = rows[rows["head_dim"].isin((64, 128, 192, 256))]
    rows = rows.rename(
        columns={
            "attn_dtype": "dtype",
            "kv_cache_dtype": "kv_dtype",
            "batch_size": "batch",
            "num_heads": "heads",
            "num_key_value_heads": "kv_heads",
        }
    )
    rows[context] = rows["isl"] + rows["step"] if context == "kv_len" else rows["isl"]
    rows["kv_heads"] = np.where(rows["kv_heads"] == 0, rows["heads"], rows["kv_heads"])
    return rows[rows[context] >= SHORTEST]


SHORTEST = 64
"""[tokens] Shortest context that is kept: attention over fewer tokens is all start-up time."""


def _prefill(rows: "pd.DataFrame") -> "pd.DataFrame":
    return _attention(rows, "seq_len")


def _decode(rows: "pd.DataFrame") -> "pd.DataFrame":
    return _attention(rows, "kv_len")


def _latent(rows: "pd.DataFrame", context: str) -> "pd.DataFrame":
    names = {"mla_dtype": "dtype", "kv_cache_dtype": "kv_dtype", "batch_size": "batch"}
    rows = rows.rename(columns=names)
    heads = rows["num_heads"].to_numpy()
    rows["heads"] = heads
    rows[context] = rows["isl"] + rows["step"] if context == "kv_len" else rows["isl"]
    return rows[rows[context] >= SHORTEST]


def _latent_prefill(rows: "pd.DataFrame") -> "pd.DataFrame":
    return _latent(rows, "seq_len")


def _latent_decode(rows: "pd.DataFrame") -> "pd.DataFrame":
    return _latent(rows, "kv_len")


LATENT = ("mla_prefill", "mla_decode")

ROUTING = "power_law_1.01"
"""Routing distribution of the rows used: some experts get more tokens, as with real text."""

MOST_SHARDS = 8
"""Largest expert-parallel and tensor-parallel size of the MoE rows that are kept."""


def _experts(rows: "pd.DataFrame") -> "pd.DataFrame":
    rows = rows.rename(
        columns={
            "moe_dtype": "dtype",
            "num_tokens": "tokens",
            "hidden_size": "hidden",
            "topk": "top_k",
            "num_experts": "experts",
            "moe_ep_size": "ep",
        }
    )
    rows["width"] = rows["inter_size"] / rows["moe_tp_size"]
    kept = (rows["distribution"] == ROUTING) & (rows["ep"] <= MOST_SHARDS)
    kept &= (rows["moe_tp_size"] <= MOST_SHARDS) & ~rows["kernel_source"].str.contains("nongated")
    return rows[kept]


LIBRARIES = ("vllm", "trtllm", "sglang")

TABLES = (
    Table(
        "matmul", "gemm/{library}/*/gemm_perf.parquet", ("trtllm", "vllm", "sglang"), _matmul,
        IN_RANGE_POINTS + OUTSIDE_POINTS, True, frozenset({"bfloat16", "float16"}),
        frozenset({("trtllm", "sq")}),
    ),
    Table(
        "attention_prefill", "attention/{library}/*/context_attention_perf.parquet",
        LIBRARIES, _prefill, ATTENTION_POINTS, True,
    ),
    Table(
        "attention_decode", "attention/{library}/*/generation_attention_perf.parquet",
        LIBRARIES, _decode, DECODE_POINTS, True,
    ),
    Table(
        "mla_prefill", "mla/{library}/*/context_mla_perf.parquet", ("trtllm", "sglang"),
        _latent_prefill, LATENT_POINTS, True,
    ),
    Table(
        "mla_decode", "mla/{library}/*/generation_mla_perf.parquet", ("trtllm", "sglang"),
        _latent_decode, LATENT_POINTS, True,
    ),
    Table(
        "experts", "moe/{library}/*/moe_perf.parquet", LIBRARIES, _experts, EXPERT_POINTS, True,
    ),
)  # fmt: skip

SLOW_PATH = 2.5
"""A table whose times are, in the median of the cases that both have, more than this many times
those of another library or version is of eager launches or of a kernel on a slow path."""

MINOR_KERNEL = 0.7
"""A kernel with less than this share of the rows of a table's main kernel serves shapes that the
main one does not take. One law cannot hold both: they differ by a factor of two."""

MOST_ROWS_SHARE = 0.3
"""A newer table with less than this share of an older one's rows covers only some special shapes,
and does not replace it."""


def systems_folder() -> Path:
    """Return the folder of the tables in the installed aiconfigurator-core package.

    Raises
    ------
    InputError
        If the package is not installed.
    """
    spec = importlib.util.find_spec("aiconfigurator_core")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "aiconfigurator-core is not installed",
            remedy="pip install aiconfigurator-core pyarrow, or give the path of its systems/data",
        )
    return Path(spec.submodule_search_locations[0]) / "systems" / "data"


def read_aiconfigurator(request: ImportRequest) -> Imported:
    """Read the tables of one system (GPU).

    ``request.path`` is the folder with all systems (``systems/data``), and ``request.device`` is
    the name of the GPU.

    Raises
    ------
    InputError
        If no GPU is given, or there are no tables for it.
    """
    if request.device is None:
        raise InputError(
            "no GPU was given", where="--device", remedy=f"give one of {', '.join(SYSTEMS)}"
        )
    datasheet = find_device(request.device).spec
    systems = [system for system, ours in SYSTEMS.items() if ours == datasheet.id]
    folder = request.path / systems[0] if systems else request.path
    if not systems or not folder.is_dir():
        raise InputError(
            f"aiconfigurator has no tables for {datasheet.id}",
            where=str(request.path),
            remedy=f"it has tables for {', '.join(sorted(SYSTEMS.values()))}",
        )
    curves: list[ImportedCurve] = []
    left_out: list[str] = []
    for table in TABLES:
        found = _tables(table, folder, datasheet)
        done: set[tuple[str, ...]] = set()
        for library in table.libraries:
            for one in _newest_complete(found, library):
                curves += _curves(table, one, found, datasheet, done, left_out)
    curves += _collectives(folder)
    return Imported(device=datasheet.id, curves=curves, warnings=tuple(left_out))


@dataclass(frozen=True)
class Timings:
    """The rows of one data type in one version of one library."""

    made_by: str
    """The library whose kernels were timed."""
    version: str
    key: tuple[tuple[str, str], ...]
    """``dtype``, and ``kv_dtype`` if the operation has it."""
    rows: "pd.DataFrame"
    """One row for each case; where a table has several kernels for a case, the fastest: an engine
    selects among them by their speed."""


def _tables(table: Table, folder: Path, datasheet: DeviceSpec) -> list[Timings]:
    """Read all versions of all libraries, newest first in each library."""
    import pandas as pd

    spec = OPERATIONS[table.operation]
    found = []
    for library in table.libraries:
        for path in _newest_first(folder.glob(table.file.format(library=library))):
            rows = table.read(pd.read_parquet(path))
            if datasheet.architecture.startswith("blackwell") and table.operation in LATENT:
                # Labelled 16 bit, but faster than the 16-bit peak: queries are in fp8 too.
                rows.loc[rows["kv_dtype"] == "fp8", "dtype"] = "fp8"
            # A latency of zero marks a measurement that failed.
            rows = rows[np.isfinite(rows["latency"]) & (rows["latency"] > 0)]
            rows = rows[~rows["dtype"].isin([d for lib, d in table.leave_out if lib == library])]
            names = [c for c in ("dtype", "kv_dtype") if c in rows.columns]
            rows = rows.sort_values("latency", kind="stable").drop_duplicates(
                [*names, *spec.columns]
            )
            for values, group in rows.groupby(names, sort=True):
                key = tuple(zip(names, (str(v) for v in values), strict=True))
                # A group with few rows comes from a special kernel.
                group = _main_kernels(group)
                if key[0][1] in KNOWN_FORMATS and len(group) >= 2 * LATENT_POINTS:
                    group = group.sort_index().reset_index(drop=True)
                    found.append(Timings(library, path.parent.name, key, group))
    return found


def _main_kernels(rows: "pd.DataFrame") -> "pd.DataFrame":
    if "kernel_source" not in rows.columns:
        return rows
    counts = rows["kernel_source"].value_counts()
    main = counts.index[counts >= MINOR_KERNEL * counts.max()]
    return rows[rows["kernel_source"].isin(main)]


def _newest_complete(found: Sequence[Timings], library: str) -> list[Timings]:
    """Return a library's tables, newest first, without those that cover only special shapes."""
    own = [t for t in found if t.made_by == library]
    most = {t.key: max(len(o.rows) for o in own if o.key == t.key) for t in own}
    return [t for t in own if len(t.rows) >= MOST_ROWS_SHARE * most[t.key]]


def _slow_path(one: Timings, found: Sequence[Timings], columns: Sequence[str]) -> float:
    """Return the largest median ratio of a table's times to those of another table."""
    own = one.rows.set_index(list(columns))["latency"]
    worst = 1.0
    for other in found:
        if other.key != one.key or other is one:
            continue
        both = other.rows.set_index(list(columns))["latency"]
        shared = own.index.intersection(both.index)
        if len(shared) >= LATENT_POINTS:
            worst = max(worst, float(np.median(own[shared] / both[shared])))
    return worst


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    def version(path: Path) -> list[int]:
        digits = "".join(c if c.isdigit() else " " for c in path.parent.name)
        return [int(part) for part in digits.split()]

    # Builds of a branch ("dev-1aa0e96") have no version number to compare.
    numbered = [p for p in paths if not p.parent.name.startswith("dev")]
    return sorted(numbered, key=version, reverse=True)


def _curves(
    table: Table,
    one: Timings,
    found: Sequence[Timings],
    datasheet: DeviceSpec,
    done: set[tuple[str, ...]],
    left_out: list[str],
) -> list[ImportedCurve]:
    """Make a curve of a table, if its library has none of this data type yet."""
    spec = OPERATIONS[table.operation]
    config_key = dict(one.key)
    if table.each_library and config_key["dtype"] not in table.same_kernel:
        config_key["library"] = one.made_by
    if tuple(config_key.values()) in done:
        return []
    backend = f"{one.made_by} {one.version}"
    what = f"{table.operation} {' '.join(config_key.values())} ({backend})"
    beyond = _share_above_bandwidth(table.operation, one.rows, config_key, datasheet)
    if beyond > MAX_SHARE_ABOVE_BANDWIDTH:
        left_out.append(
            f"left out: {what}: {beyond:.0%} of its large cases exceed the memory bandwidth"
        )
        return []
    slower = _slow_path(one, found, spec.columns)
    if slower > SLOW_PATH:
        left_out.append(
            f"left out: {what}: {slower:.1f} times as slow as the same cases elsewhere, so eager "
            "launches or a slow path"
        )
        return []
    done.add(tuple(config_key.values()))
    return [_curve(table, one.rows, config_key, backend)]


MAX_SHARE_ABOVE_BANDWIDTH = 0.01
"""Largest accepted share of large cases above the memory bandwidth (a higher clock or the cache can
explain a few). Curves with a larger share are left out."""


def _share_above_bandwidth(
    operation: str, rows: "pd.DataFrame", config_key: dict[str, str], datasheet: DeviceSpec
) -> float:
    """Return the share of cases much larger than the cache that exceed the memory bandwidth."""
    spec = OPERATIONS[operation]
    cache = datasheet.last_level_cache_bytes or datasheet.l2_bytes
    if not spec.countable or cache is None or datasheet.memory_bandwidth_bytes_per_s is None:
        return 0.0
    columns = {c: rows[c].to_numpy(dtype=float) for c in spec.columns}
    moved = spec.bytes(columns, config_key)
    rate = moved / (rows["latency"].to_numpy(dtype=float) * 1e-3)
    large = moved > BEYOND_CACHE * cache.value
    # Data that the cache still holds are not read from memory again.
    roof = datasheet.memory_bandwidth() / (1.0 - np.minimum(cache.value / moved, 0.5))
    return float((rate[large] > 1.02 * roof[large]).mean()) if large.any() else 0.0


KNOWN_FORMATS = frozenset((*ITEM_BYTES, *WEIGHT_BYTES))


def _curve(
    table: Table, rows: "pd.DataFrame", config_key: dict[str, str], backend: str
) -> ImportedCurve:
    spec = OPERATIONS[table.operation]
    if table.operation == "matmul":
        aligned = (rows["m"] <= 16) | (rows["m"] % 16 == 0)
        common = aligned & rows["n"].between(512, 16384) & rows["k"].between(512, 16384)
        inside = choose_points("matmul", rows[common], budget=IN_RANGE_POINTS)
        outside = choose_points("matmul", rows[~common], budget=OUTSIDE_POINTS)
        chosen = rows.loc[[*inside, *outside]]
    else:
        chosen = rows.loc[choose_points(table.operation, rows, budget=table.points)]
    columns = {c: chosen[c].to_numpy(dtype=float) for c in spec.columns}
    flops, moved = spec.flops(columns, config_key), spec.bytes(columns, config_key)
    times = chosen["latency"].to_numpy(dtype=float) * 1e-3
    points = [
        imported_point(
            {c: float(v[i]) for c, v in columns.items()},
            float(times[i]),
            float(moved[i]),
            flops=float(flops[i]),
        )
        for i in range(len(chosen))
    ]
    return ImportedCurve(table.operation, config_key, backend, points)


def _collectives(folder: Path) -> list[ImportedCurve]:
    """Read NCCL's collectives, and the engines' custom all-reduce inside a CUDA graph."""
    import pandas as pd

    curves: list[ImportedCurve] = []
    found: dict[tuple[str, str], list[tuple[str, pd.DataFrame]]] = {}
    for path in _newest_first(folder.glob("comm/nccl/*/nccl_perf.parquet")):
        rows = pd.read_parquet(path)
        rows = rows[(rows["nccl_dtype"] == "half") & (rows["latency"] > 0)]
        for (op, ranks), group in rows.groupby(["op_name", "num_gpus"], sort=True):
            key = (str(op), str(int(str(ranks))))
            found.setdefault(key, []).append((path.parent.name, group))
    for (op, ranks), versions in sorted(found.items()):
        # Some newer tables stop at a tenth of the size.
        largest = max(float(g["message_size"].max()) for _, g in versions)
        version, group = next(v for v in versions if 2.0 * v[1]["message_size"].max() >= largest)
        config_key = {"op": op, "world_size": ranks, "mode": "nccl"}
        curves.append(_message_size_curve(group, config_key, f"nccl {version}"))
    # Use the collection measured over the fastest links: on a machine whose GPUs communicate across
    # two CPU sockets, the timings do not describe the GPU.
    best: tuple[float, str, pd.DataFrame] | None = None
    for library in ("vllm", "trtllm", "sglang"):
        for path in _newest_first(folder.glob(f"comm/{library}/*/custom_allreduce_perf.parquet")):
            rows = pd.read_parquet(path)
            if "backend" in rows.columns:
                rows = rows[rows["backend"].str.endswith("_graph")]
            rows = rows[rows["latency"] > 0]
            largest = rows[rows["num_gpus"] == rows["num_gpus"].max()]
            slowest = float(largest["latency"].max()) if len(largest) else np.inf
            if best is None or slowest < REPLACE_BELOW_SHARE * best[0]:
                best = (slowest, f"{library} {path.parent.name}", rows)
    if best is not None:
        for ranks, group in best[2].groupby("num_gpus", sort=True):
            config_key = {"op": "all_reduce", "world_size": str(int(str(ranks))), "mode": "custom"}
            curves.append(_message_size_curve(group, config_key, best[1]))
    return curves


REPLACE_BELOW_SHARE = 0.5
"""A later collection replaces the current one if its largest all-reduce takes less than this share
of the current one's time."""

ELEMENT_BYTES = 2.0
"""[bytes] Size of an element: the tables count message sizes in 16-bit elements."""


def _message_size_curve(
    rows: "pd.DataFrame", config_key: dict[str, str], backend: str
) -> ImportedCurve:
    """Make a curve over message sizes, with the median time of each size."""
    by_size = rows.groupby("message_size")["latency"].median()
    sizes = by_size.index.to_numpy(dtype=float) * ELEMENT_BYTES
    times = by_size.to_numpy(dtype=float) * 1e-3
    points: Sequence[Point] = [
        imported_point({"bytes": float(size)}, float(time_s), float(size))
        for size, time_s in zip(sizes, times, strict=True)
    ]
    return ImportedCurve("collective", config_key, backend, points)
