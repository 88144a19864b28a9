"""Tensors on simulated devices: shapes and addresses without contents, and the time they cost.

Operations on them run on torch's fake tensors. A value that the host reads back is unknown, and is
the one of a correct result: comparisons are true, errors are zero. Whether a check would notice a
wrong result is tested elsewhere, with real numbers.
"""

import math
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from simulated_gpu.timeline import Device, Range, Work

aten = torch.ops.aten
FREE = {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "detach", "alias",
        "lift_fresh", "set_", "resize_", "record_stream", "_unsafe_view"}  # fmt: skip
"""Operations that launch no kernel."""
PRODUCTS = {"mm", "addmm", "bmm", "_scaled_mm", "_int_mm", "baddbmm", "linear", "matmul"}
GATHERS = {"embedding", "index_select", "index"}
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
        self.constant: set[Range] = set()
        """Operands that hold the same value everywhere, whose products need less power."""

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
        self.devices[index].allocated -= size

    def range_of(self, tensor: torch.Tensor) -> Range:
        """Return address and bytes that a view covers, each element counted once."""
        start = self.adopt(tensor) + int(tensor.storage_offset()) * tensor.itemsize
        items = math.prod(
            n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride
        )
        return start, max(items, 1) * tensor.itemsize if tensor.numel() else 0


def simulated(value: object) -> bool:
    """Return whether a value is a tensor without contents."""
    return isinstance(value, FakeTensor)


def on_gpu(value: object) -> bool:
    return isinstance(value, FakeTensor) and value.device.type == "cuda"


MOST_KEPT = 2048
MOST_KEPT_BYTES = 2**24
"""Limits of the results that are kept, so that a repeated operation costs the test little time."""


def tensors_of(args: Any, kwargs: Any) -> list[torch.Tensor]:
    """Return the tensors among the arguments."""
    return [a for a in (*args, *(kwargs or {}).values()) if isinstance(a, torch.Tensor)]


