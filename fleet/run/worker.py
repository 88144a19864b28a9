"""Program that runs on a node: measure its devices, journal to the store, write the rows last.

Every launcher starts this same program, so a node measured under Slurm can be compared with one
measured under Ray. Each device has its own process: one that hangs or crashes does not affect the
others, and all devices work at the same time, as they do in production.

    rows = work_here(Work("/shared/fleet", "run1"), node_name())
"""

import datetime
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from groundspeed.fleet.node_names import CheckLevel, file_name
from groundspeed.profiles.errors import InputError

if TYPE_CHECKING:
    from groundspeed.fleet.history.store import Store

PROGRAM = (sys.executable, "-P", "-m", "groundspeed")

DEVICE_TIMEOUT_S = {"check": 300.0, "quick": 1800.0, "standard": 7200.0, "full": 14400.0}
"""[s] Time limit for one device, by check level: many times what a healthy device needs."""


KILLED_S = 10.0
"""[s] Time in which a killed process must end."""


@dataclass(frozen=True)
class Work:
    """Work that one node does in a run."""

    store: str
    run: str
    level: CheckLevel = "check"
    device: str | None = None
    """Devices as ``--device`` takes them. None: all devices of the node."""
    allow_busy: bool = False

    def command(self, node: str | None = None) -> list[str]:
        """Return the arguments of the Python interpreter with which a launcher starts this work."""
        options = ["--store", self.store, "--run", self.run, "--level", self.level]
        options += ["--device", self.device] if self.device else []
        options += ["--allow-busy"] if self.allow_busy else []
        options += ["--node", node] if node is not None else []
        return ["-P", "-m", "groundspeed", "fleet", "work", *options]


def node_name() -> str:
    """Return the scheduler's name for this node, or else the host name."""
    for variable in ("SLURMD_NODENAME", "GROUNDSPEED_NODE"):
        if name := os.environ.get(variable):
            return name
    return socket.gethostname()


def work_here(work: Work, node: str) -> pd.DataFrame:
    """Measure this node and write its rows; if they exist already, return them at once.

    Returns
    -------
    DataFrame
        Columns as :data:`groundspeed.fleet.history.store.COLUMNS`.

    Raises
    ------
    InputError
        If no device could be measured, or the store cannot be written.
    """
    from groundspeed.fleet.history.store import Store

    store = Store(work.store)
    if node in store.nodes_done(work.run):
        return store.rows((work.run,)).query("node == @node")
    where = ("unfinished", work.run, file_name(node))
    with store.folder(*where) as folder:
        rows = (
            check_rows(work, node, folder)
            if work.level == "check"
            else _calibrated(work, node, folder, store)
        )
    store.write_rows(work.run, node, rows)
    store.forget(*where)
    return rows


def _devices(requested: str | None) -> list[str]:
    """Return the requested devices, or else every GPU of this node, or the CPU if it has no GPU."""
    if requested not in (None, "all"):
        return str(requested).split(",")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [f"cuda:{i}" for i in range(count)] or ["cpu"]


def check_rows(
    work: Work, node: str, folder: Path, *, timeout_s: float = DEVICE_TIMEOUT_S["check"]
) -> pd.DataFrame:
    """Check every device of this node, all at the same time.

    Parameters
    ----------
    work : Work
    node : str
    folder : Path
        Folder for the journals.
    timeout_s : float
        [s] Time limit after which a device counts as failed. Default: 300.

    Returns
    -------
    DataFrame
        Rows of all devices. A device that could not be checked has one row without a value, with
        the reason in ``note``.

    Raises
    ------
    InputError
        If no device could be checked.
    """
    devices = _devices(work.device)
    for device in devices:
        _index(device)
    journals = [folder / f"{file_name(d)}.jsonl" for d in devices]
    extra = ["--allow-busy"] if work.allow_busy else []
    commands = [
        [*PROGRAM, "fleet", "check-device", "--device", d, "--journal", str(j), *extra]
        for d, j in zip(devices, journals, strict=True)
    ]
    answers = run_all(commands, timeout_s)
    date = _now()
    records: list[dict[str, object]] = []
    whys = []
    for device, answer in zip(devices, answers, strict=True):
        index = _index(device)
        document = answer.document
        if document is None:
            whys.append(f"{device}: {answer.reason}")
            failed = {"gpu": index, "metric": "check", "value": None, "unit": ""}
            records.append({**failed, "note": answer.reason})
            continue
        about = {
            "sku": document["sku"],
            "memory": f"{document['memory_bytes']:.0f}",
            "power_cap": _text(document["power_cap_w"]),
            "partition": _text(document["partition"]),
            "driver": _text(document["driver"]),
            "benchmark_version": document["benchmark_version"],
            **document.get("settings", {}),
        }
        records += [
            {"gpu": index, **about, **{k: row[k] for k in ("metric", "value", "unit", "note")}}
            for row in document["rows"]
        ]
    if len(whys) == len(devices):
        raise InputError(f"no device could be measured ({'; '.join(whys)})", where=node)
    return _frame(records, work.run, node, date)


