"""Finds out between runs what they would have liked to know: one forward at a time, in a thread that gives way."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from torch import nn

from ..api.errors import first_line
from ..models.study import Ask, Pause, Study
from ..storage.heap import trim_top
from ..storage.memory_limits import has_own_limits

logger = logging.getLogger("cudaspeed")

_NICE = 10  # of 19
_PAUSE = 0.05  # seconds without a run, after which a little one may begin
_MOST_PLACES = 16  # of one model, whose devices are some
# Of the last run's pixels, or seconds: a forward of no more than that may begin although the next run may be near.
_LITTLE, _SHORT = 0.1, 0.05
_ASKED_AGAIN = 0.2  # seconds between two looks whether to go on waiting
_IDLE = 1.0  # seconds without a run, after which a larger one may begin


class Steps(Protocol):
    """What computes the forwards of a model's studies (studies.py)."""

    def repaid(self, study: Study) -> bool:
        """Whether the work that was done is enough for the study to be made between runs."""
        ...

    def seconds_of(self, pixels: int) -> float:
        """What forwards of so many input pixels take, about."""
        ...

    def first(self, study: Study) -> Ask | Pause | None:
        """What a study asks for first."""
        ...

    def step(self, study: Study, ask: Ask | Pause, give_way: Callable[[], bool] = ...) -> Ask | Pause | None:
        """Compute what is asked for; what is asked for next: the same where it had to `give_way` on the way. None: the
        study has ended."""
        ...

    def release(self) -> None:
        """Let go of what was made for the study that has ended."""
        ...


class Subject:
    """What is to be found out about one model where it computes, and the study of it that has begun; `in_background`,
    where that is nobody else's."""

    def __init__(self, runner: Steps, in_background: bool) -> None:
        self._runner, self.in_background = runner, in_background
        self._offered: set[str] = set()
        self._waiting: deque[Study] = deque()
        self._study: Study | None = None
        self._ask: Ask | Pause | None = None
        self._was_left = False
        self._run_pixels = 0

    def offer(self, studies: Iterable[Study], pixels: int) -> None:
        """What a run of so many `pixels` would have liked to know. A study of one name is made once; a smaller one
        takes the place of one that has not begun."""
        self._run_pixels = pixels
        for study in studies:
            known = next((old for old in tuple(self._waiting) if old.name == study.name), None)
            if known and known.pixels > study.pixels:
                with suppress(ValueError):  # it has begun
                    self._waiting.remove(known)
                    self._waiting.append(study)
            elif study.name not in self._offered:
                self._offered.add(study.name)
                self._waiting.append(study)

    @property
    def has_work(self) -> bool:
        """Whether there is something to find out that is repaid: of what gave way, with what it has cost already."""
        if self._ask is None or self._study is None:
            return self._next() is not None
        return not self._was_left or self._runner.repaid(self._study)

    @property
    def is_little(self) -> bool:
        """Whether a run that comes meanwhile would hardly notice."""
        ask, study = self._ask, self._next()
        largest = ask.pixels if ask else study.largest if study and study.largest else self._pixels(ask, study)
        return largest <= _LITTLE * self._run_pixels or self._runner.seconds_of(largest) <= _SHORT

    def step(self, give_way: Callable[[], bool] = lambda: False) -> None:
        """Compute one forward. One that had to `give_way` is computed again, when the work that was done repays it: on
        a busy machine it may be left several times, and if it was given up, all later runs would be slow."""
        if self._ask is None:
            self._study = self._next()
            if self._study is not None:
                self._waiting.remove(self._study)
                self._ask = self._runner.first(self._study)
        if self._ask is None or self._study is None:
            return
        asked = self._ask
        self._ask = self._runner.step(self._study, asked, give_way)
        self._was_left = self._ask is asked and isinstance(asked, Ask)
        if self._ask is None or not self.has_work:
            self._runner.release()

    def give_up(self) -> None:
        """Leave the study that has begun."""
        self._study, self._ask, self._was_left = None, None, False
        self._runner.release()

    def work_off(self, spent: int) -> None:
        """What is repaid, at once, but no more than a run can bear that `spent` so many pixels on studies."""
        left = _LITTLE * self._run_pixels - spent
        while self.has_work and (pixels := self._pixels(self._ask, self._next())) <= left:
            left -= pixels
            self.step()

    def _next(self) -> Study | None:
        # as they were a moment ago: a run on another thread may offer more
        return next((study for study in tuple(self._waiting) if self._runner.repaid(study)), None)

    def _pixels(self, ask: Ask | Pause | None, study: Study | None) -> int:
        """Of the next forward, or no fewer."""
        return ask.pixels if ask else study.pixels if study else 0


