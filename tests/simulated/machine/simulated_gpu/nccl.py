"""Communication among the processes of a simulated machine, in the way that NCCL works.

- An operation is launched into a stream and returns at once; it begins on the device when all ranks
  of its group have arrived there.
- A group builds its communicator in its first operation, which needs all its ranks: a rank that
  waits for one that does something else waits for ever.
- A watchdog kills a process whose eager operation has not finished within the group's timeout; it
  does not see operations inside a graph.

Ranks tell each other the times at which they arrive through the store of their rendezvous. All
clocks of the machine begin at the same value, so that the times can be compared.

``Machine.faults`` may hold ``hang`` (a rank that never arrives in an operation of some bytes),
``slow_link`` (a pair of ranks, with a rate), ``dies`` (a rank that is killed in an operation).
"""

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from simulated_gpu.tensors import on_gpu

POLL_S = 2e-4
INIT_S = 0.2
"""[s] Time to build a communicator."""


class Communicator:
    """One group of ranks; a real gloo group stands behind it, for code on the host."""

    def __init__(self, sim: Any, group: dist.ProcessGroup, timeout_s: float) -> None:
        self.sim = sim
        self.group = group
        self.ranks = dist.get_process_group_ranks(group)
        self.name = f"sim-{'-'.join(map(str, self.ranks))}-{_count(self.ranks)}"
        self.timeout_s = timeout_s
        self.ready = False
        self.sequence = 0
        self.pair_sequence: dict[tuple[int, int], int] = {}

    @property
    def store(self) -> Any:
        return dist.distributed_c10d._get_default_store()

    def require_ready(self) -> None:
        """Build the communicator: blocks the host until all ranks of the group take part."""
        if self.ready:
            return
        me = dist.get_rank()
        self.store.set(f"{self.name}/init/{me}", b"1")
        watch = Watchdog(self.timeout_s)
        while not all(self.store.check([f"{self.name}/init/{r}"]) for r in self.ranks):
            time.sleep(POLL_S)
        watch.stop()
        self.ready = True
        self.sim.clock.advance(self.sim.clock.now_s + INIT_S)

    def launch(self, op: str, moved: float, parts: list["Part"]) -> None:
        """Launch an operation; each part begins when the last of its ranks has arrived."""
        device = self.sim.device()
        device.require_alive()
        stream = self.sim.stream(self.sim.current)
        if device.capture is not None:
            device.capture.append(InGraph(self, op, moved, parts[0].ranks, parts[0].link_s))
            return
        self.sim.clock.advance(self.sim.clock.now_s + device.chip.launch_host_s)
        self.enqueue(op, moved, parts, stream, watched=True)

    def enqueue(
        self, op: str, moved: float, parts: list["Part"], stream: Any, *, watched: bool
    ) -> None:
        """Append an operation to a stream, to the chain of equal ones before it if there is one."""
        last = stream.waiting[-1] if stream.waiting else None
        about = (op, moved, [p.ranks for p in parts], watched)
        if isinstance(last, Chain) and last.about == about and last.begin_s is None:
            last.count += 1
        else:
            stream.waiting.append(Chain(self, about, parts, stream, self.sim.clock.now_s))

    def next_key(self) -> str:
        self.sequence += 1
        return f"{self.name}/{self.sequence}"

    def pair_key(self, a: int, b: int) -> str:
        number = self.pair_sequence[a, b] = self.pair_sequence.get((a, b), 0) + 1
        return f"{self.name}/{a}>{b}/{number}"


@dataclass(frozen=True)
class Part:
    """A transfer among some ranks, and the key under which they tell of their arrival."""

    key: str
    ranks: list[int]
    link_s: float


@dataclass(frozen=True)
class InGraph:
    """A collective inside a captured graph."""

    communicator: Communicator
    op: str
    moved: float
    ranks: list[int]
    link_s: float

    def enqueue(self, stream: Any) -> None:
        """Append one replay to a stream; no watchdog sees it."""
        part = Part(self.communicator.next_key(), self.ranks, self.link_s)
        self.communicator.enqueue(self.op, self.moved, [part], stream, watched=False)


