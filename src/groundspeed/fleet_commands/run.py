"""``groundspeed fleet run``, the programs that it starts on nodes, ``daemonset`` and ``export``."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from groundspeed.commands.options import Json, Quiet, deliver
from groundspeed.fleet.node_names import expand_names
from groundspeed.profiles.errors import InputError
from groundspeed.profiles.record import WITH_OLD_NAMES

if TYPE_CHECKING:
    from groundspeed.fleet.history.store import RunRecord
    from groundspeed.fleet.run.kubernetes import PodOptions
    from groundspeed.fleet.run.launcher import Event, Launcher
    from groundspeed.fleet.run.worker import Work
    from groundspeed.fleet.screen.findings import Screening

Level = Literal["check", "quick", "standard", "full"]
StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        help="Store for the results: a folder on a file system shared by all nodes, or a URL "
        "(s3://bucket/fleet).",
    ),
]
LevelOption = Annotated[
    Level,
    typer.Option(
        help=(
            "How much to measure: check takes seconds per GPU; quick, standard and full are "
            "calibrations as by groundspeed calibrate."
        )
    ),
]
Busy = Annotated[
    bool,
    typer.Option(
        "--allow-busy",
        help="Measure a GPU even if other processes use it. Not given: it is not measured.",
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="Devices of each node to measure: cpu, or a list such as cuda:0,cuda:1. Default: all "
        "GPUs, else the CPU.",
    ),
]
Image = Annotated[
    str | None,
    typer.Option(help="Kubernetes: container image that contains groundspeed. Required there."),
]
Gpus = Annotated[
    int,
    typer.Option(help="Kubernetes: number of GPUs per node, one pod per node; 0: measure the CPU."),
]
Vendor = Annotated[Literal["nvidia", "amd"], typer.Option(help="Kubernetes: vendor of the GPUs.")]
Claim = Annotated[
    str | None,
    typer.Option(
        help="Kubernetes: PersistentVolumeClaim that holds the store. Not given: --store must be a "
        "URL."
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(help="Kubernetes: namespace for the pods. Default: the current one of kubectl."),
]
Selector = Annotated[
    list[str] | None,
    typer.Option(
        help="Kubernetes: label (key=value) that a node must have; repeat it for several. Not "
        "given: any node."
    ),
]


def run_command(
    store: StoreOption,
    launcher: Annotated[
        Literal["local", "slurm", "ray", "kubernetes"],
        typer.Option(
            "--launcher",
            "--engine",
            help="Scheduler that starts the measurement on the nodes; local: this machine only. "
            "(Old name: --engine.)",
        ),
    ] = "local",
    level: LevelOption = "check",
    nodes: Annotated[
        str | None,
        typer.Option(
            help=(
                "Names of the nodes to measure, separated by commas. Default: all nodes of the "
                "launcher that are up."
            )
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            help=(
                "Number of nodes to measure, if --nodes is not given; Ray measures another node "
                "in place of one that dies. Default: all."
            ),
            min=1,
        ),
    ] = None,
    run: Annotated[
        str,
        typer.Option(
            help=(
                "Name of the run; an existing run of this name is continued. Default: continue "
                "the unfinished run, else start one named by date and time."
            )
        ),
    ] = "",
    new: Annotated[
        bool,
        typer.Option("--new", help="Start a new run even if the store has an unfinished one."),
    ] = False,
    confirm: Annotated[
        bool,
        typer.Option(
            "--confirm",
            help=(
                "Measure the suspect GPUs of a run again, twice, with the best GPU as a control. "
                "The run is --run, else the newest."
            ),
        ),
    ] = False,
    device: Devices = None,
    allow_busy: Busy = False,
    option: Annotated[
        list[str] | None,
        typer.Option(
            help=(
                "Slurm: option for sbatch, e.g. --option=--partition=gpu; repeat it for several. "
                "Not given: the defaults of sbatch."
            )
        ),
    ] = None,
    address: Annotated[
        str,
        typer.Option(
            help="Ray: address of the cluster, e.g. host:6379; auto: the one this machine is in."
        ),
    ] = "auto",
    image: Image = None,
    gpus: Gpus = 8,
    vendor: Vendor = "nvidia",
    claim: Claim = None,
    namespace: Namespace = None,
    selector: Selector = None,
    manifest: Annotated[
        bool,
        typer.Option(
            "--print",
            help="Kubernetes: print the manifest of the job and measure nothing; needs --nodes or "
            "--count.",
        ),
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure many nodes through Slurm, Ray or Kubernetes. Exit code 1: a node has no result.

    Example: groundspeed fleet run --launcher slurm --store /shared/fleet
    """
    from groundspeed.fleet.run.run_fleet import RunRequest, run_fleet
    from groundspeed.fleet.run.worker import Work

    work = Work(store, run, level, device, allow_busy)
    wanted = tuple(expand_names(nodes)) if nodes else ()
    if manifest:
        _print_job(work, wanted, count, _pod(image, gpus, vendor, claim, namespace, selector))
        return
    chosen: Launcher
    if launcher == "slurm":
        from groundspeed.fleet.run.slurm import SlurmLauncher

        chosen = SlurmLauncher(tuple(option or ()))
    elif launcher == "ray":
        from groundspeed.fleet.run.ray_cluster import RayLauncher

        chosen = RayLauncher(address)
    elif launcher == "kubernetes":
        from groundspeed.fleet.run.kubernetes import KubernetesLauncher

        chosen = KubernetesLauncher(_pod(image, gpus, vendor, claim, namespace, selector))
    else:
        from groundspeed.fleet.run.local import LocalLauncher

        chosen = LocalLauncher()
    if count is not None and not wanted:
        wanted = _first(chosen, count)
    if confirm:
        from groundspeed.fleet.run.confirm_run import confirm_run

        with _followed(quiet=quiet or as_json) as on_event:
            screening = confirm_run(chosen, work, on_event)
        _deliver_screening(screening, as_json=as_json)
    with _followed(quiet=quiet or as_json) as on_event:
        record = run_fleet(chosen, RunRequest(work, wanted, new), on_event)
    if as_json:
        deliver(record.model_dump_json(indent=1, context=WITH_OLD_NAMES), None, force=False)
    else:
        _show(record, store)
    raise typer.Exit(1 if record.lost else 0)


