"""Compare groundspeed's timing with that of other tools, on the same kernels in one process.

The other tools are triton's ``do_bench``, ``torch.utils.benchmark``, and a plain loop as people
often write it. The output is each tool's median and its ratio to groundspeed's. On a GPU the ratios
show the effect of a cache flush, of an empty launch queue or of a warm cache. On a CPU there is no
``do_bench``, and the plain loop shows the effect of warm operands.

    python benchmarks/peers.py [cpu|cuda]
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.utils.benchmark import Timer

from groundspeed.calibrate.run.device import open_device
from groundspeed.calibrate.run.reference_cases import cold_bytes
from groundspeed.calibrate.timing.sampling import sample_until
from groundspeed.calibrate.timing.stopping import StopRule
from groundspeed.calibrate.timing.timers import timer_for
from groundspeed.kernels.kernel import Kernel
from groundspeed.kernels.matmul.matmul import TorchMatmul
from groundspeed.kernels.memory.stream import TorchStream
from groundspeed.kernels.operands import OperandPool

RULE = StopRule(min_samples=30, min_time_s=0.3, half_width_fraction=0.005, time_cap_s=3.0)
LOOP_RUNS = 50

Call = Callable[[], object]


def cases(kind: str) -> list[tuple[str, Kernel, dict[str, float]]]:
    """Return name, kernel and shape of each case that is compared."""
    side = 8192.0 if kind == "cuda" else 1024.0
    small = {"m": 1.0, "n": 4096.0, "k": 4096.0}
    stream = {"bytes": 2.0**32 if kind == "cuda" else 2.0**27}
    return [
        (f"matmul bf16 {side:.0f}^3", TorchMatmul("bfloat16"), dict.fromkeys("mnk", side)),
        ("matmul bf16 1x4096x4096", TorchMatmul("bfloat16"), small),
        ("copy", TorchStream("copy"), stream),
        ("read", TorchStream("read"), stream),
    ]


def plain_loop(call: Call, device: torch.device) -> float:
    """Time a call by a plain loop between two clock readings [s]."""
    for _ in range(3):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(LOOP_RUNS):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / LOOP_RUNS


def torch_benchmark(call: Call) -> float:
    """Time a call by ``torch.utils.benchmark``: median of an adaptive run [s]."""
    return float(Timer("call()", globals={"call": call}).adaptive_autorange().median)


def do_bench(call: Call) -> float:
    """Time a call by ``triton.testing.do_bench``: median [s]."""
    from triton.testing import do_bench as bench

    return float(bench(call, return_mode="median")) * 1e-3


def main() -> None:
    """Time each case with each tool, and print the ratios to groundspeed's time."""
    running = open_device(sys.argv[1] if len(sys.argv) > 1 else None)
    device = running.torch_device
    cold = int(cold_bytes(running))
    pool = OperandPool(device, pool_bytes=max(4 * cold, 2**29), cold_bytes=cold)
    peers: dict[str, Callable[[Call], float]] = {
        "torch.utils.benchmark": torch_benchmark,
        "plain loop": lambda call: plain_loop(call, device),
    }
    if device.type == "cuda":
        peers = {"triton do_bench": do_bench, **peers}
    print(f"{running.device.name}: median time, and its ratio to groundspeed's")
    with torch.inference_mode():
        timer = timer_for(device)
        for name, kernel, case in cases(device.type):
            calls = kernel.prepare(case, pool)
            ours = float(np.median(sample_until(timer.prepare(calls), RULE).samples_s))
            print(f"{name:28s} groundspeed {ours * 1e6:12.2f} us")
            for peer, measure in peers.items():
                theirs = measure(calls[0])
                print(f"{'':28s} {peer:22s} {theirs * 1e6:12.2f} us   {theirs / ours:.3f}")


if __name__ == "__main__":
    main()