@dataclass
class Chain:
    """Equal operations in a row: their ranks meet in the first one and go on together."""

    communicator: Communicator
    about: tuple[str, float, list[list[int]], bool]
    parts: list[Part]
    stream: Any
    launched_s: float
    count: int = 1
    begin_s: float | None = None
    hangs: bool = False
    watch: "Watchdog | None" = None

    def __call__(self) -> bool:
        """Resolve the chain; False as long as a rank has not arrived."""
        sim, store, me = self.communicator.sim, self.communicator.store, dist.get_rank()
        op, moved, _, watched = self.about
        if self.begin_s is None:
            self.watch = Watchdog(self.communicator.timeout_s) if watched else None
            _fault(sim, "dies", op, moved, me, act=True)
            self.hangs = _fault(sim, "hang", op, moved, me, watched=watched)
            self.begin_s = max(self.stream.end_s, self.launched_s)
            for part in self.parts if not self.hangs else ():
                store.set(f"{part.key}/{me}", pickle.dumps(self.begin_s))
        keys = [f"{part.key}/{r}" for part in self.parts for r in part.ranks]
        if self.hangs or not store.check(keys):
            time.sleep(POLL_S)
            return False
        ends = [
            self.count * part.link_s
            + max(pickle.loads(store.get(f"{part.key}/{r}")) for r in part.ranks)
            for part in self.parts
        ]
        self.stream.end_s = max(ends)
        self.stream.queued.append(self.stream.end_s)
        if self.watch is not None:
            self.watch.stop()
        return True


class Watchdog:
    """Kills this process with SIGABRT, as NCCL's does, unless it is stopped in time."""

    def __init__(self, timeout_s: float) -> None:
        self._timer = threading.Timer(timeout_s, lambda: os.kill(os.getpid(), signal.SIGABRT))
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        self._timer.cancel()


def _fault(
    sim: Any, kind: str, op: str, moved: float, rank: int, *, act: bool = False,
    watched: bool = True,
) -> bool:  # fmt: skip
    for fault in sim.machine.faults:
        if (
            fault["kind"] == kind and fault["rank"] == rank and fault["op"] == op
            and fault.get("bytes", moved) == moved and fault.get("watched", watched) == watched
        ):  # fmt: skip
            if act:
                os.kill(os.getpid(), signal.SIGKILL)
            return True
    return False


_MADE: dict[tuple[int, ...], int] = {}


def _count(ranks: list[int]) -> int:
    _MADE[tuple(ranks)] = _MADE.get(tuple(ranks), 0) + 1
    return _MADE[tuple(ranks)]


