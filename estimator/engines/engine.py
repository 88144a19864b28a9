"""Constants of inference engines: scheduling policy, memory use and costs.

``engines/`` contains one TOML file per engine: what it does by version, and its fitted costs with
the effects of platform, architecture and version (:mod:`groundspeed.estimator.engines.costs`). The
constants never depend on a model or a single GPU: one that needed the model would indicate an error
in the operators. Each file states how its constants were found.

>>> find_engine("vLLM", version="0.12.0").name
'vllm'
"""

import functools
import re
import tomllib
from collections.abc import Iterable
from importlib import resources
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from groundspeed.estimator.engines.costs import Costs, Effect
from groundspeed.profiles.errors import InputError, did_you_mean
from groundspeed.profiles.record import NonNegative, Positive, Record, describe

Policy = Literal["mixed", "prefill_first", "whole_batch"]

DISTANCES = "distance.toml"
"""File beside those of the engines with the errors of what was left out of the fit."""

NO_ENGINE = "bare"
"""Name of the entry without any engine around the kernels."""


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


class Calibrated(Record):
    """That the constants of an engine were measured on a server of the user's own."""

    name: str
    """Name of the engine profile."""
    model: str
    """Model that the server ran."""
    tpot: Annotated[float, Field(ge=1.0)]
    """90 % factor of the error of TPOT on loads that were left out of the fit."""
    ttft: Annotated[float, Field(ge=1.0)]
    loads: Annotated[int, Field(ge=0)]


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
    """Library of its kernels, or the most similar library in the tables."""
    experts_run_as: dict[str, dict[str, str]] = Field(default_factory=dict)
    """By architecture: formats of stored experts, and the format that each is computed in."""
    run_as: tuple[tuple[str, str], ...] = ()
    """The entry of ``experts_run_as`` for the device at hand; see :meth:`on_device`."""
    fused_quantize: bool = False
    """True if per-tensor 8-bit quantization of activations is fused into the previous operation."""
    fused: bool = True
    """True if small operations are fused, as in serving engines; False: one kernel for each."""
    facts: tuple[VersionFacts, ...] = ()
    """Published defaults by version, oldest first; the constants have versions of their own."""
    costs: Costs
    """Costs of the engine as a whole; once found for a device, with all effects."""
    eager_latent_layer_s: NonNegative = 0.0
    """[s] See :class:`Costs`: a property of early versions."""
    effects: tuple[Effect, ...] = ()
    """What platforms, architectures and versions change."""
    seen: tuple[tuple[str, str, str], ...] = ()
    """Version (of its effect), architecture and kind of model of the rows it was fitted to."""
    calibrated: Calibrated | None = None
    """Where the constants were measured, if on a server of the user's own."""
    version_seen: str = ""
    """Version of the effect that holds for the version asked for."""
    date: str
    source: str
    """How the constants were found, and from which measurements."""

    def at_version(self, version: str) -> "Engine":
        """Return the engine with the defaults of a version; empty: of the newest one."""
        known: dict[str, object] = {}
        for fact in self.facts:
            if not version or version_tuple(fact.from_version) <= version_tuple(version):
                known |= fact.model_dump(exclude={"from_version"}, exclude_none=True)
        return self.model_copy(update=known) if known else self

    def on_device(self, memory_bytes: float | None, architecture: str) -> "Engine":
        """Return the engine with the limits and kernels that it has on a device of this kind."""
        kind = architecture.lower()
        update: dict[str, object] = {
            "run_as": tuple(self.experts_run_as.get(kind, {}).items()),
            "costs": self._costs_with(e for e in self.effects if e.architecture == family(kind)),
        }
        for limits in self.device_limits:
            small = memory_bytes is not None and memory_bytes < limits.below_bytes
            if small or kind in limits.architectures:
                fields = {"token_budget", "max_sequences"}
                update |= limits.model_dump(include=fields, exclude_none=True)
                break
        return self.model_copy(update=update)

    def for_version(self, version: str) -> "Engine":
        """Return the engine with the effects of its platform and a version; empty: the newest."""
        chosen = [e for e in self.effects if e.platform == self.platform and not e.from_version]
        known = sorted(
            (e for e in self.effects if e.from_version and e.platform in ("", self.platform)),
            key=lambda e: version_tuple(e.from_version),
        )
        older = [
            e
            for e in known
            if not version or version_tuple(e.from_version) <= version_tuple(version)
        ]
        newest = (older or known[:1])[-1:]
        costs = self._costs_with([*chosen, *newest])
        return self.model_copy(
            update={
                "costs": costs.model_copy(
                    update={"eager_latent_layer_s": self.eager_latent_layer_s}
                ),
                "version_seen": newest[0].from_version if newest else "",
            }
        )

    def _costs_with(self, effects: Iterable[Effect]) -> Costs:
        return self.costs.times(pair for e in effects for pair in e.factors.items())


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
        if not entry.name.endswith(".toml") or entry.name == DISTANCES:
            continue
        document = tomllib.loads(entry.read_text(encoding="utf-8"))
        common = {k: v for k, v in document.items() if k != "version"}
        for version in document["version"]:
            try:
                engines.append(Engine.model_validate(common | version))
            except ValidationError as error:
                raise InputError(describe(error), where=f"engine {entry.name}") from error
    return tuple(sorted(engines, key=lambda e: version_tuple(e.from_version), reverse=True))


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
        others = sorted({e.name for e in load_engines() if e.platform in (platform, "any")})
        raise InputError(
            f"there are no constants of the engine {wanted} for {platform}",
            remedy=f"it was measured on {engines[0].platform} only; choose {', '.join(others)}",
        )
    if not version.strip():
        return fitting[0].at_version("").for_version("")
    if wanted == NO_ENGINE:
        raise InputError("bare is no engine, so it has no version", where="engine version",
                         remedy="leave the version out")  # fmt: skip
    if not version_tuple(version):
        raise InputError(
            f"'{version}' is not a version of {wanted}",
            where="engine version",
            remedy="give a number such as 0.12, or leave it out for the newest that is known",
        )
    older = [e for e in fitting if version_tuple(e.from_version) <= version_tuple(version)]
    return (older[0] if older else fitting[-1]).at_version(version).for_version(version)


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
    "none": "bare", "atom": "atom",
}  # fmt: skip


def family(architecture: str) -> str:
    """Return the family of an architecture: Blackwell Ultra runs the kernels of Blackwell."""
    return architecture.lower().split()[0] if architecture else ""


def version_tuple(version: str) -> tuple[int, ...]:
    """Parse the leading numbers of a version: ``0.7.3.dev138+g21f`` becomes (0, 7, 3)."""
    parts = []
    for part in version.lstrip("v").split("+")[0].split("."):
        match = re.match(r"\d+", part)
        if match is None:
            break
        parts.append(int(match.group()))
    return tuple(parts)
