"""Hosts for tests that note what they are told, a clock that only tests move, and a ticker that only they let tick."""

from __future__ import annotations

from collections.abc import Callable

from cudaspeed.host.standalone import StandaloneContext


class Clock:
    """Stands still but where it is moved, and goes on by `step` seconds whenever it is read."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 100.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


class NoTicker:
    """Has no thread; `tick` is what its thread would do."""

    def __init__(self) -> None:
        self.ticks: list[Callable[[], None]] = []

    def add(self, tick: Callable[[], None]) -> None:
        self.ticks.append(tick)

    def remove(self, tick: Callable[[], None]) -> None:
        self.ticks.remove(tick)

    def tick(self) -> None:
        for tick in [*self.ticks]:
            tick()


class Interrupted(Exception):  # noqa: N818
    """ComfyUI's is an `Exception`, too."""


class Host(StandaloneContext):
    """`told` is all that it was told, in order: (done, total) and texts. It stops the run when `stop` is set, and, as
    ComfyUI does, raises once and then knows nothing of it."""

    def __init__(self) -> None:
        super().__init__(
            "cpu", lambda done, total: self.told.append((done, total)), lambda text: self.told.append(text)
        )
        self.told: list[object] = []
        self.stop = False
        self.asked = 0

    @property
    def texts(self) -> list[str]:
        return [told for told in self.told if isinstance(told, str)]

    @property
    def shares(self) -> list[float]:
        return [told[0] / told[1] for told in self.told if isinstance(told, tuple)]

    def raise_if_interrupted(self) -> None:
        self.asked += 1
        if self.stop:
            self.stop = False
            raise Interrupted
