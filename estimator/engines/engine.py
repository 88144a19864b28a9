"""Constants of inference engines: scheduling policy, memory use and host costs.

``engines/`` contains one TOML file per engine, with one entry per version range and platform. The
constants depend on the engine and its version, never on a model or a GPU: a constant that needed
the model would indicate an error in the operators. Each file states how its constants were found.

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

NO_ENGINE = "bare"
"""Name of the entry without any engine around the kernels."""


class Costs(Record):
    """Time that the host and the gaps between kernels add [s], and factors on kernel times."""

    step_s: NonNegative
    """[s] Per scheduler iteration: sampling, detokenizing, input preparation."""
    layer_s: NonNegative
    """[s] Per layer: gaps between the kernels of a CUDA graph, and unmodelled kernels."""
    sequence_s: NonNegative
    """[s] Per running sequence and step."""
    collective_s: NonNegative
    """[s] Per collective, in addition to the time that the profile predicts."""
    request_s: NonNegative
    """[s] Per request: HTTP, tokenizing, first scheduling; affects only TTFT."""
    eager_decode_layer_s: NonNegative = 0.0
    """[s] Host time to launch a layer in decode without CUDA graphs: a lower bound per layer."""
    eager_prefill_layer_s: NonNegative = 0.0
    """[s] Host time to launch a layer in a step with prefill: a lower bound per layer."""
    eager_latent_layer_s: NonNegative = 0.0
    """[s] Host time to launch a layer in decode with latent attention (MLA), in versions whose MLA
    kernels cannot be captured in a CUDA graph: a lower bound per layer."""
    prefill_factor: Positive = 1.0
    """Time of prefill attention and GEMMs in the engine / time of the same kernels alone."""
    attention_factor: Positive = 1.0
    """Time of (paged) decode attention in the engine / time of the same kernel alone."""
    experts_factor: Positive = 1.0
    """Time of the experts in the engine / time of the tabulated kernels; above 1 for early versions
    whose grouped GEMMs were not tuned yet. Depends on the kernels of a version, as do the next
    two."""
    latent_decode_factor: Positive = 1.0
    """Time of decode latent attention in the engine / time of the tabulated kernel."""
    latent_prefill_factor: Positive = 1.0
    """Time of prefill latent attention in the engine / time of the tabulated kernel."""


MemoryRule = Literal["measured", "weights_and_cache", "of_the_free", "everything"]


class DeviceLimits(Record):
    """Limits that an engine sets on devices with less memory than others."""

    below_bytes: Positive
    """[bytes] They hold for devices with less memory than this."""
    architectures: tuple[str, ...] = ()
    """Architectures for which they hold whatever the memory."""
    token_budget: Annotated[int, Field(ge=1)]
    max_sequences: Annotated[int, Field(ge=1)] | None = None


class VersionFacts(Record):
    """What an engine does otherwise from a version on; None: as before."""

    from_version: str
    memory_fraction: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    reserves_graphs: bool | None = None
    chunks_prompts: bool | None = None
    max_sequences: Annotated[int, Field(ge=1)] | None = None
    overhead_bytes: NonNegative | None = None
    communication_bytes: NonNegative | None = None
    communication_doubling_bytes: NonNegative | None = None
    sampler_words: NonNegative | None = None
    padded_experts: dict[str, tuple[int, int]] | None = None


class Engine(Record):
    """Constants of one engine for one version range and platform."""

    name: str
    title: str
    platform: Literal["cuda", "rocm", "any"]
    from_version: str = "0"
    """First version to which this entry applies."""
    policy: Policy
    token_budget: Annotated[int, Field(ge=1)]
    """Largest number of tokens in a step."""
    max_sequences: Annotated[int, Field(ge=1)]
    device_limits: tuple[DeviceLimits, ...] = ()
    """Other limits on devices with less memory, smallest first; the first that fits holds."""
    memory_rule: MemoryRule
    """What the fraction is a fraction of: see ``deployment/memory``."""
    memory_fraction: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """[1] Fraction of the device memory that the engine uses; None: by SGLang's rule."""
    overhead_bytes: NonNegative
    """[bytes] Memory that the libraries take beside weights, cache, activations and graphs."""
    communication_bytes: NonNegative = 0.0
    """[bytes] Buffers for communication, where there are several ranks."""
    communication_doubling_bytes: NonNegative = 0.0
    """[bytes] More of them for each doubling of the ranks beyond two."""
    sampler_words: NonNegative = 0.0
    """[1] Peak memory of the sampler / size of its logits in 32 bits."""
    reserves_graphs: bool = False
    """True if the captured graphs are counted inside the fraction."""
    chunks_prompts: bool = True
    """False: a step must hold the longest prompt, so it also decides the memory for activations."""
    max_model_len: Annotated[int, Field(ge=1)] | None = None
    """[tokens] Longest request that must fit; None: only those of the load."""
    padded_experts: dict[str, tuple[int, int]] = Field(default_factory=dict)
    """By architecture: the multiples to which 4-bit experts are padded (intermediate, hidden)."""
    reserve_output: Annotated[float, Field(ge=0.0, le=1.0)]
    """[1] Fraction of a request's output that must fit in the KV cache before it is admitted."""
    custom_all_reduce: bool = True
    """True if the engine has its own all-reduce kernel for small messages."""
    kernels: str = "vllm"
    """Library of its attention kernels, or the most similar library in the tables."""
    fused_quantize: bool = False
    """True if per-tensor 8-bit quantization of activations is fused into the previous operation."""
    fused: bool = True
    """True if small operations are fused, as in serving engines; False: one kernel for each."""
    facts: tuple[VersionFacts, ...] = ()
    """Published defaults by version, oldest first; the constants have versions of their own."""
    costs: Costs
    fitted_architecture: str = ""
    """GPU architecture of the measurements that its constants were fitted to; empty if none."""
    fitted_mixture: bool = False
    """True if mixtures of experts were among the fitted models."""
    interval_tpot: Positive
    """Factor between predicted and measured TPOT that 90 % of the measurements stayed within."""
    interval_ttft: Positive
    """Factor between predicted and measured TTFT that 90 % of the measurements stayed within."""
    date: str
    source: str
    """How the constants were found, and from which measurements."""

    def at_version(self, version: str) -> "Engine":
        """Return the engine with the defaults of a version; empty: of the newest one."""
        known: dict[str, object] = {}
        for fact in self.facts:
            if not version or _version_tuple(fact.from_version) <= _version_tuple(version):
                known |= fact.model_dump(exclude={"from_version"}, exclude_none=True)
        return self.model_copy(update=known) if known else self

    def on_device(self, memory_bytes: float | None, architecture: str) -> "Engine":
        """Return the engine with the limits that it sets on a device of this kind."""
        for limits in self.device_limits:
            small = memory_bytes is not None and memory_bytes < limits.below_bytes
            if small or architecture.lower() in limits.architectures:
                fields = {"token_budget", "max_sequences"}
                return self.model_copy(update=limits.model_dump(include=fields, exclude_none=True))
        return self