def _index(device: str) -> int:
    """Return the index of a device, e.g. 3 for ``cuda:3``."""
    number = device.partition(":")[2] or "0"
    if not number.isdigit():
        raise InputError(
            f"'{device}' is not a device", where="--device", remedy="give cpu or cuda:0,cuda:1"
        )
    return int(number)


def _calibrated(work: Work, node: str, folder: Path, store: "Store") -> pd.DataFrame:
    """Calibrate every device, store the profiles, and return their rates as rows."""
    from groundspeed.fleet.reading.fleet_files import profile_rows
    from groundspeed.profiles.store import list_profiles

    devices = _devices(work.device)
    mode = [] if work.level == "standard" else [f"--{work.level}"]
    device = "all" if len(devices) > 1 and work.device is None else ",".join(devices)
    extra = ["--allow-busy"] if work.allow_busy else []
    options = ["--device", device, *mode, "--profile-dir", str(folder), "--quiet", *extra]
    command = [*PROGRAM, "calibrate", *options]
    (answer,) = run_all([command], DEVICE_TIMEOUT_S[work.level])
    date = _now()
    records = []
    for path, profile in list_profiles(folder):
        if isinstance(profile, InputError):
            continue
        where = ("profiles", work.run, file_name(node), path.name)
        store.write(path.read_bytes(), *where)
        records += profile_rows(profile)
    if not records:
        raise InputError(f"no device could be measured ({answer.reason})", where=node)
    return _frame(records, work.run, node, date)


def _frame(records: Sequence[dict[str, object]], run: str, node: str, date: str) -> pd.DataFrame:
    frame = pd.DataFrame.from_records(list(records))
    frame["run"], frame["node"], frame["date_utc"] = run, node, date
    frame["gpu"] = frame["gpu"].astype("Int64")
    frame["value"] = frame["value"].astype("float64")
    return frame


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Answer:
    """JSON object that a program printed, or the reason why there is none."""

    document: dict[str, Any] | None
    reason: str = ""


def run_all(commands: Sequence[Sequence[str]], timeout_s: float) -> list[Answer]:
    """Run programs in parallel.

    Returns
    -------
    list of Answer
        For each program, the JSON object that it printed or the last line of its error output.
    """
    started = [
        subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for c in commands
    ]
    deadline = time.monotonic() + timeout_s
    try:
        return [_answer(process, deadline) for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                process.terminate()


def _answer(process: subprocess.Popen[str], deadline: float) -> Answer:
    try:
        out, err = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        try:
            process.communicate(timeout=KILLED_S)
        except subprocess.TimeoutExpired:
            # A process that waits for a driver (state D) does not even die when it is killed.
            return Answer(
                None,
                "no result within the time limit, and it cannot be killed: the device or its "
                "driver hangs, reset the GPU or the node",
            )
        return Answer(None, "no result within the time limit: stopped")
    said = err.strip().splitlines()
    reason = (
        said[-1].removeprefix("groundspeed: ")
        if said
        else f"it exited with code {process.returncode}"
    )
    if process.returncode != 0:
        return Answer(None, reason)
    try:
        document = json.loads(out)
    except ValueError:
        return Answer(None, "its output is not a JSON object")
    return (
        Answer(document)
        if isinstance(document, dict)
        else Answer(None, "its output is not a JSON object")
    )
