"""The commands that start what a plan chose: every choice is an option of the engine.

Options are those of ``vllm serve``, ``python -m sglang.launch_server``, ``trtllm-serve`` and ATOM;
the tests hold them against the published option lists.
"""

import json
import math
import shlex
from dataclasses import dataclass

from groundspeed.estimator.deployment.deployment import Deployment
from groundspeed.estimator.engines.engine import Engine
from groundspeed.estimator.model.catalog import hub_name
from groundspeed.estimator.model.spec import Model
from groundspeed.estimator.serving.workload import Workload

FIRST_PORT = 8000


@dataclass(frozen=True)
class Launch:
    """Commands for one replica, and for what distributes requests over several."""

    server: str
    router: str | None
    """None for one replica."""
    remark: str = ""
    """What the command cannot say."""


@dataclass(frozen=True)
class Chosen:
    """What a plan chose, as far as it is told to an engine."""

    model: Model
    deployment: Deployment
    engine: Engine
    replicas: int
    sequences: int
    """Sequences of one attention group of a replica."""
    workload: Workload
    per_node: int
    served_as: str | None = None
    """Name or folder that the engine is told; None: the hub's name of a shipped model."""

    @property
    def name(self) -> str:
        """Name or folder of the model, quoted for a shell."""
        return shlex.quote(self.served_as or hub_name(self.model))


def launch(chosen: Chosen) -> Launch:
    """Return the commands that start a deployment."""
    makers = {"sglang": _sglang, "trtllm": _trtllm, "atom": _atom}
    words = makers.get(chosen.engine.name, _vllm)(chosen)
    remarks = []
    drafted = chosen.workload.drafted_tokens
    if chosen.engine.name == "trtllm":
        if chosen.deployment.dtype or chosen.deployment.kv_dtype:
            remarks.append("formats come from the checkpoint: give a quantized one")
        if chosen.deployment.dp > 1:
            remarks.append(
                "write enable_attention_dp: true into the file of --extra_llm_api_options"
            )
        if drafted:
            remarks.append(
                f"write speculative_config with max_draft_len: {drafted} into that file"
                if chosen.deployment.dp > 1
                else f"write speculative_config with max_draft_len: {drafted} into a file for "
                "--extra_llm_api_options"
            )
    elif drafted and chosen.workload.draft_layers and chosen.workload.draft_model is None:
        remarks.append("DRAFT is your draft model or its folder")
    return Launch(" ".join(words), _router(chosen), "; ".join(remarks))


def _longest(chosen: Chosen) -> str:
    return str(chosen.engine.max_model_len or math.ceil(chosen.workload.longest_tokens))


def _vllm(c: Chosen) -> list[str]:
    d = c.deployment
    words = ["vllm serve", c.name, f"--port {FIRST_PORT}", f"--tensor-parallel-size {d.tp}"]
    words += [f"--pipeline-parallel-size {d.pp}"] if d.pp > 1 else []
    words += [f"--data-parallel-size {d.dp}"] if d.dp > 1 else []
    words += ["--enable-expert-parallel"] if d.ep > 1 else []
    if d.devices > c.per_node:
        # Ray starts the ranks of all nodes from one command; each node has its share of them.
        words += (
            [f"--data-parallel-backend ray --data-parallel-size-local {c.per_node // d.tp}"]
            if d.dp > 1 and d.tp <= c.per_node
            else ["--distributed-executor-backend ray"]
        )
    words += [f"--max-model-len {_longest(c)}", f"--max-num-seqs {c.sequences}"]
    words += [f"--max-num-batched-tokens {c.engine.token_budget}"]
    words += [f"--gpu-memory-utilization {c.engine.memory_fraction:g}"]
    words += ["--enable-prefix-caching" if c.workload.cached else "--no-enable-prefix-caching"]
    if d.dtype is not None and d.dtype.startswith("fp8") and c.model.weights is None:
        words.append("--quantization fp8")
    elif d.dtype in ("bfloat16", "float16") and c.model.weights is None:
        words.append(f"--dtype {d.dtype}")
    if c.workload.drafted_tokens:
        how = {"model": _draft_name(c), "num_speculative_tokens": c.workload.drafted_tokens}
        if not c.workload.draft_layers:
            how = {"method": "ngram", "prompt_lookup_max": NGRAM, **how}
            del how["model"]
        words.append(f"--speculative-config {shlex.quote(json.dumps(how))}")
    if d.kv_dtype is not None:
        words.append(f"--kv-cache-dtype {'fp8' if d.kv_dtype.startswith('fp8') else 'auto'}")
    return words