def _first(launcher: "Launcher", count: int) -> tuple[str, ...]:
    known = launcher.nodes()
    if count > len(known):
        raise InputError(
            f"{launcher.name} has {len(known)} nodes now, not {count}", where="--count"
        )
    return known[:count]


def _deliver_screening(screening: "Screening", *, as_json: bool) -> None:
    if as_json:
        deliver(screening.model_dump_json(indent=1), None, force=False)
    else:
        from groundspeed.display.show_fleet import show_screening
        from groundspeed.display.terminal import make_console

        show_screening(make_console(), screening)
    raise typer.Exit(screening.exit_code)


def _show(record: "RunRecord", store: str) -> None:
    from groundspeed.display.terminal import make_console, plain

    console = make_console()
    measured = len(record.nodes) - len(record.lost)
    console.print(plain(f"run {record.run}: {measured} nodes measured, {len(record.lost)} lost"))
    for node, reason in sorted(record.lost.items()):
        console.print(plain(f"  {node}: {reason}"), style="yellow")
    console.print(plain(f"next: groundspeed fleet screen {store}"))


@contextmanager
def _followed(*, quiet: bool) -> "Iterator[Callable[[Event], None]]":
    """Show a progress bar over nodes; yields the function that receives their events."""
    from groundspeed.display.terminal import progress_bar

    seen: dict[str, str] = {}
    with progress_bar("measuring the fleet", quiet=quiet) as progress:

        def on_event(event: "Event") -> None:
            seen[event.node] = event.kind
            ended = sum(kind != "started" for kind in seen.values())
            progress(ended, len(seen), f"{event.node} {event.kind}")

        yield on_event


def _pod(
    image: str | None,
    gpus: int,
    vendor: str,
    claim: str | None,
    namespace: str | None,
    selector: list[str] | None,
) -> "PodOptions":
    from groundspeed.fleet.run.kubernetes import PodOptions

    if image is None:
        raise InputError(
            "a pod needs an image that contains groundspeed", remedy="give --image NAME"
        )
    for label in selector or ():
        if "=" not in label:
            raise InputError(
                f"'{label}' is not key=value", where="--selector", remedy="e.g. pool=gpu"
            )
    return PodOptions(image, gpus, vendor, namespace, claim, tuple(selector or ()))


def _print_job(work: "Work", nodes: tuple[str, ...], count: int | None, pod: "PodOptions") -> None:
    from dataclasses import replace

    from groundspeed.fleet.run.kubernetes import as_yaml, job_manifest

    if not nodes and count is None:
        raise InputError(
            "--print needs the number of nodes", remedy="give --count N or --nodes n1,n2"
        )
    named = replace(work, run=work.run or "acceptance")
    deliver(as_yaml(job_manifest(named, nodes, len(nodes) or count or 1, pod)), None, force=False)


def daemonset_command(
    store: StoreOption,
    image: Image = None,
    gpus: Gpus = 8,
    vendor: Vendor = "nvidia",
    claim: Claim = None,
    namespace: Namespace = None,
    selector: Selector = None,
    every: Annotated[
        int, typer.Option(help="Period of the checks of each node, in seconds.", min=60)
    ] = 3600,
    as_json: Json = False,
) -> None:
    """Print a Kubernetes DaemonSet that checks each node and serves the results to Prometheus.

    Example: groundspeed fleet daemonset --store s3://bucket/fleet --image you/groundspeed
    """
    from groundspeed.fleet.run.kubernetes import as_yaml, daemonset_manifest

    pod = _pod(image, gpus, vendor, claim, namespace, selector)
    manifest = daemonset_manifest(store, pod, every_s=every)
    deliver(json.dumps(manifest, indent=1) if as_json else as_yaml(manifest), None, force=False)


def work_command(
    store: StoreOption,
    run: Annotated[str, typer.Option(help="Name of the run.")],
    level: LevelOption = "check",
    node: Annotated[
        str | None,
        typer.Option(help="Name of this node. Default: its name in Slurm, else the host name."),
    ] = None,
    device: Devices = None,
    allow_busy: Busy = False,
) -> None:
    """Measure this node for a run. Launchers start this command on each node.

    Example: groundspeed fleet work --store /shared/fleet --run acceptance
    """
    from groundspeed.fleet.run.worker import Work, node_name, work_here
    from groundspeed.measuring.session import require_measuring

    require_measuring()
    name = node or node_name()
    rows = work_here(Work(store, run, level, device, allow_busy), name)
    deliver(json.dumps({"node": name, "run": run, "rows": len(rows)}), None, force=False)


def check_device_command(
    journal: Annotated[
        Path, typer.Option(help="File for the raw samples; an interrupted check continues from it.")
    ],
    device: Devices = None,
    allow_busy: Busy = False,
) -> None:
    """Measure the fixed cases of a check on one device and print the results as JSON.

    Example: groundspeed fleet check-device --device cuda:0 --journal gpu0.jsonl
    """
    from groundspeed.measuring.session import open_running_device

    running = open_running_device(device)
    from groundspeed.calibrate.run.quick_check import check_device

    check = check_device(running, journal, allow_busy=allow_busy)
    deliver(check.model_dump_json(), None, force=False)
