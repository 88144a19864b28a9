"""From measurements of pairs of nodes to the node or the link that is slow.

A pair that is slow is the fault of one end, of the other, or of what is between them. A node is
blamed when it is slow with at least two partners and with half of all it was measured with; a link,
when it is slow while both of its ends are fine elsewhere. Pairs under one switch are faster than
pairs across two: where the topology is not known, such classes are found in the data, or two groups
of honest links would become a hundred findings.

Not all pairs need to be measured: in a few rounds of random matchings, in which all nodes are busy
at once, an innocent node meets a bad partner in every round only with probability ``p^rounds``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from groundspeed.profiles.errors import InputError
from groundspeed.profiles.operations import Array
from groundspeed.profiles.record import Record

SLOW = 0.10
"""Loss, against the median of its class, from which a pair is slow."""

APART = 0.25
"""Two hop classes differ by this, in log bandwidth, or they are one."""

FEWEST_IN_CLASS = 0.1
"""Share of the nodes that lie outside the largest group, below which groups are not topology."""

MOSTLY = 0.8
"""Share of the slow pairs that lie across groups, if the groups are topology."""

MOST_LINKS = 0.25
"""Share of links that fail by themselves, above which it is not the links."""

FEWEST_PAIRS = 8
"""Below, no pair can be told from the others."""

FALSE_BLAME = 0.01
"""Expected number of innocent nodes blamed by all rounds together."""


class LinkFinding(Record):
    """A node or a link that is slow."""

    level: str
    """``node``, ``link``, or ``class`` for what too many pairs share to be theirs."""
    metric: str = ""
    nodes: tuple[str, ...]
    loss_fraction: float
    slow_pairs: int
    pairs: int
    evidence: str


@dataclass(frozen=True)
class Pairs:
    """Measured pairs: two nodes and a bandwidth each."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    bandwidth: Array


def rounds_needed(nodes: int, slow_share: float) -> int:
    """Rounds of random matchings after which hardly any innocent node has met bad partners only.

    >>> rounds_needed(16, 0.02), rounds_needed(1000, 0.1)
    (2, 5)
    """
    if nodes < 2 or not 0.0 < slow_share < 1.0:
        raise InputError("rounds need two nodes or more, and a share between 0 and 1")
    needed = math.log(FALSE_BLAME / nodes) / math.log(slow_share)
    return max(2, math.ceil(needed - 1e-9))  # five is five, however it was rounded


def matchings(nodes: Sequence[str], rounds: int, seed: int) -> list[list[tuple[str, str]]]:
    """Rounds in which every node has one partner, and no pair comes twice where that is possible.

    With an odd number of nodes one rests in each round.
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
        order = [order[0], order[-1], *order[1:-1]]  # the circle method: all but one move on
    return rounds_of_pairs


def judge_pairs(pairs: Pairs) -> tuple[LinkFinding, ...]:
    """Nodes first, then links, worst first.

    Parameters
    ----------
    pairs : Pairs
        A bandwidth that is not positive is a pair without a result: all of it is lost, and the
        evidence says so.
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
            "two tests in one table, or a topology"
        )
        return (*findings, _finding("class", (), rest, evidence))
    for (a, b), mine in rest.groupby(["a", "b"], sort=True):
        slow = mine["slow"]
        if not slow.any():
            continue
        again = "" if slow.mean() >= 0.5 else "; not in every measurement: measure again"
        evidence = f"both ends are fine with others{again}"
        findings.append(_finding("link", (str(a), str(b)), mine, evidence))
    return tuple(sorted(findings, key=lambda f: (f.level == "link", -f.loss_fraction, f.nodes)))


def _blame_nodes(frame: pd.DataFrame) -> list[LinkFinding]:
    """The node that explains most slow pairs first; what it explains blames nobody else."""
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
        # Of two that explain as many: the one whose partners have no other slow pair.
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
    if failed:
        evidence += f"; {failed} without a result"
    return LinkFinding(
        level=level,
        nodes=nodes,
        loss_fraction=float(mine.loc[mine["slow"], "loss"].median()),
        slow_pairs=int(mine["slow"].sum()),
        pairs=len(mine),
        evidence=evidence,
    )


def _expected_log(frame: pd.DataFrame) -> Array:
    """Logarithm of what each pair's hop class delivers: one class, or two where there are two.

    Two classes are a topology if the fast pairs join the nodes into groups and hardly any slow pair
    lies within a group. A slow node is no group: it is alone.
    """
    log = np.log(frame["bandwidth"].to_numpy())
    whole = np.full(log.shape, float(np.median(log)))
    # The cut that leaves least variance on both sides (Otsu's).
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


def read_pairs(paths: Sequence[Path]) -> dict[str, Pairs]:
    """Read CSV files of pairs: columns ``node``, ``partner``, ``value``, and ``metric`` if many.

    Returns
    -------
    dict of str to Pairs
        By metric; what was measured differently is never pooled.

    Raises
    ------
    InputError
        If a file cannot be read, lacks a column, or pairs a node with itself only.
    """
    frames = []
    for path in paths:
        try:
            frame = pd.read_csv(path, dtype={"node": "string", "partner": "string"})
        except (OSError, ValueError, pd.errors.ParserError) as error:
            reason = str(error).split("\n")[0][:160]
            raise InputError(f"cannot be read as a table ({reason})", where=str(path)) from error
        missing = [c for c in ("node", "partner", "value") if c not in frame.columns]
        if missing:
            raise InputError(
                f"lacks the column {', '.join(missing)}",
                where=str(path),
                remedy="a table of pairs has node,partner,value",
            )
        metric = frame["metric"].fillna("").astype(str) if "metric" in frame else ""
        frames.append(frame[["node", "partner", "value"]].assign(metric=metric))
    table = pd.concat(frames, ignore_index=True).dropna(subset=["node", "partner"])
    table = table[table["node"] != table["partner"]]
    return {str(metric): _pairs(mine) for metric, mine in table.groupby("metric", sort=True)}


def _pairs(rows: pd.DataFrame) -> Pairs:
    values = pd.to_numeric(rows["value"], errors="coerce").to_numpy(dtype=np.float64)
    ends = zip(rows["node"].astype(str), rows["partner"].astype(str), strict=True)
    ordered = [(min(a, b), max(a, b)) for a, b in ends]
    return Pairs(tuple(a for a, _ in ordered), tuple(b for _, b in ordered), values)
