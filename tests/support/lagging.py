"""A device for the pipeline's tests that is as late as it may be: it copies nothing before somebody waits for it.

What is read too early, or overwritten too early, is therefore always wrong. It computes on the CPU, at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


class LaggingDevice:
    """A `StreamDevice`. `pinned_bytes` is what was asked for; `fails` raises while something is waited for."""

    def __init__(self, pinned: Callable[[Tensor], bool] = lambda tensor: False) -> None:
        self.device = torch.device("cpu")
        self.is_pinned = pinned
        self.pinned_bytes = 0
        self.streams: list[LaggingStream] = []
        self.gate = threading.Event()  # while it is closed, the device does not get on
        self.gate.set()
        self.fails: Callable[[], None] = lambda: None
        self.lock = threading.RLock()
        self._computing = LaggingStream(self, at_once=True)

    def current(self) -> LaggingStream:
        return self._computing

    def stream(self, urgent: bool = False) -> LaggingStream:
        self.streams.append(LaggingStream(self))
        return self.streams[-1]

    def pair(self) -> tuple[LaggingStream, LaggingStream]:
        return self.stream(), self.stream()

    def pinned(self, size: int) -> Tensor:
        self.pinned_bytes += size
        return torch.full((size,), 0xFF, dtype=torch.uint8)  # NaN in every type, until something arrives

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do."""
        return not any(stream.queue for stream in self.streams)


class LaggingStream:
    """A `streams.Stream`. `copies` counts those that were queued, `followed` and `kept` are what it was told to."""

    def __init__(self, device: LaggingDevice, at_once: bool = False) -> None:
        self._device, self._at_once = device, at_once
        self.queue: list[Callable[[], object]] = []
        self.done = self.copies = 0
        self.followed: list[LaggingEvent] = []
        self.kept: list[Tensor] = []

    def active(self) -> AbstractContextManager[object]:
        return nullcontext()

    def copy(self, target: Tensor, source: Tensor) -> None:
        assert target.is_contiguous()
        assert source.is_contiguous()
        assert (target.dtype, target.shape) == (source.dtype, source.shape)
        self.copies += 1
        self.queue.append(lambda: target.copy_(source))

    def wait_event(self, event: LaggingEvent) -> None:
        self.followed.append(event)
        if self._at_once:
            event.synchronize()
        else:
            self.queue.append(event.synchronize)

    def record(self) -> LaggingEvent:
        with self._device.lock:  # the download's thread may be getting the stream on
            return LaggingEvent(self._device, self, self.done + len(self.queue))

    def keep(self, tensor: Tensor) -> None:
        self.kept.append(tensor)

    def run_to(self, count: int) -> None:
        with torch.inference_mode():
            while self.done < count:
                self.queue.pop(0)()
                self.done += 1


class LaggingEvent:
    """A `streams.Event`."""

    def __init__(self, device: LaggingDevice, stream: LaggingStream, count: int) -> None:
        self._device, self._stream, self._count = device, stream, count

    def query(self) -> bool:
        return self._stream.done >= self._count

    def synchronize(self) -> None:
        self._device.gate.wait()
        self._device.fails()
        with self._device.lock:
            self._stream.run_to(self._count)
