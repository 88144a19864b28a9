"""Read the text that nccl-tests and rccl-tests print, run by run.

A log may hold several runs, which are never pooled. A run begins with the line of its options
(``# nThread 1 nGpus 8 ...``); the ranks follow, then a row for each message size. The columns
depend on the version: a root or none, one or two sets of times (out of place, in place), errors as
a number, ``N/A`` or not at all.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from groundspeed.calibrate.importers.log_lines import plain_lines
from groundspeed.profiles.errors import InputError

PROGRAM = re.compile(
    r"\b(all_?reduce|all_?gather|reduce_?scatter|all_?to_?all_?v|all_?to_?all|broadcast|sendrecv|"
    r"reduce|gather|scatter|hyper_?cube)_perf"
)
SPELLING = {"allreduce": "all_reduce", "allgather": "all_gather", "hyper_cube": "hypercube",
            "reducescatter": "reduce_scatter", "all_to_all": "alltoall",
            "all_to_all_v": "alltoallv", "all_to_allv": "alltoallv"}  # fmt: skip
OPTIONS = re.compile(r"^#\s*(?:Collective test starting|nThread\b)")
THREADS = re.compile(r"nThreads?\s+(\d+)\s+nGpus\s+(\d+)")
GRAPH = re.compile(r"\bgraph:\s*(\d+)")
RANK = re.compile(
    r"^#\s*Rank\s+(\d+)\s+(?:Group\s+(\d+)\s+)?Pid\s+(\d+)\s+on\s+(\S+)\s+device\s+(\d+)\s+"
    r"\[[^\]]*\]\s*(.*\S)\s*$"
)
ROW = re.compile(r"^(\d+)\s+(\d+)\s+([a-z][a-z0-9_]*)\s+(\S.*)$")
INNER_TAG = re.compile(r"\[\d+\](?=\s)")
REDUCTIONS = ("sum", "prod", "min", "max", "avg", "mulsum", "premulsum")
WRONG = 1e-3
"""Error of a reduction from which its result is wrong (versions that print the error)."""


@dataclass(frozen=True)
class Times:
    """One set of columns of a row: time [s], rates [GB/s], and whether the result is right."""

    time_s: float
    algbw: float
    busbw: float
    right: bool


@dataclass(frozen=True)
class Row:
    """One message size."""

    bytes: float
    out_of_place: Times
    in_place: Times | None


@dataclass
class Run:
    """One run of one program."""

    program: str | None = None
    named_later: bool = False
    """Whether the program was named after its rows (``Collective test concluded``)."""
    graph: bool = False
    promised: int = 0
    """Ranks of one process that its options ask for: threads times GPUs."""
    ranks: dict[int, tuple[str, str, int]] = field(default_factory=dict)
    """Host, GPU and group of each rank."""
    lone: bool = False
    """Whether a rank was listed twice: processes that do not know of each other."""
    reduced: bool = False
    rooted: bool = False
    """Whether its rows name a root rank."""
    rows: list[Row] = field(default_factory=list)

    @property
    def begun(self) -> bool:
        """Whether the run has ranks or rows."""
        return bool(self.ranks or self.rows)


def read_runs(text: str, where: str) -> list[Run]:
    """Return the runs of a log that have rows.

    Raises
    ------
    InputError
        If a row cannot be read.
    """
    runs: list[Run] = [Run()]
    program: str | None = None
    for number, line in plain_lines(text):
        run = runs[-1]
        named = PROGRAM.search(line)
        if OPTIONS.match(line) and "nThread" in line:
            # Processes that ran alone print their options one after the other, before any rank.
            if run.begun and run.rows:
                runs.append(Run(program=program if not run.named_later else None))
            elif run.begun:
                run.lone = True
            run = runs[-1]
            threads = THREADS.search(line)
            run.promised = int(threads[1]) * int(threads[2]) if threads else 0
            graph = GRAPH.search(line)
            run.graph = bool(graph and int(graph[1]))
        if named:
            program = _spelled(named[1])
            if run.rows and "concluded" in line:
                run.program, run.named_later, program = program, True, None
            elif not run.rows:
                run.program = program
        if match := RANK.match(line):
            if run.rows:
                run = Run(program=program)
                runs.append(run)
            rank = int(match[1])
            run.lone = run.lone or rank in run.ranks
            run.ranks[rank] = (match[4], match[6], int(match[2] or 0))
        elif match := ROW.match(line):
            fields = INNER_TAG.sub(" ", match[4]).split()
            run.reduced = run.reduced or any(f in REDUCTIONS for f in fields[:1])
            run.rooted = run.rooted or _names_root(fields)
            row = _row(float(match[1]), fields, f"{where}, line {number}")
            if row is not None:
                run.rows.append(row)
    return [run for run in runs if run.rows or run.lone]


def _names_root(fields: list[str]) -> bool:
    """Return whether a row has a root rank: a whole number of 0 or more before its times."""
    rest = fields[1:] if fields and not _is_number(fields[0]) else fields
    return len(rest) in (5, 9) and rest[0].isdigit()


def _spelled(name: str) -> str:
    return SPELLING.get(name, name)


def _row(size: float, fields: list[str], where: str) -> Row | None:
    """Return a row from its fields after the type; None for messages without bytes.

    Raises
    ------
    InputError
        If the fields are not those of one or two sets of times.
    """
    numbers = fields[1:] if fields and not _is_number(fields[0]) and fields[0] != "N/A" else fields
    for count in (8, 4, 6, 3):
        width = count if count in (4, 3) else count // 2
        # Before the times there may be the root, a whole number.
        lead = len(numbers) - count
        if lead not in (0, 1) or (lead == 1 and not re.fullmatch(r"-?\d+", numbers[0])):
            continue
        if count in (8, 4) and not all(_is_error(f) for f in numbers[lead:][width - 1 :: width]):
            continue
        sets = [numbers[lead:][i : i + width] for i in range(0, count, width)]
        try:
            times = [_times(s) for s in sets]
        except ValueError:
            continue
        if times[0].time_s <= 0.0 or size <= 0.0:
            return None
        return Row(size, times[0], times[1] if len(times) > 1 and times[1].time_s > 0 else None)
    raise InputError("this row of the table cannot be parsed", where=where)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_error(text: str) -> bool:
    """Return whether a field is one of the column of errors: a count, an error, or ``N/A``."""
    return text == "N/A" or re.fullmatch(r"\d+|\d(?:\.\d+)?e[-+]\d+", text) is not None


def _times(fields: list[str]) -> Times:
    time_us, algbw, busbw = (float(x) for x in fields[:3])
    wrong = fields[3] if len(fields) > 3 else "N/A"
    right = wrong == "N/A" or float(wrong) < WRONG
    return Times(time_us * 1e-6, algbw, busbw, right)


def rank_groups(run: Run) -> Iterator[list[tuple[str, str]]]:
    """Yield the hosts and GPUs of the ranks of each group; one group unless the run was split."""
    groups: dict[int, list[tuple[str, str]]] = {}
    for _, (host, gpu, group) in sorted(run.ranks.items()):
        groups.setdefault(group, []).append((host, gpu))
    yield from groups.values()
