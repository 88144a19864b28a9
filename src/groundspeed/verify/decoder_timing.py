"""Time a real decoder: whole phases without any instrument inside, then its parts apart.

The whole is timed as a server would run it (on a GPU in CUDA graphs, one for each decode step,
so the host is out of the way). The parts are timed in a second pass with a probe after each
operation; a probe costs time itself, so the parts only say *which* operator is off, never how
long the whole takes.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from groundspeed.calibrate.timing.statistics import Summary, summarize
from groundspeed.calibrate.timing.timers import GpuTimer
from groundspeed.estimator import Model
from groundspeed.kernels.decoder.decoder import Decoder, DecoderShape

MIN_RUNS = 3
MAX_RUNS = 20
PART_RUNS = 3
SPIN_S = 0.02
"""The queue fills behind a spin of this length, so gaps between events are the device's."""


Run = Callable[[], list[float]]
"""A run gives the durations of its steps [s]."""


@dataclass(frozen=True)
class PhaseTiming:
    """One phase, measured."""

    total: Summary
    groups_s: dict[str, float]
    """Median time of each part in the instrumented pass."""


@dataclass(frozen=True)
class CaseTiming:
    """One prompt length and batch, measured."""

    prefill: PhaseTiming
    decode: PhaseTiming


def decoder_shape(model: Model, dtype: str) -> DecoderShape:
    """The decoder that a model describes."""
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
        dtype=dtype,
    )


def unsupported_features(model: Model, longest: int) -> str | None:
    """What this model has and our decoder does not; None if it can be run."""
    window = model.sliding_window
    parts = {
        "experts": model.experts is not None,
        "latent attention": model.latent is not None,
        "recurrent layers": model.recurrent is not None,
        "gated attention outputs": model.output_gate,
        "attention sinks": model.sinks,
        f"{model.norms_per_layer} norms a layer": model.norms_per_layer > 2,
        "norms over all heads at once": model.qk_norm_whole,
        f"a window of {window} tokens, shorter than these prompts": window is not None
        and window < longest,
    }
    return next((name for name, has in parts.items() if has), None)


class DecoderHarness:
    """A decoder on a device, and how to time it.

    Parameters
    ----------
    shape : DecoderShape
    device : torch.device
    batch : int
    capacity : int
        [tokens] Longest prompt plus output.

    Raises
    ------
    MemoryError, torch.OutOfMemoryError
        If the device has no room for it.
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
            [tokens]
        budget_s : float
            [s] About how long measuring each phase may take; at least three runs are made.
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
        """Run until the budget is used; a sample is the mean of one run's steps."""
        run()  # warm-up: code paths, allocator, caches of the library
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
        """Generate token after token on the CPU."""
        tokens, durations = first, []
        for position in steps:
            begin = time.perf_counter_ns()
            tokens = self.decoder.decode(tokens, position)
            durations.append((time.perf_counter_ns() - begin) * 1e-9)
        return durations

    def _capture(self, first: torch.Tensor, steps: range) -> list[torch.cuda.CUDAGraph]:
        """One graph for each decode step, chained: each reads the token the last one chose."""
        # Kept alive here: graphs hold only the address they read from.
        self._chosen = tokens = first.clone()
        for position in steps:  # each length once: a library may choose and load another kernel
            self.decoder.decode(tokens, position)
        torch.cuda.synchronize(self.device)
        graphs = []
        pool = None
        for position in steps:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                tokens.copy_(self.decoder.decode(tokens, position))
            pool = pool or graph.pool()
            graphs.append(graph)
        return graphs

    def _replays_s(self, graphs: list[torch.cuda.CUDAGraph]) -> list[float]:
        """Replay all steps back to back; the mean step between two events."""
        begin, end = _events()
        torch.cuda._sleep(self._spin_cycles)
        begin.record()
        for graph in graphs:
            graph.replay()
        end.record()
        torch.cuda.synchronize(self.device)
        return [float(begin.elapsed_time(end)) * 1e-3 / len(graphs)]

    def _parts(self, prompt: int, first: torch.Tensor | None) -> dict[str, float]:
        """Median time of each part over a few instrumented passes."""
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
    """A probe that adds up the time before each call under the name it is called with."""

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
        """Total time of each group [s]."""
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
