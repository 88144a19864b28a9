"""Start a real Slurm cluster on this machine: munge, one controller and three nodes.

Each daemon is a process of its own. Debian's packages ``slurm-wlm`` and ``munge`` are sufficient.
All files are in the given folder, so the cluster can run on a machine that belongs to another
Slurm cluster.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from program import PATIENCE_S

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "sinfo")
NODES = ("n1", "n2", "n3")


def missing() -> list[str]:
    """Return the names of the required programs that are not installed."""
    return [p for p in PROGRAMS if shutil.which(p, path=_path()) is None]


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [int(s.getsockname()[1]) for s in sockets]
    finally:
        for s in sockets:
            s.close()


@dataclass
class SlurmCluster:
    """A controller and three nodes.

    Parameters
    ----------
    folder : Path
        Folder for the configuration, state and logs of all daemons.
    extra : str
        Additional lines for ``slurm.conf``. Default: none.
    """

    folder: Path
    extra: str = ""
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def conf(self) -> Path:
        """Path of ``slurm.conf``, the value of ``SLURM_CONF``."""
        return self.folder / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for Slurm's commands and daemons."""
        return {**os.environ, "PATH": _path(), "SLURM_CONF": str(self.conf)}

    def start(self) -> None:
        """Start munge, the controller and the nodes, and wait until all nodes are idle."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self.conf.write_text(self._conf())
        self._daemon(
            "munged", "munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket",
            f"--key-file={key}", f"--pid-file={self.folder}/munge.pid",
            f"--log-file={self.folder}/munge.log", f"--seed-file={self.folder}/munge.seed",
        )  # fmt: skip
        self.wait_for((self.folder / "munge.socket").exists, "munge")
        self._daemon("slurmctld", "slurmctld", "-D", "-f", str(self.conf))
        self.wait_for(lambda: "UP" in self.run("scontrol", "ping", check=False), "slurmctld")
        for node in NODES:
            self._daemon(node, "slurmd", "-D", "-N", node, "-f", str(self.conf))
        for node in NODES:
            self.wait_for(lambda node=node: self.state(node) == "idle", node)  # type: ignore[misc]

    def _conf(self) -> str:
        control, *ports = _free_ports(1 + len(NODES))
        host = socket.gethostname()
        for name in ("state", *(f"spool-{n}" for n in NODES)):
            (self.folder / name).mkdir(exist_ok=True)
        settings = {
            "ClusterName": "groundspeed",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": control,
            "SlurmUser": "root",
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={self.folder}/munge.socket",
            "CryptoType": "crypto/munge",
            "ProctrackType": "proctrack/pgid",
            "TaskPlugin": "task/none",
            "SelectType": "select/cons_tres",
            "StateSaveLocation": f"{self.folder}/state",
            "SlurmdSpoolDir": f"{self.folder}/spool-%n",
            "SlurmctldPidFile": f"{self.folder}/slurmctld.pid",
            "SlurmdPidFile": f"{self.folder}/slurmd-%n.pid",
            "SlurmctldLogFile": f"{self.folder}/slurmctld.log",
            "SlurmdLogFile": f"{self.folder}/slurmd-%n.log",
            "ReturnToService": 2,
            "SlurmdTimeout": 20,
            "InactiveLimit": 0,
            "SwitchType": "switch/none",
            "MpiDefault": "none",
        }
        lines = [f"{k}={v}" for k, v in settings.items()]
        lines += [
            f"NodeName={n} NodeHostname={host} NodeAddr=127.0.0.1 Port={p} CPUs=1 State=UNKNOWN"
            for n, p in zip(NODES, ports, strict=True)
        ]
        lines.append("PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP")
        return "\n".join([*lines, self.extra, ""])

    def _daemon(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("wb") as out:
            self.daemons[name] = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=self.environment
            )

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition is true.

        Raises
        ------
        TimeoutError
            If the condition stays false; the message ends with the last lines of every log.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                logs = [*self.folder.glob("*.log"), *self.folder.glob("*.out")]
                ends = [f"{p.name}: {p.read_text(errors='replace')[-800:]}" for p in logs]
                raise TimeoutError(what + "\n" + "\n".join(ends))
            time.sleep(0.2)

    def run(self, *command: str, check: bool = True) -> str:
        """Run a Slurm command and return its standard output."""
        finished = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=check
        )
        return finished.stdout

    def state(self, node: str) -> str:
        """Return a node's state in Slurm's short form, without suffixes such as ``*``."""
        output = self.run("sinfo", "--noheader", "--Node", f"--nodes={node}", "--format=%t")
        return output.strip().rstrip("*~#!%$@^-+")

    def reason(self, node: str) -> str:
        """Return the reason for which a node is drained."""
        return self.run("sinfo", "--noheader", "--Node", f"--nodes={node}", "--format=%E").strip()

    def stop(self) -> None:
        """Stop all daemons."""
        for name in (*NODES, "slurmctld", "munged"):
            if process := self.daemons.pop(name, None):
                process.terminate()
                try:
                    process.wait(60.0)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
