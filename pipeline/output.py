"""The memory of the result: enough of it, and of the kind that the device copies to by itself.

On CUDA a result in pinned memory costs the host nothing: no copy from a staging buffer, no pages to be found for it
while rows arrive. In a run whose computing takes milliseconds that host work would be most of the time. But pinned
memory cannot be swapped out, is slow to get the first time (torch keeps it afterwards), and stays pinned while the
user, or a host's cache, keeps the picture. So results get it up to a limit, over all that are still alive, beyond which
they come in ordinary memory, by way of the download's staging buffers.
"""

from __future__ import annotations

import logging
import weakref

import psutil
import torch
from torch import Tensor

from ..api.context import RunContext
from ..api.errors import OutOfMemoryError, first_line
from ..api.model_info import ModelInfo
from ..memory import free_host_bytes, is_out_of_memory

logger = logging.getLogger("cudaspeed")

# Two pictures of 8K in float32: one that is being made while a host's cache keeps the one before. And no more than a
# small share of the memory.
_MOST_PINNED = 1 << 30
_SHARE_PINNED = 1 / 8

_pinned: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()


def allocate_output(image: Tensor, info: ModelInfo, context: RunContext, beside: int) -> Tensor:
    """The memory for `image` [B, H, W, C] upscaled, [B, H*s, W*s, C] of the context's output type on its output device.

    Raises `OutOfMemoryError`, before any work, when there is not enough, the bytes that the work takes `beside` it
    included: a system promises more than it has, and ends who takes it at its word.
    """
    frames, height, width, channels = image.shape
    shape = (frames, height * info.scale, width * info.scale, channels)
    size = frames * shape[1] * shape[2] * channels * context.output_dtype.itemsize
    free = free_host_bytes() if context.output_device.type == "cpu" else context.free_bytes()
    work = f" and {beside / 2**30:.2f} GiB to work in," if beside else ""
    lack = OutOfMemoryError(
        f"the result, {frames} frame(s) of {shape[2]}x{shape[1]}, takes {size / 2**30:.2f} GiB of memory{work} and "
        f"{free / 2**30:.2f} GiB are free; upscale fewer frames at a time, a smaller picture, or use a model of a "
        "smaller scale"
    )
    if size + beside > free:
        raise lack
    with torch.inference_mode(False):  # an ordinary tensor, which later nodes may change in place
        across = context.device.type == "cuda" and context.output_device.type == "cpu"
        if across and context.switches.pinned_memory and may_be_pinned(size, free):
            try:
                output = torch.empty(shape, dtype=context.output_dtype, pin_memory=True)
            except RuntimeError as error:
                logger.info("no pinned memory for the result: %s", first_line(error))
            else:
                _pinned.add(output.untyped_storage())
                return output
        try:
            return torch.empty(shape, dtype=context.output_dtype, device=context.output_device)
        except Exception as error:  # torch has several types for a lack of memory
            if not context.is_out_of_memory(error) and not is_out_of_memory(error):
                raise
            raise lack from error


def may_be_pinned(size: int, free: int) -> bool:
    """Whether a result of `size` bytes may lie in pinned memory, beside those that do and of `free` bytes."""
    limit = min(_MOST_PINNED, int(_SHARE_PINNED * psutil.virtual_memory().total))
    taken = sum(_block(storage.nbytes()) for storage in _pinned)
    return taken + _block(size) <= limit and _block(size) <= free


def _block(size: int) -> int:
    """What torch's allocator takes for `size` bytes of pinned memory: the next power of two."""
    return 1 << max(0, size - 1).bit_length()
