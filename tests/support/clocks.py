"""Clocks for tests: what this machine happens to be fast at decides nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from cudaspeed.pipeline.session_cache import SessionCache


def still() -> float:
    """A clock that stands still: everything takes no time at all, so nothing is faster than anything else."""
    return 0.0


def new_sessions() -> SessionCache:
    """What a new process knows of models, where nothing is measured."""
    return SessionCache(clock=still)


class Ticking:
    """A clock that goes on by what `tick` gives, whenever it is looked at."""

    def __init__(self, tick: Callable[[], float]) -> None:
        self._now, self._tick = 1e6, tick

    def __call__(self) -> float:
        self._now += self._tick()
        return self._now


def _anything(chance: random.Random) -> float:
    return 10 ** chance.uniform(-6, 2)


LYING: dict[str, Callable[[], Callable[[], float]]] = {
    "slow": lambda: Ticking(lambda: 1e-9),
    "fast": lambda: Ticking(lambda: 1e4),
    "standing still": lambda: still,
    "random": lambda: Ticking(partial(_anything, random.Random(5))),
    "running backwards": lambda: Ticking(lambda: -1.0),
    "jumping": lambda: Ticking(partial(random.Random(7).gauss, 0, 10)),
}
"""Makers of clocks that say nothing of what happened."""
