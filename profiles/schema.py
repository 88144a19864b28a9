"""The profile: one human-readable file that says what a device delivers, and how we know.

A profile can be reviewed in a pull request: device, the datasheet it is compared with, the
environment it was measured in, each measured curve point by point, the fitted laws with their
held-out error, and a utilization summary that is *derived* from the curves (a summary that does
not follow from them fails the physics check: no number is entered by hand).
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from groundspeed.profiles.datasheet import DeviceSpec
from groundspeed.profiles.laws import Law
from groundspeed.profiles.laws.law import Origin
from groundspeed.profiles.operations import OPERATIONS
from groundspeed.profiles.record import NonNegative, Positive, Record, RenamedRecord

SCHEMA_VERSION = 2
"""History: 1 (2026-11): first. 2 (2026-11): other names, the same content (``migrations.py``)."""


class Device(Record):
    """The device as the machine describes it."""

    name: str
    """Name that the driver or the processor reports."""
    kind: Literal["cpu", "cuda", "rocm"]
    vendor: str
    architecture: str
    compute_units: int = Field(ge=1, le=100_000)
    """Streaming multiprocessors, compute units, or cores used."""
    memory_bytes: Positive
    last_level_cache_bytes: Positive | None = None
    max_clock_hz: Positive | None = None
    instruction_sets: tuple[str, ...] = ()
    """What decides a processor's matrix rate: avx512_bf16, amx_bf16, ..."""


class Environment(Record):
    """Everything around the device that can change a number; None where it cannot be read."""

    date_utc: str
    host: str
    operating_system: str
    python: str
    tool_version: str
    method_version: int
    """Rises whenever the way of measuring changes; different ones are not compared silently."""
    command: str
    libraries: dict[str, str]
    """torch, triton, numpy, ... and their versions."""
    driver: str | None = None
    runtime: str | None = None
    """CUDA or ROCm version torch was built with."""
    threads: int | None = None
    virtualization: str | None = None
    power_cap_w: Positive | None = None
    ecc: bool | None = None
    partition_mode: str | None = None
    persistence: bool | None = None
    host_link: str | None = None
    """Generation and width of the link as it is now: ``PCIe gen 5 x16``."""
    numa_nodes: int | None = None
    allocator: str | None = None
    """What the host's allocator does with freed memory; decides large operations on a CPU."""
    telemetry: str
    """Which telemetry was there, or the fact that none was."""
    other_processes: int | None = None
    device_index: int | None = None
    """Which GPU of the host, as the driver shows them to this process."""
    device_uuid: str | None = None
    """Identity of the very device: the same GPU in another slot keeps it."""


class Point(Record):
    """The statistics of one case's samples: a measurement."""

    case: dict[str, float]
    """The operation's numeric columns."""
    time_s: Positive
    """Median."""
    q10_s: Positive
    q90_s: Positive
    low_s: Positive
    """90 % bootstrap interval of the median."""
    high_s: Positive
    samples: int = Field(ge=1)
    flops: NonNegative
    bytes: NonNegative
    stop: str
    """Why sampling stopped."""
    tags: tuple[str, ...] = ()
    """What disturbed it: drift, bimodal, noisy-neighbour, throttled, ..."""
    clock_mhz: Positive | None = None
    memory_clock_mhz: Positive | None = None
    power_w: Positive | None = None
    temperature_c: float | None = None
    kernel: str | None = None
    """Name of the device kernel (on a processor: the operator) that took most of the time."""
    error: NonNegative | None = None
    """Largest deviation from a float64 reference, in units of the tolerance."""
    valid: bool = True
    """False if the result was wrong: such a row proves nothing and no law uses it."""


