"""Tensors on simulated devices: shapes and addresses without contents, and the time they cost.

Operations on them run on torch's fake tensors. A value that the host reads back is unknown, and is
the one of a correct result: comparisons are true, errors are zero. Whether a check would notice a
wrong result is tested elsewhere, with real numbers.
"""

import math
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

from simulated_gpu.timeline import Device, Range, Work

aten = torch.ops.aten
FREE = {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "detach", "alias",
        "lift_fresh", "set_", "resize_", "record_stream", "_unsafe_view"}  # fmt: skip
"""Operations that launch no kernel."""
PRODUCTS = {"mm", "addmm", "bmm", "_scaled_mm", "_int_mm", "baddbmm"}
ALIGNMENT = 512
"""[bytes] Granularity of torch's caching allocator."""

NAMES = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float32",
         torch.float64: "float64", torch.int8: "int8", torch.float8_e4m3fn: "fp8",
         torch.float8_e4m3fnuz: "fp8"}  # fmt: skip


class Memory:
    """Addresses of the storages of simulated tensors; frees them when torch does."""

    def __init__(self, devices: list[Device]) -> None:
        self.devices = devices
        self._known: dict[int, tuple[int, int]] = {}
        self._next = [(i + 1) << 44 for i in range(len(devices))]
        self.zeros: set[int] = set()
        """Storages that hold the same value everywhere, whose products need less power."""

    def adopt(self, tensor: torch.Tensor) -> int:
        """Return the address of a tensor's storage, and allocate it if it is new."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            index = tensor.device.index or 0
            size = -(-max(storage.nbytes(), 1) // ALIGNMENT) * ALIGNMENT
            self.devices[index].allocate(size)
            self._known[key] = (self._next[index], size)
            self._next[index] += size
            weakref.finalize(storage, self._release, key, index, size)
        return self._known[key][0]

    def _release(self, key: int, index: int, size: int) -> None:
        self._known.pop(key, None)
        self.zeros.discard(key)
        self.devices[index].allocated -= size

    def range_of(self, tensor: torch.Tensor) -> Range:
        """Return address and bytes that a view covers, each element counted once."""
        start = self.adopt(tensor) + tensor.storage_offset() * tensor.itemsize
        items = math.prod(
            n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride
        )
        return start, max(items, 1) * tensor.itemsize if tensor.numel() else 0


def simulated(value: object) -> bool:
    """Return whether a value is a tensor without contents."""
    return isinstance(value, FakeTensor)


def on_gpu(value: object) -> bool:
    return isinstance(value, FakeTensor) and value.device.type == "cuda"


class Operations(TorchDispatchMode):
    """Runs operations of simulated tensors, and launches their work on the device."""

    def __init__(self, machine: Any) -> None:
        super().__init__()
        self.machine = machine
        self.memory: Memory = machine.memory
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # fmt: skip
        kwargs = kwargs or {}
        device = kwargs.get("device")
        here = device is not None and torch.device(device).type == "cuda"
        if not here and not any(simulated(a) for a in tree_iter((args, kwargs))):
            return func(*args, **kwargs)
        name = func._schema.name.split("::")[1]
        if name in ("_local_scalar_dense", "equal", "nonzero", "is_nonzero"):
            return self._read_back(name, args)
        if here:
            index = torch.device(device).index
            kwargs["device"] = torch.device(
                "cuda", self.machine.current if index is None else index
            )
            self.machine.devices[kwargs["device"].index].require_alive()
        kwargs.pop("pin_memory", None)
        if "generator" in kwargs:
            kwargs["generator"] = None
        with self.fake:
            out = func(*args, **kwargs)
        self._account(name, func, args, kwargs, out)
        return out

    def _read_back(self, name: str, args: Any) -> Any:
        tensor = next(a for a in args if simulated(a))
        if tensor.device.type == "cuda":
            self.machine.devices[tensor.device.index or 0].synchronize()
        if name in ("equal", "is_nonzero"):
            return not self.machine.wrong_data
        if name == "nonzero":
            with self.fake:
                size = (tensor.numel(), tensor.dim())
                return torch.empty(size, dtype=torch.int64, device=tensor.device)
        if tensor.dtype == torch.bool:
            return not self.machine.wrong_data
        return 0.0 if tensor.dtype.is_floating_point else 0

    def _account(self, name: str, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        inputs = [a for a in tree_iter((args, kwargs)) if isinstance(a, torch.Tensor)]
        outputs = [t for t in tree_iter(out) if on_gpu(t)]
        for tensor in outputs:
            self.memory.adopt(tensor)
        where = next((t.device.index for t in [*outputs, *inputs] if on_gpu(t)), None)
        if where is None or name in FREE:
            return
        mutable = func._schema.is_mutable
        if not mutable and outputs and self._is_view(outputs[0], inputs):
            return
        device: Device = self.machine.devices[where]
        stream = self.machine.stream(where)
        if name in ("copy_", "_to_copy") and not all(on_gpu(t) for t in [*outputs, *inputs]):
            self._copy(name, inputs, outputs, device, stream)
            return
        written = {t.untyped_storage()._cdata for t in outputs}
        reads = tuple(
            self.memory.range_of(t)
            for t in inputs
            if on_gpu(t) and (t.untyped_storage()._cdata not in written or name in ("add_",))
        )
        writes = tuple(self.memory.range_of(t) for t in outputs)
        if name in ("zero_", "fill_", "uniform_") and outputs:
            self._remember_values(name, outputs[0], args)
        flops, dtype = product_of(name, inputs, outputs, kwargs)
        device.launch(
            Work(name, flops, dtype, reads, writes, active=self._active(name, inputs)), stream
        )

    def _active(self, name: str, inputs: list[torch.Tensor]) -> float:
        constant = [
            on_gpu(t) and t.untyped_storage()._cdata in self.memory.zeros for t in inputs
        ]  # fmt: skip
        return 0.5 if name in PRODUCTS and any(constant) else 1.0

    def _remember_values(self, name: str, tensor: torch.Tensor, args: Any) -> None:
        key = tensor.untyped_storage()._cdata
        whole = tensor.numel() * tensor.itemsize >= tensor.untyped_storage().nbytes()
        if name == "uniform_":
            self.memory.zeros.discard(key)
        elif whole:
            self.memory.zeros.add(key)

    @staticmethod
    def _is_view(output: torch.Tensor, inputs: Iterable[torch.Tensor]) -> bool:
        key = output.untyped_storage()._cdata
        return any(on_gpu(t) and t.untyped_storage()._cdata == key for t in inputs)

    def _copy(
        self, name: str, inputs: list[torch.Tensor], outputs: list[torch.Tensor], device: Device,
        stream: Any,
    ) -> None:  # fmt: skip
        host = next((t for t in [*inputs, *outputs] if not on_gpu(t)), None)
        size = (outputs[0] if outputs else inputs[0]).numel() * inputs[0].itemsize
        pinned = host is not None and self.machine.is_pinned(host)
        chip = device.chip
        rate = chip.host_link_bytes_per_s if pinned else chip.pageable_bytes_per_s
        device.launch(Work("link", fixed_s=2e-6 + size / rate), stream)
        if not pinned or not outputs:
            if device.capture is not None:
                device.capture_broken = True
                raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
            device.clock.advance(stream.end_s)


def product_of(
    name: str, inputs: list[torch.Tensor], outputs: list[torch.Tensor], kwargs: Any
) -> tuple[float, str]:  # fmt: skip
    """FLOPs and data type of a matrix product; no FLOPs for other operations."""
    if name not in PRODUCTS or not outputs:
        return 0.0, "float32"
    left = inputs[1] if name in ("addmm", "baddbmm") else inputs[0]
    dtype = NAMES.get(left.dtype, "float32")
    if dtype == "float32" and torch.backends.cuda.matmul.allow_tf32:
        dtype = "tf32"
    if dtype == "fp8" and not kwargs.get("use_fast_accum"):
        dtype = "fp8_slow"
    return 2.0 * outputs[0].numel() * left.shape[-1], dtype


class Functions(TorchFunctionMode):
    """Replaces the few functions that torch's C++ code cannot run on a device it was not built for."""

    def __init__(self, machine: Any) -> None:
        super().__init__()
        self.machine = machine

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # fmt: skip
        kwargs = dict(kwargs or {})
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
            return self.machine.pin(func(*args, **kwargs))
        if not args or not simulated(args[0]):
            return func(*args, **kwargs)
        if func is torch.Tensor.__getitem__:
            return get_item(args[0], args[1])
        if func is torch.Tensor.__setitem__:
            target = get_item(args[0], args[1])
            value = args[2]
            return target.copy_(value) if isinstance(value, torch.Tensor) else target.fill_(value)
        if func is torch.nn.functional.scaled_dot_product_attention:
            return attention(self.machine, *args, **kwargs)
        if func in (torch.Tensor.numpy, torch.Tensor.tolist):
            zeros = np.zeros(tuple(args[0].shape), dtype=np.int64)
            return zeros if func is torch.Tensor.numpy else zeros.tolist()
        if func is torch.Tensor.data_ptr:
            return self.machine.memory.range_of(args[0])[0]
        return func(*args, **kwargs)


