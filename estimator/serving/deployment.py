"""A deployment: which device, how many, who shares what, in which precision.

    world = attention TP x attention DP

Attention is sharded over ``tp`` devices and repeated over ``dp`` groups, each with its own
sequences. Experts are spread over all devices of the world: ``ep`` ways by whole experts and the
rest by their width. Pipeline stages (``pp``) split the layers.
"""

from dataclasses import dataclass

from groundspeed.estimator.model.quantization import weight_format
from groundspeed.estimator.model.spec import Model
from groundspeed.profiles.errors import InputError

SIXTEEN_BIT = ("bfloat16", "float16")


@dataclass(frozen=True)
class Deployment:
    """How a model is placed on devices."""

    tp: int = 1
    pp: int = 1
    ep: int = 1
    dp: int = 1
    dtype: str | None = None
    """Format of the weights; None is what the checkpoint has."""
    kv_dtype: str | None = None
    """Of the cache; None is what the checkpoint says, else 16 bit."""

    @property
    def world(self) -> int:
        """Devices of one pipeline stage."""
        return self.tp * self.dp

    @property
    def devices(self) -> int:
        """All devices of one replica."""
        return self.world * self.pp

    @property
    def expert_tp(self) -> int:
        """Ways in which one expert is split."""
        return max(1, self.world // self.ep)


@dataclass(frozen=True)
class Formats:
    """What is stored and computed in which format."""

    linear: str
    """Products of attention and dense MLPs."""
    experts: str
    rest: str
    """Router, head, embedding, small operations."""
    cache: str

    @property
    def activations(self) -> str:
        """What attention computes in."""
        return self.rest


def formats(model: Model, deployment: Deployment) -> Formats:
    """Formats of each part.

    Raises
    ------
    InputError
        If a name is not known.
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
    return Formats(
        linear=rest if only_experts else weights,
        experts=weights,
        rest=rest,
        cache=weight_format(cache) if cache else rest,
    )


def require_valid(model: Model, deployment: Deployment) -> None:
    """Refuse a placement that no engine can make.

    Raises
    ------
    InputError
        With what does not divide, and what would.
    """
    d = deployment
    for name, value in (("tp", d.tp), ("pp", d.pp), ("ep", d.ep), ("dp", d.dp)):
        if not 1 <= value <= 4096:
            raise InputError(f"--{name} must be at least 1, not {value}")
    if model.heads % d.tp:
        fits = ", ".join(str(n) for n in range(1, 129) if model.heads % n == 0)
        raise InputError(
            f"--tp {d.tp} does not divide the {model.heads} attention heads of {model.id}",
            remedy=f"use one of {fits}",
        )
    if model.intermediate % d.tp and model.mlp_layers:
        raise InputError(
            f"--tp {d.tp} does not divide the MLP of {model.id} ({model.intermediate} wide)"
        )
    if d.pp > model.layers:
        raise InputError(f"--pp {d.pp} is more than the {model.layers} layers of {model.id}")
    if d.ep > 1 and model.experts is None:
        raise InputError(f"{model.id} has no experts to spread", remedy="leave --ep out")
    if model.experts is not None:
        if d.world % d.ep:
            raise InputError(
                f"--ep {d.ep} does not divide the {d.world} devices of a stage (tp x dp)"
            )
        if model.experts.count % d.ep:
            raise InputError(
                f"--ep {d.ep} does not divide the {model.experts.count} experts of {model.id}"
            )
        if model.experts.intermediate % d.expert_tp:
            raise InputError(
                f"experts of {model.id} ({model.experts.intermediate} wide) do not split "
                f"{d.expert_tp} ways"
            )
