"""The test decoder is correct: decoding with the KV cache equals prefill in every architecture."""

import dataclasses

import pytest
import torch

from groundspeed.kernels.decoder.decoder import Decoder, DecoderShape

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
