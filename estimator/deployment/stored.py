"""Bytes that a model keeps on one device: its weights, and the cache of its sequences.

A sliding-window layer caches at most its window; a recurrent layer keeps a state of fixed size.
Some kernels need sizes that a model does not have: the 4-bit experts of gpt-oss (2,880 wide) are
stored padded to 3,072, which is why its 60.7 GiB of weights take 64.4 GiB on an H100.
"""

import math

from groundspeed.estimator.deployment.deployment import Deployment, formats
from groundspeed.estimator.engines.engine import Engine
from groundspeed.estimator.model.quantization import STORED_BYTES, stored_bytes
from groundspeed.estimator.model.spec import Model
from groundspeed.profiles.operations import weight_bytes as weight_item_bytes


def weight_bytes(model: Model, deployment: Deployment, *, padding: float = 1.0) -> float:
    """Return the bytes of weights on one device, in the pipeline stage that holds most.

    Parameters
    ----------
    model : Model
    deployment : Deployment
    padding : float, default 1.0
        Stored / real size of the experts' weights (:func:`expert_padding`).
    """
    f, d = formats(model, deployment), deployment
    linear, expert = (stored_bytes(name, model.weight_group) for name in (f.linear, f.experts))
    dense = model.mlp_layers * model.mlp_parameters
    sharded = linear * (model.mixer_parameters + dense) / d.tp
    if model.experts is not None:
        e = model.experts
        routed = e.layers * e.count * model.expert_parameters
        others = e.layers * model.mixture_parameters - routed
        sharded += padding * expert * routed / d.world + linear * others / d.tp
    return sharded / d.pp + end_bytes(model, deployment)


def end_bytes(model: Model, deployment: Deployment) -> float:
    """Return the bytes of the input embedding and the head on one device."""
    rest = stored_bytes(formats(model, deployment).rest, model.weight_group)
    return model.embedding_parameters * (1 if model.tied_head else 2) * rest / deployment.tp


def expert_padding(
    model: Model, deployment: Deployment, engine: Engine, architecture: str
) -> float:
    """Return the stored size of the experts' weights / their real size.

    Parameters
    ----------
    model : Model
    deployment : Deployment
    engine : Engine
        Its ``padded_experts`` says to which multiples it pads 4-bit experts, by architecture.
    architecture : str
        Architecture of the GPU, e.g. ``hopper``.
    """
    if model.experts is None or "mxfp4" not in formats(model, deployment).experts:
        return 1.0
    multiples = engine.padded_experts.get(architecture.lower(), (1, 1))
    inner = model.experts.intermediate / deployment.expert_tp
    outer = model.experts.latent_hidden or model.hidden
    padded = math.ceil(inner / multiples[0]) * multiples[0]
    return (padded / inner) * (math.ceil(outer / multiples[1]) * multiples[1] / outer)


def step_weight_bytes(model: Model, deployment: Deployment, tokens: float) -> float:
    """Return the bytes of weights that a step of ``tokens`` tokens must read on one device.

    All weights of the layers and the head are read once, whatever the batch. Of a mixture's
    experts a step reads those that at least one token is routed to: with uniform routing
    ``E (1 - (1 - k/E)^tokens)`` of ``E``. An input embedding is a lookup of a few rows. The scales
    of quantized weights are not counted.
    """
    f, d = formats(model, deployment), deployment
    linear, expert, rest = (weight_item_bytes(name) for name in (f.linear, f.experts, f.rest))
    each = linear * (model.mixer_parameters + model.mlp_layers * model.mlp_parameters) / d.tp
    if model.experts is not None:
        e = model.experts
        hit = e.count * (1.0 - (1.0 - e.top_k / e.count) ** (tokens * d.dp))
        others = model.mixture_parameters - e.count * model.expert_parameters
        each += expert * e.layers * hit * model.expert_parameters / d.world
        each += linear * e.layers * others / d.tp
    return each + rest * model.embedding_parameters / d.tp


def cache_bytes(model: Model, deployment: Deployment, tokens: float) -> float:
    """Return the bytes that the cache of one sequence of ``tokens`` tokens takes on one device."""
    return token_bytes(model, deployment, tokens) + state_bytes(model, deployment)


def token_bytes(model: Model, deployment: Deployment, tokens: float) -> float:
    """Return the part of :func:`cache_bytes` that grows with the tokens: keys and values."""
    per_item = STORED_BYTES[formats(model, deployment).cache]
    tp = deployment.tp
    kept = sum(m.cached_items(tokens) / m.cache_ways(tp) for m in model.mixers)
    return per_item * kept / deployment.pp


def state_bytes(model: Model, deployment: Deployment) -> float:
    """Return the part of :func:`cache_bytes` that does not grow: the states of recurrent layers."""
    tp = deployment.tp
    return sum(m.state_bytes() / m.cache_ways(tp) for m in model.mixers) / deployment.pp
