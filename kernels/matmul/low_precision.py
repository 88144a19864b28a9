"""Matrix products in the narrow types that models are served in: fp8, int8, and tf32.

fp8 operands carry scales, one for a whole matrix (``fp8``) or one for each row of x and of w
(``fp8_row``), and the result leaves in bf16. They are made as a model makes them: normal numbers,
scaled so that the largest fits the format, rounded. (Bits drawn at random, or a constant, saturate
or repeat: they draw less power and have flattered published fp8 figures by up to a third.) int8 is
exact. tf32 takes float32 operands and rounds them to 10 bits on the way into the matrix units.
"""

# pyright: reportPrivateImportUsage=false
# (torch publishes no other name for the scaled and the int8 product)

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from groundspeed.kernels.kernel import Call, Case, Cost, UnsupportedCaseError
from groundspeed.kernels.matmul.matmul import CHECK_SIDE, check_product, shape
from groundspeed.kernels.operands import OperandPool
from groundspeed.kernels.vendor import vendor_of

FP8_ALIGNMENT = 16
INT8_ALIGNMENT = 8
INT8_MIN_ROWS = 17
"""cuBLASLt's int8 product starts above 16 rows."""

TF32_EPS = 2.0**-10


@dataclass(frozen=True)
class Fp8Matmul:
    """``torch._scaled_mm`` with scales for whole matrices or for rows."""

    dtype: str = "fp8"
    operation: str = "matmul"
    backend: str = "torch"

    @property
    def config_key(self) -> dict[str, str]:
        """``fp8`` or ``fp8_row``."""
        return {"dtype": self.dtype}

    def cost(self, case: Case) -> Cost:
        """Operands in one byte, the result in two."""
        m, n, k = shape(case)
        return Cost(2.0 * m * n * k, float(m * k + n * k), 2.0 * m * n)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """One product for each of enough operand sets to keep the weights cold."""

        def product(
            x: torch.Tensor, w: torch.Tensor, scale_x: torch.Tensor, scale_w: torch.Tensor
        ) -> Call:
            return lambda: scaled_product(x, w, scale_x, scale_w)

        sets = pool.rotations(self.cost(case).read_bytes)
        return [product(*self._operands(case, pool)) for _ in range(sets)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Compare with float64 on the very operands, scales included."""
        x, w, scale_x, scale_w = self._operands(case, pool)
        y = scaled_product(x, w, scale_x, scale_w)
        return check_product(y, x.float() * scale_x, w.float() * scale_w.reshape(-1, 1))

    def _operands(
        self, case: Case, pool: OperandPool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        m, n, k = shape(case)
        if n % FP8_ALIGNMENT or k % FP8_ALIGNMENT:
            raise UnsupportedCaseError(f"fp8 needs n and k in multiples of {FP8_ALIGNMENT}")
        fp8 = vendor_of(pool.device).fp8
        x, w = pool.take((m, k), fp8), pool.take((n, k), fp8)
        # The pool holds unit normals, as a quantizer leaves them; a scale gives them back a size.
        sizes = ((m, 1), (1, n)) if self.dtype == "fp8_row" else ((), ())
        scale_x, scale_w = (torch.full(s, 0.5, device=pool.device) for s in sizes)
        return x, w, scale_x, scale_w


def scaled_product(
    x: torch.Tensor, w: torch.Tensor, scale_x: torch.Tensor, scale_w: torch.Tensor
) -> torch.Tensor:
    """(x scale_x) @ (w scale_w).T in bf16.

    Parameters
    ----------
    x : (M, K) fp8 Tensor
    w : (N, K) fp8 Tensor
    scale_x, scale_w : float32 Tensor
        Scalars, or (M, 1) and (1, N).
    """
    result: torch.Tensor = torch._scaled_mm(
        x, w.t(), scale_a=scale_x, scale_b=scale_w, out_dtype=torch.bfloat16
    )
    return result


@dataclass(frozen=True)
class Int8Matmul:
    """``torch._int_mm``: exact products in int32."""

    dtype: str = "int8"
    operation: str = "matmul"
    backend: str = "torch"

    @property
    def config_key(self) -> dict[str, str]:
        """The data type."""
        return {"dtype": self.dtype}

    def cost(self, case: Case) -> Cost:
        """Operands in one byte; the int32 result counts as two, what a model keeps of it."""
        m, n, k = shape(case)
        return Cost(2.0 * m * n * k, float(m * k + n * k), 2.0 * m * n)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """One product for each of enough operand sets to keep the weights cold."""

        def product(x: torch.Tensor, w: torch.Tensor) -> Call:
            return lambda: torch._int_mm(x, w.t())

        sets = pool.rotations(self.cost(case).read_bytes)
        return [product(*self._operands(case, pool)) for _ in range(sets)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Integers are equal or wrong."""
        x, w = self._operands(case, pool)
        y = torch._int_mm(x, w.t())
        rows, columns = (
            torch.linspace(0, size - 1, min(size, CHECK_SIDE), device=pool.device).long()
            for size in y.shape
        )
        expected = x[rows].double() @ w[columns].double().T
        return 0.0 if torch.equal(y[rows][:, columns].double(), expected) else float("inf")

    def _operands(self, case: Case, pool: OperandPool) -> tuple[torch.Tensor, torch.Tensor]:
        m, n, k = shape(case)
        if n % INT8_ALIGNMENT or k % INT8_ALIGNMENT or m < INT8_MIN_ROWS:
            raise UnsupportedCaseError(
                f"int8 needs n and k in multiples of {INT8_ALIGNMENT} and m of {INT8_MIN_ROWS} "
                "or more"
            )
        return pool.take((m, k), torch.int8), pool.take((n, k), torch.int8)


@dataclass(frozen=True)
class Tf32Matmul:
    """A float32 product through the matrix units of a GPU."""

    dtype: str = "tf32"
    operation: str = "matmul"
    backend: str = "torch"

    @property
    def config_key(self) -> dict[str, str]:
        """The data type."""
        return {"dtype": self.dtype}

    def cost(self, case: Case) -> Cost:
        """Compute the FLOPs and bytes of float32: TF32 rounds inside the matrix units."""
        m, n, k = shape(case)
        return Cost(2.0 * m * n * k, 4.0 * (m * k + n * k), 4.0 * m * n)

    def prepare(self, case: Case, pool: OperandPool) -> Sequence[Call]:
        """One product for each of enough operand sets to keep the weights cold."""

        def product(x: torch.Tensor, w: torch.Tensor) -> Call:
            return lambda: tf32_product(x, w)

        sets = pool.rotations(self.cost(case).read_bytes)
        return [product(*self._operands(case, pool)) for _ in range(sets)]

    def check(self, case: Case, pool: OperandPool) -> float:
        """Compare with float64, at the precision of ten bits."""
        x, w = self._operands(case, pool)
        # Both operands are rounded, so the error is that of tf32, not of the float32 result.
        shrink = torch.finfo(torch.float32).eps / TF32_EPS
        return check_product(tf32_product(x, w), x, w) * shrink

    def _operands(self, case: Case, pool: OperandPool) -> tuple[torch.Tensor, torch.Tensor]:
        m, n, k = shape(case)
        if pool.device.type != "cuda":
            raise UnsupportedCaseError("tf32 exists on GPUs only")
        return pool.take((m, k), torch.float32), pool.take((n, k), torch.float32)


def tf32_product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Multiply x by w transposed with tf32 allowed for this call alone."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return F.linear(x, w)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
