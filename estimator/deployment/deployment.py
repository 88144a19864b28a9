"""How a model is deployed: the number of devices, the parallelism and the number formats.

    world = attention TP x attention DP

Attention is sharded over ``tp`` devices (tensor parallel) and replicated over ``dp`` groups (data
parallel), each with its own sequences. Experts are distributed over all devices of the world:
``ep`` ways as whole experts (expert parallel), and the remaining factor splits each expert along
its intermediate size. Pipeline stages (``pp``) split the layers.
"""

from dataclasses import dataclass

from groundspeed.estimator.model.quantization import SIXTEEN_BIT, Formats, weight_format
from groundspeed.estimator.model.spec import Model
from groundspeed.profiles.errors import InputError


@dataclass(frozen=True)
class Network:
    """Links between devices where they are stated; None: measured, or from the datasheet."""

    per_node: int | None = None
    """Devices of a node. None: those that the datasheet says share fast links, else eight."""
    inter_node_bytes_per_s: float | None = None
    """[bytes/s] Line rate of one device between nodes, in one direction."""
    device_link_bytes_per_s: float | None = None
    """[bytes/s] Line rate of one device to the others of its node, in one direction."""


@dataclass(frozen=True)
class Deployment:
    """Parallelism and number formats of one replica of a model."""

    tp: int = 1
    pp: int = 1
    ep: int = 1
    dp: int = 1
    dtype: str | None = None
    """Format of the weights; None: the checkpoint's format."""
    replicas: int = 1
    """Independent copies, which share the clients equally."""
    kv_dtype: str | None = None
    """Format of the KV cache; None: the checkpoint's format, else 16 bit."""
    experts_dtype: str | None = None
    """Format of the experts' weights; None: as the other weights, or as in the checkpoint."""
    network: Network = Network()
    """Links that are stated by the user."""

    @property
    def world(self) -> int:
        """Number of devices in one pipeline stage."""
        return self.tp * self.dp

    @property
    def devices(self) -> int:
        """Number of devices in one replica."""
        return self.world * self.pp

    @property
    def all_devices(self) -> int:
        """Number of devices in all replicas."""
        return self.devices * self.replicas

    @property
    def groups(self) -> int:
        """Number of groups of sequences that are decoded independently of each other.

        Each attention group of each replica has its own sequences; with pipeline stages, as many
        batches as stages are on their way at the same time.
        """
        return self.dp * self.pp * self.replicas

    @property
    def expert_tp(self) -> int:
        """Number of devices over which one expert is split."""
        return max(1, self.world // self.ep)


CACHE_FORMATS = ("bfloat16", "float16", "float32", "fp8")
"""Formats of a KV cache."""


def formats(model: Model, deployment: Deployment) -> Formats:
    """Return the number format of each part of the model.

    Raises
    ------
    InputError
        If the name of a format is not known.
    """
    rest = model.dtype if model.dtype in SIXTEEN_BIT else "bfloat16"
    stated = deployment.dtype
    weights = weight_format(stated) if stated else model.weights or rest
    if weights == "fp8" and stated is not None:
        weights = model.fp8_format
    if weights in (*SIXTEEN_BIT, "float32"):
        rest = weights
    only_experts = model.experts is not None and (
        (model.quantized_part == "experts" and weights == model.weights)
        or weights in ("w4a16_mxfp4", "w4a8_mxfp4_mxfp8")
    )
    cache = deployment.kv_dtype or model.kv_dtype
    if cache and weight_format(cache) not in CACHE_FORMATS:
        raise InputError(
            f"no KV cache in {cache} is modelled",
            where="--kv-dtype",
            remedy=f"give one of {', '.join(CACHE_FORMATS)}",
        )
    return Formats(
        linear=rest if only_experts else weights,
        experts=weight_format(deployment.experts_dtype)
        if deployment.experts_dtype
        else model.expert_weights
        if model.expert_weights and not stated
        else weights,
        rest=rest,
        cache=weight_format(cache) if cache else rest,
    )


def require_valid(model: Model, deployment: Deployment) -> None:
    """Reject a parallelism that no engine can run.

    Raises
    ------
    InputError
        If a degree does not divide the model; the message names the sizes, and for ``tp`` the
        degrees that would divide.
    """
    d = deployment
    for name, value in (
        ("tp", d.tp),
        ("pp", d.pp),
        ("ep", d.ep),
        ("dp", d.dp),
        ("replicas", d.replicas),
    ):
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"--{name} must be a whole number, not {value!r}")
        if not 1 <= value <= 4096:
            raise InputError(f"--{name} must lie between 1 and 4096, not {value}")
    if model.heads % d.tp:
        fits = ", ".join(str(n) for n in range(1, 129) if model.heads % n == 0)
        raise InputError(
            f"--tp {d.tp} does not divide the {model.heads} attention heads of {model.id}",
            remedy=f"use one of {fits}",
        )
    if model.latent is None and model.kv_heads % d.tp and d.tp % model.kv_heads:
        raise InputError(
            f"--tp {d.tp} neither divides the {model.kv_heads} KV heads of {model.id} nor is a "
            "multiple of them"
        )
    if model.intermediate % d.tp and model.mlp_layers:
        raise InputError(
            f"--tp {d.tp} does not divide the MLP's intermediate size of {model.id} "
            f"({model.intermediate})"
        )
    for option, rate in (
        ("--inter-node", d.network.inter_node_bytes_per_s),
        ("--gpu-link", d.network.device_link_bytes_per_s),
    ):
        if rate is not None and not 1e6 <= rate <= 1e14:
            raise InputError(f"{rate:g} bytes/s is no rate of a link", where=option,
                             remedy="give a rate such as 400Gb/s or 50GB/s")  # fmt: skip
    if d.network.per_node is not None and not 1 <= d.network.per_node <= 4096:
        raise InputError(
            f"must lie between 1 and 4096, not {d.network.per_node}", where="--gpus-per-node"
        )
    if d.pp > model.layers:
        raise InputError(f"--pp {d.pp} is more than the {model.layers} layers of {model.id}")
    if d.ep > 1 and model.experts is None:
        raise InputError(
            f"--ep {d.ep} needs a mixture of experts, but {model.id} has no experts",
            remedy="leave --ep out",
        )
    if model.experts is not None:
        if d.world % d.ep:
            raise InputError(
                f"--ep {d.ep} does not divide the {d.world} devices of a pipeline stage (tp x dp)"
            )
        if model.experts.count % d.ep:
            raise InputError(
                f"--ep {d.ep} does not divide the {model.experts.count} experts of {model.id}"
            )
        if model.experts.intermediate % d.expert_tp:
            raise InputError(
                f"the experts of {model.id} (intermediate size {model.experts.intermediate}) "
                f"cannot be split over {d.expert_tp} devices"
            )