@functools.cache
def load_engines() -> tuple[Engine, ...]:
    """Return the constants of every engine that ships, newest version first.

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
    return tuple(sorted(engines, key=lambda e: _version_tuple(e.from_version), reverse=True))


def find_engine(name: str, *, version: str = "", platform: str = "cuda") -> Engine:
    """Return the newest entry of an engine that is not newer than ``version``.

    If every entry is newer, the oldest is returned.

    Parameters
    ----------
    name : str
        Name in any common spelling: ``vLLM``, ``TensorRT-LLM``, ``trtllm``, ``sglang``, ``bare``.
    version : str
        Version such as ``0.12.0``. Empty: the newest known.
    platform : {'cuda', 'rocm'}
        Software platform of the GPU.

    Raises
    ------
    InputError
        If the engine is not known, or has no constants for the platform.
    """
    wanted = engine_name(name)
    if "nim" in name.lower() and wanted == "trtllm":
        version = NIM_VERSION  # the version of NIM differs from that of its TensorRT-LLM
    engines = [e for e in load_engines() if e.name == wanted]
    fitting = [e for e in engines if e.platform in (platform, "any")]
    if not fitting:
        known = sorted({e.name for e in load_engines()})
        if not engines:
            raise InputError(f"unknown engine '{name}'", remedy=did_you_mean(wanted, known))
        raise InputError(f"there are no constants of the engine {wanted} for {platform}")
    if not version.strip():
        return fitting[0].at_version("")
    if wanted == NO_ENGINE:
        raise InputError("bare is no engine, so it has no version", where="engine version",
                         remedy="leave the version out")  # fmt: skip
    if not _version_tuple(version):
        raise InputError(
            f"'{version}' is not a version of {wanted}",
            where="engine version",
            remedy="give a number such as 0.12, or leave it out for the newest that is known",
        )
    older = [e for e in fitting if _version_tuple(e.from_version) <= _version_tuple(version)]
    return (older[0] if older else fitting[-1]).at_version(version)


def engine_name(name: str) -> str:
    """Normalize the name of an engine: ``TensorRT-LLM (static batch)`` becomes ``trtllm``."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower().split("(")[0])
    if plain in ENGINE_NAMES:
        return ENGINE_NAMES[plain]
    for part, engine in ENGINE_NAMES.items():
        if part in plain:
            return engine
    return plain


NIM_VERSION = "0.10"
"""Version of TensorRT-LLM inside NVIDIA NIM containers of 2024."""

ENGINE_NAMES = {
    "tensorrtllm": "trtllm", "trtllm": "trtllm", "trt": "trtllm", "nim": "trtllm",
    "vllm": "vllm", "sglang": "sglang", "sgl": "sglang", "bare": "bare", "gptfast": "bare",
    "none": "bare",
}  # fmt: skip


def _version_tuple(version: str) -> tuple[int, ...]:
    """Parse the leading numbers of a version: ``0.7.3.dev138+g21f`` becomes (0, 7, 3)."""
    parts = []
    for part in version.lstrip("v").split("+")[0].split("."):
        match = re.match(r"\d+", part)
        if match is None:
            break
        parts.append(int(match.group()))
    return tuple(parts)
