"""Elementwise operations between the GEMMs of a decoder: norms, activations, rotary, sampling.

Each of them is little work: one kernel launch, and one read and write of the activations. Together
they take a tenth to a third of a decode step. The decoder of
:mod:`groundspeed.kernels.decoder.decoder` calls the functions of this file, so the measured
operations are those of a real run.

    calls = Elementwise(op="rms_norm", dtype="bfloat16").prepare({"rows": 1, "width": 4096}, pool)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from groundspeed.kernels.kernel import (
    DTYPES,
    Call,
    Case,
    Cost,
    UnsupportedCaseError,
    deviation,
    spread,
)
from groundspeed.kernels.operands import OperandPool
from groundspeed.kernels.vendor import vendor_of

EPSILON = 1e-6
"""Constant that norms add to the variance."""

ROTARY_HEAD_DIM = 64
"""Head dimension of the rotary operation, if the width is a multiple of it."""

TABLE_ROWS = 4096
"""Number of rows of the embedding table."""

CHOOSING = ("argmax", "sample")
"""Operations that return an index; their float64 reference is the score of every index."""

TIE = 1e-5
"""Relative difference below which two scores are considered equal in float32."""


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Apply RMSNorm to the last axis."""
    return F.rms_norm(x, (x.shape[-1],), weight, EPSILON)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Apply LayerNorm to the last axis."""
    return F.layer_norm(x, (x.shape[-1],), weight, bias, EPSILON)


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """Split the last axis into halves, gate and up, and return silu(gate) * up."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def gelu(x: torch.Tensor) -> torch.Tensor:
    """Apply the Gaussian error linear unit (GELU)."""
    return F.gelu(x)


def rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply the rotary position embedding (RoPE) to query and key heads.

    Parameters
    ----------
    x : (..., heads, head_dim) Tensor
    cos, sin : (..., 1, head_dim) Tensor
    """
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def embed(table: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Look up the rows of the embedding table."""
    return F.embedding(tokens, table)


def argmax(logits: torch.Tensor) -> torch.Tensor:
    """Return the index of the largest logit of each row (greedy sampling)."""
    return torch.argmax(logits, dim=-1)


