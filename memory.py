"""What a tile costs in memory, what the device has, and how many pixels a tile may therefore have."""

from __future__ import annotations

import bisect
import functools
import logging
import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .api.errors import first_line
from .api.model_info import ModelInfo
from .api.options import Level
from .api.upstream import TorchDispatchMode, copy_module, own_tensors, tree_leaves
from .devices.backends import BACKENDS, backend_of, has_own_memory
from .storage.heap import bytes_free_in_heaps
from .storage.memory_limits import bytes_left_by_groups, has_own_limits, memory_bytes_left
from .storage.peaks import Curve

logger = logging.getLogger("cudaspeed")

# What a forward really takes, over the tensors it makes: convolution workspaces, layout changes, fragmentation. That is
# while nothing was measured of the model where it computes (pipeline/feedback.py): 1.5 was measured for convolutional
# models on a CPU; 1.25 on CUDA is a margin.
_OVERHEAD = {"cpu": 1.5, "cuda": 1.25}
# The same over a bound by the widths of layers, which is mostly more than these tensors: measured for the architectures
# of bench/model_zoo.py, of which real peaks were 0.7 to 1.25 times the bound.
_OVERHEAD_OF_BOUNDS = 1.15
# Another process may take more for a forward than the one in which it was seen, for heaps and threads differ: a margin,
# beyond which some are (docs/memory.md). An allocator's own count is the same in all.
_FROM_PROCESS_TO_PROCESS = {"cpu": 1.05}
_SHARE_OF_FREE: dict[Level, float] = {"speed": 0.85, "balanced": 0.5, "memory": 0.5}
_SHARE_FOR_COPIES = 1 / 4  # of a device's memory: our copies of models, from one run to the next
_PROBE_SIDE = 64
_SQUARE_GROWTH = 1.25
# Where a model cannot be traced: ComfyUI core's own rule of thumb, bytes per input pixel and unit of scale (fp32).
_RULE_OF_THUMB = 3 * 4 * 384
# What ComfyUI takes to be free on DirectML, whose driver does not tell either (`get_free_memory`, 0.33).
_ASSUMED_FREE = 1 << 30
_OUT_OF_MEMORY = ("out of memory", *(word for backend in BACKENDS for word in backend.words))


@dataclass(frozen=True)
class MemoryCost:
    """Bytes one forward of n input pixels needs: `weights` + `per_pixel` * n + `per_pixel_squared` * n^2.

    The square term is zero for all but globally attending models. `seen`: what forwards took, by what they would by
    that, weights aside; (): none was seen yet, and a constant stands for it. `bound`: it is not what was traced, but no
    less than that.
    """

    weights: int
    per_pixel: float
    per_pixel_squared: float = 0.0
    seen: Curve = ()
    bound: bool = False

    def at(self, pixels: int) -> int:
        """Bytes for one tile of `pixels` input pixels, weights included."""
        return int(self.weights + self.per_pixel * pixels + self.per_pixel_squared * pixels * pixels)


