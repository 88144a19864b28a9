"""What an engine costs beside its kernels, and how its kernels differ from those measured alone.

The constants of one engine are a product of *effects*: those of the engine, of the software
platform (CUDA or ROCm), of the GPU architecture, for which an engine selects its kernels, and of
the version. So a version with ten published rows borrows from its engine what they do not say, and
an architecture that was never seen with a version has the effects of both.

    costs = engine x platform x architecture x version

``scripts/fit_engines.py`` fits all effects to all published rows at once, with priors.
"""

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from groundspeed.estimator.model.spec import Model
from groundspeed.profiles.operations import WEIGHT_BYTES
from groundspeed.profiles.record import NonNegative, Positive, Record


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
    launch_s: NonNegative = 0.0
    """[s] Per kernel of a step with prefill: the host launches them one by one, as the shapes
    change from step to step. Their sum is a lower bound on the TTFT, but engines launch while
    earlier steps run, so it takes no time from other requests."""
    stream_steps: NonNegative = 0.0
    """Decode steps by which a client sees its first token late: published recipes look at the queue
    of new requests, and send tokens, only every ten or thirty steps (SGLang's
    ``--scheduler-recv-interval`` and ``--stream-interval``)."""
    eager_latent_layer_s: NonNegative = 0.0
    """[s] Host time to launch a layer in decode with latent attention (MLA), in versions whose MLA
    kernels cannot be captured in a CUDA graph: a lower bound per layer."""
    indexed_latent_layer_s: NonNegative = 0.0
    """[s] Per layer of latent attention that chooses its tokens by an index (DSA of DeepSeek-V3.2
    and GLM-5, DeepSeek-V4): kernels of index, selection and residual streams that an engine has not
    fused, or launches outside its graphs. Young paths: 5 to 500 us."""
    gemm_factor: Positive = 1.0
    """Time of GEMMs in the engine / time of the same kernels alone."""
    prefill_factor: Positive = 1.0
    """Time of a step with prefill in the engine / time of the same kernels alone."""
    attention_factor: Positive = 1.0
    """Time of (paged) decode attention in the engine / time of the same kernel alone."""
    experts_factor: Positive = 1.0
    """Time of the experts in the engine / time of the tabulated kernels."""
    int4_experts_factor: Positive = 1.0
    """The same for experts with 4-bit integer weights, in addition."""
    fp4_experts_factor: Positive = 1.0
    """The same for experts with 4-bit floating-point weights, in addition."""
    latent_decode_factor: Positive = 1.0
    """Time of decode latent attention in the engine / time of the tabulated kernel."""
    latent_prefill_factor: Positive = 1.0
    """Time of prefill latent attention in the engine / time of the tabulated kernel."""
    recurrent_factor: Positive = 1.0
    """Time of recurrent layers (their GEMMs, convolution, scan and state) / that of the traffic
    that they are modelled as."""

    def times(self, factors: Iterable[tuple[str, float]]) -> "Costs":
        """Return these costs with some of them multiplied."""
        update = {name: float(getattr(self, name)) for name in Costs.model_fields}
        for name, factor in factors:
            update[name] *= factor
        return self.model_copy(update=update)


class Effect(Record):
    """What makes one platform, architecture or version differ from the engine as a whole."""

    platform: str = ""
    """``cuda`` or ``rocm``; empty: it holds for both."""
    architecture: str = ""
    """First word of the architecture, such as ``blackwell``; empty: it holds for all."""
    from_version: str = ""
    """First version that it holds for; empty: it is not an effect of the version."""
    rows: Annotated[int, Field(ge=0)] = 0
    """Number of published rows that it was fitted to."""
    factors: dict[str, Positive]
    """Factor on each constant that differs."""


def kernel_factors(costs: Costs, experts_format: str) -> dict[str, float]:
    """Return the engine's factor on the time of each group of operators that is not 1."""
    experts = costs.experts_factor
    if experts_format in WEIGHT_BYTES:
        integer = experts_format.startswith("int")
        experts *= costs.int4_experts_factor if integer else costs.fp4_experts_factor
    found = dict.fromkeys(GEMM_GROUPS, costs.gemm_factor)
    return found | {"experts": experts, "recurrent": costs.recurrent_factor}


GEMM_GROUPS = ("qkv", "out", "mlp", "shared", "router", "head", "index", "compress", "streams")
"""Groups of operators that are GEMMs with the weights of the layers."""


def attention_factor(costs: Costs, model: Model, *, decode: bool) -> float:
    """Return the engine's factor on the time of attention."""
    if decode:
        return costs.attention_factor if not model.attends_latents else costs.latent_decode_factor
    return 1.0 if not model.attends_latents else costs.latent_prefill_factor
