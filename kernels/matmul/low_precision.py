"""GEMMs in low-precision data types: fp8 and int8, in which models are served, and tf32.

fp8 operands have scales, either one per matrix (``fp8``) or one per row of x and of w
(``fp8_row``), and the result is bf16. The operands resemble those of a model: normal numbers,
scaled so that the largest fits the format, then rounded. Random bits or constants would saturate
or repeat, draw less power, and so have inflated published fp8 rates by up to a third. int8
products are exact. tf32 takes float32 operands, which the matrix units round to 10 bits.

    calls = Fp8Matmul(dtype="fp8_row").prepare({"m": 64, "n": 4096, "k": 4096}, pool)
"""

# pyright: reportPrivateImportUsage=false
# (torch has no public function for the scaled and the int8 GEMM)

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from groundspeed.kernels.kernel import Call, Case, Cost, UnsupportedCaseError, spread
from groundspeed.kernels.matmul.matmul import check_product, shape
from groundspeed.kernels.operands import OperandPool
from groundspeed.kernels.vendor import vendor_of

FP8_ALIGNMENT = 16
"""n and k of an fp8 GEMM must be multiples of this."""

FAST_ACCUMULATOR_EPS = 2.0**-13
"""Relative rounding step of Hopper's fp8 accumulator, which keeps about 14 bits (DeepSeek-V3
technical report, arXiv:2412.19437, section 3.3.2)."""

INT8_ALIGNMENT = 8
"""n and k of an int8 GEMM must be multiples of this."""

INT8_MIN_ROWS = 17
"""Smallest m of an int8 GEMM: cuBLASLt needs more than 16 rows."""

TF32_EPS = 2.0**-10
"""Relative rounding step of tf32, which has 10 mantissa bits."""


