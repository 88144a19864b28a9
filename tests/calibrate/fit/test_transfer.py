"""Laws transferred to a device that was not measured, with and without a few measured points."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import profile_factory
from groundspeed.calibrate import choose_points, fit_law, transfer_law
from groundspeed.calibrate.fit.dataframe import FittedLaw
from groundspeed.profiles import InputError, Law, law_time
from groundspeed.profiles.datasheet import find_device
from groundspeed.profiles.schema import Profile

H200 = find_device("h200-sxm").spec


def profile(laws: tuple[Law, ...]) -> Profile:
    return profile_factory.profile().model_copy(update={"datasheet": H200, "laws": laws})


@pytest.fixture(scope="module")
def seen(reference: Path) -> tuple[Profile, pd.DataFrame]:
    frame = pd.read_csv(reference / "silicon" / "h200_matmul.csv.gz")
    frame = frame[(frame["dtype"] == "bfloat16") & frame["library"].str.startswith("trtllm")]
    frame = frame[(frame["m"] <= 16) | (frame["m"] % 16 == 0)]
    frame = frame[frame["n"].between(512, 16384) & frame["k"].between(512, 16384)]
    chosen = choose_points("matmul", frame, budget=96, seed=0)
    law = fit_law("matmul", frame.loc[chosen].drop(columns="library"), device="h200-sxm")
    return profile(law.laws), frame.drop(chosen).drop(columns="library")


def predicted(laws: tuple[Law, ...], rows: pd.DataFrame) -> pd.DataFrame:
    return FittedLaw("matmul", laws).predict(rows)


def test_transfer_to_the_same_device_only_widens_the_interval(
    seen: tuple[Profile, pd.DataFrame],
) -> None:
    source, rest = seen
    moved, own = predicted(transfer_law(source, "h200-sxm"), rest), predicted(source.laws, rest)
    np.testing.assert_allclose(moved["time_us"], own["time_us"], rtol=1e-5)
    assert set(moved["origin"]) <= {"transferred", "extrapolated"}
    wider = np.log(moved["high_us"] / moved["low_us"]) / np.log(own["high_us"] / own["low_us"])
    assert (wider > 1.0).all()


def test_transferred_rates_scale_with_the_datasheets(seen: tuple[Profile, pd.DataFrame]) -> None:
    """An H100 has the same matrix units as an H200 and 70 % of its memory bandwidth."""
    source, _ = seen
    (law,) = transfer_law(source, "h100-sxm")
    stream = {"m": np.array([1.0]), "n": np.array([16384.0]), "k": np.array([16384.0])}
    compute = {"m": np.array([8192.0]), "n": np.array([8192.0]), "k": np.array([8192.0])}
    ratios = [
        law_time(law, c).time_s[0] / law_time(source.laws[0], c).time_s[0]
        for c in (stream, compute)
    ]
    assert ratios[0] == pytest.approx(4.8 / 3.35, rel=0.06)
    assert ratios[1] == pytest.approx(1.0, rel=0.03)


@pytest.mark.parametrize("count", [1, 4, 12])
def test_measured_points_correct_a_transferred_law_for_a_slower_device(
    seen: tuple[Profile, pd.DataFrame], count: int
) -> None:
    """The device takes 20 % longer than its datasheet says; more points give a smaller error."""
    source, rest = seen
    slower = rest.assign(time_us=rest["time_us"] * 1.2, operation="matmul")
    anchors = slower.sample(count, random_state=1)
    new = slower.drop(anchors.index)
    plain = predicted(transfer_law(source, "h200-sxm"), new)
    mended = predicted(transfer_law(source, "h200-sxm", anchors), new)
    bias = float((mended["time_us"] / new["time_us"]).median() - 1.0)
    before = float((plain["time_us"] / new["time_us"]).median() - 1.0)
    assert before == pytest.approx(-1.0 / 6.0, abs=0.02)
    assert abs(bias) < {1: 0.16, 4: 0.12, 12: 0.06}[count]
    assert abs(bias) < abs(before)


def test_transfer_to_another_architecture_has_a_wider_interval(
    seen: tuple[Profile, pd.DataFrame],
) -> None:
    source, rest = seen
    near, far = (
        predicted(transfer_law(source, to), rest.head(50)) for to in ("h100-sxm", "mi300x")
    )
    widths = [np.median(np.log(t["high_us"] / t["low_us"])) for t in (near, far)]
    assert widths[1] > 1.8 * widths[0]


def test_transferred_collectives_scale_with_the_link_bandwidth(reference: Path) -> None:
    frame = pd.read_csv(reference / "silicon" / "h200_collectives.csv.gz")
    frame = frame[(frame["op"] == "all_gather") & (frame["world_size"] == 8)]
    source = profile(fit_law("collective", frame, device="h200-sxm").laws)
    (law,) = transfer_law(source, "a100-sxm-80gb")
    big, small = (law_time(law, {"bytes": np.array([b])}).time_s[0] for b in (2.0**29, 1024.0))
    own = [law_time(source.laws[0], {"bytes": np.array([b])}).time_s[0] for b in (2.0**29, 1024.0)]
    assert big / own[0] == pytest.approx(1.5, rel=0.02)  # 300 GB/s against 450
    assert small == pytest.approx(own[1], rel=0.01)


def test_transfer_without_the_needed_datasheet_rate_is_refused(
    seen: tuple[Profile, pd.DataFrame],
) -> None:
    source, _ = seen
    law = source.laws[0].model_copy(update={"config_key": {"dtype": "fp8"}})
    with pytest.raises(InputError, match="no law of h200-sxm can be transferred to a100"):
        transfer_law(profile((law,)), "a100-sxm-80gb")
    with pytest.raises(InputError, match="no datasheet"):
        transfer_law(source.model_copy(update={"datasheet": None}), "h100-sxm")