def get_item(tensor: torch.Tensor, key: Any) -> torch.Tensor:
    """Index a tensor as ``tensor[key]`` does."""
    keys = list(key) if isinstance(key, tuple) else [key]
    if any(k is Ellipsis for k in keys):
        at = next(i for i, k in enumerate(keys) if k is Ellipsis)
        used = sum(k is not None and k is not Ellipsis for k in keys)
        keys[at : at + 1] = [slice(None)] * (tensor.dim() - used)
    axis, picked = 0, {}
    for k in keys:
        if k is None:
            tensor = tensor.unsqueeze(axis)
        elif isinstance(k, int) and not isinstance(k, bool):
            tensor = torch.select(tensor, axis, k)
            continue
        elif isinstance(k, slice):
            if k != slice(None):
                tensor = aten.slice(tensor, axis, k.start, k.stop, k.step or 1)
        else:
            picked[axis] = k
        axis += 1
    if picked:
        index = [picked.get(i) for i in range(max(picked) + 1)]
        tensor = aten.index(tensor, index)
    return tensor


def attention(
    machine: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *args: Any,
    is_causal: bool = False, attn_mask: torch.Tensor | None = None, **kwargs: Any,
) -> torch.Tensor:  # fmt: skip
    """One fused attention kernel."""
    index = q.device.index or 0
    shape = (*q.shape[:-1], v.shape[-1])
    out = torch.empty(shape, dtype=q.dtype, device=q.device)
    if q.device.type != "cuda":
        return out
    batch, heads, rows, dim = q.shape
    pairs = rows * (rows + 1) / 2 if is_causal else rows * k.shape[2]
    flops = 2.0 * batch * heads * pairs * (dim + v.shape[-1])
    memory: Memory = machine.memory
    # Matrix units reach about two thirds of their rate in attention.
    work = Work(
        "attention", 1.5 * flops, NAMES[q.dtype],
        tuple(memory.range_of(t) for t in (q, k, v)), (memory.range_of(out),),
    )  # fmt: skip
    machine.devices[index].launch(work, machine.stream(index))
    return out


def contents_unknown(value: Any) -> Any:
    """Return real copies (zeros) of simulated tensors, for code that needs numbers."""

    def known(x: Any) -> Any:
        return torch.zeros(tuple(x.shape), dtype=x.dtype) if simulated(x) else x

    return tree_map(known, value)


Launcher = Callable[..., None]
