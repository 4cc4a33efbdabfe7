"""The memory of the result: enough of it, and of the kind that the device copies to by itself.

On CUDA a result in pinned memory costs the host nothing: no copy from a staging buffer, no pages to be found for it
while rows arrive. In a run whose computing takes milliseconds that host work would be most of the time. But pinned
memory cannot be swapped out, is slow to get the first time (torch keeps it afterwards), and stays pinned while the
user, or a host's cache, keeps the picture. So results get it up to a limit, over all that are still alive, beyond which
they come in ordinary memory, by way of the download's staging buffers.
"""

from __future__ import annotations

import math
import weakref
from contextlib import suppress

import torch
from torch import Tensor

from ..api.context import RunContext
from ..api.errors import OutOfMemoryError
from ..devices.pinned import PINNED, block_bytes
from ..devices.reading import main_memory
from ..memory import free_host_bytes, is_out_of_memory

# Two pictures of 8K in float32: one that is being made while a host's cache keeps the one before. And no more than a
# small share of the memory.
_MOST_PINNED = 1 << 30
_SHARE_PINNED = 1 / 8
_LITTLE = 1 << 22  # bytes, of main memory: to ask whether there are so many takes longer than such a picture's result

_pinned: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()


def allocate_output(shape: tuple[int, int, int, int], context: RunContext, beside: int) -> Tensor:
    """The memory for results, `shape` = [B, H, W, C], of the context's output type on its output device.

    Raises `OutOfMemoryError`, before any work, when there is not enough, the bytes that the work takes `beside` it
    included: a system promises more than it has, and ends who takes it at its word.
    """
    frames, height, width, _ = shape
    size = math.prod(shape) * context.output_dtype.itemsize
    if size + beside <= _LITTLE and context.output_device.type == context.device.type == "cpu":
        with suppress(RuntimeError, MemoryError), torch.inference_mode(False):  # what is missing is told below
            return torch.empty(shape, dtype=context.output_dtype)
    free = _free(context)
    if size + beside > free and PINNED.clear():
        free = _free(context)
    work = f" and {beside / 2**30:.2f} GiB to work in," if beside else ""
    several, smaller = _what_fits(shape, size, free - beside)
    lack = OutOfMemoryError(
        f"the result, {frames} frame(s) of {width}x{height}, takes {size / 2**30:.2f} GiB of memory{work} and "
        f"{free / 2**30:.2f} GiB are free; upscale fewer frames at a time{several} or a smaller picture, ask for a "
        f"smaller result{smaller} (scale_by, or a target's width and height), or use a model of a smaller scale"
    )
    if size + beside > free:
        raise lack
    with torch.inference_mode(False):  # an ordinary tensor, which later nodes may change in place
        across = context.device.type == "cuda" and context.output_device.type == "cpu"
        if across and context.switches.pinned_memory and may_be_pinned(size, free):
            output = PINNED.empty(shape, context.output_dtype)
            if output is not None:
                _pinned.add(output.untyped_storage())
                return output
        try:
            return torch.empty(shape, dtype=context.output_dtype, device=context.output_device)
        except Exception as error:  # torch has several types for a lack of memory
            if not context.is_out_of_memory(error) and not is_out_of_memory(error):
                raise
            raise lack from error


def _what_fits(shape: tuple[int, int, int, int], size: int, room: int) -> tuple[str, str]:
    """How many of the frames would fit into `room` bytes, and which size of all of them; nothing where none would."""
    frames, height, width, _ = shape
    several, share = frames * room // size if size else 0, math.sqrt(max(0, room) / size) if size else 0.0
    columns, rows = int(share * width), int(share * height)
    frames_told = f" ({several} would fit)" if 0 < several < frames else ""
    return frames_told, f" of at most {columns}x{rows}" if min(columns, rows) > 0 and share < 1 else ""


def may_be_pinned(size: int, free: int) -> bool:
    """Whether a result of `size` bytes may lie in pinned memory, beside those that do and of `free` bytes."""
    memory = main_memory()
    limit = min(_MOST_PINNED, int(_SHARE_PINNED * memory.total)) if memory else 0
    taken = sum(block_bytes(storage.nbytes()) for storage in _pinned)
    return taken + block_bytes(size) <= limit and block_bytes(size) <= free


def _free(context: RunContext) -> int:
    """Bytes that are free where the result must lie."""
    return free_host_bytes() if context.output_device.type == "cpu" else context.free_bytes()