def quantize_rows(x: torch.Tensor, fp8: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale each row by its largest value and round it to fp8; return it with its scales.

    Returns
    -------
    ((rows, width) fp8 Tensor, (rows, 1) float32 Tensor)
        The input is the product of both.
    """
    scale = x.abs().amax(dim=-1, keepdim=True).float().clamp(min=1e-12) / torch.finfo(fp8).max
    return (x.float() / scale).to(fp8), scale


def fp8_quantize(x: torch.Tensor, fp8: torch.dtype) -> torch.Tensor:
    """Scale each row by its largest value and round it to fp8, as engines do for activations."""
    return quantize_rows(x, fp8)[0]


def sample(logits: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Draw a token from the softmax of each row.

    The index of the largest probability divided by exponential noise is an exact sample of the
    distribution (exponential race); no sort or scan is needed.
    """
    return torch.argmax(torch.softmax(logits.float(), dim=-1) / noise, dim=-1)


ITEMS_READ_WRITTEN: dict[str, tuple[float, float]] = {
    "rms_norm": (1.0, 1.0),
    "layer_norm": (1.0, 1.0),
    "residual_add": (2.0, 1.0),
    "silu_mul": (1.0, 0.5),
    "gelu": (1.0, 1.0),
    "rotary": (1.0, 1.0),
    "kv_write": (1.0, 1.0),
    "embed": (1.0, 1.0),
    "argmax": (1.0, 0.0),
    "fp8_quantize": (1.0, 0.5),
    "sample": (2.0, 0.0),
}
"""Elements read, and elements written, per input element of each operation."""


@dataclass(frozen=True)
class Elementwise:
    """One elementwise operation ``op`` on ``rows`` rows of ``width`` elements."""

    op: str
    dtype: str
    operation: str = "elementwise"
    backend: str = "torch"

    @property
    def config_key(self) -> dict[str, str]:
        """Name of the elementwise operation and data type."""
        return {"op": self.op, "dtype": self.dtype}

    def cost(self, case: Case) -> Cost:
        """Return the bytes of reading and writing the activations once; FLOPs are negligible."""
        read, written = ITEMS_READ_WRITTEN[self.op]
        item_bytes = case["rows"] * case["width"] * DTYPES[self.dtype].itemsize
        return Cost(0.0, read * item_bytes, written * item_bytes)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """Return callables for two operand sets only: in a model, activations are still cached."""
        return [self._build(case, pool)[0] for _ in range(2)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Compare rows, evenly spread over the result, with the same operation in float64."""
        call, expected = self._build(case, pool)
        got = call()
        if not isinstance(got, torch.Tensor):
            raise TypeError(f"{self.op} returned {type(got).__name__}")
        rows = int(case["rows"])
        at = spread(rows, pool.device)
        reference = expected(at)
        if self.op == "embed":  # a lookup does not round: it must be equal
            return 0.0 if torch.equal(got[at], reference.to(got.dtype)) else float("inf")
        if self.op in CHOOSING:  # the chosen index must have the largest score
            best = reference.amax(dim=-1)
            scored = reference.gather(1, got[at, None])[:, 0]
            return float(((best - scored) / (TIE * best.abs())).max())
        if not torch.isfinite(got.float()).all():
            return float("inf")
        if self.op == "fp8_quantize":  # 3 mantissa bits: half a step is 1/16
            error = (got[at].double() - reference).abs() / (reference.abs() / 16.0 + 2.0**-9)
            return float(error.max())
        return deviation(got[at], reference, 1.0, DTYPES[self.dtype])

    def _build(
        self, case: Case, pool: OperandPool
    ) -> tuple[Call, Callable[[torch.Tensor], torch.Tensor]]:
        """Return the call, and a function that computes some of its rows in float64."""
        rows, width = int(case["rows"]), int(case["width"])
        dtype = DTYPES[self.dtype]
        x = pool.take((rows, width), dtype)
        if self.op == "rms_norm":
            w = pool.take((width,), dtype)
            return (lambda: rms_norm(x, w)), lambda at: rms_norm(x[at].double(), w.double())
        if self.op == "layer_norm":
            w, b = pool.take((width,), dtype), pool.take((width,), dtype)
            return (
                lambda: layer_norm(x, w, b),
                lambda at: layer_norm(x[at].double(), w.double(), b.double()),
            )
        if self.op == "residual_add":
            y = pool.take((rows, width), dtype)
            return (lambda: x + y), lambda at: x[at].double() + y[at].double()
        if self.op == "silu_mul":
            return (lambda: silu_mul(x)), lambda at: silu_mul(x[at].double())
        if self.op == "gelu":
            return (lambda: gelu(x)), lambda at: gelu(x[at].double())
        if self.op == "rotary":
            head_dim = ROTARY_HEAD_DIM if width % ROTARY_HEAD_DIM == 0 else width
            heads = x.view(rows, width // head_dim, head_dim)
            cos, sin = (pool.take((rows, 1, head_dim), dtype) for _ in range(2))
            return (
                lambda: rotary(heads, cos, sin),
                lambda at: rotary(heads[at].double(), cos[at].double(), sin[at].double()),
            )
        if self.op == "kv_write":
            cache = pool.scratch((rows, width + ROTARY_HEAD_DIM), dtype)[:, :width]
            return (lambda: cache.copy_(x)), lambda at: x[at].double()
        if self.op == "embed":
            table = pool.take((TABLE_ROWS, width), dtype)
            tokens = torch.arange(rows, device=pool.device) * 997 % TABLE_ROWS
            return (lambda: embed(table, tokens)), lambda at: table[tokens[at]].double()
        if self.op == "fp8_quantize":
            fp8 = vendor_of(pool.device).fp8
            return (
                lambda: fp8_quantize(x, fp8),
                lambda at: (
                    x[at].double()
                    * torch.finfo(fp8).max
                    / x[at].double().abs().amax(-1, keepdim=True)
                ),
            )
        if self.op == "sample":
            noise = pool.scratch((rows, width), dtype).exponential_()
            return (
                lambda: sample(x, noise),
                lambda at: torch.softmax(x[at].double(), dim=-1) / noise[at].double(),
            )
        if self.op == "argmax":
            return (lambda: argmax(x)), lambda at: x[at].double()
        known = ", ".join(ITEMS_READ_WRITTEN)
        raise UnsupportedCaseError(f"unknown elementwise operation '{self.op}', known: {known}")
