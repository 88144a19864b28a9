"""Options of estimate and plan that say how a model is served: engine, formats, limits, links."""

from typing import Annotated

import typer

EngineVersion = Annotated[
    str,
    typer.Option(
        "--engine-version",
        help="Version of the engine, e.g. 0.12. Default: the newest whose host costs are known.",
    ),
]
EngineProfile = Annotated[
    str | None,
    typer.Option(
        "--engine-profile",
        help="Name or file of an engine that was calibrated with 'calibrate --server': its "
        "constants are used. Default: those fitted to published rows.",
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="Data type of the weights: bfloat16, fp8, fp8_block, int4, nvfp4, ... Default: that "
        "of the checkpoint.",
    ),
]
KvDtype = Annotated[
    str | None,
    typer.Option(
        "--kv-dtype",
        help="Data type of the KV cache, e.g. fp8. Default: that of the checkpoint, else 16 bit.",
    ),
]
TokenBudget = Annotated[
    int | None,
    typer.Option(
        "--token-budget",
        help="Maximum number of tokens in one step (vLLM: --max-num-batched-tokens). Default: the "
        "engine's own default.",
    ),
]
MaxSequences = Annotated[
    int | None,
    typer.Option(
        "--max-sequences",
        help="Maximum number of sequences that run at once (vLLM: --max-num-seqs). Default: the "
        "engine's own default.",
    ),
]
MemoryFraction = Annotated[
    float | None,
    typer.Option(
        "--memory-fraction",
        help="Fraction of the device memory for weights and cache (vLLM: --gpu-memory-utilization; "
        "SGLang: --mem-fraction-static). Default: the engine's own.",
    ),
]
MaxModelLen = Annotated[
    int | None,
    typer.Option(
        "--max-model-len",
        help="Longest request, in tokens, that the cache must hold (vLLM: --max-model-len; SGLang: "
        "--context-length). Default: the longest of the load.",
    ),
]
GpusPerNode = Annotated[
    int | None,
    typer.Option(
        "--gpus-per-node",
        help="GPUs of a node. Default: those that share fast links by the datasheet (72 in an "
        "NVL72), else 8.",
    ),
]
InterNode = Annotated[
    str | None,
    typer.Option(
        "--inter-node",
        help="Rate of one GPU between nodes, in one direction, such as 400Gb/s or 50GB/s. Default: "
        "measured, else that of the vendor's reference system.",
    ),
]
GpuLink = Annotated[
    str | None,
    typer.Option(
        "--gpu-link",
        help="Rate of one GPU to the others of its node, in one direction, such as 32GB/s. "
        "Default: measured, else the datasheet's link, else its PCIe.",
    ),
]
Acceptance = Annotated[
    float | None,
    typer.Option(
        "--acceptance",
        help="Probability (0 to 1) that a draft token is accepted, given that those before it "
        "were. Needs --draft-tokens. Not given: what published servers reach, with its range.",
    ),
]
Draft = Annotated[
    str | None,
    typer.Option(
        "--draft",
        help="What drafts: 'head' (multi-token prediction, EAGLE: the default), 'ngram', or the "
        "name of a draft model. Needs --draft-tokens.",
    ),
]
