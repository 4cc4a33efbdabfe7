"""Threads that know open files: these are closed when they have ended, whatever interrupts whoever waits for that."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence


class Stage(threading.Thread):
    """`work` on a thread, which can be waited for whatever interrupts that. Python's `join` does not do: interrupted
    once, it takes a thread that runs on for one that has ended (bpo-45274)."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._work, self._over = work, threading.Event()

    def run(self) -> None:
        try:
            self._work()
        finally:
            self._over.set()

    def wait(self) -> None:
        """Until it has ended, if it was started at all."""
        while self.ident is not None and not self._over.wait(0.1):  # so that it can be interrupted everywhere
            pass
        if self._over.is_set():
            self.join()


def end(stages: Sequence[Stage], stop: Callable[[], None]) -> None:
    """Have them stop, by `stop`. An interrupt meanwhile is raised when they have."""
    interrupt: KeyboardInterrupt | None = None
    ended = False
    while not ended:
        try:
            stop()
            for stage in stages:
                stage.wait()
            ended = True
        except KeyboardInterrupt as again:
            interrupt = again
    if interrupt:
        raise interrupt


def interruptible(name: str, work: Callable[[threading.Event], None]) -> None:
    """Do `work` on a thread of this name, which is to look whether it is to end, and raise what it raises: an interrupt
    in the middle of a write, where FFmpeg writes by a Python file, is lost, and so may be what is written."""
    stop, errors = threading.Event(), list[BaseException]()

    def guarded() -> None:
        try:
            work(stop)
        except BaseException as error:  # raised by who waits
            errors.append(error)

    stage = Stage(name, guarded)
    try:
        stage.start()
        stage.wait()
    finally:
        end((stage,), stop.set)
    if errors:
        raise errors[0]
