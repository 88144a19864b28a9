"""Engines: how a server schedules, and what its host costs beside the kernels.

One TOML file an engine in ``engines/``, one entry a version range and platform. The constants
belong to an engine and its version, never to a model or a GPU: if one had to know the model, the
operators would be wrong. Each file says how its constants were found.

>>> find_engine("vLLM", version="0.12.0").name
'vllm'
"""

import functools
import re
import tomllib
from importlib import resources
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from groundspeed.profiles.errors import InputError, did_you_mean
from groundspeed.profiles.record import NonNegative, Positive, Record, describe

Policy = Literal["mixed", "prefill_first", "whole_batch"]


class Costs(Record):
    """What the host and the gaps between kernels add [s]."""

    step_s: NonNegative
    """A scheduler iteration: sampling, detokenizing, input preparation."""
    layer_s: NonNegative
    """A layer: what a captured graph leaves between its kernels, and kernels not modelled."""
    sequence_s: NonNegative
    """Each running sequence, each step."""
    collective_s: NonNegative
    """Each collective, beside what the profile measured."""
    request_s: NonNegative
    """Each request: HTTP, tokenizing, the first scheduling; seen in TTFT alone."""
    eager_decode_layer_s: NonNegative = 0.0
    """Host time to launch a layer in decode where no graph is replayed; a floor."""
    eager_prefill_layer_s: NonNegative = 0.0
    """The same in a step with a prefill; a floor."""
    eager_latent_layer_s: NonNegative = 0.0
    """The same in decode for models with latent attention alone, in versions whose kernels for it
    cannot be captured in a graph."""
    prefill_factor: Positive = 1.0
    """Prefill attention and products in the engine against the same kernels alone."""
    attention_factor: Positive = 1.0
    """Decode attention in the engine (paged) against the same kernel alone."""
    experts_factor: Positive = 1.0
    """Experts in the engine against the kernels that were tabulated; above 1 for early versions,
    whose grouped products were not tuned yet. Like the next two a fact of the kernels that a
    version carries."""
    latent_decode_factor: Positive = 1.0
    """Decode with latent attention, likewise."""
    latent_prefill_factor: Positive = 1.0
    """Prefill with latent attention, likewise."""


class Engine(Record):
    """One engine, version range and platform."""

    name: str
    title: str
    platform: Literal["cuda", "rocm", "any"]
    from_version: str = "0"
    """First version it holds for."""
    policy: Policy
    token_budget: Annotated[int, Field(ge=1)]
    """Tokens a step may hold."""
    max_sequences: Annotated[int, Field(ge=1)]
    memory_fraction: Annotated[float, Field(gt=0.0, le=1.0)]
    """Of the device's memory that the engine takes."""
    overhead_bytes: NonNegative
    """Of that for activations, graphs and the runtime."""
    reserve_output: Annotated[float, Field(ge=0.0, le=1.0)]
    """Share of a request's output that must fit before it is admitted."""
    custom_all_reduce: bool = True
    """Whether it has an all-reduce of its own for small messages."""
    kernels: str = "vllm"
    """Library whose attention kernels it runs, or the nearest that tables know."""
    fused_quantize: bool = False
    """Whether rounding activations to 8 bit with one scale is part of the operation before."""
    costs: Costs
    fitted_architecture: str = ""
    """Of the devices whose rows its constants were fitted to; empty if to none."""
    fitted_mixture: bool = False
    """Whether mixtures of experts were among the models."""
    interval_tpot: Positive
    """Factor within which 90 % of the measured TPOT lay of the predicted."""
    interval_ttft: Positive
    date: str
    source: str
    """How the constants were found, and on what."""


@functools.cache
def load_engines() -> tuple[Engine, ...]:
    """Every engine that ships, newest version first.

    Raises
    ------
    InputError
        If a file is malformed.
    """
    engines: list[Engine] = []
    folder = resources.files("groundspeed.estimator") / "engines"
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if not entry.name.endswith(".toml"):
            continue
        document = tomllib.loads(entry.read_text(encoding="utf-8"))
        common = {k: v for k, v in document.items() if k != "version"}
        for version in document["version"]:
            try:
                engines.append(Engine.model_validate(common | version))
            except ValidationError as error:
                raise InputError(describe(error), where=f"engine {entry.name}") from error
    return tuple(sorted(engines, key=lambda e: _numbers(e.from_version), reverse=True))


def find_engine(name: str, *, version: str = "", platform: str = "cuda") -> Engine:
    """The newest entry of an engine that is not newer than a version.

    Parameters
    ----------
    name : str
        As people write it: ``vLLM``, ``TensorRT-LLM``, ``trtllm``, ``sglang``, ``bare``.
    version : str
        ``0.12.0``; the newest known if empty.
    platform : {'cuda', 'rocm'}

    Raises
    ------
    InputError
        If it is not known.
    """
    wanted = engine_name(name)
    if "nim" in name.lower() and wanted == "trtllm":
        version = NIM_VERSION  # its own version says nothing of the engine inside
    engines = [e for e in load_engines() if e.name == wanted]
    fitting = [e for e in engines if e.platform in (platform, "any")]
    if not fitting:
        known = sorted({e.name for e in load_engines()})
        if not engines:
            raise InputError(f"unknown engine '{name}'", remedy=did_you_mean(wanted, known))
        raise InputError(f"no constants of {wanted} on {platform}")
    if not _numbers(version):
        return fitting[0]
    older = [e for e in fitting if _numbers(e.from_version) <= _numbers(version)]
    return older[0] if older else fitting[-1]


def engine_name(name: str) -> str:
    """The engine that people mean: ``TensorRT-LLM (static batch)`` is ``trtllm``."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower().split("(")[0])
    if plain in ENGINE_NAMES:
        return ENGINE_NAMES[plain]
    for part, engine in ENGINE_NAMES.items():
        if part in plain:
            return engine
    return plain


NIM_VERSION = "0.10"
"""Of the TensorRT-LLM inside NVIDIA's packaged servers of 2024."""

ENGINE_NAMES = {
    "tensorrtllm": "trtllm", "trtllm": "trtllm", "trt": "trtllm", "nim": "trtllm",
    "vllm": "vllm", "sglang": "sglang", "sgl": "sglang", "bare": "bare", "gptfast": "bare",
    "none": "bare",
}  # fmt: skip


def _numbers(version: str) -> tuple[int, ...]:
    """``0.7.3.dev138+g21f`` as (0, 7, 3)."""
    parts = []
    for part in version.lstrip("v").split("+")[0].split("."):
        match = re.match(r"\d+", part)
        if match is None:
            break
        parts.append(int(match.group()))
    return tuple(parts)