class Curve(RenamedRecord):
    """All points of one operation with one config key."""

    old_names: ClassVar[Mapping[str, str]] = {"config_key": "regime"}

    operation: str
    config_key: dict[str, str]
    backend: str
    cache: Literal["cold", "warm"]
    origin: Origin
    source: str
    points: tuple[Point, ...]

    @model_validator(mode="after")
    def _regime_is_complete(self) -> "Curve":
        spec = OPERATIONS.get(self.operation)
        lacking = [c for c in (spec.categories if spec else ()) if c not in self.config_key]
        if self.operation == "launch" and "op" not in self.config_key:
            lacking = ["op"]
        if lacking:
            raise ValueError(f"config key lacks {', '.join(lacking)}")
        for point in self.points:
            missing = [c for c in (spec.columns if spec else ()) if c not in point.case]
            if missing:
                raise ValueError(f"a case lacks {', '.join(missing)}")
        return self


class Rate(Record):
    """One achieved rate, and what share of the datasheet it is."""

    quantity: str
    """``matmul bfloat16``, ``memory read``, ``launch eager``."""
    unit: Literal["FLOP/s", "bytes/s", "s"]
    value: Positive
    low: Positive
    high: Positive
    """90 % interval: sampling error and the drift of the machine during the run."""
    datasheet: Positive | None = None
    utilization: NonNegative | None = None
    note: str = ""


class Stability(Record):
    """How steady the machine was: a reference case, repeated throughout the run.

    There are two: arithmetic and memory traffic are disturbed by different neighbours.
    """

    limit: Literal["compute", "memory"]
    reference: str
    time_s: Positive
    """Median of the repetitions' medians."""
    repeats: int
    spread_fraction: Annotated[float, Field(ge=0.0, le=100.0)]
    """Half of (q95 - q05) of its medians, over their median."""
    drift_fraction: float
    """Last third against first third; positive when it became slower."""
    busy_elsewhere_fraction: NonNegative | None = None
    """Share of the processor that other programs or the hypervisor took."""
    verdict: Literal["steady", "noisy"]


class Interconnect(Record):
    """What is known of the links beside their speed; None where it cannot be read."""

    backend: Literal["gloo", "nccl", "rccl"]
    version: str | None = None
    ranks: int = Field(ge=2)
    hosts: tuple[str, ...]
    launcher: str
    """Who started the ranks: ``torchrun``, ``srun``, ``mpirun``."""
    topology: tuple[str, ...] = ()
    """The vendor tool's picture of links, switches and NUMA nodes, as lines of text."""
    variables: dict[str, str] = Field(default_factory=dict)
    """Environment variables that steer communication."""
    algorithms: dict[str, str] = Field(default_factory=dict)
    """Algorithm and protocol that the library's log names, by operation and size."""
    in_network_reduction: bool | None = None
    """Whether a switch adds up on the way (NVLS, SHARP): busbw may then exceed the wire."""


class Profile(Record):
    """What is known about one device class."""

    schema_version: int = SCHEMA_VERSION
    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,127}$")
    device: Device
    datasheet: DeviceSpec | None = None
    environment: Environment
    mode: str
    seed: int
    curves: tuple[Curve, ...]
    laws: tuple[Law, ...]
    rates: tuple[Rate, ...]
    stability: tuple[Stability, ...] = ()
    interconnect: Interconnect | None = None
    warnings: tuple[str, ...] = ()

    def spread_fraction(self, limit: str) -> float:
        """How much a reference case of this limit varied during the run; 0 if not recorded."""
        return max((s.spread_fraction for s in self.stability if s.limit == limit), default=0.0)

    def curve(self, operation: str, **config_key: str) -> Curve | None:
        """The curve of an operation whose config key has these entries, if there is one."""
        for curve in self.curves:
            if curve.operation == operation and config_key.items() <= curve.config_key.items():
                return curve
        return None

    def law(self, operation: str, **config_key: str) -> Law | None:
        """The law of an operation whose config key has these entries, if there is one."""
        for law in self.laws:
            if law.operation == operation and config_key.items() <= law.config_key.items():
                return law
        return None
