"""Fit the costs of all serving engines to published measurements, and write them into their files.

    python scripts/fit_engines.py ROWS.csv [--check]

Each constant of an engine is a product of effects (``estimator/engines/costs.py``). The logarithms
of all effects of one engine are fitted to log(predicted / measured) of TPOT and TTFT of all its
rows at once: Gauss-Newton steps on the real predictions, normal priors on the effects, and weights
that fall off for outliers (Student's t). Rows of one model on one GPU share an error that no
constant of an engine explains, so twenty rows of a sweep do not count twenty times.

Then whole groups are left out in turn and predicted from the rest: by how much of a group the rest
knew, their errors are the intervals (``distance.toml``). ``--check`` prints these errors only.
"""

import argparse
import csv
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from groundspeed.engine_fit.priors import PRIOR, SORTS, relevant
from groundspeed.estimator.backtest.row_server import Resolver, server_and_workload
from groundspeed.estimator.backtest.values import version as stated_version
from groundspeed.estimator.engines.costs import Costs
from groundspeed.estimator.engines.engine import family, load_engines, version_tuple
from groundspeed.estimator.hardware.find_hardware import find_hardware
from groundspeed.estimator.serving.interval import law_errors
from groundspeed.estimator.serving.server import Server
from groundspeed.estimator.serving.workload import Prediction, Workload
from groundspeed.profiles.errors import InputError, PhysicsError

Array = NDArray[np.float64]

FOLDER = Path(__file__).resolve().parents[1] / "estimator" / "engines"
MARK = "# Written by scripts/fit_engines.py.\n"

EARLY = frozenset({"cuda 0", "rocm 0", "cuda 0.17"})
EARLY_LOG_SD = 0.8
"""Versions whose first kernels for experts and latent attention were several times slower than
today's, and the standard deviation of their effects on these. TensorRT-LLM 0.17 ran a path that was
given up."""

VERSIONS: dict[str, tuple[str, ...]] = {
    "vllm": ("0", "0.8", "0.11", "0.15", "0.18"),
    "sglang": ("0", "0.5", "0.5.6", "0.5.9", "0.5.10"),
    "trtllm": ("0", "0.10", "0.17", "0.20", "1.0", "1.2"),
    "atom": ("0",),
}
"""First versions of the ranges that have an effect of their own: those that rows exist for."""

ROW_SPREAD = {"tpot_ms": 0.04, "ttft_ms": 0.10, "e2e_latency_ms": 0.05}
"""Standard deviation of one row around its group, in log time."""

GROUP_SPREAD = {"tpot_ms": 0.04, "ttft_ms": 0.10, "e2e_latency_ms": 0.04}
"""Standard deviation of a group (a model on a GPU) around the engine, in log time."""

FREEDOM = 4.0
"""Degrees of freedom of Student's t: the weight of a row at three spreads is a third."""

MOST_IN_GROUP = 10
MOST_OPEN = 5
"""Rows of an open loop in a group: each takes seconds to simulate."""
MOST_TTFT_MS = 5000.0
STEP = {"stream_steps": 0.2, "launch_s": 0.15}
"""Steps of the numerical derivatives where a prediction is not smooth; else 0.03."""

LEFT_OUT: tuple[tuple[str, Callable[[Mapping[str, str]], bool]], ...] = (
    ("random weights route all tokens evenly",
     lambda r: r["source_id"].startswith("trtllm-0.9") and r["model"] == "Mixtral-8x7B"),
    ("labelled Llama-3.1-8B, but slower than its bytes by a constant factor",
     lambda r: r["source_id"] == "nvidia-aic-gap" and r["model"] == "Llama-3.1-8B"
     and r["engine"] == "vLLM"),
    ("attention a hundred times as slow as its bytes: a kernel fell back",
     lambda r: r["source_id"] == "sgl-cookbook2" and r["model"].startswith("Kimi-K2.")),
    ("version of the engine is only known as mid-2024",
     lambda r: r["source_id"].startswith("argonne")),
    ("TTFT without the prompt: contexts come from the prefix cache, PCIe between the GPUs",
     lambda r: r["source_id"] == "rtx6kpro-qwen35"),
    ("first requests compile kernels: TTFT of 4 s at one client",
     lambda r: r["source_id"] == "sgl-cookbook2" and r["gpu"].startswith("MI300X")),
)  # fmt: skip
"""Rows that are not fitted, with the reason."""


