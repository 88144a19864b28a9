"""Find the slow node or link from bandwidths measured between pairs of nodes.

A pair is slow because of one of its nodes, the other node, or the link between them. A node is
blamed if it is slow with at least two partners and in half of its measurements. A link is blamed if
it is slow while both of its nodes are fine with other partners. Pairs under one switch are faster
than pairs across two switches. If the topology is not known, such hop classes are found in the
data; without them, two groups of healthy links would give a hundred findings.

Not all pairs need to be measured. In a few rounds of random matchings, in which all nodes are busy
at once, a healthy node meets a slow partner in every round only with probability ``p^rounds``,
where p is the share of slow nodes.

    for metric, pairs in read_pairs([Path("pairs.csv")]).items():
        print(metric, judge_pairs(pairs))
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from groundspeed.fleet.metrics import is_time
from groundspeed.fleet.reading.columns import numbers_of, rename_columns
from groundspeed.fleet.reading.table_file import read_frame
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.operations import Array
from groundspeed.profiles.record import Record

SLOW = 0.10
"""[1] Loss against the median of its hop class from which a pair is slow."""

APART = 0.25
"""[1] Difference in log bandwidth above which there can be two hop classes."""

FEWEST_IN_CLASS = 0.1
"""[1] Smallest share of nodes outside the largest group for which groups are topology."""

MOSTLY = 0.8
"""[1] Smallest share of slow pairs that connect two groups, if the groups are topology."""

MOST_LINKS = 0.25
"""[1] Share of slow links above which single links are not the cause."""

FEWEST_PAIRS = 3
"""Fewest measured pairs that are judged; with fewer, a slow pair cannot be recognized."""

FALSE_BLAME = 0.01
"""Expected number of healthy nodes that are blamed, over all rounds together."""


class LinkFinding(Record):
    """A node or a link that is slow."""

    level: str
    """``node``, ``link``, or ``class`` if too many pairs are slow to blame single links."""
    metric: str = ""
    nodes: tuple[str, ...]
    loss_fraction: float | None
    """[1] Median loss of its slow pairs; None if none of them has a result."""
    slow_pairs: int
    pairs: int
    evidence: str


@dataclass(frozen=True)
class Pairs:
    """Measured pairs; each has two nodes and a bandwidth."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    bandwidth: Array


def rounds_needed(nodes: int, slow_share: float) -> int:
    """Return the number of rounds after which hardly any healthy node met only slow partners.

    >>> rounds_needed(16, 0.02), rounds_needed(1000, 0.1)
    (2, 5)
    """
    if nodes < 2 or not 0.0 < slow_share < 1.0:
        raise InputError("give two nodes or more, and a share of slow nodes between 0 and 1")
    needed = math.log(FALSE_BLAME / nodes) / math.log(slow_share)
    return max(2, math.ceil(needed - 1e-9))  # 1e-9: rounding must not turn 5 into 6


def matchings(nodes: Sequence[str], rounds: int, seed: int) -> list[list[tuple[str, str]]]:
    """Return rounds of pairs in which every node has one partner; no pair comes twice.

    The number of rounds is limited to those without a repeated pair. With an odd number of nodes,
    one node has no partner in each round.
    """
    order = list(nodes)
    np.random.default_rng(seed).shuffle(order)
    if len(order) % 2:
        order.append("")
    half = len(order) // 2
    rounds_of_pairs = []
    for _ in range(min(rounds, len(order) - 1)):
        pairs = zip(order[:half], reversed(order[half:]), strict=True)
        rounds_of_pairs.append([(a, b) for a, b in pairs if a and b])
        order = [order[0], order[-1], *order[1:-1]]  # circle method: rotate all but the first
    return rounds_of_pairs


