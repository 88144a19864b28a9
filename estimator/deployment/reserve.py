"""What an engine keeps free of the KV cache: activations, sampler, communication, graphs.

No engine keeps a fixed amount. vLLM measures one: at start it runs a dummy step of as many tokens
as its budget and a sampler for as many sequences as it may run, and keeps the peak. The sampler is
the larger part: sorting the logits of 1,024 sequences takes 9.6 times their size in 32 bits, so the
same server keeps 4.8 GiB for a vocabulary of 128 k and 7.4 GiB for one of 201 k, whatever the size
of the model. Against logs of vLLM 0.11 (llm-d-benchmark, "empirical vLLM memory results"):

    model            logged activation   sampler + hidden states
    Llama-3.1-8B     4.76 GiB            4.68 + 0.08
    Llama-3.3-70B    4.84                4.68 + 0.16
    Qwen3-0.6B       5.56                5.54 + 0.02
    Qwen3-32B        5.64                5.54 + 0.10
    gpt-oss-20b      7.38                7.33 + 0.06

From 0.17 on the sampler does not sort, and keeps 3.7 times the logits (0.19: 1.89, 2.21, 2.87 and
3.66 GiB for vocabularies of 128 k, 152 k, 201 k and 256 k).

SGLang measures nothing: it keeps what a rule says, by memory, chunk size and graphs.
"""

import math
from dataclasses import dataclass

from groundspeed.estimator.deployment.deployment import Deployment, formats
from groundspeed.estimator.engines.engine import Engine
from groundspeed.estimator.model.quantization import STORED_BYTES
from groundspeed.estimator.model.spec import Model

GIB = 2.0**30
MIB = 2.0**20

HIDDEN_COPIES = 1.28
"""Copies of the hidden states of a step beside the sampler, from the same logs."""

GRAPH_BYTES = 0.27 * MIB
"""[bytes] For each captured graph and layer. Logs of vLLM 0.19 with 102 graphs: 0.91 GiB for 32
layers, 0.86 for 28, 1.23 for 46, 1.79 for 80, 1.41 for 48 with experts."""

LATENT_GRAPH_BYTES = 0.6 * MIB
"""[bytes] The same with latent attention: 1.57 GiB for 27 layers, 4.99 for 78."""

PIECEWISE_GRAPHS = 51
"""Sizes up to 512 tokens for which vLLM captures the parts between attention."""


@dataclass(frozen=True)
class Reserve:
    """Bytes of one device that an engine keeps free of weights and cache."""

    activation_bytes: float = 0.0
    """Largest of a step's intermediate results and the sampler's."""
    runtime_bytes: float = 0.0
    """Workspaces of libraries."""
    communication_bytes: float = 0.0
    graph_bytes: float = 0.0

    @property
    def total_bytes(self) -> float:
        """[bytes] All of it."""
        parts = (self.activation_bytes, self.runtime_bytes, self.communication_bytes)
        return sum(parts) + self.graph_bytes


def measured_reserve(
    model: Model, deployment: Deployment, engine: Engine, max_model_len: int | None
) -> Reserve:
    """Return what an engine keeps that measures a dummy step at its start (vLLM, TensorRT-LLM)."""
    tokens = float(engine.token_budget)
    if not engine.chunks_prompts:  # a step must hold the longest prompt
        tokens = float(max_model_len or min(model.max_context or 8192, engine.token_budget))
    graphs = 0.0
    if engine.reserves_graphs:
        # Sizes up to 512 for the parts between attention, and up to the sequences for whole steps.
        count = PIECEWISE_GRAPHS + graph_sizes(engine.max_sequences)
        each = LATENT_GRAPH_BYTES if model.latent else GRAPH_BYTES
        graphs = each * count * model.layers / deployment.pp
    return Reserve(
        activation_bytes=max(
            step_bytes(model, deployment, tokens),
            sampler_bytes(model, engine, tokens) + expert_bytes(model, deployment, tokens),
        ),
        runtime_bytes=engine.overhead_bytes,
        communication_bytes=communication_bytes(engine, deployment.devices),
        graph_bytes=graphs,
    )


def communication_bytes(engine: Engine, ranks: int) -> float:
    """Return the buffers of the communication libraries on one of several ranks."""
    if ranks == 1:
        return 0.0
    more = math.log2(ranks) - 1.0
    return engine.communication_bytes + more * engine.communication_doubling_bytes


