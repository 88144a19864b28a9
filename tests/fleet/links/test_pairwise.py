"""Bandwidth between pairs of nodes: slow nodes, slow links, few rounds, two classes of links."""

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundspeed.fleet.links.pairwise import Pairs, judge_pairs, matchings, rounds_needed
from groundspeed.profiles import InputError
from program import groundspeed


def all_pairs(nodes: int, seed: int, spread: float = 0.004) -> tuple[list[str], Pairs]:
    names = [f"n{i:03d}" for i in range(nodes)]
    both = list(itertools.combinations(names, 2))
    rng = np.random.default_rng(seed)
    bandwidth = 47e9 * np.exp(spread * rng.standard_normal(len(both)))
    return names, Pairs(tuple(a for a, _ in both), tuple(b for _, b in both), bandwidth)


def test_slow_node_is_one_node_finding() -> None:
    _, pairs = all_pairs(12, 1)
    hit = np.array(
        [a == "n004" or b == "n004" for a, b in zip(pairs.first, pairs.second, strict=True)]
    )
    pairs.bandwidth[hit] *= 0.5
    (finding,) = judge_pairs(pairs)
    assert (finding.level, finding.nodes) == ("node", ("n004",))
    assert finding.loss_fraction == pytest.approx(0.5, abs=0.02)


def test_slow_link_is_one_link_finding() -> None:
    _, pairs = all_pairs(12, 2)
    pairs.bandwidth[7] *= 0.07
    (finding,) = judge_pairs(pairs)
    assert finding.level == "link"
    assert finding.nodes == (pairs.first[7], pairs.second[7])


def test_healthy_pairs_have_no_finding() -> None:
    assert judge_pairs(all_pairs(20, 3)[1]) == ()


def test_slower_links_between_two_switches_are_no_findings() -> None:
    """As on 17 real H100 nodes: 23.6 GB/s in groups of 9 and 8 nodes, 5 to 7 between them."""
    names, pairs = all_pairs(17, 4)
    group = {name: i < 9 for i, name in enumerate(names)}
    across = np.array(
        [group[a] != group[b] for a, b in zip(pairs.first, pairs.second, strict=True)]
    )
    pairs.bandwidth[across] *= 0.26
    assert judge_pairs(pairs) == ()
    broken = int(np.flatnonzero(across)[5])
    pairs.bandwidth[broken] *= 0.5
    (finding,) = judge_pairs(pairs)
    assert finding.nodes == (pairs.first[broken], pairs.second[broken])


@settings(max_examples=60, deadline=None)
@given(nodes=st.integers(2, 41), rounds=st.integers(1, 6), seed=st.integers(0, 9))
def test_each_round_has_every_node_once_and_no_pair_repeats(
    nodes: int, rounds: int, seed: int
) -> None:
    names = [f"n{i}" for i in range(nodes)]
    schedule = matchings(names, rounds, seed)
    seen: set[frozenset[str]] = set()
    for matching in schedule:
        members = [x for pair in matching for x in pair]
        assert len(members) == len(set(members)) == nodes - nodes % 2
        for pair in matching:
            assert frozenset(pair) not in seen
            seen.add(frozenset(pair))


def test_few_rounds_find_two_slow_nodes_of_64() -> None:
    """Three rounds instead of 63 are enough to name the two bad nodes and no others."""
    hits = 0
    rounds = rounds_needed(64, 2 / 64)
    for seed in range(30):
        names, _ = all_pairs(64, seed)
        rng = np.random.default_rng(seed)
        bad = set(rng.choice(names, 2, replace=False).tolist())
        pairs = [p for m in matchings(names, rounds, seed) for p in m]
        bandwidth = 47e9 * np.exp(0.004 * rng.standard_normal(len(pairs)))
        bandwidth[[bool(set(p) & bad) for p in pairs]] *= 0.5
        findings = judge_pairs(
            Pairs(tuple(a for a, _ in pairs), tuple(b for _, b in pairs), bandwidth)
        )
        blamed = {f.nodes[0] for f in findings if f.level == "node"}
        assert blamed <= bad
        hits += len(blamed & bad)
    assert rounds < 6
    assert hits / 60 > 0.95