def judge_pairs(pairs: Pairs) -> tuple[LinkFinding, ...]:
    """Return the slow nodes, then the slow links, each with the largest loss first.

    Parameters
    ----------
    pairs : Pairs
        Measured pairs. A bandwidth that is not positive means that the pair has no result: its loss
        is 1, and the evidence of a finding counts such pairs.
    """
    whole = pd.DataFrame({"a": pairs.first, "b": pairs.second, "bandwidth": pairs.bandwidth})
    whole = whole.astype({"a": str, "b": str})
    good = np.isfinite(pairs.bandwidth) & (pairs.bandwidth > 0)
    measured = whole.loc[good].reset_index(drop=True)
    if len(measured) < FEWEST_PAIRS:
        return ()
    measured["loss"] = 1.0 - np.exp(np.log(measured["bandwidth"]) - _expected_log(measured))
    frame = pd.concat([measured, whole.loc[~good].assign(loss=1.0)], ignore_index=True)
    frame["slow"] = frame["loss"] >= SLOW
    findings = _blame_nodes(frame)
    bad = {name for f in findings for name in f.nodes}
    rest = frame[~frame["a"].isin(bad) & ~frame["b"].isin(bad)]
    both = rest.groupby(["a", "b"])["slow"].any()
    if both.sum() >= FEWEST_PAIRS and both.mean() > MOST_LINKS:
        evidence = (
            f"{int(both.sum())} of {both.size} links are slow at times, and no node explains it: "
            "the cause may be two tests in one table, or the topology"
        )
        return (*findings, _finding("class", (), rest, evidence))
    for (a, b), mine in rest.groupby(["a", "b"], sort=True):
        slow = mine["slow"]
        if not slow.any():
            continue
        again = "" if slow.mean() >= 0.5 else "; not in every measurement: measure again"
        evidence = f"both nodes are fine with other partners{again}"
        findings.append(_finding("link", (str(a), str(b)), mine, evidence))
    return tuple(
        sorted(findings, key=lambda f: (f.level == "link", -(f.loss_fraction or 1.0), f.nodes))
    )


def _blame_nodes(frame: pd.DataFrame) -> list[LinkFinding]:
    """Blame nodes, the one with most slow partners first; its pairs then blame no other node."""
    findings: list[LinkFinding] = []
    left = frame
    while True:
        ends = pd.concat(
            [left.rename(columns={"a": "node", "b": "partner"}),
             left.rename(columns={"b": "node", "a": "partner"})]
        )  # fmt: skip
        slow = ends[ends["slow"]]
        partners = slow.groupby("node")["partner"].nunique()
        share = ends.groupby("node")["slow"].mean().reindex(partners.index)
        # Tie-break: blame the node whose partners have no other slow pair.
        alone = slow["partner"].map(slow.groupby("node").size()).eq(1)
        clear = alone.groupby(slow["node"]).sum()
        suspect = pd.DataFrame({"partners": partners, "clear": clear, "share": share})
        suspect = suspect[(partners >= 2) & (share >= 0.5)].reset_index()
        if suspect.empty:
            return findings
        order = suspect.sort_values(
            ["partners", "clear", "share", "node"], ascending=[False, False, False, True]
        )
        node = str(order["node"].iloc[0])
        mine = left[(left["a"] == node) | (left["b"] == node)]
        many = int(partners[node])
        count = f"in {int(mine['slow'].sum())} of {len(mine)} measurements"
        findings.append(_finding("node", (node,), mine, f"slow with {many} partners, {count}"))
        left = left.drop(mine.index)


def _finding(level: str, nodes: tuple[str, ...], mine: pd.DataFrame, evidence: str) -> LinkFinding:
    failed = int((mine["loss"] >= 1.0).sum())
    measured = mine[mine["slow"] & (mine["loss"] < 1.0)]
    if failed and measured.empty:
        evidence = f"no result in {failed} of {len(mine)} pairs: the test failed, or it is down"
    elif failed:
        evidence += f"; {failed} without a result"
    return LinkFinding(
        level=level,
        nodes=nodes,
        loss_fraction=float(measured["loss"].median()) if len(measured) else None,
        slow_pairs=int(mine["slow"].sum()),
        pairs=len(mine),
        evidence=evidence,
    )


