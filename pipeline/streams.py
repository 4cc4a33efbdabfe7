"""What the pipeline asks of a device that works on its own: streams of work, events in them, memory it copies by
itself.

The only file that calls CUDA's streams, events and pinned memory for the pipeline, thin enough to be seen to be right:
where there is no CUDA, the tests put a device in its place that is as late as it may be.
"""

from __future__ import annotations

import functools
import itertools
import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from ..devices.pinned import PINNED

logger = logging.getLogger("cudaspeed")


class Event(Protocol):
    """A point in a stream, or a promise: past when all that was queued before it is done."""

    def query(self) -> bool:
        """Whether it is past."""
        ...

    def synchronize(self) -> None:
        """Wait until it is past. Raises what went wrong on the way."""


class PastEvent:
    """The `Event` of what is done at once."""

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        """Nothing to wait for."""


class Stream(Protocol):
    """Work that the device does in the order in which it is queued, beside the other streams'."""

    def active(self) -> AbstractContextManager[object]:
        """What torch computes and allocates inside belongs to this stream."""
        ...

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Queue a copy between the device and pinned memory, both contiguous and of one shape and type."""

    def wait_event(self, event: Event) -> None:
        """What is queued from now on waits, on the device, until `event` is past."""

    def record(self) -> Event:
        """The event when what is queued by now will be done."""
        ...

    def keep(self, tensor: Tensor) -> None:
        """`tensor` was allocated in another stream: its memory is not given away before what is queued here is done."""


class StreamDevice(Protocol):
    """Where the streams run."""

    device: torch.device

    def current(self) -> Stream:
        """The stream that everything is in which names none: where the models compute."""
        ...

    def stream(self, urgent: bool = False) -> Stream:
        """A stream that the last one handed out was not.

        An urgent one's short kernels need not wait for a long one's place to become free.
        """
        ...

    def pair(self) -> tuple[Stream, Stream]:
        """Two streams that `stream` does not hand out: for copies that may have to wait for long."""
        ...

    def pinned(self, size: int) -> Tensor:
        """`size` bytes that the device copies by itself, [size] uint8."""
        ...

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether the device can copy `tensor` by itself."""
        ...


class InTurnDevice:
    """A device that copies in turn with what it computes, as a `StreamDevice`: every stream is the one that it has."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def current(self) -> Stream:
        return InTurnStream()

    def stream(self, urgent: bool = False) -> Stream:
        return InTurnStream()

    def pair(self) -> tuple[Stream, Stream]:
        return InTurnStream(), InTurnStream()

    def pinned(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8)

    def is_pinned(self, tensor: Tensor) -> bool:
        return False


class InTurnStream:
    """The `Stream` of a device that has one."""

    def active(self) -> AbstractContextManager[object]:
        return nullcontext()

    def copy(self, target: Tensor, source: Tensor) -> None:
        target.copy_(source)

    def wait_event(self, event: Event) -> None:
        """What was queued before is done before."""

    def record(self) -> Event:
        return PastEvent()

    def keep(self, tensor: Tensor) -> None:
        """There is no other."""


class CudaStream:
    """A CUDA stream as a `Stream`."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream

    def active(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._stream)

    def copy(self, target: Tensor, source: Tensor) -> None:
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)

    def wait_event(self, event: Event) -> None:
        if isinstance(event, torch.cuda.Event):
            self._stream.wait_event(event)
        else:
            event.synchronize()  # one of the host's

    def record(self) -> Event:
        return self._stream.record_event()

    def keep(self, tensor: Tensor) -> None:
        tensor.record_stream(self._stream)


class CudaDevice:
    """A CUDA device as a `StreamDevice`. Pinned memory is torch's, which keeps what is given back for the next run;
    where there is too much of it already, ordinary memory takes its place, and the host waits for the driver's copies.

    Its streams are two of each kind, handed out in turn: torch keeps the memory that was freed in a stream for that
    one."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._streams = {
            urgent: itertools.cycle([CudaStream(torch.cuda.Stream(device, priority=-urgent)) for _ in range(2)])
            for urgent in (False, True)
        }
        self._pair = CudaStream(torch.cuda.Stream(device)), CudaStream(torch.cuda.Stream(device))

    def current(self) -> Stream:
        return CudaStream(torch.cuda.current_stream(self.device))

    def stream(self, urgent: bool = False) -> Stream:
        return next(self._streams[urgent])

    def pair(self) -> tuple[Stream, Stream]:
        return self._pair

    def pinned(self, size: int) -> Tensor:
        pinned = PINNED.empty((size,), torch.uint8)
        return torch.empty(size, dtype=torch.uint8) if pinned is None else pinned

    def is_pinned(self, tensor: Tensor) -> bool:
        return tensor.is_pinned()


def stream_device(device: torch.device) -> StreamDevice | None:
    """`device` as one that works on its own; None where it does not, or where there is no pinned memory to be had."""
    if device.type != "cuda":
        return None
    return _cuda_device(torch.cuda.current_device() if device.index is None else device.index)


@functools.cache
def _cuda_device(index: int) -> StreamDevice | None:
    """One for all runs, which its streams merely put in order."""
    if PINNED.empty((1,), torch.uint8) is None:  # a driver or a container that allows none
        logger.info("copies do not overlap the computing")
        return None
    return CudaDevice(torch.device("cuda", index))
