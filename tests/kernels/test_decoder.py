"""The test decoder is correct: decoding with the KV cache equals prefill in every architecture."""

import dataclasses

import pytest
import torch

from groundspeed.kernels.decoder.decoder import Decoder, DecoderShape, MixtureShape
from groundspeed.kernels.decoder.elementwise import silu_mul

SMALL = DecoderShape(
    hidden=64,
    intermediate=96,
    layers=3,
    heads=4,
    kv_heads=2,
    head_dim=16,
    vocabulary=300,
    tied_head=True,
    dtype="float32",
)
VARIANTS = {
    "grouped, tied": SMALL,
    "biases, untied": dataclasses.replace(SMALL, qkv_bias=True, tied_head=False),
    "multi-query, plain MLP, parallel": dataclasses.replace(
        SMALL, kv_heads=1, gated_mlp=False, parallel_block=True, layer_norm=True
    ),
    "window": dataclasses.replace(SMALL, window=5, windowed_layers=2),
    "window of multi-head attention": dataclasses.replace(
        SMALL, kv_heads=4, window=7, windowed_layers=3
    ),
    "query and key norms": dataclasses.replace(SMALL, qk_norm=True, kv_heads=4),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_decode_with_the_kv_cache_gives_the_same_result_as_prefill(
    device: torch.device, name: str
) -> None:
    decoder = Decoder(VARIANTS[name], device, batch=2, capacity=24)
    tokens = torch.randint(300, (2, 20), device=device)
    stepwise = []
    decoder.prefill(tokens[:, :12])
    for position in range(12, 20):
        stepwise.append(decoder.decode(tokens[:, position], position))
    whole = [decoder.prefill(tokens[:, : position + 1]) for position in range(12, 20)]
    assert torch.equal(torch.stack(stepwise), torch.stack(whole))


def test_mixture_computes_the_experts_that_it_routes_to(device: torch.device) -> None:
    shape = dataclasses.replace(
        SMALL, layers=2, tied_head=False, mixture=MixtureShape(1, 6, 2, 48, shared_intermediate=32)
    )
    decoder = Decoder(shape, device, batch=1, capacity=16)
    dense, mixture = decoder.layers[0], decoder.layers[1].mixture
    assert dense.mixture is None and mixture is not None
    assert mixture.shared_up is not None and mixture.shared_down is not None
    x = torch.randn(5, shape.hidden, device=device)
    got = decoder._experts(mixture, x, lambda group: None)
    weights = torch.softmax(x @ mixture.router.T, dim=-1)
    expected = silu_mul(x @ mixture.shared_up.T) @ mixture.shared_down.T
    chosen = torch.zeros(5, 6, dtype=torch.bool)
    for expert, rows in mixture.routes[5]:
        chosen[rows.cpu(), expert] = True
        y = silu_mul(x[rows] @ mixture.up[expert].T) @ mixture.down[expert].T
        expected[rows] += y * weights[rows, expert, None]
    assert (chosen.sum(1) == 2).all()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_fp8_weights_give_nearly_the_result_of_the_same_weights_in_bfloat16(
    device: torch.device,
) -> None:
    shape = dataclasses.replace(SMALL, dtype="bfloat16", fp8_weights=True, qkv_bias=True)
    decoder = Decoder(shape, device, batch=1, capacity=16)
    layer = decoder.layers[0]
    x = torch.randn(5, shape.hidden, device=device).bfloat16()
    seen: list[str] = []
    got = decoder._linear(x, layer.qkv, layer.qkv_bias, "qkv", seen.append)
    assert seen == ["quantize", "qkv"] and layer.qkv_bias is not None
    expected = x.float() @ layer.qkv.float().T + layer.qkv_bias.float()
    error = (got.float() - expected).norm() / expected.norm()
    assert error < 0.05  # three mantissa bits of the inputs


def test_probe_is_called_for_every_part_and_keeps_the_result(device: torch.device) -> None:
    decoder = Decoder(SMALL, device, batch=1, capacity=16)
    tokens = torch.randint(300, (1, 8), device=device)
    seen: list[str] = []
    assert torch.equal(decoder.prefill(tokens, seen.append), decoder.prefill(tokens))
    assert seen.count("attention") == SMALL.layers
    assert seen.count("mlp") == 2 * SMALL.layers
    assert seen[-2:] == ["head", "sampling"]


def test_activations_of_24_layers_neither_vanish_nor_explode(device: torch.device) -> None:
    """Zeros or infinities as activations would change the measured times."""
    deep = dataclasses.replace(SMALL, layers=24)
    decoder = Decoder(deep, device, batch=1, capacity=16)
    decoder.prefill(torch.randint(300, (1, 16), device=device))
    caches = torch.stack([layer.v_cache for layer in decoder.layers])
    assert torch.isfinite(caches).all()
    assert 0.3 < float(caches[-1].std()) < 3.0
