"""A farm's driver: hands units to workers, a few ahead of each, and notes what comes of them."""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..api.errors import OutputError
from .crew import Crew, Lost
from .manifest import Manifest, ManifestBusyError
from .units import WHOLE, Outcome, Unit

logger = logging.getLogger("cudaspeed")

_TRIES = 2  # of a unit that fails, or kills its worker
_READ = 1000  # units of the manifest at once, of which there may be millions
_EVERY = 1.0  # seconds between two lines, and two writes of the manifest
_WAIT = 0.25  # seconds, at most, for something to come
_LOOK = 5.0  # seconds between two looks at what machines there are
_RATE_OF = 60.0  # seconds that what is told of speed is of
_LEAST_FREE = 1 << 30  # bytes of room for results, below which no unit is given


@dataclass(frozen=True)
class Progress:
    """How far a farm is: units `done` and `failed` of `total`, by so many `workers`, which do `units_per_second` and
    `megapixels_per_second` of results; `seconds_left`: None while nobody knows."""

    done: int
    failed: int
    total: int
    workers: int
    units_per_second: float = 0.0
    megapixels_per_second: float = 0.0
    seconds_left: float | None = None


class Farm:
    """Does what waits in a `manifest` by a `crew`; `show` is told how far it is, once a second."""

    def __init__(self, manifest: Manifest, crew: Crew, show: Callable[[Progress], None]) -> None:
        self._manifest, self._crew, self._show = manifest, crew, show
        self._queue: deque[Unit] = deque()
        self._read_to = -1
        self._tries: Counter[int] = Counter()  # of what is tried again
        self._unsaved: list[Outcome] = []
        self._whole: list[Unit] = []  # what was put together, and its parts are there
        self._recent: deque[tuple[float, float]] = deque()  # when something was done, and its megapixels
        self._began: float | None = None  # when a worker was there
        self._counts = manifest.counts()
        self.stopped = ""
        """Why it ended before everything was done: no room for results. "": it did not."""

    def run(self) -> None:
        """Until all is done or set aside. Raises `FarmError`; what is done by then is noted, also on an interrupt."""
        looked = told = 0.0
        try:
            while self._fill() or self._crew.in_flight or self._put_together():
                if time.monotonic() - looked > _LOOK:
                    self._crew.hire()
                    looked = time.monotonic()
                if self._began is None and self._crew.ready:
                    self._began = time.monotonic()
                self._feed()
                outcomes, lost = self._crew.arrived(_WAIT)
                self._take(outcomes, lost)
                looked = 0.0 if lost else looked  # another is hired at once
                if time.monotonic() - told > _EVERY:
                    told = time.monotonic()
                    self._put_together()
                    self._show(self.progress())
        finally:
            self._crew.dismiss()
            self._save(last=True)
            self._manifest.sweep()
        self._show(self.progress())

    def progress(self) -> Progress:
        """How far it is."""
        now, counts = time.monotonic(), self._counts
        while self._recent and self._recent[0][0] < now - _RATE_OF:
            self._recent.popleft()
        seconds = max(1e-3, min(now - (self._began or now), _RATE_OF))
        rate = len(self._recent) / seconds
        return Progress(
            counts["done"],
            counts["failed"],
            sum(counts.values()),
            self._crew.ready,
            rate,
            sum(megapixels for _, megapixels in self._recent) / seconds,
            counts["waiting"] / rate if rate else None,
        )

    def _fill(self) -> bool:
        """Read on in the manifest; whether there is anything left to give."""
        if self.stopped:
            return False
        if not self._queue:
            self._queue.extend(self._manifest.waiting(self._read_to, _READ))
            self._read_to = max((unit.number for unit in self._queue), default=self._read_to)
        return bool(self._queue)

    def _feed(self) -> None:
        """Give workers what they have room for, while there is room for results."""
        for give in self._crew.hungry():
            if not self._fill():
                return
            free = shutil.disk_usage(self._manifest.output).free
            if free < _LEAST_FREE:
                self.stopped = f"only {free / 1e9:.2f} GB are free in {self._manifest.output}"
                return
            give(self._queue.popleft())

    def _take(self, outcomes: list[tuple[Unit, Outcome]], lost: list[Lost]) -> None:
        for unit, outcome in outcomes:
            if outcome.full:  # it waits, and the next run does it
                self.stopped = outcome.error
            elif outcome.error:
                self._settle_or_repeat(unit, outcome)
            elif outcome.parts:
                self._split(unit, outcome)
            else:
                self._finish(outcome)
                if unit.part == WHOLE and unit.given:
                    self._whole.append(unit)
        for had in lost:
            self._queue.extendleft(reversed(had.others))
            if had.at is None:
                continue
            if outcome := self._manifest.noted(had.at):
                self._finish(outcome)
            elif had.blamed:
                died = f"{had.at.source}: the worker that was at it died ({had.why})"
                self._settle_or_repeat(had.at, Outcome(had.at.number, had.at.made_from, error=died, again=True))
            else:
                self._queue.appendleft(had.at)

    def _split(self, unit: Unit, outcome: Outcome) -> None:
        """Do its parts first. Where that cannot be written down now it is split once more."""
        try:
            self._manifest.split(unit, outcome)
            self._counts["waiting"] += len(outcome.parts)
        except ManifestBusyError as error:
            logger.warning("%s", error)
            self._queue.append(unit)
        except OutputError as error:
            self.stopped = self.stopped or str(error)

    def _put_together(self) -> bool:
        """Write down what came of units, and go on with what waited for its parts; whether there is any."""
        self._save()
        if self.stopped:
            return False
        try:
            ready, lost = ([], []) if self._unsaved else self._manifest.put_together()
        except ManifestBusyError as error:
            logger.warning("%s", error)
            return True
        except OutputError as error:
            self.stopped = str(error)
            return False
        self._queue.extend(unit for unit in ready if unit.number <= self._read_to)  # others are read in their turn
        for unit, why in lost:
            self._settle(Outcome(unit.number, unit.made_from, error=f"a part of it was set aside: {why}"))
        return bool(ready or self._unsaved)

    def _finish(self, outcome: Outcome) -> None:
        self._settle(outcome)
        self._recent.append((time.monotonic(), outcome.record.get("megapixels", 0.0)))

    def _settle_or_repeat(self, unit: Unit, outcome: Outcome) -> None:
        """Try it once more, or set it aside."""
        self._tries[unit.number] += 1
        if outcome.again and self._tries[unit.number] < _TRIES:
            self._queue.append(unit)
        else:
            self._settle(outcome)

    def _settle(self, outcome: Outcome) -> None:
        self._counts["waiting"] -= 1
        self._counts["failed" if outcome.error else "done"] += 1
        tries = self._tries.pop(outcome.number, 0) + (not outcome.error)
        self._unsaved.append(replace(outcome, tries=tries))

    def _save(self, last: bool = False) -> None:
        """Into the manifest. Where that cannot be written now it is tried again; after the `last` time the workers'
        notes have what is done."""
        try:
            self._manifest.settle(self._unsaved)
            self._unsaved.clear()
            for unit in self._whole:
                self._manifest.drop_parts(unit)
            self._whole.clear()
        except ManifestBusyError as error:
            logger.warning("%s", error)
        except OutputError as error:
            self.stopped = self.stopped or str(error)
            if last:
                logger.warning("%s", error)
