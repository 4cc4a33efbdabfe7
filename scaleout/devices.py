"""One run over several devices of this process: a thread and a copy of the model for each, and shares of the frames, or
parts of a picture, handed out as they get done.

    source --Shares.next--> share --thread of a device: the engine--> share, done --Shares.put--> sink, in order

The run's own thread hands out, puts together, asks for interrupts and tells the user; devices only compute. What one of
them lacks, memory for large tiles say, is its own matter. One that fails is left out, and its share is another's.
"""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import torch

from ..api.context import RunContext
from ..api.device_share import DeviceShare
from ..api.errors import BadImageError, BadModelError, BadOptionError, first_line
from ..api.report import UpscaleReport
from ..pipeline.frame_io import FrameSink, FrameSource
from ..pipeline.monitor import Monitor, Status, lasting
from ..pipeline.outcome import joined_over_time
from ..pipeline.threads import Stage, end
from .device_context import DeviceContext
from .shares import Share, Shares

logger = logging.getLogger("cudaspeed")

_BETWEEN_LOOKS = 0.05  # seconds between two questions whether to stop
_TELLING = 0.05  # of the work: from here on it is told how long the rest takes
_EVERYBODYS = (BadOptionError, BadModelError, BadImageError)  # what no other device would do better

Run = Callable[[tuple[FrameSource, FrameSink], DeviceContext], UpscaleReport]
"""The engine, for a share, on the device of a context. Called on its thread."""


@dataclass(frozen=True)
class _Done:
    """What became of a share: the engine's report of it, or the error that it ended with."""

    device: _Device
    share: Share
    report: UpscaleReport | None
    error: BaseException | None = None


class _Device:
    """A device on its thread, which computes the shares that it is given until it is given None."""

    def __init__(self, name: str, context: DeviceContext, run: Run, done: queue.SimpleQueue[_Done]) -> None:
        self.name, self.context, self.given = name, context, queue.SimpleQueue[Share | None]()
        self._run, self._done = run, done
        work = partial(contextvars.copy_context().run, self._work)  # by which a host knows for whom this is
        self.thread = Stage(f"cudaspeed on {name}", work)

    def _work(self) -> None:
        _make_current(self.context.device)
        while (share := self.given.get()) is not None:
            self.context.share = 0.0
            try:
                report = self._run((share.source, share.sink), self.context)
            except BaseException as error:  # of whatever kind a device's end is; who has all of the run decides
                self._done.put(_Done(self, share, None, error))
            else:
                self._done.put(_Done(self, share, report))


class DeviceRun:
    """All of `shares` by the devices of `contexts`, each through `run`. `monitor` is the whole run's."""

    def __init__(self, shares: Shares, contexts: Sequence[RunContext], run: Run, monitor: Monitor) -> None:
        self._shares, self._monitor, self._halt = shares, monitor, threading.Event()
        self._done: queue.SimpleQueue[_Done] = queue.SimpleQueue()
        alone = [context.device.type for context in contexts].count("cpu") < 2
        self._devices = [
            _Device(name, DeviceContext(context, number, self._halt, alone), run, self._done)
            for number, (name, context) in enumerate(zip(names_of(contexts), contexts, strict=True))
        ]
        self._failed: set[_Device] = set()
        self._busy: dict[_Device, Share] = {}
        self._again: deque[Share] = deque()  # what a device failed at
        self._reports: list[UpscaleReport] = []
        self._frames: list[Sequence[int]] = []
        self._made: Counter[str] = Counter({device.name: 0 for device in self._devices})
        self._notes: list[str] = []
        self._began = monitor.clock()

    def run(self) -> UpscaleReport:
        """Do it all. Raises what the host raises for an interrupt; what a device raises for options or a model that
        cannot be; and else what the last device that is left does."""
        threads, idle = [device.thread for device in self._devices], deque(self._devices)
        self._monitor.follow(self)
        try:
            for thread in threads:
                thread.start()
            while self._hand_out(idle) or self._busy:
                self._take_back(idle)
        finally:
            end(threads, self._stop)  # they know the memory of the result
            self._halt.clear()  # contexts stay known to what is found out later
            self._monitor.follow(None)
        return self._report()

    def status(self, now: float) -> Status:
        """How far all of it is, at `now` by the monitor's clock."""
        done, total = self._stand()
        elapsed, devices = now - self._began, len(self._devices) - len(self._failed)
        frames = self._shares.in_words == "frames"
        stand = f"{self._shares.done} of {total} frames" if frames else f"{self._shares.done} of {total} parts"
        told = [f"{stand}, on {devices} devices"]
        if done >= _TELLING * total and elapsed > 0:
            told.append(f"{lasting(max(1.0, elapsed * (total - done) / done))} left")
        return Status(", ".join(told), done, total)

    # --- details -----------------------------------------------------------------------------------------------------

    def _hand_out(self, idle: deque[_Device]) -> bool:
        """Give every idle device a share, as far as there are any. Whether one was given."""
        given = False
        while idle and (share := self._again.popleft() if self._again else self._shares.next()):
            device = idle.popleft()
            self._busy[device] = share
            device.given.put(share)
            given = True
        return given

    def _take_back(self, idle: deque[_Device]) -> None:
        """Wait for a share to be done."""
        done = None
        while done is None:
            self._monitor.raise_if_interrupted()
            with suppress(queue.Empty):
                done = self._done.get(timeout=_BETWEEN_LOOKS)
            self._monitor.progress(*self._stand())
        del self._busy[done.device]
        done.device.context.share = 0.0
        if done.report is None:
            self._leave_out(done)
            return
        idle.append(done.device)
        self._reports.append(done.report)
        self._frames.append(done.share.frames)
        self._made[done.device.name] += len(done.share.frames)
        self._shares.put(done.share)
        self._monitor.progress(*self._stand())

    def _leave_out(self, done: _Done) -> None:
        """Go on without a device that failed. Raises why, where it is the last one, or not the device's fault."""
        error = done.error
        assert error is not None
        self._failed.add(done.device)
        last = len(self._failed) == len(self._devices)
        if isinstance(error, _EVERYBODYS) or not isinstance(error, Exception) or last:
            raise error
        note = f"{done.device.name} failed, and the others did its work: {first_line(error)}"
        logger.warning(note)
        self._notes.append(note)
        self._again.append(done.share)

    def _stop(self) -> None:
        self._halt.set()
        for device in self._devices:
            device.given.put(None)

    def _stand(self) -> tuple[float, int]:
        shares = self._shares
        in_work = sum(device.context.share * len(share.frames) for device, share in self._busy.items())
        return min(shares.done + in_work, shares.total), max(1, shares.total)

    def _report(self) -> UpscaleReport:
        """Of all shares together."""
        report = joined_over_time(self._reports, self._frames)
        assert report is not None
        devices = tuple(DeviceShare(name, **{self._shares.in_words: made}) for name, made in self._made.items())
        return replace(report, devices=devices, notes=(*self._notes, *report.notes))


def names_of(contexts: Sequence[RunContext]) -> list[str]:
    """What the devices of `contexts` are called: "cuda:0", and "cpu (2)" for the second on one."""
    seen: Counter[str] = Counter()
    names = []
    for context in contexts:
        name = str(context.device)
        seen[name] += 1
        names.append(f"{name} ({seen[name]})" if seen[name] > 1 else name)
    return names


def _make_current(device: torch.device) -> None:
    """For this thread alone: some kernels are launched on the current device, wherever their tensors lie."""
    if device.index is not None:
        with suppress(AttributeError, RuntimeError):  # kinds of which there is one have nothing to choose
            torch.get_device_module(device).set_device(device)