def key_of(func: Any, args: Any, kwargs: Any) -> Any:
    """Identify an operation and its arguments: tensors by object, others by value."""

    def one(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return id(value)
        return tuple(map(one, value)) if isinstance(value, list | tuple) else value

    try:
        return hash((func, one(args), one(tuple((kwargs or {}).items()))))
    except TypeError:
        return None


@dataclass(frozen=True)
class Known:
    """An operation that has run: its tensors, its result and its work."""

    references: list[Any]
    out: torch.Tensor
    work: Work
    device: int

    def inputs(self, args: Any, kwargs: Any) -> list[tuple[Any, torch.Tensor]]:
        tensors = tensors_of(args, kwargs)
        if len(tensors) != len(self.references):
            return [(lambda: None, t) for t in tensors] or [(lambda: 0, self.out)]
        return list(zip(self.references, tensors, strict=True))


class Operations(TorchDispatchMode):
    """Runs operations of simulated tensors, and launches their work on the device."""

    def __init__(self, machine: Any) -> None:
        super().__init__()
        self.machine = machine
        self.memory: Memory = machine.memory
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._known: dict[Any, Known] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # fmt: skip
        repeated = self._repeated(func, args, kwargs)
        if repeated is not None:
            self.machine.devices[repeated.device].launch(
                repeated.work, self.machine.stream(repeated.device)
            )
            return repeated.out
        return self._first(func, args, dict(kwargs or {}))

    def _repeated(self, func: Any, args: Any, kwargs: Any) -> "Known | None":
        """Return what is known of an operation that has run on the same tensors before."""
        known = self._known.get(key_of(func, args, kwargs))
        if known is None or any(ref() is not x for ref, x in known.inputs(args, kwargs)):
            return None
        return known

    def _first(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = func._schema.name.split("::")[1]
        if name == "to":  # inference mode does not decompose it
            target = next((a for a in args[1:] if isinstance(a, torch.device)), None)
            dtype = next((a for a in args[1:] if isinstance(a, torch.dtype)), kwargs.get("dtype"))
            target = target or kwargs.get("device") or args[0].device
            if target == args[0].device and dtype in (None, args[0].dtype):
                return args[0]
            return aten._to_copy(args[0], dtype=dtype, device=target)
        device = kwargs.get("device")
        here = device is not None and torch.device(device).type == "cuda"
        if not here and not any(simulated(a) for a in tree_iter((args, kwargs))):
            return func(*args, **kwargs)
        if name in ("_local_scalar_dense", "equal", "nonzero", "is_nonzero"):
            return self._read_back(name, args)
        if here and device is not None:
            index = torch.device(device).index
            kwargs["device"] = torch.device(
                "cuda", self.machine.current if index is None else index
            )
            self.machine.devices[kwargs["device"].index].require_alive()
        kwargs.pop("pin_memory", None)
        if "generator" in kwargs:
            kwargs["generator"] = None
        asked = key_of(func, args, kwargs)
        with self.fake:
            out = func(*args, **kwargs)
        work = self._account(name, func, args, kwargs, out)
        if work is not None and not here and on_gpu(out):
            self._remember(asked, args, kwargs, out, work)
        return out

    def _remember(self, asked: Any, args: Any, kwargs: Any, out: torch.Tensor, work: Work) -> None:
        size = out.numel() * out.itemsize
        own = not any(out is a for a in args)
        if own and size > MOST_KEPT_BYTES:
            return
        refs = [weakref.ref(x) for x in tensors_of(args, kwargs)]
        self._known[asked] = Known(refs, out, work, out.device.index or 0)
        if len(self._known) > MOST_KEPT:
            self._known.pop(next(iter(self._known)))

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

    def _account(self, name: str, func: Any, args: Any, kwargs: Any, out: Any) -> Work | None:
        """Launch the work of an operation, and return it if the host takes no part in it."""
        inputs = [a for a in tree_iter((args, kwargs)) if isinstance(a, torch.Tensor)]
        outputs = [t for t in tree_iter(out) if on_gpu(t)]
        for tensor in outputs:
            self.memory.adopt(tensor)
        where = next((t.device.index for t in [*outputs, *inputs] if on_gpu(t)), None)
        if where is None or name in FREE:
            return None
        mutable = func._schema.is_mutable
        if not mutable and outputs and self._is_view(outputs[0], inputs):
            return None
        device: Device = self.machine.devices[where]
        stream = self.machine.stream(where)
        if name in ("copy_", "_to_copy") and not all(on_gpu(t) for t in [*outputs, *inputs]):
            self._copy(name, inputs, outputs, device, stream)
            return None
        written = {t.untyped_storage()._cdata for t in outputs}
        reads = tuple(
            self.memory.range_of(t)
            for t in inputs
            if on_gpu(t) and (t.untyped_storage()._cdata not in written or name in ("add_",))
        )
        writes = tuple(self.memory.range_of(t) for t in outputs)
        if name in GATHERS:  # only the rows that the index names are read
            reads = ((reads[0][0], writes[0][1]), *reads[1:])
        if name in ("zero_", "fill_", "uniform_") and outputs:
            self._remember_values(name, outputs[0])
        flops, dtype = product_of(name, inputs, outputs, args)
        work = Work(name, flops, dtype, reads, writes, active=self._active(name, inputs))
        device.launch(work, stream)
        return work

    def _active(self, name: str, inputs: list[torch.Tensor]) -> float:
        constant = self.memory.constant
        same = [on_gpu(t) and self.memory.range_of(t) in constant for t in inputs]
        return 0.5 if name in PRODUCTS and any(same) else 1.0

    def _remember_values(self, name: str, tensor: torch.Tensor) -> None:
        """Note which operands hold the same value everywhere."""
        change = self.memory.constant.discard if name == "uniform_" else self.memory.constant.add
        change(self.memory.range_of(tensor))

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
    name: str, inputs: list[torch.Tensor], outputs: list[torch.Tensor], args: Any
) -> tuple[float, str]:  # fmt: skip
    """FLOPs and data type of a matrix product; no FLOPs for other operations."""
    if name not in PRODUCTS or not outputs:
        return 0.0, "float32"
    left = inputs[1] if name in ("addmm", "baddbmm") else inputs[0]
    dtype = NAMES.get(left.dtype, "float32")
    if dtype == "float32" and torch.backends.cuda.matmul.allow_tf32:
        dtype = "tf32"
    if dtype == "fp8" and args[-1] is not True:  # use_fast_accum
        dtype = "fp8_slow"
    return 2.0 * outputs[0].numel() * left.shape[-1], dtype


READ_BACK = {
    torch.Tensor.__float__: float, torch.Tensor.__int__: int, torch.Tensor.__index__: int,
    torch.Tensor.__bool__: bool, torch.Tensor.item: lambda x: x,
}  # fmt: skip
"""Functions that bring one value to the host, and the type that they return."""


class Functions(TorchFunctionMode):
    """Replaces the few functions whose C++ code needs a device that torch was built for."""

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
        if func in (torch.tensor, torch.as_tensor) and "device" in kwargs:
            device = torch.device(kwargs.pop("device"))
            made = func(*args, **kwargs)
            return onto_gpu(made, device, made.dtype) if device.type == "cuda" else made
        if func is torch.Tensor.to and not simulated(args[0]) and (where := _gpu_in(args, kwargs)):
            dtype = next((a for a in args if isinstance(a, torch.dtype)), kwargs.get("dtype"))
            return onto_gpu(args[0], where, dtype or args[0].dtype)
        if not args or not simulated(args[0]):
            return func(*args, **kwargs)
        if func in READ_BACK:
            return READ_BACK[func](aten._local_scalar_dense(args[0]))
        if func is torch.Tensor.copy_:
            return aten.copy_(args[0], args[1], kwargs.get("non_blocking", False))
        if func is torch.nonzero:  # every element counts as one that is not zero
            with torch._C.DisableTorchFunctionSubclass():
                return args[0].new_empty((args[0].numel(), args[0].dim()), dtype=torch.int64)
        if func is torch.Tensor.uniform_:
            filled = args[0].fill_(0.5)
            self.machine.memory.constant.discard(self.machine.memory.range_of(filled))
            return filled
        if func is torch.Tensor.new_tensor:
            return onto_gpu(torch.tensor(args[1]), args[0].device, args[0].dtype)
        if func is torch.Tensor.__getitem__:
            return get_item(args[0], args[1])
        if func is torch.Tensor.__setitem__:
            target = get_item(args[0], args[1])
            value = args[2]
            if isinstance(value, torch.Tensor):
                return aten.copy_(target, value)
            return target.fill_(value)
        if func is torch.nn.functional.scaled_dot_product_attention:
            return attention(self.machine, *args, **kwargs)
        if func in (torch.Tensor.numpy, torch.Tensor.tolist):
            zeros = np.zeros(tuple(args[0].shape), dtype=np.int64)
            return zeros if func is torch.Tensor.numpy else zeros.tolist()
        if func is torch.Tensor.data_ptr:
            return self.machine.memory.range_of(args[0])[0]
        return func(*args, **kwargs)


def onto_gpu(source: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor on a simulated device with the shape of a host tensor."""
    return aten.copy_(torch.empty(tuple(source.shape), dtype=dtype, device=device), source)


def _gpu_in(args: Any, kwargs: Any) -> torch.device | None:
    """Return the GPU among the arguments of ``Tensor.to``."""
    values = [a for a in (*args[1:], kwargs.get("device")) if isinstance(a, torch.device | str)]
    devices = [torch.device(v) for v in values]
    return next((d for d in devices if d.type == "cuda"), None)


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
        elif isinstance(k, torch.Tensor) and k.dtype == torch.bool:
            pass  # a mask without contents selects everything
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