TRAFFIC: dict[str, Callable[[int], float]] = {
    "all_reduce": lambda n: 2.0 * (n - 1) / n,
    "all_gather": lambda n: (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "alltoall": lambda n: (n - 1) / n,
    "broadcast": lambda n: 1.0,
}
"""Bytes that cross the slowest link, per byte of the message."""


def replace_communication(sim: Any) -> None:
    """Let ``nccl`` mean the simulated communication; gloo stays what it is."""
    real = {
        name: getattr(dist, name)
        for name in (
            "init_process_group", "new_group", "all_reduce", "broadcast", "all_to_all_single",
            "barrier", "batch_isend_irecv", "destroy_process_group", "all_gather_into_tensor",
            "reduce_scatter_tensor",
        )
    }  # fmt: skip
    known: dict[Any, Communicator] = {}

    def init_process_group(backend: str, *args: Any, **kwargs: Any) -> None:
        if backend != "nccl":
            return real["init_process_group"](backend, *args, **kwargs)
        limit: timedelta = kwargs.pop("timeout")
        real["init_process_group"]("gloo", *args, timeout=timedelta(days=1), **kwargs)
        default = dist.distributed_c10d._get_default_group()
        known[default] = Communicator(sim, default, limit.total_seconds())
        return None

    def new_group(ranks: Any = None, timeout: Any = None, backend: Any = None, **kw: Any) -> Any:
        default = dist.distributed_c10d._get_default_group()
        if backend == "gloo" or default not in known:
            return real["new_group"](ranks, timeout=timeout, backend=backend, **kw)
        group = real["new_group"](ranks, timeout=timedelta(days=1), backend="gloo", **kw)
        if isinstance(group, dist.ProcessGroup):
            known[group] = Communicator(sim, group, timeout.total_seconds())
        return group

    def of(group: Any) -> Communicator:
        return known[group or dist.distributed_c10d._get_default_group()]

    def collective(op: str, tensor: torch.Tensor, group: Any) -> None:
        communicator = of(group)
        communicator.require_ready()
        size = len(communicator.ranks)
        moved = float(tensor.numel() * tensor.itemsize)
        chip = sim.device().chip
        rate = min(sim.machine.chip_of(r).peer_bytes_per_s for r in communicator.ranks)
        link_s = chip.peer_latency_s + TRAFFIC[op](size) * moved / rate
        # A captured operation gets its keys in each replay.
        key = "" if sim.device().capture is not None else communicator.next_key()
        communicator.launch(op, moved, [Part(key, communicator.ranks, link_s)])

    def wrapped(op: str, name: str, which: int) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            tensors = [a for a in args if isinstance(a, torch.Tensor)]
            if not any(map(on_gpu, tensors)):
                return real[name](*args, **kwargs)
            return collective(op, tensors[which], kwargs.get("group"))

        return call

    def batch(operations: list[Any]) -> list[Any]:
        if not any(on_gpu(o.tensor) for o in operations):
            return list(real["batch_isend_irecv"](operations))
        communicator = of(operations[0].group)
        communicator.require_ready()
        me = dist.get_rank()
        parts, moved = [], 0.0
        for operation in operations:
            sends = operation.op is dist.isend
            a, b = (me, operation.peer) if sends else (operation.peer, me)
            moved = float(operation.tensor.numel() * operation.tensor.itemsize)
            link_s = sim.device().chip.peer_latency_s + moved / _pair_rate(sim, a, b)
            parts.append(Part(communicator.pair_key(a, b), [a, b], link_s))
        communicator.launch("p2p", moved, parts)
        return [_Done()]

    def barrier(group: Any = None, **kwargs: Any) -> Any:
        if (group or dist.distributed_c10d._get_default_group()) in known:
            raise RuntimeError("the simulation has no barrier on the device: use an all-reduce")
        return real["barrier"](group=group, **kwargs)

    def p2p(op: Any, tensor: Any, peer: Any = None, group: Any = None, *a: Any, **k: Any) -> Any:
        if not on_gpu(tensor):
            return real_p2p(op, tensor, peer, group, *a, **k)
        return _Transfer(op, tensor, peer, group)

    real_p2p = dist.P2POp
    replaced = {
        "init_process_group": init_process_group,
        "new_group": new_group,
        "all_reduce": wrapped("all_reduce", "all_reduce", 0),
        "broadcast": wrapped("broadcast", "broadcast", 0),
        "all_to_all_single": wrapped("alltoall", "all_to_all_single", 1),
        "all_gather_into_tensor": wrapped("all_gather", "all_gather_into_tensor", 0),
        "all_gather_single": wrapped("all_gather", "all_gather_into_tensor", 0),
        "reduce_scatter_tensor": wrapped("reduce_scatter", "reduce_scatter_tensor", 1),
        "reduce_scatter_single": wrapped("reduce_scatter", "reduce_scatter_tensor", 1),
        "batch_isend_irecv": batch,
        "barrier": barrier,
        "P2POp": p2p,
    }
    for name, value in replaced.items():
        setattr(dist, name, value)


def _pair_rate(sim: Any, a: int, b: int) -> float:
    for fault in sim.machine.faults:
        if fault["kind"] == "slow_link" and {a, b} == set(fault["pair"]):
            return float(fault["bytes_per_s"])
    return float(min(sim.machine.chip_of(r).peer_bytes_per_s for r in (a, b)))


class _Done:
    def wait(self) -> None:
        """Return at once: the stream waits, not the host."""


class _Transfer:
    def __init__(self, op: Any, tensor: torch.Tensor, peer: int, group: Any) -> None:
        self.op, self.tensor, self.peer, self.group = op, tensor, peer, group
