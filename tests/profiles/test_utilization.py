"""What models see of a device follows from its laws, and lies below what its best shape reaches."""

import pytest

import profile_factory
from groundspeed.profiles.schema import Profile
from groundspeed.profiles.utilization import DECODE_ROWS, PREFILL_ROWS, model_products, utilization

PROFILE = Profile.model_validate(profile_factory.document_with_laws())


def test_products_are_those_of_real_layers() -> None:
    """Llama-3.1-8B: 32 heads of 128 and 8 key-value heads make 6144; 2 x 14336 gate and up."""
    products = model_products()
    assert (6144.0, 4096.0) in products and (28672.0, 4096.0) in products
    assert len(products) == 16


def test_shares_are_rates_over_the_sheet_and_rise_with_rows() -> None:
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


def test_without_a_sheet_there_are_rates_alone() -> None:
    utilizations = utilization(PROFILE.model_copy(update={"datasheet": None}))
    assert utilizations and all(u.share is None and u.rate > 0 for u in utilizations)
