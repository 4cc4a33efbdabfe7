"""Frames on their way to the device: the next one is copied while the one before it is computed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .frame_io import FrameSource
from .streams import Event, PastEvent, StreamDevice

# While one buffer is on its way to the device, the host fills the next. Their size is one that a bus is busy with for
# some hundred microseconds, which makes the setting out of each cheap.
_BUFFERS = 4
_BUFFER_BYTES = 8 << 20
_NEAR = 4  # frames that are looked through for the next one to send


def staging_bytes(row: int) -> int:
    """Pinned memory for frames with rows of so many bytes."""
    return _BUFFERS * max(_BUFFER_BYTES, row)


class Upload:
    """A source's frames, where they lie."""

    def __init__(self, source: FrameSource) -> None:
        self._source = source

    def frame(self, index: int) -> Tensor:
        """Frame `index` [H, W, C] in its own type."""
        return self._source.frame(index)

    def prefetch(self) -> None:
        """Nothing is on its way."""

    def close(self) -> None:
        """Nothing is on its way."""


class _Sent(NamedTuple):
    """A frame on the device, whole when `arrived` is past."""

    frame: Tensor
    arrived: Event


class StreamUpload:
    """A source's frames in main memory, brought to a device in a stream of their own.

    Through pinned staging buffers, filled by torch with all its threads (what the driver does itself with memory that
    is not pinned, it does with one, and makes the host wait for it); straight from where they lie if that is pinned.
    """

    def __init__(self, source: FrameSource, device: StreamDevice) -> None:
        self._source, self._device = source, device
        self._stream, self._compute = device.stream(), device.current()
        self._sent: dict[int, _Sent] = {}
        self._next = 0  # the frame after the last one that was asked for
        self._staging: list[Tensor] = []
        self._emptied: list[Event] = [PastEvent()] * _BUFFERS
        self._filled = 0

    def frame(self, index: int) -> Tensor:
        """Frame `index` [H, W, C] on the device, in its own type, for the stream that computes."""
        self._send(index)
        sent = self._sent.pop(index)
        self._next = index + 1
        self._compute.wait_event(sent.arrived)
        self._compute.keep(sent.frame)
        return sent.frame

    def prefetch(self) -> None:
        """Let the next frame set out that is not what was there before, if it is near: a source holds all that was
        looked at."""
        for index in range(self._next, min(self._next + _NEAR, len(self._source))):
            if not self._source.repeats(index):
                self._send(index)
                break

    def close(self) -> None:
        """Wait until nothing is on its way any more: pinned frames are their owner's again."""
        self._sent.clear()
        self._stream.record().synchronize()

    def _send(self, index: int) -> None:
        if index in self._sent:
            return
        source = self._source.frame(index)
        # In this stream: memory of the stream that computes would be free only after all that is queued there.
        with self._stream.active():
            frame = torch.empty(source.shape, dtype=source.dtype, device=self._device.device)
        if source.is_contiguous() and self._device.is_pinned(source):
            self._stream.copy(frame, source)
        else:
            height = max(1, _BUFFER_BYTES // frame[0].nbytes)
            for target, rows in zip(frame.split(height), source.split(height), strict=True):
                self._stage(target, rows)
        self._sent[index] = _Sent(frame, self._stream.record())

    def _stage(self, target: Tensor, rows: Tensor) -> None:
        """Fill the buffer that was filled the longest ago, and send it."""
        if not self._staging:
            size = staging_bytes(target[0].nbytes) // _BUFFERS
            self._staging = [self._device.pinned(size) for _ in range(_BUFFERS)]
        k, self._filled = self._filled % _BUFFERS, self._filled + 1
        self._emptied[k].synchronize()
        buffer = self._staging[k][: target.nbytes].view(target.dtype).view(target.shape)
        buffer.copy_(rows)
        self._stream.copy(target, buffer)
        self._emptied[k] = self._stream.record()
