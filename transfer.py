"""What leaves the device while the next tiles compute: rows for the output, a few numbers for the host."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

# One block is being copied by the device while the one before it is moved from pinned memory to its place.
_IN_FLIGHT = 2


def fetch(numbers: Tensor) -> Callable[[], Tensor]:
    """A few `numbers` start on their way to main memory; calling the result waits for them, and for nothing else."""
    if numbers.device.type != "cuda":
        return numbers.cpu
    staging = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True).copy_(numbers, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record(torch.cuda.current_stream(numbers.device))

    def wait() -> Tensor:
        arrived.synchronize()
        return staging

    return wait


class RowWriter:
    """Copies finished rows to their place in the output, on a stream of its own where the device is a CUDA one.

    Without CUDA, or when the output lies on the device, a write is a plain copy. `finish` must be called before the
    output is read.
    """

    def __init__(self, device: torch.device, output_device: torch.device) -> None:
        leaves_cuda = device.type == "cuda" and output_device.type == "cpu"
        self._stream = torch.cuda.Stream(device) if leaves_cuda else None
        self._pending: deque[tuple[torch.cuda.Event, Tensor, Tensor]] = deque()

    def write(self, target: Tensor, rows: Tensor, clamp: bool) -> None:
        """Copy `rows` [h, W, C] into `target`, a view of the output of the same shape, in its type, with `clamp` in
        0..1."""
        if self._stream is None:
            if clamp and target.dtype == rows.dtype and target.device == rows.device:
                torch.clamp(rows, 0, 1, out=target)  # one pass for both
            else:
                target.copy_(rows.clamp(0, 1) if clamp else rows)
            return
        self._drain(_IN_FLIGHT - 1)
        rows = (rows.clamp(0, 1) if clamp else rows).to(target.dtype).contiguous()
        staging = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)  # from torch's pool of pinned blocks
        self._stream.wait_stream(torch.cuda.current_stream(rows.device))
        with torch.cuda.stream(self._stream):
            staging.copy_(rows, non_blocking=True)
            done = torch.cuda.Event()
            done.record(self._stream)
        rows.record_stream(self._stream)  # its memory must not be reused before the copy is over
        self._pending.append((done, staging, target))

    def finish(self) -> None:
        """Wait until every row is in its place."""
        self._drain(0)

    def _drain(self, keep: int) -> None:
        while len(self._pending) > keep:
            done, staging, target = self._pending.popleft()
            done.synchronize()
            target.copy_(staging)
