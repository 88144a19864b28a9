"""Fixtures for kernel tests: skip without torch, and use a small operand pool for short tests."""

from collections.abc import Iterator

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch

from groundspeed.kernels.operands import OperandPool


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def pool(device: torch.device) -> OperandPool:
    return OperandPool(device, pool_bytes=2**26, cold_bytes=2**20)