def _expected_log(frame: pd.DataFrame) -> Array:
    """Return the log of the usual bandwidth of each pair's hop class; there are one or two classes.

    Two classes are a topology if the fast pairs join the nodes into groups and hardly any slow pair
    lies within a group. A single slow node is not a group.
    """
    log = np.log(frame["bandwidth"].to_numpy())
    whole = np.full(log.shape, float(np.median(log)))
    # Otsu's method: choose the cut that leaves the least variance within the two sides.
    order = np.sort(log)
    sizes = np.arange(1, log.size)
    left, total = np.cumsum(order)[:-1], float(order.sum())
    gain = left**2 / sizes + (total - left) ** 2 / (log.size - sizes)
    cut = int(np.argmax(gain))
    low, high = order[: cut + 1], order[cut + 1 :]
    if float(np.median(high) - np.median(low)) <= APART:
        return whole
    fast = log > 0.5 * (order[cut] + order[cut + 1])
    codes, names = pd.factorize(pd.concat([frame["a"], frame["b"]]))
    a, b = codes[: len(frame)], codes[len(frame) :]
    size = len(names)
    graph = coo_array((np.ones(int(fast.sum())), (a[fast], b[fast])), shape=(size, size))
    count, group = connected_components(graph, directed=False)
    members = np.bincount(group, minlength=count)
    across = (group[a] != group[b])[~fast]
    real = (members >= 2).sum() >= 2 and members.max() <= (1.0 - FEWEST_IN_CLASS) * size
    if not (real and across.mean() >= MOSTLY):
        return whole
    return np.where(group[a] == group[b], float(np.median(high)), float(np.median(low)))


def read_pairs(paths: Sequence[Path], mapping: Mapping[str, str] | None = None) -> dict[str, Pairs]:
    """Read tables of pairs into one set of pairs for each metric.

    The columns are ``node``, ``partner``, ``value`` and, if there are several metrics, ``metric``;
    other usual names (``src``, ``dst``, ``busbw``) are understood.

    Parameters
    ----------
    paths : sequence of Path
    mapping : mapping of str to str, optional
        Column of the files for names used here. Default: the usual names of each.

    Returns
    -------
    dict of str to Pairs
        Pairs of each metric; different metrics are never pooled. A node paired with itself is left
        out.

    Raises
    ------
    InputError
        If a file cannot be read or a column is missing.
    """
    frames = []
    for path in paths:
        frame, separator = read_frame(path)
        named = rename_columns(list(frame.columns), mapping or {}, str(path), pairs=True)
        frame = frame.rename(columns=named)
        missing = [c for c in ("node", "partner", "value") if c not in frame.columns]
        if missing:
            raise InputError(
                f"column missing: {', '.join(missing)}",
                where=str(path),
                remedy="a table of pairs has the columns node,partner,value (or src,dst,busbw; "
                "other names: --map value=NAME)",
            )
        unit = str(frame["unit"].iloc[0]) if "unit" in frame and len(frame) else ""
        metric = frame["metric"].astype(object).fillna("").astype(str) if "metric" in frame else ""
        values, _, _ = numbers_of(frame["value"], comma_decimal=separator != ",")
        # A latency is turned round, so that greater is better everywhere.
        names = metric if isinstance(metric, pd.Series) else pd.Series("", index=frame.index)
        times = names.map(lambda m, u=unit: bool(is_time(str(m), u))).astype(bool)
        values = values.where(~times, 1.0 / values)
        kept = frame[["node", "partner"]].astype("string")
        frames.append(kept.assign(value=values, metric=metric))
    table = pd.concat(frames, ignore_index=True).dropna(subset=["node", "partner"])
    table = table[table["node"] != table["partner"]]
    return {str(metric): _pairs(mine) for metric, mine in table.groupby("metric", sort=True)}


def _pairs(rows: pd.DataFrame) -> Pairs:
    values = pd.to_numeric(rows["value"], errors="coerce").to_numpy(dtype=np.float64)
    ends = zip(rows["node"].astype(str), rows["partner"].astype(str), strict=True)
    ordered = [(min(a, b), max(a, b)) for a, b in ends]
    return Pairs(tuple(a for a, _ in ordered), tuple(b for _, b in ordered), values)
