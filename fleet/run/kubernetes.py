"""Kubernetes launcher: an Indexed Job with one pod per node, or a DaemonSet for repeated checks.

The manifest is printed, so that it can be reviewed and committed, or applied with ``kubectl``. The
pods of a job have anti-affinity, so each runs on a different node; a pod gets the name of its node
from the downward API.
"""

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from groundspeed.fleet.history.store import Store
from groundspeed.fleet.run.launcher import Event, OnEvent
from groundspeed.fleet.run.worker import DEVICE_TIMEOUT_S, Work
from groundspeed.profiles.errors import InputError

LABEL = "groundspeed-run"
HOSTNAME = "kubernetes.io/hostname"
MOUNT = "/groundspeed"
POLL_S = 2.0
PLACEMENT_S = 900.0
"""[s] Time in which a pod must be scheduled and pull its image."""
GPU_RESOURCES = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu"}


@dataclass(frozen=True)
class PodOptions:
    """Options of a pod besides the program that it runs."""

    image: str
    gpus: int = 0
    """Number of GPUs of each node. 0: check the CPU."""
    vendor: str = "nvidia"
    namespace: str | None = None
    claim: str | None = None
    """Name of the PersistentVolumeClaim that holds the store. None: the store is a URL."""
    selector: tuple[str, ...] = ()
    """``key=value`` labels that a node must have."""
    tolerate: bool = False
    """Run on tainted nodes too, because a node that was taken out of service needs the check."""


def job_manifest(work: Work, nodes: Sequence[str], count: int, pod: PodOptions) -> dict[str, Any]:
    """Return the manifest of an Indexed Job with one pod per node.

    Parameters
    ----------
    work : Work
    nodes : sequence of str
        Names of the nodes to measure. Empty: any ``count`` nodes.
    count : int
        Number of pods.
    pod : PodOptions
    """
    labels = {"app.kubernetes.io/name": "groundspeed", LABEL: work.run}
    affinity: dict[str, Any] = {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"labelSelector": {"matchLabels": {LABEL: work.run}}, "topologyKey": HOSTNAME}
            ]
        }
    }
    if nodes:
        affinity["nodeAffinity"] = _one_of(nodes)
    template = _template(work.command(), labels, pod, store=work.store)
    template["spec"] |= {"restartPolicy": "Never", "affinity": affinity}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(job_name(work.run), labels, pod),
        "spec": {
            "completionMode": "Indexed",
            "completions": count,
            "parallelism": count,
            "backoffLimitPerIndex": 1,
            "maxFailedIndexes": count,
            # Without a deadline, a job with a pod that cannot be scheduled would never end.
            "activeDeadlineSeconds": int(PLACEMENT_S + 2.0 * DEVICE_TIMEOUT_S[work.level]),
            "ttlSecondsAfterFinished": 24 * 3600,
            "template": template,
        },
    }


def daemonset_manifest(store: str, pod: PodOptions, *, every_s: int) -> dict[str, Any]:
    """Return a DaemonSet that checks its node every ``every_s`` seconds and serves Prometheus."""
    labels = {"app.kubernetes.io/name": "groundspeed", LABEL: "healthcheck"}
    program = ["-P", "-m", "groundspeed", "fleet", "healthcheck", "--store", store]
    program += ["--every", str(every_s), "--port", str(METRICS_PORT), "--bind", "0.0.0.0"]
    template = _template(program, labels, replace(pod, gpus=0), store=store)
    _see_gpus(template["spec"], pod)
    template["metadata"]["annotations"] = {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(METRICS_PORT),
    }
    template["spec"]["containers"][0]["ports"] = [
        {"name": "metrics", "containerPort": METRICS_PORT}
    ]
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": _metadata("groundspeed-healthcheck", labels, pod),
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }


def _see_gpus(spec: dict[str, Any], pod: PodOptions) -> None:
    """Let a pod see all GPUs of its node without requesting them.

    A pod that requested the GPUs would block them for all other pods for ever. While other pods use
    the GPUs, a check reports UNKNOWN and measures nothing.
    """
    container = spec["containers"][0]
    if pod.gpus and pod.vendor == "nvidia":
        spec["runtimeClassName"] = "nvidia"
        container["env"] += [
            {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"},
            {"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "compute,utility"},
        ]
    elif pod.gpus:
        container["securityContext"] = {"privileged": True}
        for name, path in (("kfd", "/dev/kfd"), ("dri", "/dev/dri")):
            spec.setdefault("volumes", []).append({"name": name, "hostPath": {"path": path}})
            mounts = container.setdefault("volumeMounts", [])
            mounts.append({"name": name, "mountPath": path})


METRICS_PORT = 9418
"""Port on which the pods of the DaemonSet serve metrics to Prometheus."""


def job_name(run: str) -> str:
    """Return a run's name as Kubernetes allows it: lower-case letters, digits and dashes."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in run.lower())
    return "groundspeed-" + plain[:40].strip("-")


def _one_of(nodes: Sequence[str]) -> dict[str, Any]:
    # Select by metadata.name: the kubernetes.io/hostname label may differ from the node name.
    terms = [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
        for node in nodes
    ]
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}


def _metadata(name: str, labels: dict[str, str], pod: PodOptions) -> dict[str, Any]:
    return {
        "name": name,
        "labels": labels,
        **({"namespace": pod.namespace} if pod.namespace else {}),
    }


def _template(
    program: Sequence[str], labels: dict[str, str], pod: PodOptions, *, store: str
) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": "groundspeed",
        "image": pod.image,
        "command": ["python3", *program],
        "env": [
            {
                "name": "GROUNDSPEED_NODE",
                "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}},
            }
        ],
    }
    spec: dict[str, Any] = {"containers": [container]}
    if pod.gpus:
        amount = {GPU_RESOURCES[pod.vendor]: pod.gpus}
        container["resources"] = {"limits": amount}
    if pod.claim is not None:
        container["volumeMounts"] = [{"name": "store", "mountPath": MOUNT}]
        claim = {"claimName": pod.claim}
        spec["volumes"] = [{"name": "store", "persistentVolumeClaim": claim}]
    elif "://" not in store:
        raise InputError(
            f"pods cannot access the local folder '{store}'",
            where="--store",
            remedy=f"give --claim NAME with --store {MOUNT}/..., or a URL such as s3://bucket/fleet",
        )
    if pod.selector:
        spec["nodeSelector"] = dict(label.split("=", 1) for label in pod.selector)
    if pod.tolerate:
        spec["tolerations"] = [{"operator": "Exists"}]
    return {"metadata": {"labels": labels}, "spec": spec}


@dataclass
class KubernetesLauncher:
    """Launcher that applies an Indexed Job and waits for it.

    Parameters
    ----------
    pod : PodOptions
    count : int
        Number of nodes, if their names are not given. Default: 0.
    """

    pod: PodOptions
    count: int = 0
    name: str = field(default="kubernetes", init=False)

    def nodes(self) -> tuple[str, ...]:
        """Return the nodes that are ready and schedulable."""
        selector = [f"--selector={','.join(self.pod.selector)}"] if self.pod.selector else []
        listing = json.loads(_kubectl("get", "nodes", "--output=json", *selector))
        names = []
        for item in listing["items"]:
            conditions = {c["type"]: c["status"] for c in item["status"].get("conditions", [])}
            if conditions.get("Ready") == "True" and not item["spec"].get("unschedulable"):
                names.append(str(item["metadata"]["name"]))
        return tuple(names)

    def run(self, work: Work, nodes: Sequence[str], on_event: OnEvent) -> None:
        """Apply the job; follow the store until every node has a result or its pod has failed."""
        if not nodes:
            return
        manifest = job_manifest(work, nodes, len(nodes), self.pod)
        where = [f"--namespace={self.pod.namespace}"] if self.pod.namespace else []
        # Delete the old job first: a job is immutable, and a continued run has other nodes.
        _kubectl("delete", "job", job_name(work.run), "--ignore-not-found", *where)
        _kubectl("apply", "--filename=-", stdin=json.dumps(manifest))
        store, waiting = Store(work.store), set(nodes)
        while waiting:
            job = json.loads(_kubectl("get", "job", job_name(work.run), "--output=json", *where))
            ended = {c["type"] for c in job.get("status", {}).get("conditions", [])
                     if c["status"] == "True"}  # fmt: skip
            for node in sorted(waiting & set(store.nodes_done(work.run))):
                waiting.discard(node)
                on_event(Event(node, "done"))
            if ended & {"Failed", "Complete"}:
                reason = f"its pod failed: kubectl logs job/{job_name(work.run)}"
                for node in sorted(waiting):
                    on_event(Event(node, "lost", reason))
                return
            time.sleep(POLL_S)


def as_yaml(manifest: dict[str, Any]) -> str:
    """Return a manifest as YAML text, with its keys in the given order."""
    return str(yaml.safe_dump(manifest, sort_keys=False))


def _kubectl(*arguments: str, stdin: str | None = None) -> str:
    command = ["kubectl", *arguments]
    try:
        finished = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise InputError(
            "kubectl is not installed here",
            remedy="print the manifest with --print and apply it on a machine with kubectl",
        ) from error
    if finished.returncode:
        reason = finished.stderr.strip().splitlines() or ["no reason given"]
        raise InputError(f"kubectl {arguments[0]} failed ({reason[-1]})")
    return finished.stdout