def measure_cost(
    module: nn.Module, call: Callable[[nn.Module, Tensor], Tensor], info: ModelInfo, dtype: torch.dtype
) -> MemoryCost:
    """The peak memory of a forward, by running it on the meta device, where tensors have sizes and no content.

    `call(module, x)` is the architecture's forward for x [1, C, h, w]. Costs 0.1 to some seconds, computes no pixel and
    leaves `module` as it is. A model that cannot run without content gets a rule of thumb and a log line.
    """
    weights = weights_bytes(module)
    try:
        shadow = _shadow(module, dtype)
        points = []
        small = -(-max(_PROBE_SIDE, info.minimum) // info.alignment) * info.alignment
        for side in (small, 2 * small):
            x = torch.empty(1, info.in_channels, side, side, device="meta", dtype=dtype)
            with torch.no_grad(), _PeakBytes(known=(x, *shadow.parameters(), *shadow.buffers())) as peak:
                call(shadow, x)
            points.append((side * side, peak.most + x.nbytes))
    except Exception as error:  # any architecture may do anything here; the estimate is never worth a picture
        logger.info("memory of %s estimated by rule of thumb: it cannot be traced (%s)", info.name, first_line(error))
        return MemoryCost(weights, float(_RULE_OF_THUMB * info.scale * dtype.itemsize / 4))
    cost = _fit(weights, *points)
    return with_results(cost, info, 1)  # beside the forward, the strip its result is pasted into


def weights_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers; what is in two places counts once."""
    held = (tensor for part in module.modules() for tensors in own_tensors(part) for tensor in tensors.values())
    return sum({id(tensor): tensor.nbytes for tensor in held if tensor is not None}.values())


def with_results(cost: MemoryCost, info: ModelInfo, count: int) -> MemoryCost:
    """`cost` and that of holding `count` more results of the tile, in float32."""
    return replace(cost, per_pixel=cost.per_pixel + count * 4 * info.out_channels * info.scale**2)


def _shadow(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of `module` on the meta device; its weights are not copied on the way."""
    return copy_module(module, lambda weight: weight.to("meta")).to(device="meta", dtype=dtype)


def _fit(weights: int, small: tuple[int, int], large: tuple[int, int]) -> MemoryCost:
    """A line, or a line and a square, through the origin and two (pixels, bytes) points."""
    (n1, b1), (n2, b2) = small, large
    if n1 == n2 or b2 / n2 <= _SQUARE_GROWTH * b1 / n1:
        return MemoryCost(weights, max(b1 / n1, b2 / n2))
    square = (b2 / n2 - b1 / n1) / (n2 - n1)
    return MemoryCost(weights, max(0.0, b1 / n1 - square * n1), square)


class _PeakBytes(TorchDispatchMode):
    """Counts the bytes of tensors made while it is active, and the most of them alive at once.

    Views of `known` tensors take nothing.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen = weakref.WeakSet(tensor.untyped_storage() for tensor in known)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = _pointwise(func, args) if not kwargs else None
        if result is None:
            result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.now -= size


def _pointwise(func: Any, args: Sequence[Any]) -> Tensor | None:
    """What a pointwise operation gives, where that is plainly a tensor like those that it takes, or the first of them
    if it is one in place (add_); else None.

    Torch finds it out in Python, in up to a millisecond each time: it was half of a trace.
    """
    tensors = [value for value in args if isinstance(value, Tensor)]
    name = getattr(getattr(func, "overloadpacket", None), "__name__", "")
    if name.removesuffix("_") not in _POINTWISE or not tensors or not tensors[0].is_floating_point():
        return None
    shape, stride, dtype = (first := tensors[0]).shape, first.stride(), first.dtype
    alike = all((other.shape, other.stride(), other.dtype) == (shape, stride, dtype) for other in tensors)
    if not alike or any(isinstance(value, complex) for value in args):
        return None
    if name.endswith("_"):
        return first
    dense = first.is_contiguous() or (first.ndim == 4 and first.is_contiguous(memory_format=torch.channels_last))
    return torch.empty_strided(shape, stride, dtype=dtype, device=first.device) if dense else None


_POINTWISE = {"add", "sub", "mul", "div", "leaky_relu", "relu", "gelu", "silu", "sigmoid", "tanh", "clamp", "clone"}


def working_bytes(cost: MemoryCost, pixels: int, device: torch.device) -> int:
    """Bytes that a forward over `pixels` input pixels takes on `device`, overhead included, weights not."""
    estimate = cost.at(pixels) - cost.weights
    if not cost.seen:
        return int(estimate * usual_overhead(cost.bound, device))
    return int(_along(cost.seen, estimate) * _margin(device))


def _margin(device: torch.device) -> float:
    """Over what was seen of forwards on `device`."""
    return _FROM_PROCESS_TO_PROCESS.get(device.type, 1.0)


def _along(curve: Curve, x: float) -> float:
    """`curve` at `x` > 0; beyond its ends in proportion to them."""
    after = bisect.bisect_right(curve, x, key=lambda point: point[0])
    if after in (0, len(curve)):
        end = curve[min(after, len(curve) - 1)]
        return x * end[1] / end[0]
    (left, low), (right, high) = curve[after - 1 : after + 1]
    return low + (high - low) * (x - left) / (right - left)


def usual_overhead(bound: bool, device: torch.device) -> float:
    """What stands for the overhead of forwards on `device` while none was seen there, of a `bound` or of what was
    traced."""
    return _OVERHEAD_OF_BOUNDS if bound else _OVERHEAD.get(device.type, 1.5)


def affordable_pixels(cost: MemoryCost, free_bytes: int, level: Level, device: torch.device) -> int:
    """The most input pixels one forward may have within `level`'s share of `free_bytes` (weights already resident)."""
    return pixels_within(cost, free_bytes * _SHARE_OF_FREE[level], device)


def pixels_within(cost: MemoryCost, working: float, device: torch.device) -> int:
    """The most input pixels of a forward that takes no more than `working` bytes by `working_bytes`; 1 at least, also
    where what is held takes more than there is, and `working` is negative."""
    working = max(0.0, working)
    turned = tuple((takes, estimate) for estimate, takes in cost.seen)
    budget = _along(turned, working / _margin(device)) if turned else working / usual_overhead(cost.bound, device)
    linear, square = max(cost.per_pixel, 1.0), cost.per_pixel_squared
    if square == 0.0:
        return max(1, int(budget / linear))
    return max(1, int(((linear * linear + 4 * square * budget) ** 0.5 - linear) / (2 * square)))


def free_for(cost: MemoryCost, pixels: int, level: Level, device: torch.device) -> int:
    """The free bytes of which `level`'s share is what one forward of so many input pixels takes: `affordable_pixels`
    the other way round."""
    return math.ceil(working_bytes(cost, pixels, device) / _SHARE_OF_FREE[level])


def free_host_bytes() -> int:
    """Bytes of main memory this process can still take: what the system has, or its container and limits leave."""
    return free_or_assumed_bytes(torch.device("cpu"))


def allowed_bytes(device: torch.device) -> int | None:
    """Bytes that work on `device` may take of main memory before a limit of this process is met, beyond which it is not
    told, but ended; None where nothing limits it, or the device has memory of its own."""
    return None if has_own_memory(device) else memory_bytes_left()


def allowed_forward_bytes(device: torch.device) -> int | None:
    """`allowed_bytes` for what comes out of the heap, as a forward's tensors do. Against the process's own limits what
    lies free there counts already; against those of control groups only what is in use."""
    left = allowed_bytes(device)
    if left is None or not has_own_limits():
        return left
    left += bytes_free_in_heaps()
    by_groups = bytes_left_by_groups()
    return left if by_groups is None else min(left, by_groups)


def free_device_bytes(device: torch.device) -> int | None:
    """Bytes `device` can still give, those torch holds unused included; of main memory, if it has none of its own, no
    more than the process's limits leave. None where its driver does not tell, or nothing is known of its kind."""
    backend = backend_of(device)
    memory = backend.memory(device) if backend else None
    if backend is None or memory is None:
        return None
    left = None if backend.own_memory else memory_bytes_left()
    return memory.available if left is None else min(memory.free, left) + memory.unused


def free_or_assumed_bytes(device: torch.device) -> int:
    """`free_device_bytes`; where there is no answer, 1 GiB, or what the process's limits leave of it on a CPU.

    The assumption is said once. Where it is too much, memory runs out, and the tiles shrink as they do then.
    """
    free = free_device_bytes(device)
    if free is not None:
        return free
    _tell_assumed(device.type)
    left = allowed_bytes(device)
    return _ASSUMED_FREE if left is None else min(_ASSUMED_FREE, left)


@functools.cache
def _tell_assumed(kind: str) -> None:
    logger.warning("how much memory is free is not known for %s: %.0f GiB are assumed", kind, _ASSUMED_FREE / (1 << 30))


def bytes_for_copies(device: torch.device) -> int:
    """Bytes that our copies of models may take on `device` together while no run has need of them: a share of what it
    has, or of what this process is allowed."""
    backend = backend_of(device)
    memory = backend.memory(device) if backend else None
    total, left = memory.total if memory else _ASSUMED_FREE, allowed_bytes(device)
    return int(_SHARE_FOR_COPIES * (total if left is None else min(total, left)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out: torch's own type, or, of most backends and their libraries, only its
    words."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and any(told in words for told in _OUT_OF_MEMORY)
