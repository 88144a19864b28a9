"""Kubernetes manifests: they validate strictly against the published schemas of Kubernetes."""

import os
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from groundspeed.fleet.history.store import Store
from groundspeed.fleet.run.kubernetes import (
    KubernetesLauncher,
    PodOptions,
    as_yaml,
    daemonset_manifest,
    job_manifest,
    job_name,
)
from groundspeed.fleet.run.run_fleet import RunRequest, run_fleet
from groundspeed.fleet.run.worker import Work
from groundspeed.profiles import InputError
from program import groundspeed

VERSIONS = ("1.29", kubernetes_validate.latest_version())
"""The first version whose Indexed Jobs retry each index separately by default, and the newest."""

PODS = (
    PodOptions("you/groundspeed:1"),
    PodOptions("you/groundspeed:1", gpus=8),
    PodOptions("you/groundspeed:1", gpus=8, vendor="amd", tolerate=True, selector=("pool=gpu",)),
    PodOptions("you/groundspeed:1", gpus=4, namespace="ops", claim="fleet"),
)


def valid(manifest: dict[str, Any]) -> None:
    for version in VERSIONS:
        kubernetes_validate.validate(yaml.safe_load(as_yaml(manifest)), version, strict=True)


@pytest.mark.parametrize("pod", PODS)
@pytest.mark.parametrize("nodes", [(), ("n1", "n2", "n3")])
def test_job_manifest_is_valid_with_gpu_limits_and_one_pod_per_node(
    pod: PodOptions, nodes: tuple[str, ...]
) -> None:
    work = Work("s3://bucket/fleet", "june")
    manifest = job_manifest(work, nodes, 3, pod)
    valid(manifest)
    spec = manifest["spec"]["template"]["spec"]
    limits = spec["containers"][0].get("resources", {}).get("limits", {})
    wanted = {"amd": "amd.com/gpu", "nvidia": "nvidia.com/gpu"}[pod.vendor]
    assert limits == ({wanted: pod.gpus} if pod.gpus else {})
    repel = spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert repel[0]["labelSelector"]["matchLabels"].items() <= (
        manifest["spec"]["template"]["metadata"]["labels"].items()
    )


@pytest.mark.parametrize("pod", PODS)
def test_daemonset_manifest_reserves_no_gpu(pod: PodOptions) -> None:
    manifest = daemonset_manifest("s3://bucket/fleet", pod, every_s=3600)
    valid(manifest)
    spec = manifest["spec"]["template"]["spec"]
    assert "resources" not in spec["containers"][0]
    if pod.gpus and pod.vendor == "nvidia":
        assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"} in spec["containers"][0]["env"]


def test_validation_refuses_an_unknown_field() -> None:
    manifest = job_manifest(Work("s3://b/f", "r"), (), 1, PODS[0])
    manifest["spec"]["completionsMode"] = "Indexed"
    with pytest.raises(kubernetes_validate.ValidationError):
        valid(manifest)


@pytest.mark.parametrize("run", ["June_2026.v1", "x" * 64, "a" * 39 + "--"])
def test_job_name_is_a_valid_kubernetes_label(run: str) -> None:
    name = job_name(run)
    assert len(name) <= 63
    assert name == name.lower()
    assert name[-1].isalnum()


def test_local_folder_as_the_store_of_pods_is_refused() -> None:
    with pytest.raises(InputError, match="pods cannot access"):
        job_manifest(Work("/home/me/fleet", "r"), (), 1, PODS[0])


def test_print_option_prints_valid_manifests_and_needs_an_image() -> None:
    ran = groundspeed("fleet", "run", "--launcher", "kubernetes", "--store", "s3://b/f", "--print",
                      "--image", "you/groundspeed", "--count", "2", "--gpus", "8")  # fmt: skip
    valid(yaml.safe_load(ran.out))
    ran = groundspeed("fleet", "daemonset", "--store", "s3://b/f", "--image", "you/groundspeed")
    valid(yaml.safe_load(ran.out))
    ran = groundspeed("fleet", "run", "--launcher", "kubernetes", "--store", "s3://b/f", "--print")
    assert ran.code == 2
    assert "--image" in ran.err


def test_missing_kubectl_is_refused_and_leaves_no_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    launcher = KubernetesLauncher(PODS[0])
    with pytest.raises(InputError, match="kubectl is not installed here"):
        run_fleet(launcher, RunRequest(Work("memory://k", "")), lambda event: None)
    assert Store("memory://k").runs() == []
    assert os.environ["PATH"] == str(tmp_path)