@dataclass
class Case:
    """One published row with its server and what is known of it."""

    row: Mapping[str, str]
    server: Server
    workload: Workload
    measured: dict[str, float]
    engine: str
    platform: str
    family: str
    version: str
    kind: str
    names: tuple[str, ...] = ()
    """Constants that its prediction depends on."""
    value: dict[str, float] = field(default_factory=dict)
    slope: dict[str, dict[str, float]] = field(default_factory=dict)
    law: dict[str, float] = field(default_factory=dict)

    @property
    def effects(self) -> tuple[tuple[str, str], ...]:
        """The effects that make up its costs."""
        return (("engine", ""), ("platform", self.platform), ("architecture", self.family),
                ("version", f"{self.platform} {self.version}"))  # fmt: skip

    @property
    def group(self) -> tuple[str, ...]:
        """Engine, version, architecture, kind of model: what is left out together."""
        return (self.engine, self.version, self.family, self.kind)

    @property
    def model(self) -> tuple[str, ...]:
        """The model on a GPU, inside its group."""
        return (*self.group, self.row["model"], self.row["gpu"])


def main() -> None:
    """Fit all engines, print the errors of what was left out, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path, help="CSV file of published measurements")
    parser.add_argument("--check", action="store_true", help="print the errors, write nothing")
    parser.add_argument("--residuals", type=Path, help="CSV file for the log errors that are left")
    parser.add_argument("--rounds", type=int, default=4, help="Gauss-Newton steps; default: 4")
    arguments = parser.parse_args()
    with arguments.rows.open(newline="") as file:
        cases = [c for row in chosen(csv.DictReader(file)) if (c := case(row)) is not None]
    print(f"{len(cases)} rows", flush=True)
    engines = sorted({c.engine for c in cases})
    with ProcessPoolExecutor(initializer=remember, initargs=([c.row for c in cases],)) as pool:
        results = {
            e: fit_engine(e, [c for c in cases if c.engine == e], arguments.rounds, pool)
            for e in engines
        }
    errors = [e for r in results.values() for e in r.errors]
    if arguments.residuals:
        left = [(c.row["row_id"], m, v) for c in cases for m, v in c.value.items()]
        arguments.residuals.write_text("".join(f"{i},{m},{v:.4f}\n" for i, m, v in left))
        told = [(w, m, f"{e:.4f}", f"{law:.4f}", *g) for w, m, e, law, g in errors]
        lines = "".join(",".join(t) + "\n" for t in told)
        arguments.residuals.with_suffix(".left_out.csv").write_text(lines)
    spreads = conformal(errors)
    if arguments.check:
        return
    for engine, result in results.items():
        write_engine(engine, result)
    write_distances(spreads)


def chosen(rows: Iterable[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """Return the rows to fit: fully described ones, at most ten of one sweep."""
    kept: dict[tuple[str, ...], list[Mapping[str, str]]] = defaultdict(list)
    for row in rows:
        if row["tier"] not in ("A", "B") or row.get("spec") or row.get("disagg"):
            continue
        if row["load_kind"] not in ("closed_loop_concurrency", "static_batch", "open_loop_qps"):
            continue
        if any(test(row) for _, test in LEFT_OUT):
            continue
        sweep = ("source_id", "engine", "gpu", "model", "weight_dtype", "engine_version")
        kept[tuple(row[k] for k in sweep)].append(row)
    rng = np.random.default_rng(11)
    picked = []
    for group in kept.values():
        most = MOST_OPEN if group[0]["load_kind"] == "open_loop_qps" else MOST_IN_GROUP
        order = rng.permutation(len(group))[:most]
        picked += [group[i] for i in sorted(order)]
    return picked


RESOLVER = Resolver(lambda name: find_hardware(name).best)


def case(row: Mapping[str, str]) -> Case | None:
    """Return a row with its server, or None if it cannot be predicted or has no engine."""
    try:
        server, workload = server_and_workload(row, RESOLVER)
    except InputError:
        return None
    engine = server.engine
    if engine.name not in VERSIONS:
        return None
    measured = {m: float(row[m]) for m in ("ttft_ms", "tpot_ms", "e2e_latency_ms") if row.get(m)}
    if "tpot_ms" in measured:
        measured.pop("e2e_latency_ms", None)
    if measured.get("ttft_ms", 0.0) > MOST_TTFT_MS:
        del measured["ttft_ms"]  # the length of a queue
    version = stated_version(row)
    if "nim" in row["engine"].lower():
        version = "0.10"
    ranges = VERSIONS[engine.name]
    if version:
        older = [v for v in ranges if version_tuple(v) <= version_tuple(version)]
        version = (older or ranges[:1])[-1]
    else:
        version = ranges[-1]
    return Case(
        row, server, workload, measured, engine.name, engine.platform,
        family(server.hardware.architecture), version, server.model.kind,
    )  # fmt: skip


@dataclass
class Fitted:
    """The fitted effects of one engine, and the errors of what was left out."""

    rows: int
    effects: dict[tuple[str, str], dict[str, float]]
    """Logarithm of each constant of each effect."""
    counts: dict[tuple[str, str], int]
    seen: tuple[tuple[str, str, str], ...]
    errors: list[tuple[str, str, float, float, tuple[str, ...]]]
    """Distance, metric, log error, error that the laws explain, group."""


def fit_engine(engine: str, cases: list[Case], rounds: int, pool: ProcessPoolExecutor) -> Fitted:
    """Fit the effects of one engine."""
    cases = [c for c in cases if prepare(c)]
    keys = sorted({e for c in cases for e in c.effects})
    index = {(e, n): i for i, (e, n) in enumerate((e, n) for e in keys for n in PRIOR)}
    width = np.array([prior_width(e, n) for e, n in index])
    theta = start(engine, index)
    for turn in range(rounds):
        evaluate(cases, theta, index, pool)
        print(f"{engine} round {turn}: {summary(cases)}", flush=True)
        change = np.zeros_like(theta)
        for _ in range(4):
            shifted = [shift(c, change, index) for c in cases]
            change = change + solve(shifted, theta + change, index, width)
        theta = theta + change
    evaluate(cases, theta, index, pool)
    print(f"{engine} fitted: {summary(cases)}", flush=True)
    errors = leave_out(cases, theta, index, width, pool)
    counts = {e: sum(e in c.effects for c in cases) for e in keys}
    effects = {e: {n: float(theta[index[e, n]]) for n in PRIOR} for e in keys}
    seen = tuple(sorted({(c.version, c.family, c.kind) for c in cases}))
    return Fitted(len(cases), effects, counts, seen, errors)


def prior_width(effect: tuple[str, str], name: str) -> float:
    """Return the standard deviation of the prior of one constant of one effect."""
    sort, which = effect
    if sort == "version" and which in EARLY and ("experts" in name or "latent" in name):
        return EARLY_LOG_SD
    return PRIOR[name][SORTS[sort]]


def start(engine: str, index: Mapping[tuple[tuple[str, str], str], int]) -> Array:
    """Return the effects in the engine's file, where it has them; else 0.

    It is only where the iteration begins: the priors and the rows decide where it ends.
    """
    known = next(e for e in load_engines() if e.name == engine)
    theta = np.zeros(len(index))
    found = {("engine", ""): {n: getattr(known.costs, n) / PRIOR[n][0] or 1.0 for n in PRIOR}}
    for e in known.effects:
        key = ("architecture", e.architecture) if e.architecture else ("platform", e.platform)
        if e.from_version:
            key = ("version", f"{e.platform} {e.from_version}")
        found[key] = e.factors
    for (effect, name), place in index.items():
        value = found.get(effect, {}).get(name, 1.0)
        theta[place] = math.log(value) if value > 0.0 else 0.0
    return theta


def prepare(c: Case) -> bool:
    """Find the constants that a case depends on; return False if it cannot be predicted."""
    c.names = relevant(c.server, c.workload)
    try:
        c.server.predict(c.workload)
    except (InputError, PhysicsError) as error:  # such as one that does not fit into memory
        print(f"  not fitted: {c.row['row_id']}: {str(error)[:90]}")
        return False
    return True


def costs_of(c: Case, theta: Array, index: Mapping[object, int]) -> dict[str, float]:
    """Return the constants of a case under the current effects."""
    return {n: PRIOR[n][0] * math.exp(sum(theta[index[e, n]] for e in c.effects)) for n in PRIOR}


def predict(c: Case, constants: Mapping[str, float]) -> tuple[dict[str, float], bool, Prediction]:
    """Predict a case with other constants; return its metrics [ms] and whether it is saturated."""
    eager = c.server.engine.costs.eager_latent_layer_s
    costs = Costs(**constants, eager_latent_layer_s=eager)
    engine = c.server.engine.model_copy(update={"costs": costs})
    p = Server(c.server.model, c.server.deployment, engine, c.server.hardware).predict(c.workload)
    out = {"ttft_ms": p.ttft_s * 1e3, "e2e_latency_ms": p.e2e_s * 1e3}
    if p.tpot_s is not None:
        out["tpot_ms"] = p.tpot_s * 1e3
    return out, p.saturated, p


KNOWN: dict[str, Case] = {}
"""The cases of a worker process, by the id of the row."""


def remember(rows: Sequence[Mapping[str, str]]) -> None:
    """Build the cases of all rows in a worker: servers are too large to be sent."""
    for row in rows:
        found = case(row)
        if found is not None:
            KNOWN[row["row_id"]] = found


def evaluate(
    cases: Sequence[Case], theta: Array, index: Mapping[object, int], pool: ProcessPoolExecutor
) -> None:
    """Predict all cases, with the derivatives by the logarithm of each constant."""
    asked = [(c.row["row_id"], c.names, costs_of(c, theta, index)) for c in cases]
    for c, found in zip(cases, pool.map(evaluated, asked, chunksize=25), strict=True):
        c.value, c.slope, c.law = found


def evaluated(
    asked: tuple[str, tuple[str, ...], dict[str, float]],
) -> tuple[dict[str, float], dict[str, dict[str, float]], dict[str, float]]:
    """Return the log errors of a case, their derivatives, and the errors that laws explain."""
    row_id, names, constants = asked
    c = KNOWN[row_id]
    values, saturated, prediction = predict(c, constants)
    value = {
        m: math.log(values[m] / c.measured[m])
        for m in c.measured
        if m in values and not (saturated and m == "ttft_ms")
    }
    laws = [
        max(law_errors(parts, c.server.hardware)) if parts else 0.0
        for parts in (prediction.decode_parts, prediction.prefill_parts)
    ]
    law = {"tpot_ms": laws[0], "ttft_ms": laws[1], "e2e_latency_ms": laws[0]}
    slope: dict[str, dict[str, float]] = {m: {} for m in value}
    for name in names:
        by = STEP.get(name, 0.03)
        turned, _, _ = predict(c, {**constants, name: constants[name] * math.exp(by)})
        for m in value:
            slope[m][name] = math.log(turned[m] / values[m]) / by
    return value, slope, law


def solve(cases: Sequence[Case], theta: Array, index: Mapping[object, int], width: Array) -> Array:
    """Return the Gauss-Newton step of the effects."""
    sizes: dict[tuple[object, ...], int] = defaultdict(int)
    for c in cases:
        for m in c.value:
            sizes[(*c.model, m)] += 1
    matrix, side = np.diag(1.0 / width**2), -theta / width**2
    for c in cases:
        for m, error in c.value.items():
            n = sizes[(*c.model, m)]
            spread = math.sqrt(ROW_SPREAD[m] ** 2 + n * GROUP_SPREAD[m] ** 2)
            own = error / math.hypot(ROW_SPREAD[m], GROUP_SPREAD[m])
            weight = (FREEDOM + 1.0) / (FREEDOM + own**2) / spread**2
            places = [(index[e, name], s) for name, s in c.slope[m].items() if s for e in c.effects]
            if not places:
                continue
            at = np.array([p for p, _ in places])
            by = np.array([s for _, s in places])
            matrix[np.ix_(at, at)] += weight * np.outer(by, by)
            side[at] -= weight * error * by
    return np.linalg.solve(matrix, side)


def summary(cases: Sequence[Case]) -> str:
    """Return the median and mean absolute error of each metric."""
    told = []
    for m in ("tpot_ms", "ttft_ms", "e2e_latency_ms"):
        errors = 100.0 * np.abs(np.expm1([c.value[m] for c in cases if m in c.value]))
        if errors.size:
            told.append(f"{m} {np.median(errors):.1f} / {errors.mean():.1f} % ({errors.size})")
    return ", ".join(told)


def leave_out(
    cases: Sequence[Case],
    theta: Array,
    index: Mapping[object, int],
    width: Array,
    pool: ProcessPoolExecutor,
) -> list[tuple[str, str, float, float, tuple[str, ...]]]:
    """Leave out models, kinds, versions and architectures in turn, and predict them."""
    held: list[tuple[str, Callable[[Case], bool], Callable[[Case], bool]]] = []
    for one in sorted({c.model for c in cases}):
        held.append(
            ("seen", lambda c, one=one: c.model == one, lambda c, one=one: c.group == one[:4])
        )
    for one in sorted({c.group for c in cases}):
        held.append(
            (
                "version",
                lambda c, one=one: c.group == one,
                lambda c, one=one: c.group[:3] == one[:3],
            )
        )
    for one in sorted({c.group[:3] for c in cases}):
        held.append(
            ("engine", lambda c, one=one: c.group[:3] == one, lambda c, one=one: c.family == one[2])
        )
    for one in sorted({c.family for c in cases}):
        held.append(("other", lambda c, one=one: c.family == one, lambda c: True))
    asked: list[tuple[str, Case, dict[str, float]]] = []
    for what, out, known in held:
        left = [c for c in cases if out(c)]
        rest = [c for c in cases if not out(c)]
        if not rest or not any(known(c) for c in rest):
            continue
        change = np.zeros_like(theta)
        for _ in range(2):
            shifted = [shift(c, change, index) for c in rest]
            change = change + solve(shifted, theta + change, index, width)
        asked += [(what, c, costs_of(c, theta + change, index)) for c in left]
    # What was left out is predicted, not extrapolated: TTFT is far from linear in some constants.
    tasks = [(c.row["row_id"], (), constants) for _, c, constants in asked]
    errors = []
    for (what, c, _), found in zip(asked, pool.map(evaluated, tasks, chunksize=50), strict=True):
        values, _, law = found
        errors += [(what, m, error, law[m], c.group) for m, error in values.items()]
    return errors


def shift(c: Case, change: Array, index: Mapping[object, int]) -> Case:
    """Return a case with its errors moved along its slopes."""
    value = {
        m: error
        + sum(s * sum(change[index[e, n]] for e in c.effects) for n, s in c.slope[m].items())
        for m, error in c.value.items()
    }
    return Case(
        c.row, c.server, c.workload, c.measured, c.engine, c.platform, c.family, c.version, c.kind,
        c.names, value, c.slope, c.law,
    )  # fmt: skip


LEAST_GROUPS = 3
"""Fewest groups that were left out for which a platform or a kind of model has its own factors."""

COVERED = 0.9


def conformal(
    errors: Sequence[tuple[str, str, float, float, tuple[str, ...]]],
) -> list[dict[str, str | float | int]]:
    """Return the 90 % factors by distance, platform and kind, beside what the laws explain."""
    found: list[dict[str, str | float | int]] = []
    kinds = sorted({g[3] for *_, g in errors})
    for what in ("seen", "version", "engine", "other"):
        for platform in ("", "cuda", "rocm"):
            for kind in ("", *kinds):
                entry: dict[str, str | float | int] = {
                    "what": what, "platform": platform, "kind": kind,
                }  # fmt: skip
                most = 0
                for m, name in (("tpot_ms", "tpot"), ("ttft_ms", "ttft")):
                    mine = [
                        (e, law, g)
                        for w, metric, e, law, g in errors
                        if w == what and metric == m and kind in ("", g[3])
                        and platform in ("", platform_of(g[2]))
                    ]  # fmt: skip
                    groups = len({g for *_, g in mine})
                    if groups < LEAST_GROUPS:
                        # Too few rows have a TTFT: then it is that of all platforms and kinds.
                        whole = [d for d in found if d["what"] == what and d["platform"] == ""
                                 and d["kind"] == ""]  # fmt: skip
                        if name == "ttft" and whole:
                            for key in ("ttft", "ttft_median_percent"):
                                entry[key] = whole[0][key]
                            continue
                        break
                    most = max(most, groups)
                    size, law = np.array([(abs(e), x) for e, x, _ in mine]).T
                    needed = np.sort(np.sqrt(np.maximum(size**2 - law**2, 0.0)))
                    rank = min(math.ceil(COVERED * (len(needed) + 1)) - 1, len(needed) - 1)
                    entry[name] = math.exp(float(needed[rank]))
                    percent = 100.0 * np.abs(np.expm1([e for e, *_ in mine]))
                    entry[f"{name}_median_percent"] = float(np.median(percent))
                    print(
                        f"left out, {what:8} {platform:4} {kind:8} {name}: median "
                        f"{np.median(percent):.1f} mean {percent.mean():.1f} %, factor "
                        f"{entry[name]:.2f} beside the laws ({np.median(law):.2f}), "
                        f"{groups} groups, {len(mine)} rows"
                    )
                else:
                    found.append(entry | {"groups": most})
    return found


def platform_of(architecture: str) -> str:
    """Return the software platform of an architecture."""
    return "rocm" if architecture.startswith("cdna") else "cuda"


LEAST_EFFECT = 0.02
"""Effects below this (of the logarithm) are not written."""


def write_engine(engine: str, result: Fitted) -> None:
    """Write the costs, effects and groups of an engine into its file."""
    path = FOLDER / f"{engine}.toml"
    head = path.read_text().split(MARK)[0].split("[costs]")[0].rstrip()
    lines = [head, "", MARK.rstrip(), "[costs]"]
    base = result.effects["engine", ""]
    lines += [f"{n} = {PRIOR[n][0] * math.exp(base[n]):.3g}" for n in PRIOR]
    lines.append(f"# fitted to {result.rows} rows")
    for (sort, name), values in result.effects.items():
        if sort == "engine":
            continue
        factors = {n: math.exp(v) for n, v in values.items() if abs(v) >= LEAST_EFFECT}
        lines += ["", "[[effects]]"]
        if sort == "version":
            platform, version = name.split()
            lines += [f'platform = "{platform}"', f'from_version = "{version}"']
        else:
            lines.append(f'{sort} = "{name}"')
        lines.append(f"rows = {result.counts[sort, name]}")
        lines.append("[effects.factors]")
        lines += [f"{n} = {v:.3g}" for n, v in factors.items()]
    text = "\n".join(lines) + "\n"
    seen = "seen = [\n" + "".join(f'  ["{v}", "{a}", "{k}"],\n' for v, a, k in result.seen) + "]\n"
    # Top-level keys of TOML come before the first table.
    text = re.sub(r"^seen = \[\n(?:  .*\n)*\]\n", "", text, flags=re.M)
    at = re.search(r"^(?:#[^\n]*\n)*\[", text, flags=re.M)
    assert at is not None
    path.write_text(text[: at.start()].rstrip() + "\n\n" + seen + "\n" + text[at.start() :])


def write_distances(spreads: Sequence[Mapping[str, str | float | int]]) -> None:
    """Write the 90 % factors of what was left out."""
    lines = ["# Written by scripts/fit_engines.py: 90 % factors of groups left out of the fit."]
    for entry in spreads:
        lines += ["", "[[distance]]"]
        for key, value in entry.items():
            if isinstance(value, float):
                lines.append(f"{key} = {value:.3f}")
            elif value != "":
                lines.append(f"{key} = {value}" if isinstance(value, int) else f'{key} = "{value}"')
    (FOLDER / "distance.toml").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
