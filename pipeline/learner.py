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

logger = logging.getLogger("cudaspeed")

_NICE = 10  # of 19
_LITTLE = 0.1  # of the last run's pixels: a forward of no more than that may begin although the next run may be near
_ASKED_AGAIN = 0.2  # seconds
_IDLE = 1.0  # seconds without a run, after which a larger one may begin


class Steps(Protocol):
    """What computes the forwards of a model's studies (studies.py)."""

    def repaid(self, study: Study) -> bool:
        """Whether the work that was done is enough for the study to be made between runs."""
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
    """What is to be found out about one model where it computes, and the study of it that has begun."""

    def __init__(self, runner: Steps) -> None:
        self._runner = runner
        self._offered: set[str] = set()
        self._waiting: deque[Study] = deque()
        self._study: Study | None = None
        self._ask: Ask | Pause | None = None
        self._run_pixels = 0

    def offer(self, studies: Iterable[Study], pixels: int) -> None:
        """What a run of so many `pixels` would have liked to know. A study of one name is made once."""
        self._run_pixels = pixels
        for study in studies:
            if study.name not in self._offered:
                self._offered.add(study.name)
                self._waiting.append(study)

    def ask(self) -> Ask | Pause | None:
        """The forward to compute next; None where there is none, or no more is repaid yet."""
        while self._ask is None:
            self._study = next((study for study in self._waiting if self._runner.repaid(study)), None)
            if self._study is None:
                break
            self._waiting.remove(self._study)
            try:
                self._ask = self._runner.first(self._study)
            except Exception as error:  # nothing here is worth more than a line
                logger.debug("%s was not found out: %s", self._study.name, first_line(error))
        return self._ask

    def is_little(self, ask: Ask | Pause) -> bool:
        """Whether a run that comes meanwhile would hardly notice."""
        return ask.pixels <= _LITTLE * self._run_pixels

    def step(self, give_way: Callable[[], bool] = lambda: False) -> None:
        """Compute the forward that `ask` told; where it had to `give_way` on the way, it is asked for again."""
        assert self._study is not None and self._ask is not None
        self._ask = self._runner.step(self._study, self._ask, give_way)
        if self._ask is None:
            self._runner.release()

    def give_up(self) -> None:
        """Leave the study that has begun."""
        self._study = self._ask = None
        self._runner.release()

    def work_off(self, spent: int) -> None:
        """What is repaid, at once, but no more than a run can bear that `spent` so many pixels on studies."""
        left = _LITTLE * self._run_pixels - spent
        while (ask := self.ask()) and ask.pixels <= left:
            left -= ask.pixels
            self.step()


class Learner:
    """Has one thread, for as long as there is something to find out that the work so far repays. A run waits for one
    block of a forward of it at most, unless that is a small one."""

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
            with self._condition:
                while not self._condition.wait_for(lambda: not self._stepping, _ASKED_AGAIN):
                    waiting()
            yield
        finally:
            with self._condition:
                self._runs -= 1
                self._condition.notify_all()

    def subject(self, model: nn.Module, place: str, make: Callable[[], Steps]) -> Subject:
        """What is to be found out about `model` in a place; gone with the model. `make` makes what computes it."""
        with self._condition:
            subjects = self._subjects.setdefault(model, {})
            if place not in subjects:
                subjects[place] = Subject(make())
            return subjects[place]

    def wake(self) -> None:
        """There may be something to find out."""
        with self._condition:
            if self._thread is None and self._first():
                self._thread = threading.Thread(target=self._work, name="cudaspeed learner", daemon=True)
                self._thread.start()
                if not self._registered:
                    atexit.register(self.stop)
                    self._registered = True

    def finish(self) -> None:
        """Wait until all is found out that the work so far repays."""
        with self._condition:
            self._hurried = True
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._thread is None)
            self._hurried = False

    def stop(self) -> None:
        """Find out nothing any more: the process ends."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._thread is None)

    def _work(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while subject := self._next():
            try:
                subject.step(self._is_wanted)
            except Exception as error:  # nothing here is worth more than a line
                logger.debug("something was not found out: %s", first_line(error))
                subject.give_up()
            subject = None  # its model may go meanwhile
            with self._condition:
                self._stepping = False
                self._condition.notify_all()

    def _next(self) -> Subject | None:
        """The subject to compute a forward for, once that disturbs nobody; None, and the thread ends, where there is
        none. Being told of one, no run begins before it is computed."""
        with self._condition:
            while True:
                self._condition.wait_for(lambda: not self._runs or self._stopped)
                found = self._first()
                if found is None:
                    self._thread = None
                    self._condition.notify_all()
                    return None
                ask = found.ask()
                assert ask is not None
                ran = lambda: bool(self._runs or self._stopped or self._hurried)  # noqa: E731
                if self._hurried or found.is_little(ask) or not self._condition.wait_for(ran, _IDLE):
                    self._stepping = True
                    return found

    def _is_wanted(self) -> bool:
        """Whether a run has come, or the process ends, for which a forward is left."""
        return bool(self._runs or self._stopped)

    def _first(self) -> Subject | None:
        """A subject that there is something to compute for."""
        subjects = [] if self._stopped else [some for by in self._subjects.values() for some in by.values()]
        return next((subject for subject in subjects if subject.ask()), None)
