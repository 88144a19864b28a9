"""What each Triton kernel of this project costs, from the arguments of its launch."""

from collections.abc import Callable
from typing import Any

from simulated_gpu.tensors import NAMES, on_gpu
from simulated_gpu.timeline import Work


def _streamed(machine: Any, a: dict[str, Any]) -> Work:
    """Each operand is read or written once."""
    ranges = {n: machine.memory.range_of(v) for n, v in a.items() if on_gpu(v)}
    written = tuple(r for n, r in ranges.items() if n in ("out_ptr", "sums_ptr"))
    return Work("stream", reads=tuple(set(ranges.values()) - set(written)), writes=written)


def _working_set(machine: Any, a: dict[str, Any]) -> Work:
    x = machine.memory.range_of(a["x_ptr"])
    return Work("working_set", reads=(x,), repeats=float(a["repeats"]))


def _chase(machine: Any, a: dict[str, Any]) -> Work:
    chip = machine.devices[a["chain_ptr"].device.index or 0].chip
    size = a["chain_ptr"].numel() * a["chain_ptr"].itemsize
    latency = chip.load_latency_s * (0.2 if size <= chip.l2_bytes else 1.0)
    return Work("chase", fixed_s=chip.kernel_start_s + latency * float(a["steps"]))


def _product(machine: Any, a: dict[str, Any]) -> Work:
    x, w, y = a["x_ptr"], a["w_ptr"], a["y_ptr"]
    flops = 2.0 * a["M"] * a["N"] * a["K"]
    # Open code reaches less than the library, and a small tile less than a large one.
    share = min(0.8, 0.25 + (a["BLOCK_M"] * a["BLOCK_N"]) / 60_000)
    ranges = [machine.memory.range_of(t) for t in (x, w, y)]
    return Work("triton_matmul", flops / share, NAMES[x.dtype], tuple(ranges[:2]), (ranges[2],))


def _split(machine: Any, a: dict[str, Any]) -> Work:
    q, k, v = (machine.memory.range_of(a[n]) for n in ("q_ptr", "k_ptr", "v_ptr"))
    return Work("split", reads=(q, k, v), writes=(machine.memory.range_of(a["part_ptr"]),))


def _join(machine: Any, a: dict[str, Any]) -> Work:
    part, out = (machine.memory.range_of(a[n]) for n in ("part_ptr", "out_ptr"))
    return Work("join", reads=(part,), writes=(out,))


def _latent_decode(machine: Any, a: dict[str, Any]) -> Work:
    reads = tuple(machine.memory.range_of(a[n]) for n in ("ql_ptr", "qr_ptr", "cache_ptr"))
    q, tokens = a["ql_ptr"], a["cache_ptr"].numel() // (a["L"] + a["R"])
    flops = 2.0 * q.shape[1] * tokens * (2 * a["L"] + a["R"]) / 0.6
    return Work("latent_decode", flops, NAMES[q.dtype], reads,
                (machine.memory.range_of(a["part_ptr"]),))  # fmt: skip


def _latent_prefill(machine: Any, a: dict[str, Any]) -> Work:
    reads = tuple(machine.memory.range_of(a[n]) for n in ("q_ptr", "k_ptr", "v_ptr"))
    v = a["v_ptr"]
    pairs = v.shape[0] * v.shape[1] * a["length"] * (a["length"] + 1) / 2
    flops = 2.0 * pairs * (2 * a["D"] + a["R"]) / 0.6
    return Work("latent_prefill", flops, NAMES[v.dtype], reads,
                (machine.memory.range_of(a["out_ptr"]),))  # fmt: skip


def _experts(machine: Any, a: dict[str, Any]) -> Work:
    x, w, y = a["x_ptr"], a["w_ptr"], a["y_ptr"]
    slots = a["row_ptr"].numel()
    used = min(1.0, a["expert_ptr"].numel() / w.shape[0])
    start, size = machine.memory.range_of(w)
    flops = 2.0 * slots * w.shape[1] * w.shape[2] / 0.7
    return Work(
        "experts", flops, NAMES[x.dtype],
        ((start, int(size * used)), machine.memory.range_of(x)), (machine.memory.range_of(y),),
    )  # fmt: skip


COSTS: dict[str, Callable[[Any, dict[str, Any]], Work]] = {
    "read_kernel": _streamed,
    "write_kernel": _streamed,
    "copy_kernel": _streamed,
    "triad_kernel": _streamed,
    "working_set_kernel": _working_set,
    "chase_kernel": _chase,
    "matmul_kernel": _product,
    "persistent_kernel": _product,
    "split_kernel": _split,
    "join_kernel": _join,
    "grouped_kernel": _experts,
    "latent_decode_kernel": _latent_decode,
    "latent_prefill_kernel": _latent_prefill,
}


def replace_launcher(machine: Any) -> None:
    """Let Triton's interpreter launch simulated work if the tensors have no contents."""
    from triton.runtime.interpreter import InterpretedFunction

    real = InterpretedFunction.run

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        names = [n for n in self.arg_names]
        values = dict(zip(names, args, strict=False)) | {
            k: v for k, v in kwargs.items() if k in names
        }
        first = next((v for v in values.values() if on_gpu(v)), None)
        if first is None:
            return real(self, *args, grid=grid, warmup=warmup, **kwargs)
        index = first.device.index or 0
        work = COSTS[self.fn.__name__](machine, values)
        machine.devices[index].launch(work, machine.stream(index))
        return None

    InterpretedFunction.run = run
