"""Slurm launcher: one job array with one element per node.

The array is submitted on hold, each element is assigned to its node, then all are released. So the
element of a node that was drained meanwhile waits for that node and does not run on another one.
The node's program writes to the store, which must be on a file system that the nodes and this
machine share. Slurm is only asked whether an element still exists; accounting (``sacct``) is not
needed.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from groundspeed.fleet.history.store import Store
from groundspeed.fleet.run.launcher import Event, OnEvent
from groundspeed.fleet.run.worker import Work
from groundspeed.profiles.errors import InputError

POLL_S = 1.0
GRACE_S = 15.0
"""[s] Wait after a job has ended, because a shared file system may show its files later."""

UNAVAILABLE_S = 30.0
"""[s] Time limit after which an element is cancelled if its node is still unavailable."""

GONE = ("down", "drain", "drng", "fail", "maint", "unk", "boot", "not_responding")


@dataclass
class SlurmLauncher:
    """Launcher that submits a Slurm job array and waits for it.

    Parameters
    ----------
    options : sequence of str
        Additional options for ``sbatch``, e.g. ``--partition=gpu``, ``--account=ops``. Default:
        none.
    python : str
        Path of the Python interpreter on the nodes. Default: the path of this interpreter.
    """

    options: Sequence[str] = ()
    python: str = sys.executable
    name: str = field(default="slurm", init=False)

    def nodes(self) -> tuple[str, ...]:
        """Return the nodes that are neither down nor drained."""
        partition = [o for o in self.options if o.startswith(("--partition=", "-p"))]
        output = _slurm("sinfo", "--noheader", "--Node", "--format=%N %t", *partition)
        names = dict.fromkeys(
            line.split()[0]
            for line in output.splitlines()
            if line.split() and not line.split()[1].startswith(GONE)
        )
        return tuple(names)

    def run(self, work: Work, nodes: Sequence[str], on_event: OnEvent) -> None:
        """Submit the job array, follow its elements, and cancel what is left at the end."""
        if not nodes:
            return
        store = Store(work.store)
        if not store.is_folder:
            logs = "/dev/null"
        else:
            store.write(b"", "logs", work.run, ".slurm")
            logs = os.path.abspath(f"{work.store}/logs/{work.run}/%a.log")  # noqa: PTH100
        script = "#!/bin/sh\nexec " + shlex.join([self.python, *work.command()]) + "\n"
        job = _slurm(
            "sbatch", "--parsable", "--hold", f"--array=0-{len(nodes) - 1}", "--nodes=1",
            "--ntasks=1", "--exclusive", "--no-requeue", "--job-name=groundspeed",
            f"--output={logs}", "--export=ALL", *self.options, stdin=script,
        ).strip().split(";")[0]  # fmt: skip
        try:
            for i, node in enumerate(nodes):
                _slurm("scontrol", "update", f"JobId={job}_{i}", f"ReqNodeList={node}")
            _slurm("scontrol", "release", job)
            self._follow(store, work, job, dict(enumerate(nodes)), on_event)
        finally:
            subprocess.run(["scancel", "--quiet", job], check=False, capture_output=True)

    def _follow(
        self, store: Store, work: Work, job: str, waiting: dict[int, str], on_event: OnEvent
    ) -> None:
        started: set[int] = set()
        stuck: dict[int, float] = {}
        ended: dict[int, float] = {}
        while waiting:
            done = set(store.nodes_done(work.run))
            for i in [i for i, node in waiting.items() if node in done]:
                on_event(Event(waiting.pop(i), "done"))
            states = _queue(job)
            if states is None:
                time.sleep(POLL_S)
                continue
            now = time.monotonic()
            for i in list(waiting):
                state, reason = states.get(i, ("GONE", ""))
                if state in ("RUNNING", "COMPLETING"):
                    stuck.pop(i, None)
                    if i not in started:
                        started.add(i)
                        on_event(Event(waiting[i], "started"))
                elif state == "PENDING" and "NotAvail" in reason:
                    if now - stuck.setdefault(i, now) > UNAVAILABLE_S:
                        _slurm("scancel", f"{job}_{i}")
                        on_event(Event(waiting.pop(i), "lost", f"Slurm: {reason}"))
                elif state != "PENDING" and now - ended.setdefault(i, now) > GRACE_S:
                    on_event(Event(waiting.pop(i), "lost", _why(job, i, store, work)))
            if waiting:
                time.sleep(POLL_S)


def _queue(job: str) -> dict[int, tuple[str, str]] | None:
    """Return state and reason of each element that Slurm still lists; None without an answer."""
    finished = subprocess.run(
        ["squeue", "--noheader", "--array", f"--jobs={job}", "--format=%K|%T|%r"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if (
        finished.returncode and "Invalid job id" not in finished.stderr
    ):  # "Invalid job id": the job ended long ago, which is no error
        return None
    rows = [line.split("|") for line in finished.stdout.splitlines() if line.count("|") == 2]
    return {int(i): (state, reason) for i, state, reason in rows if i.isdigit()}


def _why(job: str, index: int, store: Store, work: Work) -> str:
    """Return why an element ended without a result: its last log line, or its state in Slurm."""
    log = (store.read("logs", work.run, f"{index}.log") or b"").decode(errors="replace")
    said = [line for line in log.splitlines() if line.strip()]
    if said:
        return said[-1].removeprefix("groundspeed: ")
    output = subprocess.run(
        ["scontrol", "--oneliner", "show", "job", f"{job}_{index}"],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    facts = dict(part.split("=", 1) for part in output.split() if "=" in part)
    state, code = facts.get("JobState", "ended"), facts.get("ExitCode", "")
    return f"Slurm: {state} {code}".strip()


def _slurm(*command: str, stdin: str | None = None) -> str:
    try:
        finished = subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=False, timeout=60.0
        )
    except FileNotFoundError as error:
        raise InputError(
            f"{command[0]} is not installed here", remedy="run this on a machine that has Slurm"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{command[0]} does not answer", remedy="check slurmctld") from error
    if finished.returncode:
        reason = (finished.stderr.strip() or finished.stdout.strip()).splitlines() or [
            "no reason given"
        ]
        raise InputError(f"{command[0]} failed ({reason[-1]})")
    return finished.stdout
