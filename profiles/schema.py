"""The profile: one human-readable JSON file with the measured performance of a device.

A profile can be reviewed in a pull request. It holds the device, the datasheet it is compared with,
the environment of the measurement, every measured curve point by point, the fitted laws with their
held-out error, and a summary of achieved rates. The summary is *derived* from the curves: one that
does not follow from them fails the physics check, so no number can be entered by hand.

    profile = load_profile(Path("h200.json"))
    profile.law("matmul", dtype="bfloat16")
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
"""History: 1 (2026-11): first. 2 (2026-11): renamed fields, same content (``migrations.py``)."""


class Device(Record):
    """The measured device, as reported by the driver or the operating system."""

    name: str
    """Name reported by the driver or the CPU."""
    kind: Literal["cpu", "cuda", "rocm"]
    vendor: str
    architecture: str
    compute_units: int | None = Field(default=None, ge=1, le=100_000)
    """Number of SMs (NVIDIA), CUs (AMD), or CPU cores used; None: an import did not say it."""
    memory_bytes: Positive | None = None
    """[bytes] None: the file of another tool did not say it, and no datasheet is known."""
    last_level_cache_bytes: Positive | None = None
    max_clock_hz: Positive | None = None
    instruction_sets: tuple[str, ...] = ()
    """Instruction sets that determine the matrix rate of a CPU: avx512_bf16, amx_bf16, ..."""


class Environment(Record):
    """Software and settings that can change a measurement; None if a value cannot be read."""

    date_utc: str
    host: str
    operating_system: str
    python: str
    tool_version: str
    method_version: int
    """Version of the measuring method; a comparison reports profiles with different versions."""
    command: str
    libraries: dict[str, str]
    """Version of each library: torch, triton, numpy, ..."""
    driver: str | None = None
    runtime: str | None = None
    """CUDA or ROCm version with which torch was built."""
    threads: int | None = None
    virtualization: str | None = None
    power_cap_w: Positive | None = None
    ecc: bool | None = None
    partition_mode: str | None = None
    persistence: bool | None = None
    host_link: str | None = None
    """Current generation and width of the host link, e.g. ``PCIe gen 5 x16``."""
    numa_nodes: int | None = None
    allocator: str | None = None
    """How the host's allocator handles freed memory; it affects large operations on a CPU."""
    telemetry: str
    """Telemetry source, or a statement that there was none."""
    other_processes: int | None = None
    device_index: int | None = None
    """Index of the GPU among those that the driver shows to this process."""
    device_uuid: str | None = None
    """UUID of the individual GPU; it stays the same when the GPU moves to another slot."""


class Point(Record):
    """One measurement: the statistics of the samples of one case."""

    case: dict[str, float]
    """Value of each numeric column of the operation."""
    time_s: Positive
    """[s] Median time."""
    q10_s: Positive
    """[s] 10 % quantile of the samples."""
    q90_s: Positive
    """[s] 90 % quantile of the samples."""
    low_s: Positive
    """[s] Lower limit of the 90 % bootstrap interval of the median."""
    high_s: Positive
    """[s] Upper limit of the 90 % bootstrap interval of the median."""
    samples: int = Field(ge=1)
    """Number of samples."""
    flops: NonNegative
    """[FLOP] Algorithmic floating-point operations of one run."""
    bytes: NonNegative
    """[bytes] Algorithmic memory traffic of one run, or message size of a collective."""
    stop: str
    """Reason why sampling stopped."""
    tags: tuple[str, ...] = ()
    """Disturbances (drift, bimodal, noisy-neighbour, throttled, ...) and kind of the point."""
    clock_mhz: Positive | None = None
    memory_clock_mhz: Positive | None = None
    power_w: Positive | None = None
    temperature_c: float | None = None
    kernel: str | None = None
    """Name of the GPU kernel (on a CPU: the operator) that took most of the time."""
    error: NonNegative | None = None
    """Largest error against a float64 reference, in units of the tolerance."""
    valid: bool = True
    """False if the result of the operation was wrong; laws and rates ignore such points."""


class Curve(RenamedRecord):
    """All measured points of one operation with one config key."""

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
            raise ValueError(f"config_key lacks {', '.join(lacking)}")
        for point in self.points:
            missing = [c for c in (spec.columns if spec else ()) if c not in point.case]
            if missing:
                raise ValueError(f"a case lacks {', '.join(missing)}")
        return self


class Rate(Record):
    """One achieved rate of the summary, with its utilization of the datasheet's rate."""

    quantity: str
    """Name of the rate, e.g. ``matmul bfloat16``, ``memory read``, ``launch eager``."""
    unit: Literal["FLOP/s", "bytes/s", "s"]
    value: Positive
    low: Positive
    high: Positive
    """``low`` to ``high`` is the 90 % interval: sampling error and drift during the run."""
    datasheet: Positive | None = None
    """The datasheet's value of the same rate; None if it gives none."""
    utilization: NonNegative | None = None
    """[1] ``value / datasheet``."""
    note: str = ""
    """Shape or size at which the rate was achieved, and remarks."""


class Stability(Record):
    """Stability of the machine, from a reference case that is repeated throughout the run.

    There is one reference for compute and one for memory traffic, because different other programs
    disturb them.
    """

    limit: Literal["compute", "memory"]
    reference: str
    time_s: Positive
    """[s] Median of the medians of all repetitions."""
    repeats: int
    spread_fraction: Annotated[float, Field(ge=0.0, le=100.0)]
    """[1] (q95 - q05) / 2 of the medians of the repetitions, divided by their median."""
    drift_fraction: float
    """[1] Change from the first to the last third of the run; positive if it became slower."""
    busy_elsewhere_fraction: NonNegative | None = None
    """[1] Share of the CPU that other programs or the hypervisor used."""
    verdict: Literal["steady", "noisy"]


class Interconnect(Record):
    """Properties of the links other than their speed; None if a value cannot be read."""

    backend: Literal["gloo", "nccl", "rccl"]
    version: str | None = None
    ranks: int = Field(ge=2)
    hosts: tuple[str, ...]
    launcher: str
    """Program that started the ranks: ``torchrun``, ``srun``, ``mpirun``."""
    topology: tuple[str, ...] = ()
    """Topology of links, switches and NUMA nodes: the lines of the vendor tool's output."""
    variables: dict[str, str] = Field(default_factory=dict)
    """Environment variables that configure communication, e.g. those of NCCL."""
    algorithms: dict[str, str] = Field(default_factory=dict)
    """Algorithm and protocol from the log of the library, by operation and size."""
    in_network_reduction: bool | None = None
    """Whether a switch reduces data (NVLS, SHARP); busbw may then exceed the link bandwidth."""


class Profile(Record):
    """Measurements, laws and summary of one device class."""

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
        """Return the spread of the ``compute`` or ``memory`` reference; 0 if not recorded."""
        return max((s.spread_fraction for s in self.stability if s.limit == limit), default=0.0)

    def curve(self, operation: str, **config_key: str) -> Curve | None:
        """Return the first curve of an operation whose config key has these entries, or None."""
        for curve in self.curves:
            if curve.operation == operation and config_key.items() <= curve.config_key.items():
                return curve
        return None

    def law(self, operation: str, **config_key: str) -> Law | None:
        """Return the first law of an operation whose config key has these entries, or None."""
        for law in self.laws:
            if law.operation == operation and config_key.items() <= law.config_key.items():
                return law
        return None
