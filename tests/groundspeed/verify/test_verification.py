"""``verify``: predictions are made before the model runs, from a profile without its shapes."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import tiny_campaign  # noqa: E402
from groundspeed.calibrate.run.device import open_device  # noqa: E402
from groundspeed.display.plots import save_roofline  # noqa: E402
from groundspeed.estimator import Model, ProfileHardware, Server, Workload  # noqa: E402
from groundspeed.estimator.deployment.deployment import Deployment  # noqa: E402
from groundspeed.estimator.engines.engine import find_engine  # noqa: E402
from groundspeed.estimator.model.architectures import parse_config  # noqa: E402
from groundspeed.estimator.model.catalog import find_model  # noqa: E402
from groundspeed.profiles import InputError, Profile, load_profile  # noqa: E402
from groundspeed.verify.decoder_timing import decoder_shape  # noqa: E402
from groundspeed.verify.verification import VerifyRequest, verify  # noqa: E402

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 192,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 2000,
}
MODEL = parse_config(CONFIG, name="tiny", where="config.json")
CASES = [(1, 24), (2, 40)]


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Profile]:
    folder = tmp_path_factory.mktemp("verify")
    threads = torch.get_num_threads()
    tiny_campaign.main(folder, slow=False)  # sets one thread, which verify needs too
    yield load_profile(folder / "profile.json")
    torch.set_num_threads(threads)


def request(profile: Profile, **changes: object) -> VerifyRequest:
    values = {
        "model": MODEL, "profile": profile, "running": open_device("cpu"), "cases": CASES,
        "output_tokens": 5, "budget_s": 0.05,
    }  # fmt: skip
    return VerifyRequest(**(values | changes))  # type: ignore[arg-type]


def decoder(model: Model, profile: Profile) -> Server:
    deployment = Deployment(dtype="bfloat16", kv_dtype="bfloat16", experts_dtype="bfloat16")
    return Server(model, deployment, find_engine("bare"), ProfileHardware.of(profile))


def test_predictions_equal_those_of_the_profile_and_are_hashed(profile: Profile) -> None:
    """verify compares with predictions made without a decoder, and records their SHA-256 hash."""
    result = verify(request(profile), lambda *_: None)
    predictions = [
        decoder(MODEL, profile).predict(Workload(p, 5, b, kind="static")) for b, p in CASES
    ]
    sealed = hashlib.sha256(
        "\n".join(t.model_dump_json() for t in predictions).encode()
    ).hexdigest()
    assert result.predictions_sha256 == sealed
    assert [c.ttft_s.predicted.value for c in result.cases] == [t.ttft_s for t in predictions]
    assert result.shapes_seen == ()
    json.loads(result.model_dump_json())


def test_every_part_is_compared_and_the_parts_sum_to_the_total(profile: Profile) -> None:
    result = verify(request(profile), lambda *_: None)
    for case in result.cases:
        for phase, whole in (("prefill", case.ttft_s), ("decode", case.tpot_s)):
            parts = [p for p in case.parts if p.phase == phase]
            assert {"qkv", "attention", "out", "mlp", "head", "norm"} <= {p.group for p in parts}
            assert sum(p.measured_s for p in parts) == pytest.approx(whole.measured.value)
            assert sum(p.predicted_s for p in parts) == pytest.approx(whole.predicted.value)
        assert {m.limit for m in case.machine} == {"compute", "memory"}


def test_shape_that_the_profile_contains_is_reported(profile: Profile) -> None:
    curve = profile.curve("matmul", dtype="bfloat16")
    assert curve is not None
    seen = curve.points[0].model_copy(update={"case": {"m": 24.0, "n": 320.0, "k": 192.0}})
    changed = curve.model_copy(update={"points": (seen, *curve.points[1:])})
    curves = tuple(changed if c is curve else c for c in profile.curves)
    result = verify(request(profile.model_copy(update={"curves": curves})), lambda *_: None)
    assert result.shapes_seen == ("matmul k=192 m=24 n=320",)


def test_wrong_matmul_law_fails_and_is_named_as_the_cause(profile: Profile) -> None:
    """The matmul laws get a start-up time of 20 ms: verify must fail and name a matmul part."""
    laws = []
    for law in profile.laws:
        if law.operation == "matmul":
            slow = {
                k: c.model_copy(update={"value": 0.02, "high": 0.02}) if k == "startup_s" else c
                for k, c in law.coefficients.items()
            }
            law = law.model_copy(update={"coefficients": slow})
        laws.append(law)
    wrong = profile.model_copy(update={"laws": tuple(laws)})
    result = verify(request(wrong), lambda *_: None)
    assert not result.passed
    assert "too slow" in result.blame
    assert result.blame.split()[1] in ("mlp", "qkv", "out")


def test_profile_of_another_device_is_refused(profile: Profile) -> None:
    other = profile.model_copy(
        update={"device": profile.device.model_copy(update={"name": "NVIDIA H200"})}
    )
    with pytest.raises(InputError, match="this machine has"):
        verify(request(other), lambda *_: None)


MIXTURE = parse_config(
    {
        "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 192, "intermediate_size": 384,
        "moe_intermediate_size": 128, "num_experts": 8, "num_experts_per_tok": 2,
        "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2,
        "head_dim": 32, "vocab_size": 2000, "decoder_sparse_step": 1,
    },
    name="tiny-mixture", where="config.json",
)  # fmt: skip


def test_mixture_of_experts_is_predicted_and_run_part_by_part(profile: Profile) -> None:
    result = verify(request(profile, model=MIXTURE), lambda *_: None)
    for case in result.cases:
        groups = {p.group for p in case.parts if p.phase == "decode"}
        assert {"router", "experts", "residual"} <= groups and "mlp" not in groups
        experts = [p for p in case.parts if p.group == "experts" and p.phase == "decode"]
        # Weights that are read: no prediction may be below a fifth of what was measured.
        assert experts[0].predicted_s > 0.2 * experts[0].measured_s


WINDOWED = MODEL.model_copy(update={"sliding_window": 16, "windowed_layers": 1})


def test_window_shorter_than_the_prompt_is_predicted_and_run(profile: Profile) -> None:
    """A window limits what decode reads, and the number of pairs in prefill."""
    result = verify(request(profile, model=WINDOWED), lambda *_: None)

    def attention_bytes(model: Model, prompt: int) -> float:
        prediction = decoder(model, profile).predict(Workload(prompt, 5, kind="static"))
        return next(p.bytes for p in prediction.decode_parts if p.group == "attention")

    assert len(result.cases) == len(CASES)
    growth = attention_bytes(WINDOWED, 4000) - attention_bytes(WINDOWED, 2000)
    whole = attention_bytes(MODEL, 4000) - attention_bytes(MODEL, 2000)
    assert growth == pytest.approx(whole / 2.0)  # one of two layers sees a window


def test_fp8_weights_need_laws_of_fp8(profile: Profile) -> None:
    with pytest.raises(InputError, match="no law for matmul fp8_row"):
        verify(request(profile, weights_dtype="fp8_row"), lambda *_: None)
    with pytest.raises(InputError, match="no weights of int4"):
        verify(request(profile, weights_dtype="int4"), lambda *_: None)


def test_fp8_weights_are_run_and_predicted_with_the_quantization_of_their_inputs(
    profile: Profile,
) -> None:
    """The law of bfloat16 products stands in for one of fp8, which a CPU does not measure."""
    law = next(
        law for law in profile.laws
        if law.operation == "matmul" and law.config_key["dtype"] == "bfloat16"
    )  # fmt: skip
    fp8 = law.model_copy(update={"config_key": {"dtype": "fp8_row"}})
    with_fp8 = profile.model_copy(update={"laws": (*profile.laws, fp8)})
    result = verify(request(with_fp8, weights_dtype="fp8_row"), lambda *_: None)
    for case in result.cases:
        assert "quantize" in {p.group for p in case.parts}
    assert result.predictions[0].weight_bytes < MODEL.parameters * 2


def test_decoder_of_a_mixture_has_as_many_parameters_as_the_model() -> None:
    from groundspeed.kernels.decoder.decoder import Decoder

    decoder = Decoder(decoder_shape(MIXTURE, "bfloat16"), torch.device("cpu"), batch=1, capacity=8)
    count = decoder.table.numel() + decoder.head.numel() + decoder.final_norm.numel()
    for layer in decoder.layers:
        held = [v for n, v in vars(layer).items() if not n.endswith("cache") and n != "mixture"]
        held += [v for n, v in vars(layer.mixture).items() if n != "routes"]
        count += sum(t.numel() for t in held if t is not None)
    assert count == MIXTURE.parameters


@pytest.mark.parametrize(("layers", "mixtures"), [(1, None), (3, None), (4, 1), (27, 24)])
def test_first_layers_of_a_mixture_keep_its_dense_layers_in_front(
    layers: int, mixtures: int | None
) -> None:
    from groundspeed.commands.verify import first_layers

    model = find_model("deepseek-v3")
    assert model.mlp_layers == 3
    cut = first_layers(model, layers)
    assert (cut.experts.layers if cut.experts else None) == mixtures
    assert cut.mlp_layers == min(layers, 3)


def test_model_that_does_not_fit_is_refused_before_it_is_built(profile: Profile) -> None:
    huge = MODEL.model_copy(update={"hidden": 192, "layers": 10_000, "intermediate": 9_000_000})
    with pytest.raises(InputError, match="--layers N"):
        verify(request(profile, model=huge), lambda *_: None)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("deepseek-v2-lite", "latent attention"),
        ("gpt-oss-20b", "experts with biases"),
    ],
)
def test_model_that_the_test_decoder_cannot_represent_is_refused(
    profile: Profile, model: str, reason: str
) -> None:
    """A dense decoder in place of a mixture of experts would measure the times of another model."""
    cases = [(1, 8192)]
    with pytest.raises(InputError, match=reason):
        verify(request(profile, model=find_model(model), cases=cases), lambda *_: None)


def test_one_output_token_is_refused(profile: Profile) -> None:
    with pytest.raises(InputError, match="at least 2 output tokens"):
        verify(request(profile, output_tokens=1), lambda *_: None)


def test_decoder_has_as_many_parameters_as_the_model() -> None:
    from groundspeed.kernels.decoder.decoder import Decoder

    decoder = Decoder(decoder_shape(MODEL, "bfloat16"), torch.device("cpu"), batch=1, capacity=8)
    tensors = [decoder.table, decoder.final_norm]
    if not MODEL.tied_head:
        tensors.append(decoder.head)
    for layer in decoder.layers:
        tensors += [
            t for name, t in vars(layer).items() if t is not None and not name.endswith("cache")
        ]
    assert sum(t.numel() for t in tensors) == MODEL.parameters


@pytest.mark.parametrize("name", ["roofline.png", "roofline.svg"])
def test_roofline_is_saved_as_png_or_svg_and_not_overwritten(
    profile: Profile, tmp_path: Path, name: str
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    save_roofline(profile, tmp_path / name)
    head = (tmp_path / name).read_bytes()[:200]
    assert head.startswith(b"\x89PNG") or b"<?xml" in head
    with pytest.raises(InputError, match="exists already"):
        save_roofline(profile, tmp_path / name)
    with pytest.raises(InputError, match=r"\.png or \.svg"):
        save_roofline(profile, tmp_path / "roofline.gif")