@dataclass(frozen=True)
class Fp8Matmul:
    """fp8 GEMM through ``torch._scaled_mm``, with one scale per matrix or one per row.

    Hopper's matrix units add fp8 products with about 14 bits. Serving engines use that (*fast*
    accumulation). The exact way moves partial sums to float32 registers every few steps (``exact``)
    and is slower; other chips add in float32 anyway, and both ways are the same there.
    """

    dtype: str = "fp8"
    accumulation: str = "fast"
    operation: str = "matmul"
    backend: str = "torch"

    @property
    def config_key(self) -> dict[str, str]:
        """Data type: ``fp8`` (one scale per matrix) or ``fp8_row`` (one scale per row).

        A curve with exact accumulation has the name of its own data type, ``fp8_exact``.
        """
        return {"dtype": self.dtype if self.fast else f"{self.dtype}_{self.accumulation}"}

    @property
    def fast(self) -> bool:
        """Whether the matrix units accumulate with reduced precision, as in serving engines."""
        return self.accumulation == "fast"

    def cost(self, case: Case) -> Cost:
        """Return 2mnk FLOPs; operands have one byte per element, the bf16 result two."""
        m, n, k = shape(case)
        return Cost(2.0 * m * n * k, float(m * k + n * k), 2.0 * m * n)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """Return one callable per operand set, with enough sets to keep the weights cold."""

        def product(
            x: torch.Tensor, w: torch.Tensor, scale_x: torch.Tensor, scale_w: torch.Tensor
        ) -> Call:
            return lambda: scaled_product(x, w, scale_x, scale_w, fast=self.fast)

        sets = pool.rotations(self.cost(case).read_bytes)
        return [product(*self._operands(case, pool)) for _ in range(sets)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Compare with float64 on the same operands, including their scales."""
        x, w, scale_x, scale_w = self._operands(case, pool)
        y = scaled_product(x, w, scale_x, scale_w, fast=self.fast)
        eps = FAST_ACCUMULATOR_EPS if self.fast else torch.finfo(torch.float32).eps
        # Both scales are the same everywhere: without them, the result has the usual magnitude.
        both = float(scale_x.flatten()[0] * scale_w.flatten()[0])
        return check_product(y.float() / both, x, w, accumulator_eps=eps, dtype=y.dtype)

    def _operands(
        self, case: Case, pool: OperandPool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        m, n, k = shape(case)
        if n % FP8_ALIGNMENT or k % FP8_ALIGNMENT:
            raise UnsupportedCaseError(f"fp8 needs n and k to be multiples of {FP8_ALIGNMENT}")
        fp8 = vendor_of(pool.device).fp8
        x, w = pool.take((m, k), fp8), pool.take((n, k), fp8)
        # The pool holds numbers of unit variance, as after quantization; any scale will do.
        sizes = ((m, 1), (1, n)) if self.dtype == "fp8_row" else ((), ())
        scale_x, scale_w = (torch.full(s, 0.5, device=pool.device) for s in sizes)
        return x, w, scale_x, scale_w


def scaled_product(
    x: torch.Tensor,
    w: torch.Tensor,
    scale_x: torch.Tensor,
    scale_w: torch.Tensor,
    *,
    fast: bool = True,
) -> torch.Tensor:
    """Compute (x * scale_x) @ (w * scale_w).T in bf16.

    Parameters
    ----------
    x : (M, K) fp8 Tensor
    w : (N, K) fp8 Tensor
    scale_x, scale_w : float32 Tensor
        Scales: scalars (one per matrix), or of shapes (M, 1) and (1, N) (one per row).
    fast : bool, default True
        Whether to accumulate with reduced precision where the chip offers it, as engines do.

    Returns
    -------
    (M, N) bfloat16 Tensor
    """
    result: torch.Tensor = torch._scaled_mm(
        x,
        w.t(),
        scale_a=scale_x,
        scale_b=scale_w,
        out_dtype=torch.bfloat16,
        use_fast_accum=fast,
    )
    return result


@dataclass(frozen=True)
class Int8Matmul:
    """int8 GEMM through ``torch._int_mm``, with exact int32 results."""

    dtype: str = "int8"
    operation: str = "matmul"
    backend: str = "torch"

    @property
    def config_key(self) -> dict[str, str]:
        """Data type."""
        return {"dtype": self.dtype}

    def cost(self, case: Case) -> Cost:
        """Return 2mnk FLOPs and the bytes: 1 per operand element, 2 per element of the result.

        The result is int32, but a model keeps only 16 bits of it.
        """
        m, n, k = shape(case)
        return Cost(2.0 * m * n * k, float(m * k + n * k), 2.0 * m * n)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """Return one callable per operand set, with enough sets to keep the weights cold."""

        def product(x: torch.Tensor, w: torch.Tensor) -> Call:
            return lambda: torch._int_mm(x, w.t())

        sets = pool.rotations(self.cost(case).read_bytes)
        return [product(*self._operands(case, pool)) for _ in range(sets)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Compare with exact integers: 0 if all are equal, infinite otherwise."""
        x, w = self._operands(case, pool)
        y = torch._int_mm(x, w.t())
        rows, columns = (spread(size, pool.device) for size in y.shape)
        expected = x[rows].double() @ w[columns].double().T
        return 0.0 if torch.equal(y[rows][:, columns].double(), expected) else float("inf")

    def _operands(self, case: Case, pool: OperandPool) -> tuple[torch.Tensor, torch.Tensor]:
        m, n, k = shape(case)
        if n % INT8_ALIGNMENT or k % INT8_ALIGNMENT or m < INT8_MIN_ROWS:
            raise UnsupportedCaseError(
                f"int8 needs n and k to be multiples of {INT8_ALIGNMENT} "
                f"and m to be at least {INT8_MIN_ROWS}"
            )
        return pool.take((m, k), torch.int8), pool.take((n, k), torch.int8)


@dataclass(frozen=True)
class Tf32Matmul:
    """GEMM of float32 operands on the matrix units of a GPU, which round them to tf32."""

    dtype: str = "tf32"
    operation: str = "matmul"
    backend: str = "torch"

    @property
    def config_key(self) -> dict[str, str]:
        """Data type."""
        return {"dtype": self.dtype}

    def cost(self, case: Case) -> Cost:
        """Return the FLOPs and bytes of float32, because tf32 rounds inside the matrix units."""
        m, n, k = shape(case)
        return Cost(2.0 * m * n * k, 4.0 * (m * k + n * k), 4.0 * m * n)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """Return one callable per operand set, with enough sets to keep the weights cold."""

        def product(x: torch.Tensor, w: torch.Tensor) -> Call:
            return lambda: tf32_product(x, w)

        sets = pool.rotations(self.cost(case).read_bytes)
        return [product(*self._operands(case, pool)) for _ in range(sets)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Compare with float64, with a tolerance for the ten mantissa bits of tf32."""
        x, w = self._operands(case, pool)
        # Both operands are rounded to tf32, so tf32 sets the tolerance, not the float32 result.
        shrink = torch.finfo(torch.float32).eps / TF32_EPS
        return check_product(tf32_product(x, w), x, w) * shrink

    def _operands(self, case: Case, pool: OperandPool) -> tuple[torch.Tensor, torch.Tensor]:
        m, n, k = shape(case)
        if pool.device.type != "cuda":
            raise UnsupportedCaseError("tf32 runs on GPUs only")
        return pool.take((m, k), torch.float32), pool.take((n, k), torch.float32)


def tf32_product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Compute x @ w.T with tf32 allowed for this call only."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return F.linear(x, w)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
