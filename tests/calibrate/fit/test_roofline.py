"""Soft roofline fits recover known constants, resist outliers and predict unseen shapes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from groundspeed.calibrate import choose_points, fit_law
from groundspeed.calibrate.fit.roofline import fit_roofline
from groundspeed.profiles import InputError
from groundspeed.profiles.laws import Law, soft_roofline
from groundspeed.profiles.laws.work import Work
from groundspeed.profiles.operations import OPERATIONS

TRUTH = {
    "startup_s": 4e-6,
    "compute_flops_per_s": 7e14,
    "bandwidth_bytes_per_s": 3.9e12,
    "sharpness": 3.0,
}


def synthetic(
    n: int = 60, noise: float = 0.02, seed: int = 0
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    columns = {
        "m": np.rint(2.0 ** rng.uniform(0, 13, n)),
        "n": 2.0 ** rng.integers(9, 14, n),
        "k": 2.0 ** rng.integers(9, 14, n),
    }
    spec, config_key = OPERATIONS["matmul"], {"dtype": "bfloat16"}
    work = Work(columns, spec.flops(columns, config_key), spec.bytes(columns, config_key))
    time = soft_roofline.time_s(work, TRUTH)
    return columns, time * np.exp(noise * rng.normal(size=n))


def fit(columns: dict[str, np.ndarray], time: np.ndarray) -> Law:
    return fit_roofline(
        "matmul", {"dtype": "bfloat16"}, columns, time, origin="measured", source="a test"
    )


def test_fit_recovers_known_constants_within_5_percent() -> None:
    values = fit(*synthetic()).values()
    for name in ("startup_s", "compute_flops_per_s", "bandwidth_bytes_per_s"):
        assert values[name] == pytest.approx(TRUTH[name], rel=0.05), name


def test_interval_of_the_compute_rate_contains_the_truth_in_14_of_20_fits() -> None:
    inside = 0
    for seed in range(20):
        law = fit(*synthetic(seed=seed))
        c = law.coefficients["compute_flops_per_s"]
        inside += c.low <= TRUTH["compute_flops_per_s"] <= c.high
    assert inside >= 14


def test_outliers_do_not_change_the_fitted_rates() -> None:
    columns, time = synthetic()
    disturbed = time.copy()
    disturbed[::10] *= 3.0
    values = fit(columns, disturbed).values()
    assert values["compute_flops_per_s"] == pytest.approx(7e14, rel=0.08)
    assert values["bandwidth_bytes_per_s"] == pytest.approx(3.9e12, rel=0.08)


def test_held_out_error_matches_the_noise_of_the_data() -> None:
    """With 10 % noise the held-out error must be about 10 %, not the smaller fit residual."""
    law = fit(*synthetic(n=80, noise=0.10))
    assert 0.05 < law.held_out.median_fraction < 0.11  # median of |normal| is 0.67 sigma
    assert law.held_out.log_q95 == pytest.approx(1.645 * 0.10, abs=0.06)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_times_are_refused(bad: float) -> None:
    columns, time = synthetic(n=10)
    time[3] = bad
    with pytest.raises(InputError, match="positive and finite"):
        fit(columns, time)


def test_too_few_points_are_refused() -> None:
    with pytest.raises(InputError, match="at least 5 points, but there are 4"):
        fit(*synthetic(n=4))


def published(reference: Path, dtype: str = "bfloat16") -> pd.DataFrame:
    d = pd.read_csv(reference / "silicon" / "h200_matmul.csv.gz")
    aligned = (d.m <= 16) | (d.m % 16 == 0)
    inside = d.n.between(512, 16384) & d.k.between(512, 16384) & (d.m <= 16384)
    return d[(d["library"] == "trtllm-1.3.0rc20") & (d.dtype == dtype) & aligned & inside]


def test_law_of_96_published_h200_matmuls_predicts_the_others(reference: Path) -> None:
    """A soft roofline reaches 6.5 / 16 % (median / P90) from 96 published shapes; ours must too."""
    data = published(reference)
    chosen = choose_points("matmul", data, 96, seed=0)
    unseen = data.drop(chosen)
    predicted = fit_law("matmul", data.loc[chosen], "h200-sxm").predict(unseen)
    error = (predicted.time_us / unseen.time_us - 1.0).abs()
    assert error.median() < 0.07
    assert error.quantile(0.9) < 0.19
    inside = (predicted.low_us <= unseen.time_us) & (unseen.time_us <= predicted.high_us)
    assert 0.85 < inside.mean() < 0.99


def test_rows_beyond_the_fit_range_are_marked_extrapolated(reference: Path) -> None:
    data = published(reference)
    small = data[data.m <= 256]
    law = fit_law("matmul", small.loc[choose_points("matmul", small, 48)], "h200-sxm")
    predicted = law.predict(data)
    assert (predicted.origin[data.m > 256] == "extrapolated").all()
    assert (predicted.origin[small.index] == "measured").any()


def test_data_type_without_a_law_is_refused(reference: Path) -> None:
    law = fit_law("matmul", published(reference).head(50), "h200")
    with pytest.raises(InputError, match="no matmul law was fitted"):
        law.predict(published(reference, "fp8").head(5))


def test_frame_without_times_unknown_gpu_and_unknown_operation_are_refused(reference: Path) -> None:
    good = published(reference).head(50)
    with pytest.raises(InputError, match="lack the column time_us"):
        fit_law("matmul", good.drop(columns="time_us"), "h200")
    with pytest.raises(InputError, match="unknown GPU"):
        fit_law("matmul", good, "h2000")
    with pytest.raises(InputError, match="unknown operation"):
        fit_law("matmull", good, "h200")
