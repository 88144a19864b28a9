"""Measure the speed of collectives; every rank runs this code.

All ranks go through the same list of cases, and rank 0 writes the journal. Before each sample all
ranks meet, each rank then times its own part, and the sample is the time of the slowest rank. On
GPUs they meet on the device, in a tiny all-reduce, and events time what follows: the skew of hosts
that leave a barrier is longer than a small collective. Before it is timed, every size of every
operation is checked with data that differ by rank.

    result = LinkRun(rendezvous, hosts, device, settings, journal, progress).measure(seed)
"""

import math
import statistics
import time
from collections.abc import Iterator
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

from groundspeed.calibrate.links.device_wait import WATCHDOG_MARGIN_S, wait_for_device
from groundspeed.calibrate.links.link_cases import (
    LinkCase,
    LinkResult,
    Settings,
    link_point,
    pass_key,
)
from groundspeed.calibrate.links.rendezvous import Rendezvous
from groundspeed.calibrate.run.journal import Entry, Journal
from groundspeed.calibrate.run.runner import Progress
from groundspeed.calibrate.timing.timers import new_event
from groundspeed.kernels.capture import capture
from groundspeed.kernels.kernel import Call
from groundspeed.kernels.links.collectives import (
    Group,
    collective_call,
    is_right,
    items_for,
    make_buffers,
)
from groundspeed.kernels.links.symmetric import (
    METHODS,
    make_symmetric,
    offered,
    symmetric_call,
    symmetric_is_right,
)
from groundspeed.profiles.busbw import MEASURED
from groundspeed.profiles.schema import Point

SLOW_RANK = 3.0
"""Ratio to the median time above which a rank's own copies are reported as slow: one slow rank
slows every collective."""

FEWEST_SAMPLES = 3
"""Minimum number of samples of a case in one pass, however slow the case is."""

REFERENCE_BYTES = {"cpu": 2**24, "cuda": 2**28}
"""[bytes] Size of the copy that compares the speed of the ranks: on a GPU far beyond its caches."""

COPIES = 8
"""Copies in one sample of that comparison."""

COPY_SAMPLES = 5
"""Samples of that comparison, after one that is discarded; their median counts."""

CONTROL_MARGIN_S = 30.0
"""[s] Time by which control messages wait longer for other ranks than ranks for their device."""

GRAPH_S = 1e-3
"""[s] Approximate length of a captured graph: a graph with one collective measures its launch."""

MOST_IN_GRAPH = 50
"""Most collectives in one graph."""


def new_group(
    members: list[int] | None, patience: timedelta, backend: str | None = None
) -> dist.ProcessGroup | None:
    """Create a process group. Every rank must call it; ranks outside the group get None."""
    group = dist.new_group(members, timeout=patience, backend=backend)
    return group if isinstance(group, dist.ProcessGroup) else None


