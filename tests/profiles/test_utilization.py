"""Utilization of a device by the matmuls of real models, as predicted by its laws."""

import pytest

import profile_factory
from groundspeed.profiles.schema import Profile
from groundspeed.profiles.utilization import DECODE_ROWS, PREFILL_ROWS, model_products, utilization

PROFILE = Profile.model_validate(profile_factory.document_with_laws())


def test_model_products_contain_the_shapes_of_llama_3_1_8b() -> None:
    """Llama-3.1-8B: qkv has (32 + 2 x 8) heads x 128 = 6144 outputs, gate and up 2 x 14336."""
    products = model_products()
    assert (6144.0, 4096.0) in products and (28672.0, 4096.0) in products
    assert len(products) == 16


def test_utilization_is_rate_over_datasheet_and_rises_with_rows() -> None:
    utilizations = [u for u in utilization(PROFILE) if u.dtype == "bfloat16"]
    assert len(utilizations) == len(PREFILL_ROWS) + len(DECODE_ROWS)
    assert PROFILE.datasheet is not None
    peak = PROFILE.datasheet.peak("bfloat16")
    assert peak is not None
    prefill = [u for u in utilizations if u.phase == "prefill"]
    for u in prefill:
        assert u.share is not None and u.low is not None and u.high is not None
        assert u.share == pytest.approx(u.rate / peak.value)
        assert u.low <= u.share <= u.high
    shares = [u.share or 0.0 for u in prefill]
    assert shares == sorted(shares)
    assert shares[-1] < 1.0


def test_profile_without_a_datasheet_has_rates_but_no_utilization() -> None:
    utilizations = utilization(PROFILE.model_copy(update={"datasheet": None}))
    assert utilizations and all(u.share is None and u.rate > 0 for u in utilizations)
