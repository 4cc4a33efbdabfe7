"""What goes to the device and comes from it while it computes: frames in, rows out, a few numbers for the host.

Three streams beside the one that computes, none of which any other waits for longer than it must: the numbers have
their own because large copies the same way would hold them up, and behind them the next batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType

from torch import Tensor

from .download import Download, StreamDownload
from .frame_io import FrameSink, FrameSource
from .streams import Event, PastEvent, StreamDevice
from .upload import StreamUpload, Upload


class Transfer:
    """The ways of frames from `source` to a device and from there to `sink`; a context, after which nothing is on its
    way. Without `device`, one that works on its own, everything is done at once.

    `upload` is where frames come in and `download` where rows go out.
    """

    def __init__(self, source: FrameSource, sink: FrameSink, device: StreamDevice | None) -> None:
        self.source, self.sink, self._device = source, sink, device
        self._compute = device.current() if device else None
        self._numbers = device.stream(urgent=True) if device else None
        self.upload = StreamUpload(source, device) if device and source.device.type == "cpu" else Upload(source)
        self.download = StreamDownload(device) if device and sink.device.type == "cpu" else Download()

    def __enter__(self) -> Transfer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with ExitStack() as last:  # all of them, whatever the first ones say
            if self._numbers:
                last.callback(self._numbers.record().synchronize)
            last.callback(self.upload.close)
            last.callback(self.download.close)

    def computed(self) -> Event:
        """The event when all that is queued for computing by now is done."""
        return self._compute.record() if self._compute else PastEvent()

    def fetch(self, numbers: Tensor, computed: Event) -> Callable[[], Tensor]:
        """A few `numbers`, there when `computed` is past, start on their way to main memory; calling the result waits
        for them, and for nothing else."""
        if self._device is None or self._numbers is None:
            return numbers.cpu
        landed = self._device.pinned(numbers.nbytes).view(numbers.dtype).view(numbers.shape)
        self._numbers.wait_event(computed)
        self._numbers.keep(numbers)
        self._numbers.copy(landed, numbers)
        arrived = self._numbers.record()

        def wait() -> Tensor:
            arrived.synchronize()
            return landed

        return wait
