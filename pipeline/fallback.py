"""The ways one run can compute its model: where it stands, and the safer steps after that, down to eager fp32."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..compile_cache import CompiledForwards
from ..memory import MemoryCost
from ..models.execution import ExecutionMode
from ..models.runner import ModelRunner
from .modes import ModeChooser


class Step(NamedTuple):
    """One way to compute: the copy of the model, what a forward costs, and what is compiled of it, if it may be."""

    runner: ModelRunner
    cost: MemoryCost
    compiled: CompiledForwards | None

    @property
    def mode(self) -> ExecutionMode:
        return self.runner.mode


class FallbackChain:
    """Where a run stands (`now`), first on `mode`, and what it can fall back to. `modes` tell what is safer; a step is
    made by `make_step`, of the copy that all runs begin with or, for single tiles, of one of its own. `given_up` is the
    name of the mode that was left for a safer one because tiles came out faulty; None: none was."""

    def __init__(
        self, mode: ExecutionMode, modes: ModeChooser, make_step: Callable[[ExecutionMode, bool], Step]
    ) -> None:
        self._modes, self._make_step = modes, make_step
        self.given_up: str | None = None
        self._made: dict[ExecutionMode, Step] = {}
        self.restart(mode)

    def restart(self, mode: ExecutionMode) -> None:
        """Stand on `mode`, with all that is safer after it."""
        self.save()
        self._first, self._safer = mode, None
        self.now = self._make_step(mode, True)
        self._made = {mode: self.now}

    @property
    def safer(self) -> list[ExecutionMode]:
        """The modes after the run's, safest last; found out when they are first asked for."""
        if self._safer is None:
            self._safer = self._modes.safer(self._first)
        return self._safer

    def step(self, mode: ExecutionMode) -> Step:
        """A safer step, to compute single tiles in; made when it is first asked for, kept while the run lasts."""
        if mode not in self._made:
            self._made[mode] = self._make_step(mode, False)
        return self._made[mode]

    def fall_back(self, mode: ExecutionMode, for_good: bool) -> None:
        """Go on with `mode`, one of the safer ones, in this run and, `for_good`, in all later ones."""
        self.given_up = self.given_up or self.now.mode.name
        self._safer = self.safer[self.safer.index(mode) + 1 :]
        self.now = self.step(mode)
        if for_good:
            self._modes.remember_fallback(self._first, self.now.runner)

    def save(self) -> None:
        """Keep what was measured of the compiled forwards."""
        for step in self._made.values():
            if step.compiled:
                step.compiled.save()
