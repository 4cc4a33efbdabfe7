"""One thread of the process that looks after runs whose own thread is deep in something long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

Tick = Callable[[], None]

_PERIOD = 0.5  # seconds


class Ticker:
    """Calls, every half a second, what it was given. Begins with the first that it is given; sleeps while it has none.

    A run that is over within the half second costs it a wake-up at most. What is called raises nothing.
    """

    def __init__(self, period: float = _PERIOD) -> None:
        self._period, self._ticks = period, set[Tick]()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, tick: Tick) -> None:
        """Call `tick`, on another thread than this."""
        with self._changed:
            self._ticks.add(tick)
            if self._thread is None or not self._thread.is_alive():  # in a process that was forked it is not
                thread = threading.Thread(target=self._run, name="ticker of cudaspeed", daemon=True)
                with suppress(RuntimeError):  # there can be no more threads: then nobody ticks
                    thread.start()
                    self._thread = thread
            self._changed.notify()

    def remove(self, tick: Tick) -> None:
        """Call `tick` no more; a call may still be going on."""
        with self._changed:
            self._ticks.discard(tick)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ticks)
            time.sleep(self._period)
            self._round()

    def _round(self) -> None:  # whose variables, and the runs that they know, are gone when it is over
        with self._changed:
            ticks = tuple(self._ticks)
        for tick in ticks:
            tick()


TICKER = Ticker()
"""The process's."""
