"""Build a server from the names that a user gives: of the model, the GPU and the engine.

Every face of the program (command line, Python, tables of measurements, fleets) builds its servers
here, so an option means the same everywhere.

    server = build_server("mixtral-8x7b", "h200", ServerOptions(tp=2, engine="sglang"))
"""

from dataclasses import dataclass
from pathlib import Path

from groundspeed.estimator.deployment.deployment import Deployment, Network
from groundspeed.estimator.engines.engine import Engine
from groundspeed.estimator.engines.limits import engine_on, override_limits
from groundspeed.estimator.engines.own_engine import find_own_engine
from groundspeed.estimator.hardware.find_hardware import HardwareChoice, find_hardware
from groundspeed.estimator.model.catalog import find_model
from groundspeed.estimator.model.spec import Model
from groundspeed.estimator.serving.server import Server


@dataclass(frozen=True)
class ServerOptions:
    """How a model is deployed: parallelism, formats, engine and its limits."""

    tp: int = 1
    """Tensor parallel size: number of GPUs that each layer is split over."""
    pp: int = 1
    """Pipeline parallel size: number of stages the layers are split into."""
    ep: int = 1
    """Expert parallel size: number of groups that whole experts are spread over."""
    dp: int = 1
    """Data parallel size of attention: number of groups of ``tp`` GPUs with their own sequences."""
    replicas: int = 1
    """Independent copies of the deployment, which share the load equally."""
    dtype: str | None = None
    """Data type of the weights; None: the checkpoint's."""
    kv_dtype: str | None = None
    """Data type of the KV cache; None: the checkpoint's, else 16 bit."""
    engine: str = "vllm"
    """``vllm``, ``sglang``, ``trtllm``, ``atom`` or ``bare`` (no engine)."""
    engine_version: str = ""
    """Version of the engine; empty: the newest whose host costs are known."""
    engine_profile: str | None = None
    """Name or file of a calibrated engine, whose constants are used; None: the published ones."""
    token_budget: int | None = None
    """Maximum number of tokens in one step; None: the engine's default."""
    max_sequences: int | None = None
    """Maximum number of sequences that run at once; None: the engine's default."""
    memory_fraction: float | None = None
    """Fraction of the device memory that the engine may use; None: the engine's default."""
    max_model_len: int | None = None
    """Longest request [tokens] that must fit in the cache; None: the longest of the load."""

    gpus_per_node: int | None = None
    """Devices of a node; None: those that share fast links by the datasheet, else eight."""
    inter_node_bytes_per_s: float | None = None
    """Line rate of one device between nodes [bytes/s]; None: the vendor's reference system."""
    gpu_link_bytes_per_s: float | None = None
    """Line rate of one device inside its node [bytes/s]; None: measured, or the datasheet."""

    @property
    def deployment(self) -> Deployment:
        """Parallelism and formats."""
        return Deployment(
            tp=self.tp, pp=self.pp, ep=self.ep, dp=self.dp, replicas=self.replicas,
            dtype=self.dtype, kv_dtype=self.kv_dtype,
            network=Network(
                self.gpus_per_node, self.inter_node_bytes_per_s, self.gpu_link_bytes_per_s
            ),
        )  # fmt: skip

    def engine_on(self, hardware: HardwareChoice) -> Engine:
        """Return the engine's constants for the platform of a device, with the limits given."""
        own = find_own_engine(self.engine_profile) if self.engine_profile is not None else None
        version = self.engine_version or (own.engine_version if own is not None else "")
        engine = engine_on(self.engine, hardware.best, version=version)
        if own is not None:
            engine = own.applied(engine)
        return override_limits(
            engine, self.token_budget, self.max_sequences, self.memory_fraction, self.max_model_len
        )


def build_server(
    model: str | Model,
    gpu: str | HardwareChoice,
    options: ServerOptions | None = None,
    *,
    profile_dir: Path | None = None,
) -> Server:
    """Build a server.

    Parameters
    ----------
    model : str or Model
        Shipped name, Hugging Face name, path of a ``config.json``, or a model.
    gpu : str or HardwareChoice
        Name of a GPU, id or file of a profile, or what was found for one.
    options : ServerOptions, optional
        Not given: one GPU, the checkpoint's formats, the newest vLLM.
    profile_dir : Path, optional
        Folder with measured profiles. Not given: the user's data folder.

    Raises
    ------
    InputError
        If a name is unknown, or an option is out of range.
    """
    chosen = options or ServerOptions()
    shape = find_model(model) if isinstance(model, str) else model
    found = find_hardware(gpu, profile_dir=profile_dir) if isinstance(gpu, str) else gpu
    return Server(shape, chosen.deployment, chosen.engine_on(found), found.best)
