"""The ways one run can compute its model: where it stands, and the safer steps after that, down to eager fp32."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ..compile_cache import CompiledForwards
from ..memory import MemoryCost
from ..models.execution import ExecutionMode
from ..models.runner import ModelRunner


class Step(NamedTuple):
    """One way to compute: the copy of the model, what a forward costs, and what is compiled of it, if it may be."""

    runner: ModelRunner
    cost: MemoryCost
    compiled: CompiledForwards | None

    @property
    def mode(self) -> ExecutionMode:
        return self.runner.mode


class Steps(Protocol):
    """What a chain asks for its steps, and tells which of them to begin with the next time."""

    def step(self, mode: ExecutionMode, shared: bool) -> Step:
        """The step in `mode`. `shared`: with the copy of the model that other runs begin with, too."""
        ...

    def safer_modes(self, mode: ExecutionMode) -> list[ExecutionMode]:
        """The modes to trust more than `mode`, in the order of their precision."""
        ...

    def remember_fallback(self, left: ExecutionMode, now: Step) -> None:
        """Later runs had better begin with `now` where they would begin with `left`."""


class FallbackChain:
    """Where a run stands (`now`) and what it can fall back to. `given_up` is the name of the mode that it left for a
    safer one because tiles came out faulty; None: it left none."""

    def __init__(self, steps: Steps, mode: ExecutionMode) -> None:
        self._steps = steps
        self.given_up: str | None = None
        self.restart(mode)

    def restart(self, mode: ExecutionMode) -> None:
        """Stand on `mode`, with all that is safer after it."""
        self._first, self._safer = mode, None
        self.now = self._steps.step(mode, shared=True)
        self._made: dict[ExecutionMode, Step] = {mode: self.now}

    @property
    def safer(self) -> list[ExecutionMode]:
        """The modes after the run's, safest last; found out when they are first asked for."""
        if self._safer is None:
            self._safer = self._steps.safer_modes(self._first)
        return self._safer

    def step(self, mode: ExecutionMode) -> Step:
        """A safer step, to compute single tiles in; made when it is first asked for, kept while the run lasts."""
        if mode not in self._made:
            self._made[mode] = self._steps.step(mode, shared=False)
        return self._made[mode]

    def fall_back(self, mode: ExecutionMode, for_good: bool) -> None:
        """Go on with `mode`, one of the safer ones, in this run and, `for_good`, in all later ones."""
        self.given_up = self.given_up or self.now.mode.name
        self._safer = self.safer[self.safer.index(mode) + 1 :]
        self.now = self.step(mode)
        if for_good:
            self._steps.remember_fallback(self._first, self.now)

    def save(self) -> None:
        """Keep what was measured of the compiled forwards."""
        for step in self._made.values():
            if step.compiled:
                step.compiled.save()