def test_rounds_for_one_node_or_a_slow_share_of_1_are_refused() -> None:
    with pytest.raises(InputError):
        rounds_needed(1, 0.1)
    with pytest.raises(InputError):
        rounds_needed(10, 1.0)


def test_ten_real_nodes_have_a_loss_in_at_most_half_of_the_links(reference: Path) -> None:
    """NCCL tests between all pairs of ten H100 nodes: no whole node is slow, but some links are."""
    rows = pd.read_csv(reference / "fleet" / "h100_10_nodes_pairwise.csv")
    rows = rows[rows["N"] == 2]
    for (_, _), part in rows.groupby(["test", "G"]):
        ends = part["nodes"].str.split(",", expand=True)
        findings = judge_pairs(
            Pairs(tuple(ends[0]), tuple(ends[1]), part["avg_bus_bw_GBs"].to_numpy() * 1e9)
        )
        assert len(findings) <= len(part) / 2
        assert all(f.loss_fraction and 0.1 <= f.loss_fraction < 1.0 for f in findings)


def test_two_tests_in_one_table_are_one_finding(reference: Path) -> None:
    """The table mixes runs with 1, 2, 4 and 8 GPUs per node; pooled, every link would seem slow."""
    rows = pd.read_csv(reference / "fleet" / "h100_10_nodes_pairwise.csv")
    rows = rows[(rows["N"] == 2) & (rows["test"] == "alltoall_perf")]
    ends = rows["nodes"].str.split(",", expand=True)
    (finding,) = judge_pairs(
        Pairs(tuple(ends[0]), tuple(ends[1]), rows["peak_busbw_GBs"].to_numpy())
    )
    assert finding.level == "class"
    assert "two tests in one table" in finding.evidence


def test_node_without_any_result_is_found_and_not_called_slow() -> None:
    names, pairs = all_pairs(12, 1)
    hit = [names[4] in pair for pair in zip(pairs.first, pairs.second, strict=True)]
    pairs.bandwidth[hit] = np.nan
    (finding,) = judge_pairs(pairs)
    assert (finding.level, finding.nodes, finding.loss_fraction) == ("node", (names[4],), None)
    assert "no result in 11 of 11 pairs" in finding.evidence


# On the command line.


def pairs_file(path: Path, slow: str | None, nodes: int = 10) -> Path:
    names, _ = all_pairs(nodes, 1)
    rng = np.random.default_rng(2)
    lines = ["node,partner,value"]
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            lost = 0.5 if slow in (a, b) else 1.0
            lines.append(f"{a},{b},{47.0 * lost * np.exp(0.004 * rng.standard_normal())}")
    path.write_text("\n".join(lines))
    return path


def test_links_command_exit_codes_and_findings(tmp_path: Path) -> None:
    names, _ = all_pairs(10, 1)
    ran = groundspeed("fleet", "links", str(pairs_file(tmp_path / "a.csv", names[3])), "--json")
    assert ran.code == 2
    (finding,) = json.loads(ran.out)["findings"]
    assert (finding["level"], finding["nodes"]) == ("node", [names[3]])
    assert groundspeed("fleet", "links", str(pairs_file(tmp_path / "b.csv", None))).code == 0
    few = tmp_path / "few.csv"
    few.write_text("node,partner,value\na,b,1\na,a,9\n,b,1\nb,c,nan\n")
    ran = groundspeed("fleet", "links", str(few))
    assert (ran.code, ran.err.count("\n")) == (3, 1)
    few.write_text("node,value\na,1\n")
    ran = groundspeed("fleet", "links", str(few))
    assert (ran.code, "column missing: partner" in ran.err) == (2, True)


def test_rounds_command_prints_every_node_once_per_round() -> None:
    ran = groundspeed("fleet", "rounds", "--nodes", "a,b,c,=d,e f,g", "--slow-share", "0.1")
    lines = list(csv.reader(ran.out.splitlines()))
    assert lines[0] == ["round", "node", "partner"]
    for number in {line[0] for line in lines[1:]}:
        busy = [name for line in lines[1:] if line[0] == number for name in line[1:]]
        assert sorted(busy) == ["=d", "a", "b", "c", "e f", "g"]
    ran = groundspeed("fleet", "rounds", "--nodes", "a,a")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
