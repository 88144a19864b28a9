"""Every way to place a model on some GPUs: tensor, pipeline, expert and data parallel, replicas.

Tensor parallel takes every degree that divides the heads, not only powers of two: six GPUs serve a
model of 24 heads as 2 x tp3. Pipelines are tried where a model is placed over several nodes, or
where the links between the devices are slow.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from groundspeed.estimator.deployment.deployment import Deployment, Network, require_valid
from groundspeed.estimator.model.spec import Model
from groundspeed.profiles.errors import InputError

PIPELINES = (1, 2, 4)
"""Numbers of pipeline stages that are tried."""


@dataclass(frozen=True)
class Formats:
    """Formats and links that all placements share."""

    dtype: str | None = None
    kv_dtype: str | None = None
    network: Network = field(default_factory=Network)


def placements(model: Model, gpus: int, formats: Formats) -> Iterator[Deployment]:
    """Yield every parallelism of one replica on up to ``gpus`` GPUs.

    Raises
    ------
    InputError
        If there is no GPU.
    """
    if gpus < 1:
        raise InputError(f"--gpus must be at least 1, not {gpus}")
    for pp in PIPELINES:
        for world in range(1, gpus // pp + 1):
            ways = [(world, 1, 1)]
            if model.experts is not None and world > 1:
                ways += [(world, world, 1), (1, world, world)]
                ways += [
                    (tp, world, world // tp) for tp in (2, 4, 8) if world % tp == 0 < tp < world
                ]
            for tp, ep, dp in ways:
                trial = Deployment(
                    tp=tp, pp=pp, ep=ep, dp=dp, dtype=formats.dtype, kv_dtype=formats.kv_dtype,
                    network=formats.network,
                )  # fmt: skip
                try:
                    require_valid(model, trial)
                except InputError:
                    continue
                yield trial


def useful(deployment: Deployment, gpus: int, one_fits: bool) -> bool:
    """Return whether a placement can be worth trying: it leaves few GPUs idle.

    Parameters
    ----------
    deployment : Deployment
    gpus : int
        GPUs there are.
    one_fits : bool
        Whether the model fits one device: then a pipeline never pays.
    """
    if deployment.pp > 1 and one_fits:
        return False
    used = gpus // deployment.devices * deployment.devices
    return used > gpus / 2
