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
import time
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
_A_SHARE = 1.0  # seconds that a share is to take, so that what it costs beside its frames is little
_A_MOMENT = 1e-6  # seconds, which a clock may not tell from none
_TURNS = 2  # shares for each device, into which what is left of a run is divided: slow ones then get fewer
_TELLING = 0.05  # of the work: from here on it is told how long the rest takes
_EVERYBODYS = (BadOptionError, BadModelError, BadImageError)  # what no other device would do better

Run = Callable[[tuple[FrameSource, FrameSink], DeviceContext], UpscaleReport]
"""The engine, for a share, on the device of a context. Called on its thread."""


@dataclass(frozen=True)
class _Done:
    """What became of a share, after so many `seconds`: the engine's report of it, or the error that it ended with."""

    device: _Device
    share: Share
    seconds: float
    report: UpscaleReport | None
    error: BaseException | None = None


class _Device:
    """A device, which computes on a thread of its own the shares that it is given, until that is None. `pace`: seconds
    for one of what shares count, as its last share took; None before."""

    def __init__(self, name: str, context: DeviceContext, run: Run, done: queue.SimpleQueue[_Done]) -> None:
        self.name, self.context, self.given = name, context, queue.SimpleQueue[Share | None]()
        self.pace: float | None = None
        self._run, self._done = run, done

    def work(self) -> None:
        """On its thread."""
        while (share := self.given.get()) is not None:
            self.context.share, began = 0.0, time.perf_counter()
            try:
                _make_current(self.context.device)
                report = self._run((share.source, share.sink), self.context)
            except BaseException as error:  # of whatever kind a device's end is; who has all of the run decides
                self._done.put(_Done(self, share, 0.0, None, error))
            else:
                self._done.put(_Done(self, share, time.perf_counter() - began, report))
            share = None  # its frames go on without this thread


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
        self._idle = [*self._devices]
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
        # by a copy of the context a host knows for whom a thread works
        threads = [
            Stage(f"cudaspeed on {device.name}", partial(contextvars.copy_context().run, device.work))
            for device in self._devices
        ]
        self._monitor.follow(self)
        try:
            for thread in threads:
                thread.start()
            while not self._shares.is_over:
                self._go_on()
        finally:
            try:
                end(threads, self._stop)  # they know the memory of the result
            finally:
                self._halt.clear()  # contexts stay known to what is found out later
                while not self._done.empty():  # errors know frames, which know the queue that they are in
                    self._done.get()
                self._monitor.follow(None)
        return self._report()

    def status(self, now: float) -> Status:
        """How far all of it is, at `now` by the monitor's clock."""
        done, total = self._stand()
        elapsed, devices = now - self._began, len(self._idle) + len(self._busy)
        frames = self._shares.in_words == "frames"
        stand = f"{self._shares.done} of {total} frames" if frames else f"{self._shares.done} of {total} parts"
        told = [f"{stand}, on {devices} devices"]
        if done >= _TELLING * total and elapsed > 0:
            told.append(f"{lasting(max(1.0, elapsed * (total - done) / done))} left")
        return Status(", ".join(told), done, total)

    # --- details -----------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """A little of all that this thread has to do; where there is nothing, wait for a device."""
        self._monitor.raise_if_interrupted()
        self._monitor.progress(*self._stand())
        moved = self._take_back(wait=False)
        moved |= self._hand_out()
        moved |= self._shares.read_ahead()
        moved |= self._shares.settle()
        if not moved:
            self._take_back(wait=True)

    def _hand_out(self) -> bool:
        """Give idle devices shares, the fastest first; whether any was given."""
        given = False
        for device in sorted(self._idle, key=lambda device: device.pace or 0.0):
            if not self._again and not self._is_worth_it(device):
                continue
            share = self._again.popleft() if self._again else self._shares.next(self._so_many(device))
            if share is None:
                break
            self._idle.remove(device)
            self._busy[device] = share
            device.context.pixels_after = self._pixels_after(share)
            device.given.put(share)
            given = True
        return given

    def _is_worth_it(self, device: _Device) -> bool:
        """Whether its least share would be done before the others would have to wait for it: for the end of the run, or
        because no more may be begun before it."""
        others = {one: one.pace for one in (*self._idle, *self._busy) if one.pace}
        pace = others.pop(device, None)
        if pace is None or not self._busy or not others:
            return True
        free_in = min(map(self._seconds_left, others))
        together = sum(1 / other for other in others.values())
        return self._shares.least * pace <= free_in + self._shares.room / together

    def _seconds_left(self, device: _Device) -> float:
        """Until it has done what it is at, if it goes on as before."""
        share = self._busy.get(device)
        return len(share.frames) * (device.pace or 0.0) * (1 - device.context.share) if share else 0.0

    def _so_many(self, device: _Device) -> int:
        """How many frames it gets, as far as that is known: some that take it a while, and fewer towards the end."""
        if device.pace is None:
            return self._shares.least
        fair = self._shares.room // (_TURNS * (len(self._idle) + len(self._busy)))
        return max(self._shares.least, min(int(_A_SHARE / max(device.pace, _A_MOMENT)), fair))

    def _pixels_after(self, share: Share) -> int:
        """What one device will have to do after this share, if all do as much."""
        height, width = share.source.size
        left = self._shares.total - self._shares.done - sum(len(one.frames) for one in self._busy.values())
        return max(0, left) * height * width // (len(self._idle) + len(self._busy))

    def _take_back(self, wait: bool) -> bool:
        """What devices have done; whether there was anything."""
        try:
            done = self._done.get(timeout=_BETWEEN_LOOKS) if wait else self._done.get_nowait()
        except queue.Empty:
            return False
        del self._busy[done.device]
        if done.report is None:
            self._leave_out(done)
            return True
        done.device.pace = done.seconds / len(done.share.frames)
        self._idle.append(done.device)
        self._reports.append(_in_row(done.report, done.share.row))
        self._frames.append(done.share.frames)
        self._made[done.device.name] += len(done.share.frames)
        self._shares.put(done.share)
        return True

    def _leave_out(self, done: _Done) -> None:
        """Go on without a device that failed. Raises why, where it is the last one, or not the device's fault."""
        error = done.error
        assert error is not None
        if isinstance(error, _EVERYBODYS) or not isinstance(error, Exception) or not (self._idle or self._busy):
            try:
                raise error
            finally:
                del error, done  # else it would know itself, and with it the frames
        note = f"{done.device.name} failed, and the others did its work: {first_line(error)}"
        logger.warning(note)
        self._notes.append(note)
        self._again.append(done.share)

    def _stop(self) -> None:
        self._halt.set()
        for device in self._devices:
            device.given.put(None)

    def _stand(self) -> tuple[float, int]:
        in_work = sum(device.context.share * len(share.frames) for device, share in [*self._busy.items()])
        total = self._shares.total
        return min(self._shares.done + in_work, total), max(1, total)

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


def _in_row(report: UpscaleReport, row: int | None) -> UpscaleReport:
    """Of a part of a picture: with its row as that of all its tiles."""
    if row is None:
        return report
    repairs = tuple(replace(repair, tile=(row, repair.tile[1])) for repair in report.health.repairs)
    return replace(report, health=replace(report.health, repairs=repairs))


def _make_current(device: torch.device) -> None:
    """For this thread alone: some kernels are launched on the current device, wherever their tensors lie."""
    if device.index is not None:
        with suppress(AttributeError, RuntimeError):  # kinds of which there is one have nothing to choose
            torch.get_device_module(device).set_device(device)
