"""Kernels and laws count the same FLOPs and bytes for the same operation."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from groundspeed.kernels.attention.attention import DecodeAttention, PrefillAttention
from groundspeed.kernels.decoder.elementwise import ITEMS_READ_WRITTEN, Elementwise
from groundspeed.kernels.kernel import Cost, Kernel
from groundspeed.kernels.matmul.matmul import TorchMatmul
from groundspeed.kernels.memory.stream import TorchStream
from groundspeed.profiles import OPERATIONS
from groundspeed.profiles.operations import ELEMENTWISE_ITEMS_MOVED

size = st.integers(1, 4096)
KERNELS: list[Kernel] = [
    *(TorchMatmul(d) for d in ("bfloat16", "float32")),
    TorchStream("copy"),
    PrefillAttention("bfloat16"),
    DecodeAttention("float32"),
    *(Elementwise(op, "bfloat16") for op in ELEMENTWISE_ITEMS_MOVED),
]


@given(st.sampled_from(KERNELS), st.data())
def test_kernel_and_law_count_the_same_flops_and_bytes(kernel: Kernel, data: st.DataObject) -> None:
    operation = OPERATIONS[kernel.operation]
    case = {c: float(data.draw(size)) for c in operation.columns}
    if "kv_heads" in case:
        case["heads"] = case["kv_heads"] * 4
    if kernel.operation == "stream":
        case["bytes"] *= 24.0
    columns = {k: np.array([v]) for k, v in case.items()}
    cost = kernel.cost(case)
    assert cost.flops == operation.flops(columns, kernel.config_key)[0]
    assert np.isclose(cost.bytes, operation.bytes(columns, kernel.config_key)[0])


def test_kernels_and_profiles_list_the_same_elementwise_operations() -> None:
    assert set(ITEMS_READ_WRITTEN) == set(ELEMENTWISE_ITEMS_MOVED)


def test_costs_add_field_by_field() -> None:
    assert Cost(1.0, 2.0, 3.0) + Cost(10.0, 20.0, 30.0) == Cost(11.0, 22.0, 33.0)