NGRAM = 4
"""Longest match that is looked up in the prompt."""


def _draft_name(c: Chosen) -> str:
    draft = c.workload.draft_model
    return hub_name(draft) if draft is not None else "DRAFT"


def _sglang(c: Chosen) -> list[str]:
    d = c.deployment
    words = ["python -m sglang.launch_server", f"--model-path {c.name}"]
    words += [f"--port {FIRST_PORT}", f"--tp-size {d.tp * d.dp}"]
    words += [f"--pp-size {d.pp}"] if d.pp > 1 else []
    words += [f"--dp-size {d.dp} --enable-dp-attention"] if d.dp > 1 else []
    words += [f"--ep-size {d.ep}"] if d.ep > 1 else []
    nodes = -(-d.devices // c.per_node)
    words += [f"--nnodes {nodes} --node-rank 0 --dist-init-addr HOST:20000"] if nodes > 1 else []
    # With attention in groups SGLang divides both limits by their number.
    words += [f"--context-length {_longest(c)}", f"--max-running-requests {c.sequences * d.dp}"]
    words += [f"--chunked-prefill-size {c.engine.token_budget * d.dp}"]
    if c.engine.memory_fraction is not None:
        words.append(f"--mem-fraction-static {c.engine.memory_fraction:g}")
    words += [] if c.workload.cached else ["--disable-radix-cache"]
    if d.dtype is not None and d.dtype.startswith("fp8") and c.model.weights is None:
        words.append("--quantization fp8")
    elif d.dtype in ("bfloat16", "float16") and c.model.weights is None:
        words.append(f"--dtype {d.dtype}")
    if tokens := c.workload.drafted_tokens:
        if c.workload.draft_layers:
            model = c.workload.draft_model is not None
            words.append(f"--speculative-algorithm {'STANDALONE' if model else 'EAGLE'}")
            words.append(f"--speculative-draft-model-path {shlex.quote(_draft_name(c))}")
            words.append(f"--speculative-num-steps {tokens} --speculative-eagle-topk 1")
        else:
            words.append("--speculative-algorithm NGRAM")
        words.append(f"--speculative-num-draft-tokens {tokens + 1}")
    if d.kv_dtype is not None:
        words.append(f"--kv-cache-dtype {'fp8_e4m3' if d.kv_dtype.startswith('fp8') else 'auto'}")
    return words


def _trtllm(c: Chosen) -> list[str]:
    d = c.deployment
    words = ["trtllm-serve serve", c.name, f"--port {FIRST_PORT}"]
    words += [f"--tp_size {d.tp * d.dp}"]
    words += [f"--pp_size {d.pp}"] if d.pp > 1 else []
    words += [f"--ep_size {d.ep}"] if d.ep > 1 else []
    words += [f"--max_batch_size {c.sequences}", f"--max_seq_len {_longest(c)}"]
    words += [f"--max_num_tokens {c.engine.token_budget}"]
    if c.engine.memory_fraction is not None:
        words.append(f"--kv_cache_free_gpu_memory_fraction {c.engine.memory_fraction:g}")
    return words


def _atom(c: Chosen) -> list[str]:
    d = c.deployment
    words = ["python -m atom.entrypoints.openai_server", f"--model {c.name}"]
    words += [f"--server-port {FIRST_PORT}", f"--tensor-parallel-size {d.tp}"]
    words += [f"--data-parallel-size {d.dp} --enable-dp-attention"] if d.dp > 1 else []
    words += ["--enable-expert-parallel"] if d.ep > 1 else []
    words += [f"--max-model-len {_longest(c)}", f"--max-num-seqs {c.sequences}"]
    words += [f"--max-num-batched-tokens {c.engine.token_budget}"]
    words += [f"--gpu-memory-utilization {c.engine.memory_fraction:g}"]
    words += ["--enable_prefix_caching"] if c.workload.cached else []
    if c.workload.drafted_tokens:
        words.append(f"--method mtp --num-speculative-tokens {c.workload.drafted_tokens}")
    if d.kv_dtype is not None:
        words.append(f"--kv_cache_dtype {'fp8' if d.kv_dtype.startswith('fp8') else 'bf16'}")
    return words


def _router(c: Chosen) -> str | None:
    if c.replicas == 1:
        return None
    urls = " ".join(f"http://HOST{i + 1}:{FIRST_PORT}" for i in range(c.replicas))
    if c.engine.name == "sglang":
        return f"python -m sglang_router.launch_router --worker-urls {urls}"
    if c.engine.name == "vllm":
        return f"vllm-router --worker-urls {urls}"
    return f"any HTTP load balancer over {urls}"
