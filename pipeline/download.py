"""Finished rows on their way to the output while the next tiles compute.

On a CUDA device there are two ways out, both in a stream of their own, which follows no more than the batch that the
rows are made of. An output in pinned memory (output.py) is written by the device itself: the host has no part in it.
Any other is reached through a ring of pinned staging buffers, in the smaller of the two types; a thread of our own
moves what has arrived to its place, so that the thread which keeps the device busy waits only when the whole ring is
full.

Rows leave in pieces as soon as they are finished, not a frame at a time. That is never later, leaves only a small rest
that no computing hides, and needs no second copy of the frame on the device.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from .streams import Event, PastEvent, StreamDevice

_BUFFERS = 4
_BUFFER_BYTES = 16 << 20
# Batches that may still be leaving when one more has been looked at. Without a limit, a device that computes faster
# than it copies would fill with results.
_BATCHES_LEAVING = 2


def staging_bytes(row: int) -> int:
    """Pinned memory for results with rows of so many bytes in float32."""
    return _BUFFERS * max(_BUFFER_BYTES, row)


class Download:
    """Rows are in their place at once: on a CPU, and where the output lies on the device."""

    widens = True
    """Rows should come in float32, whatever the tiles' type."""

    def leaving(self, computed: Event, *used: Tensor) -> AbstractContextManager[None]:
        """Nothing is done beside the computing."""
        return nullcontext()

    def write(self, target: Tensor, rows: Tensor, clamp: bool) -> None:
        """Copy `rows` [h, W, C] into `target`, a view of the output of the same shape, in its type, with `clamp` in
        0..1."""
        if clamp and target.dtype == rows.dtype and target.device == rows.device:
            torch.clamp(rows, 0, 1, out=target)  # one pass for both
        else:
            target.copy_(rows.clamp(0, 1) if clamp else rows)

    def written(self) -> Event:
        """The event when everything written by now is in its place."""
        return PastEvent()

    def throttle(self) -> None:
        """Nothing runs ahead."""

    def close(self) -> None:
        """Nothing is left running."""


class StreamDownload:
    """Rows leave a device with streams for an output in main memory."""

    widens = False

    def __init__(self, device: StreamDevice) -> None:
        self._device, self._stream = device, device.stream(urgent=True)
        self._worker: ThreadPoolExecutor | None = None
        self._free: queue.SimpleQueue[Tensor] = queue.SimpleQueue()
        self._landing: deque[Future[None]] = deque()
        self._batches: deque[Event] = deque()

    @contextmanager
    def leaving(self, computed: Event, *used: Tensor) -> Iterator[None]:
        """What is queued inside is done beside the computing, from the event `computed` on, when what is `used` of the
        computing's tensors is there.

        Tiles are put together there, too. In the stream that computes that would wait for the batch queued already.
        """
        self._stream.wait_event(computed)
        for tensor in used:
            self._stream.keep(tensor)
        with self._stream.active():
            yield

    def write(self, target: Tensor, rows: Tensor, clamp: bool) -> None:
        """Send `rows` [h, W, C] on the device to `target`, a contiguous view of the output of the same shape, in its
        type, with `clamp` in 0..1. Inside `leaving`. Raises what went wrong with rows written earlier."""
        direct = self._device.is_pinned(target)
        crossing = target.dtype if direct or rows.dtype.itemsize >= target.dtype.itemsize else rows.dtype
        height = max(1, _BUFFER_BYTES // (rows[0].numel() * crossing.itemsize))
        for place, piece in zip(target.split(height), rows.split(height), strict=True):
            piece = (piece.clamp(0, 1) if clamp else piece).to(crossing, memory_format=torch.contiguous_format)
            if direct:
                self._stream.copy(place, piece.contiguous())
            else:
                self._stage(place, piece.contiguous())

    def written(self) -> Event:
        """The event when everything written by now is in its place."""
        landing, self._landing = self._landing, deque()
        return _Landed([*landing], self._stream.record())

    def throttle(self) -> None:
        """A batch is over: wait while too many are still leaving."""
        self._batches.append(self._stream.record())
        if len(self._batches) > _BATCHES_LEAVING:
            self._batches.popleft().synchronize()

    def close(self) -> None:
        """End the thread, and wait until the device copies no more. What has not begun to land, never will."""
        if self._worker:
            self._worker.shutdown(cancel_futures=True)
        self._stream.record().synchronize()

    def _stage(self, place: Tensor, piece: Tensor) -> None:
        """Send `piece` into the next free buffer, and let it land when it is there."""
        while self._landing and self._landing[0].done():
            self._landing.popleft().result()
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="cudaspeed-download")
            for _ in range(_BUFFERS):
                # rows of a run are alike but for their type, which is float32 at most
                self._free.put(self._device.pinned(staging_bytes(4 * piece[0].numel()) // _BUFFERS))
        buffer = self._free.get()
        staged = buffer[: piece.nbytes].view(piece.dtype).view(piece.shape)
        self._stream.copy(staged, piece)
        self._landing.append(self._worker.submit(self._land, self._stream.record(), buffer, staged, place))

    def _land(self, arrived: Event, buffer: Tensor, staged: Tensor, place: Tensor) -> None:
        """On the thread: torch lets the others run meanwhile, and uses all its threads."""
        try:
            arrived.synchronize()
            with torch.inference_mode():  # which is a thread's own
                place.copy_(staged)
        finally:
            self._free.put(buffer)  # after an error, too: nobody is to wait for it forever


class _Landed:
    """The `Event` when the device's copies are over and the thread's are, too."""

    def __init__(self, landing: list[Future[None]], copied: Event) -> None:
        self._landing, self._copied = landing, copied

    def query(self) -> bool:
        return all(landing.done() for landing in self._landing) and self._copied.query()

    def synchronize(self) -> None:
        for landing in self._landing:
            landing.result()
        self._copied.synchronize()