class LinkRun:
    """Measurement of the links, as run by one rank.

    Parameters
    ----------
    rendezvous : Rendezvous
        Store in which this rank writes its heartbeats.
    hosts : list of str
        Host of each rank.
    device : torch.device
        Device of this rank.
    settings : Settings
        Message sizes, number of samples and time limits.
    journal : Journal or None
        Journal of the run on rank 0; None on the other ranks.
    progress : callable
        Called before each case with the cases done, the total, and the name of the case.
    """

    def __init__(
        self,
        rendezvous: Rendezvous,
        hosts: list[str],
        device: torch.device,
        settings: Settings,
        journal: Journal | None,
        progress: Progress,
    ) -> None:
        self.rendezvous = rendezvous
        self.hosts = hosts
        self.device = device
        self.settings = settings
        self.journal = journal
        self.progress = progress
        self.remarks: list[str] = []
        # The deadline of this program must come before that of NCCL's watchdog, see device_wait.
        margin_s = WATCHDOG_MARGIN_S if device.type == "cuda" else 0.0
        self.patience = timedelta(seconds=rendezvous.timeout_s + margin_s)
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()
        # Control messages use a separate gloo group on the host, so that they do not disturb the
        # links being measured.
        # On GPUs, the ranks that hang on their device must speak before those that wait for them.
        control_s = rendezvous.timeout_s + (CONTROL_MARGIN_S if device.type == "cuda" else 0.0)
        control = new_group(None, timedelta(seconds=control_s), "gloo")
        if control is None:
            raise AssertionError("every rank is in the group of all ranks")
        self.control = control
        # The library builds the communicator of a group in its first operation, in which all ranks
        # must take part. A transfer between two of three ranks would wait for the third for ever.
        self._meet(None)
        self.wait()
        self.dtype = torch.float32 if device.type == "cpu" else torch.bfloat16

    def measure(self, seed: int) -> LinkResult:
        """Measure all collectives in every pass, in random order."""
        cases = list(self._cases())
        known = self._from_rank_0(sorted(self.journal.entries) if self.journal else None)
        generator = np.random.default_rng(seed)
        for pass_index in range(self.settings.passes):
            self._compare_ranks()
            # Sort by group size, because ranks outside a group wait for it. The order of the cases
            # within one size is random.
            order = generator.permutation(len(cases)).tolist()
            order.sort(key=lambda i: cases[i].world_size)
            for done, i in enumerate(order):
                self.progress(
                    pass_index * len(cases) + done, len(cases) * self.settings.passes, cases[i].key
                )
                if pass_key(pass_index, cases[i].key) not in known:
                    self._measure_case(cases[i], pass_index)
        self._compare_ranks()
        points = self._joined(cases) if self.journal else {}
        return LinkResult(cases, points, self.remarks)

    def _joined(self, cases: list[LinkCase]) -> dict[str, Point]:
        """Combine the samples of all passes of each case into one measurement."""
        points = {}
        entries = self.journal.entries if self.journal else {}
        for case in cases:
            of_case = [
                entries[key]
                for pass_index in range(self.settings.passes)
                if (key := pass_key(pass_index, case.key)) in entries
            ]
            if of_case:
                samples = np.array([s for entry in of_case for s in entry.samples_s])
                valid = all(entry.point.valid for entry in of_case)
                points[case.key] = link_point(
                    {"bytes": float(case.bytes)}, samples, case.bytes, valid=valid
                )
        return points

    def _cases(self) -> Iterator[LinkCase]:
        """Yield all cases: for 2, 4, 8, ... and all ranks, and for one rank of each host."""
        for members in self._memberships():
            group = new_group(members, self.patience)
            host_group = new_group(members, self.patience, "gloo")
            mine = None
            if group is not None:
                place = members.index(self.rank)
                mine = Group(group, place, len(members), tuple(members))
            hosts = len({self.hosts[m] for m in members})
            across = f" on {hosts} hosts" if hosts > 1 else ""
            modes = [(m, op) for m in ("eager", "graph") for op in MEASURED]
            if self.device.type != "cuda":
                modes = [("eager", op) for op in MEASURED]
            elif hosts == 1:  # symmetric memory works inside one node only
                modes += [(m, "all_reduce") for m in self._offered(mine)]
            for mode, op in modes:
                for size in self.settings.sizes:
                    key = f"{op} {mode} x{len(members)}{across} bytes={size}"
                    yield LinkCase(key, op, mode, mine, host_group, len(members), hosts, size)

    def _offered(self, group: Group | None) -> list[str]:
        """Symmetric-memory methods that all ranks of a group support; every rank must call this."""
        self.rendezvous.heartbeat("the test of all-reduce over symmetric memory")
        mine = (
            list(METHODS)
            if group is None
            else list(offered(group, self.dtype, self.device, self.wait))
        )
        everybody: list[list[str]] = [[] for _ in range(self.world)]
        dist.all_gather_object(everybody, mine, group=self.control)
        return [m for m in METHODS if all(m in methods for methods in everybody)]

    def _memberships(self) -> list[list[int]]:
        powers = [2**i for i in range(1, self.world.bit_length()) if 2**i < self.world]
        groups = [list(range(size)) for size in [*powers, self.world]]
        firsts = [self.hosts.index(host) for host in dict.fromkeys(self.hosts)]
        if len(firsts) > 1 and firsts not in groups:
            groups.append(firsts)
        return groups

    def _measure_case(self, case: LinkCase, pass_index: int) -> None:
        """Check, time and journal one case; every rank must call this."""
        self.rendezvous.heartbeat(f"{case.op} of {case.bytes} bytes among {case.world_size} ranks")
        outcome: tuple[bool, list[float]] | None = None
        if case.group is not None:
            try:
                outcome = self._timed(case, case.group, pass_index)
            except (dist.DistError, RuntimeError) as error:
                if self.device.type == "cuda" and "not supported" in str(error).lower():
                    outcome = None  # an operation that the library lacks does not end the run
                else:
                    raise
        gathered: list[tuple[bool, list[float]] | None] = [None] * self.world
        dist.all_gather_object(gathered, outcome, group=self.control)
        if self.journal is None:
            return
        wrong = [r for r, g in enumerate(gathered) if g is not None and not g[0]]
        for rank in wrong:
            self.remarks.append(
                f"wrong data on rank {rank} ({self.hosts[rank]}) in {self.rendezvous.doing}"
            )
        if not any(g is not None for g in gathered):
            self.remarks.append(
                f"not measured: {self.rendezvous.doing} (not supported by the library)"
            )
        streams = [g[1] for g in gathered if g is not None]
        if streams:
            slowest = np.max(np.array(streams), axis=0)
            entry = Entry(
                key=pass_key(pass_index, case.key),
                point=link_point(
                    {"bytes": float(case.bytes)}, slowest, case.bytes, valid=not wrong
                ),
                samples_s=tuple(float(s) for s in slowest),
            )
            self.journal.append(entry)

    def _timed(self, case: LinkCase, group: Group, pass_index: int) -> tuple[bool, list[float]]:
        """Return whether the data were correct, and the duration of each sample here [s]."""
        items = items_for(case.op, case.bytes, group.size, self.dtype.itemsize)
        if case.mode in METHODS:
            buffers = make_symmetric(items, group, self.dtype, self.device)
            right = pass_index > 0 or symmetric_is_right(
                case.mode, items, group, buffers, self.wait
            )
            call = symmetric_call(case.mode, buffers, group)
        else:
            buffers = make_buffers(case.op, items, group, self.dtype, self.device)
            right = pass_index > 0 or is_right(case.op, items, group, buffers, self.wait)
            call = collective_call(case.op, buffers, group)
        self._sample(call, 1, group, 2)
        once = self._agree_on_largest(statistics.median(self._sample(call, 1, group, 3)), case)
        within = 1
        if case.mode != "eager":
            within = max(1, min(MOST_IN_GRAPH, math.ceil(GRAPH_S / once)))
            call = self._captured(call, within)
            self._sample(call, 1, group, 2)
            times = self._sample(call, 1, group, 3)
            once = self._agree_on_largest(statistics.median(times), case)
        runs = max(1, math.ceil(self.settings.sample_s / once))
        affordable = int(self.settings.budget_s / (runs * once))
        count = max(FEWEST_SAMPLES, min(self.settings.samples, affordable))
        return right, [s / within for s in self._sample(call, runs, group, count)]

    def _sample(self, call: Call, runs: int, group: Group, count: int = 1) -> list[float]:
        """[s] Take samples, each after all ranks have met, and return the time of one call."""
        return [self.timed(call, runs, group.group) for _ in range(count)]

    def timed(self, call: Call, runs: int, group: dist.ProcessGroup | None) -> float:
        """[s] Meet the ranks of a group, then time some calls and return the time of one.

        All ranks of the group must call this function. ``None`` is the group of all ranks.
        """
        if self.device.type != "cuda":
            self._meet(group)
            begin_s = time.perf_counter()
            for _ in range(runs):
                call()
            return (time.perf_counter() - begin_s) / runs
        begin, end = new_event(), new_event()
        self._meet(group)
        begin.record()
        for _ in range(runs):
            call()
        end.record()
        self.wait()
        return max(float(begin.elapsed_time(end)), 1e-6) * 1e-3 / runs

    def _meet(self, group: dist.ProcessGroup | None) -> None:
        """Let the ranks of a group wait for each other: on the host, or on the device."""
        if self.device.type != "cuda":
            dist.barrier(group=group)
            return
        dist.all_reduce(torch.zeros(1, device=self.device), group=group)

    def _captured(self, call: Call, count: int) -> Call:
        """Return the replay of a graph with some calls."""

        def record() -> None:
            for _ in range(count):
                call()

        self.wait()
        return capture(record).replay

    def wait(self) -> None:
        """Wait until the device has finished its work, with the time limit of the run."""
        wait_for_device(self.device, self.rendezvous.timeout_s)

    def _agree_on_largest(self, value: float, case: LinkCase) -> float:
        """Return the largest value of a case's ranks, which agree on it through their hosts."""
        largest = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=case.host_group)
        return float(largest.item())

    def _from_rank_0(self, value: list[str] | None) -> set[str]:
        box: list[list[str] | None] = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return set(box[0] or ())

    def _compare_ranks(self) -> None:
        """Time the same copies on each rank alone, because one slow rank slows every collective."""
        self.rendezvous.heartbeat("the copy test of each rank")
        x = torch.ones(REFERENCE_BYTES[self.device.type] // 4, device=self.device)
        y = torch.empty_like(x)
        times = [self._copies_s(x, y) for _ in range(COPY_SAMPLES + 1)]
        own: list[float] = [0.0] * self.world
        dist.all_gather_object(own, statistics.median(times[1:]), group=self.control)
        usual = statistics.median_low(own)
        for rank, seconds in enumerate(own):
            if seconds > SLOW_RANK * usual:
                remark = f"rank {rank} on {self.hosts[rank]} is slow: its own copies take "
                known = any(r.startswith(remark) for r in self.remarks)
                if not known:
                    self.remarks.append(f"{remark}{seconds / usual:.0f} times the median time")

    def _copies_s(self, x: torch.Tensor, y: torch.Tensor) -> float:
        """[s] Time some copies on this rank alone, without the launch of the first one."""
        if self.device.type != "cuda":
            begin_s = time.perf_counter()
            for _ in range(COPIES):
                y.copy_(x)
            return time.perf_counter() - begin_s
        begin, end = new_event(), new_event()
        begin.record()
        for _ in range(COPIES):
            y.copy_(x)
        end.record()
        self.wait()
        return float(begin.elapsed_time(end)) * 1e-3
