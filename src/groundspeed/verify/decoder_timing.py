"""Time a real decoder: first prefill and decode as a whole, then by operator.

Whole phases are timed without probes, as a server would run them: on a GPU, decode steps are CUDA
graphs, so the host adds no time. A second pass has a probe after each operation and gives the time
by operator. Probes cost time themselves, so that pass only shows *which* operator is predicted
wrong, never how long a whole phase takes.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from groundspeed.calibrate.timing.statistics import Summary, summarize
from groundspeed.calibrate.timing.timers import GpuTimer
from groundspeed.estimator import Model
from groundspeed.kernels.capture import capture
from groundspeed.kernels.decoder.decoder import Decoder, DecoderShape, MixtureShape

MIN_RUNS = 3
MAX_RUNS = 20
PART_RUNS = 3
SPIN_S = 0.02
"""[s] Length of a spin kernel before each run. Launches queue up behind it, so that times between
events do not contain launch latency of the host."""


Run = Callable[[], list[float]]
"""A function that runs a phase once and returns the durations of its steps [s]."""


@dataclass(frozen=True)
class PhaseTiming:
    """Measured times of one phase (prefill or decode)."""

    total: Summary
    groups_s: dict[str, float]
    """[s] Median time of each operator group in the pass with probes."""


@dataclass(frozen=True)
class CaseTiming:
    """Measured times of one case: a batch size and a prompt length."""

    prefill: PhaseTiming
    decode: PhaseTiming


def decoder_shape(model: Model, dtype: str, *, fp8_weights: bool = False) -> DecoderShape:
    """Return the shape of the decoder that has the layers of a model."""
    return DecoderShape(
        hidden=model.hidden,
        intermediate=model.intermediate,
        layers=model.layers,
        heads=model.heads,
        kv_heads=model.kv_heads,
        head_dim=model.head_dim,
        vocabulary=model.vocabulary,
        tied_head=model.tied_head,
        gated_mlp=model.gated_mlp,
        qkv_bias=model.qkv_bias,
        output_bias=model.output_bias,
        mlp_bias=model.mlp_bias,
        qk_norm=model.qk_norm,
        layer_norm=model.norm == "layer",
        parallel_block=model.parallel_block,
        mixture=_mixture_shape(model),
        window=model.sliding_window,
        windowed_layers=model.windowed_layers,
        dtype=dtype,
        fp8_weights=fp8_weights,
    )


def _mixture_shape(model: Model) -> MixtureShape | None:
    e = model.experts
    if e is None:
        return None
    return MixtureShape(e.layers, e.count, e.top_k, e.intermediate, e.shared_intermediate)


def unsupported_features(model: Model) -> str | None:
    """Name a feature of the model that the decoder of ``verify`` lacks; None if it can be run."""
    parts = {
        "experts without a gate": model.experts is not None and not model.experts.gated,
        "experts with biases": model.experts is not None and model.experts.bias,
        "experts of another width": model.experts is not None and model.experts.latent_hidden > 0,
        "latent attention": model.latent is not None,
        "recurrent layers": model.recurrent is not None,
        "gated attention outputs": model.output_gate,
        "attention sinks": model.sinks,
        f"{model.norms_per_layer} norms a layer": model.norms_per_layer > 2,
        "norms over all heads at once": model.qk_norm_whole,
    }
    return next((name for name, has in parts.items() if has), None)


class DecoderHarness:
    """A decoder on a device, with methods to time it.

    Parameters
    ----------
    shape : DecoderShape
        Layer sizes and data type of the decoder; its weights are random.
    device : torch.device
        Device that runs the decoder: a GPU or the CPU.
    batch : int
        Number of sequences.
    capacity : int
        [tokens] Size of the KV cache per sequence: the longest prompt plus its output.

    Raises
    ------
    MemoryError, torch.OutOfMemoryError
        If weights and KV cache do not fit the device's memory.
    """

    def __init__(
        self, shape: DecoderShape, device: torch.device, *, batch: int, capacity: int
    ) -> None:
        self.device = device
        self.batch = batch
        self._spin_cycles = 0
        if device.type == "cuda":
            self._spin_cycles = int(GpuTimer(device).spin_cycles_per_s * SPIN_S)
        self.decoder = Decoder(shape, device, batch=batch, capacity=capacity)
        generator = torch.Generator(device=device).manual_seed(1)
        self._tokens = torch.randint(
            shape.vocabulary, (batch, capacity), generator=generator, device=device
        )

    def time(self, prompt: int, output: int, *, budget_s: float) -> CaseTiming:
        """Time the prefill of a prompt and the decode of the tokens after the first.

        Parameters
        ----------
        prompt, output : int
            [tokens] Lengths of prompt and output; the output is at least 2 tokens.
        budget_s : float
            [s] Approximate time for the runs of each phase; at least three runs are made.
        """
        prefill = self._repeat(lambda: [self._prefill_s(prompt)], budget_s)
        first = self.decoder.prefill(self._tokens[:, :prompt])
        steps = range(prompt, prompt + output - 1)
        if self.device.type == "cuda":
            graphs = self._capture(first, steps)
            decode = self._repeat(lambda: self._replays_s(graphs), budget_s)
        else:
            decode = self._repeat(lambda: self._steps_s(first, steps), budget_s)
        return CaseTiming(
            PhaseTiming(prefill, self._parts(prompt, None)),
            PhaseTiming(decode, self._parts(prompt, first)),
        )

    def _repeat(self, run: Run, budget_s: float) -> Summary:
        """Repeat a run until the budget is used; a sample is the mean step of one run [s]."""
        run()  # warm-up: kernel loading, allocator, caches of the libraries
        begin = time.monotonic()
        samples: list[float] = []
        while len(samples) < MIN_RUNS or (
            time.monotonic() - begin < budget_s and len(samples) < MAX_RUNS
        ):
            samples.append(float(np.mean(run())))
        return summarize(np.array(samples))

    def _prefill_s(self, prompt: int) -> float:
        tokens = self._tokens[:, :prompt]
        if self.device.type == "cpu":
            begin = time.perf_counter_ns()
            self.decoder.prefill(tokens)
            return (time.perf_counter_ns() - begin) * 1e-9
        begin_event, end_event = _events()
        torch.cuda._sleep(self._spin_cycles)
        begin_event.record()
        self.decoder.prefill(tokens)
        end_event.record()
        torch.cuda.synchronize(self.device)
        return float(begin_event.elapsed_time(end_event)) * 1e-3

    def _steps_s(self, first: torch.Tensor, steps: range) -> list[float]:
        """Run the decode steps on the CPU and return the duration of each [s]."""
        tokens, durations = first, []
        for position in steps:
            begin = time.perf_counter_ns()
            tokens = self.decoder.decode(tokens, position)
            durations.append((time.perf_counter_ns() - begin) * 1e-9)
        return durations

    def _capture(self, first: torch.Tensor, steps: range) -> list[torch.cuda.CUDAGraph]:
        """Capture one CUDA graph per decode step; each reads the token chosen by the last one."""
        # A graph only holds the address of this tensor, so the attribute keeps it alive.
        self._chosen = tokens = first.clone()
        for position in steps:  # warm up each length: its kernel may differ
            self.decoder.decode(tokens, position)
        torch.cuda.synchronize(self.device)
        graphs = []
        pool = None
        for position in steps:
            step = partial(self._step_into, tokens, position)
            graph = capture(step, pool)
            pool = pool or graph.pool()
            graphs.append(graph)
        return graphs

    def _step_into(self, tokens: torch.Tensor, position: int) -> None:
        tokens.copy_(self.decoder.decode(tokens, position))

    def _replays_s(self, graphs: list[torch.cuda.CUDAGraph]) -> list[float]:
        """Replay all decode steps back to back and return the mean time of a step [s] as a list."""
        begin, end = _events()
        torch.cuda._sleep(self._spin_cycles)
        begin.record()
        for graph in graphs:
            graph.replay()
        end.record()
        torch.cuda.synchronize(self.device)
        return [float(begin.elapsed_time(end)) * 1e-3 / len(graphs)]

    def _parts(self, prompt: int, first: torch.Tensor | None) -> dict[str, float]:
        """Return the median time of each operator group [s] over a few passes with probes.

        ``first`` is the first generated token for decode; None times the prefill.
        """
        runs: list[dict[str, float]] = []
        for _ in range(PART_RUNS + 1):
            stamps = _Stamps(self.device, self._spin_cycles)
            if first is None:
                self.decoder.prefill(self._tokens[:, :prompt], stamps)
            else:
                self.decoder.decode(first, prompt, stamps)
            runs.append(stamps.sums_s())
        return {group: float(np.median([run[group] for run in runs[1:]])) for group in runs[0]}


class _Stamps:
    """Probe that the decoder calls after each operation with the name of its operator group.

    The time since the previous call is added to that group.
    """

    def __init__(self, device: torch.device, spin_cycles: int) -> None:
        self.device = device
        self.names: list[str] = []
        self.times: list[float] = []
        self.events: list[torch.cuda.Event] = []
        if device.type == "cuda":
            torch.cuda._sleep(spin_cycles)
        self("start")

    def __call__(self, group: str) -> None:
        self.names.append(group)
        if self.device.type == "cpu":
            self.times.append(time.perf_counter())
        else:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.events.append(event)

    def sums_s(self) -> dict[str, float]:
        """Return the total time of each operator group [s]."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            start = self.events[0]
            self.times = [float(start.elapsed_time(e)) * 1e-3 for e in self.events]
        sums: dict[str, float] = defaultdict(float)
        for name, before, after in zip(
            self.names[1:], self.times[:-1], self.times[1:], strict=True
        ):
            sums[name] += after - before
        return dict(sums)


def _events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