class Learner:
    """Has one thread, for as long as there is something to find out that the work so far repays. A run waits for one
    block of a forward of it at most."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._subjects: weakref.WeakKeyDictionary[nn.Module, dict[str, Subject]] = weakref.WeakKeyDictionary()
        self._runs = 0
        self._stepping = self._stopped = self._hurried = self._registered = False
        self._thread: threading.Thread | None = None

    @contextmanager
    def standing_back(self, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Within it, which is a run, nothing is found out. What is being found out gives way between two blocks of a
        forward; `waiting` is called meanwhile, and what it raises goes on up."""
        with self._condition:
            self._runs += 1
        try:
            while not self._has_stopped_stepping():
                waiting()
            yield
        finally:
            with self._condition:
                self._runs -= 1
                self._condition.notify_all()

    def subject(self, model: nn.Module, place: str, make: Callable[[], Steps], in_background: bool = True) -> Subject:
        """What is to be found out about `model` in a place; gone with the model. `make` makes what computes it."""
        with self._condition:
            subjects = self._subjects.setdefault(model, {})
            if place not in subjects:
                for old in list(subjects)[: 1 - _MOST_PLACES]:  # of weights that it no longer has, mostly
                    del subjects[old]
                subjects[place] = Subject(make(), in_background)
            return subjects[place]

    def wake(self) -> None:
        """There may be something to find out."""
        with self._condition, _logged():
            if self._thread is None and self._first_in_background():
                self._thread = threading.Thread(target=self._work, name="cudaspeed learner", daemon=True)
                self._thread.start()
                if not self._registered:
                    atexit.register(self.stop)
                    self._registered = True

    def finish(self) -> None:
        """Find out all that the work so far repays, on this thread, which has not the learner's low priority."""
        with self._condition:
            self._hurried = True
            self._condition.notify_all()
            self._condition.wait_for(self._has_ended)
        with _logged():
            while not self._runs and (subject := self._first()):
                _try(subject)
        self._hurried = False

    def give_up(self) -> None:
        """Leave the studies that have begun, and what was made for them."""
        with self.standing_back(), self._condition:
            for subjects in self._subjects.values():
                for subject in subjects.values():
                    subject.give_up()

    def stop(self) -> None:
        """Find out nothing any more: the process ends."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
            self._condition.wait_for(self._has_ended)

    def _work(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        try:
            while subject := self._next():
                _try(subject, self._is_wanted)
                subject = None  # its model may go meanwhile
                with self._condition:
                    self._stepping = False
                    self._condition.notify_all()
        finally:
            trim_top()  # which nobody else can, and who gets this thread's heap next may be small
            with self._condition:
                self._thread, self._stepping = None, False
                self._condition.notify_all()

    def _next(self) -> Subject | None:
        """The subject to compute a forward for, once that disturbs nobody; None, and the thread ends, where there is
        none. Being told of one, no run begins before it is computed."""
        with self._condition, _logged():
            while True:
                self._condition.wait_for(lambda: not self._runs or self._stopped or self._hurried)
                found = self._first_in_background()
                if found is None:
                    return None
                patience = _PAUSE if found.is_little else _IDLE
                if not self._condition.wait_for(lambda: self._runs or self._stopped or self._hurried, patience):
                    self._stepping = True
                    return found
        return None

    def _is_wanted(self) -> bool:
        """Whether a run has come, or the process ends, for which a forward is left."""
        return bool(self._runs or self._stopped or self._hurried)

    def _has_stopped_stepping(self) -> bool:
        with self._condition:
            return self._condition.wait_for(lambda: not self._stepping or self._has_ended(), _ASKED_AGAIN)

    def _has_ended(self) -> bool:
        """A process that was forked has the note of a thread that it has not."""
        return self._thread is None or not self._thread.is_alive()

    def _first_in_background(self) -> Subject | None:
        """A subject for a thread of its own; None where the process has limits, against which that thread counts."""
        return None if self._stopped or self._hurried or has_own_limits() else self._first()

    def _first(self) -> Subject | None:
        """A subject that there is something to compute for."""
        subjects = [] if self._stopped else [some for by in self._subjects.values() for some in by.values()]
        return next((subject for subject in subjects if subject.in_background and subject.has_work), None)


def _try(subject: Subject, give_way: Callable[[], bool] = lambda: False) -> None:
    """One forward of the subject's; what goes wrong there is worth no more than a line, and ends its study."""
    try:
        subject.step(give_way)
    except Exception as error:  # a network may fail in any way, and its owner may change it meanwhile
        logger.debug("something was not found out: %s", first_line(error))
        subject.give_up()


@contextmanager
def _logged() -> Iterator[None]:
    """Within it, what goes wrong is worth no more than a line: the model is being changed, or memory ran out."""
    try:
        yield
    except Exception as error:  # as in `_try`
        logger.debug("nothing is found out just now: %s", first_line(error))