def graph_sizes(sequences: int) -> int:
    """Return the number of batch sizes that vLLM captures: 1, 2, 4, by 8 to 256, by 16 to 512.

    >>> graph_sizes(256), graph_sizes(1024)
    (35, 51)
    """
    most = min(sequences, 512)
    return sum(size <= most for size in (1, 2, 4, *range(8, 257, 8), *range(272, 513, 16)))


def expert_bytes(model: Model, deployment: Deployment, tokens: float) -> float:
    """Return the workspace that grouped GEMMs keep: one row for each token and chosen expert.

    Logged for vLLM 0.19 beside the sampler: 0.47 GiB for Qwen3-30B-A3B, 0.45 for DeepSeek-V2-Lite,
    0.29 for Qwen1.5-MoE; nothing for the Triton kernels of 4-bit experts.
    """
    e = model.experts
    if e is None or "mxfp4" in formats(model, deployment).experts:
        return 0.0
    inner = e.intermediate / deployment.expert_tp
    first = (e.matrices - 1) * inner
    item = STORED_BYTES[formats(model, deployment).activations]
    return item * tokens * e.top_k * (max(first, model.hidden) + inner)


def sampler_bytes(model: Model, engine: Engine, tokens: float) -> float:
    """Return the peak of the sampler beside the hidden states of the step it follows."""
    sequences = min(float(engine.max_sequences), tokens)
    logits = 4.0 * sequences * model.vocabulary
    return engine.sampler_words * logits + HIDDEN_COPIES * 2.0 * tokens * model.hidden


def step_bytes(model: Model, deployment: Deployment, tokens: float) -> float:
    """Return the peak of the intermediate results of one layer in a step of ``tokens`` tokens.

    The residual stream, the input of the layer and the largest of its parts: gate, up and their
    product in an MLP, queries, keys, values and output in attention, the same and one output for
    each chosen expert in a mixture.
    """
    item = STORED_BYTES[formats(model, deployment).activations]
    tp = deployment.tp
    head = model.latent.nope_dim + model.latent.rope_dim if model.latent else model.head_dim
    widths = [(2 * model.heads + 2 * model.kv_heads) * head / tp]
    if model.mlp_layers:
        widths.append((model.mlp_width + model.intermediate) / tp)
    if model.experts is not None:
        e = model.experts
        inner = e.intermediate / deployment.expert_tp
        widths.append(e.top_k * (max((e.matrices - 1) * inner, model.hidden) + inner))
    return item * tokens * (2 * model.hidden + max(widths))


def rule_fraction(
    engine: Engine, deployment: Deployment, device_bytes: float, *, attention_groups: bool
) -> float:
    """Return the fraction of memory that SGLang gives to weights and cache by default.

    Parameters
    ----------
    engine : Engine
    deployment : Deployment
    device_bytes : float
        [bytes] Memory of the device.
    attention_groups : bool
        Whether attention is data parallel, which reserves more for its larger graphs.

    Notes
    -----
    As in ``server_args.py``: until version 0.5 a table by memory, from then on 512 MiB, 1.5 MiB for
    each token of a chunk, 2 MiB for each sequence of the largest graph and 1 GiB for 8 devices, at
    least 10 GiB on devices of more than 60 GiB.
    """
    memory = device_bytes / MIB
    ranks = deployment.devices
    large = memory > 60 * 1024
    graph = 512 if memory > 160 * 1024 else (512 if ranks >= 4 else 256) if large else 32
    if engine.from_version == "0":
        steps = ((35, 2.8, 0.1), (90, 9.5, 0.5), (160, 12.0, 0.5), (math.inf, 32.0, 0.0))
        base, each = next((b, e) for limit, b, e in steps if memory < limit * 1024)
        kept = 1024.0 * (base + each * ranks + 4.0 * attention_groups)
    else:
        chunk = (
            16384 if memory > 160 * 1024 else 8192 if large else 4096 if memory > 35840 else 2048
        )
        kept = 512 + 1.5 * chunk + 2.0 * graph + 1024.0 * ranks / 8
        if attention_groups:
            kept += graph * deployment.dp * (4.5 if graph > 300 else 3.0)
        if large:
            kept = max(kept, 10 * 1024.0)
    return round((memory - kept) / memory, 3)
