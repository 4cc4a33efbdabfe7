"""The ways one run can compute its model: where it stands, and the steps above it, up to fp32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from spandrel import ImageModelDescriptor

from ..compile_cache import CompiledForwards
from ..memory import MemoryCost
from ..models.runner import ExecutionMode, ModelRunner, RunnerCache


class Step(NamedTuple):
    """One way to compute: the copy of the model, what a forward costs, and what is compiled of it, if it may be."""

    runner: ModelRunner
    cost: MemoryCost
    compiled: CompiledForwards | None

    @property
    def mode(self) -> ExecutionMode:
        return self.runner.mode


class FallbackChain:
    """The run begins in `mode`. `find_safer` gives the better ones in the order of their precision, asked when they
    are first needed; `dress` makes a step of a copy; `remember` is told what later runs had better begin with."""

    def __init__(
        self,
        descriptor: ImageModelDescriptor,
        mode: ExecutionMode,
        find_safer: Callable[[], Sequence[ExecutionMode]],
        copies: RunnerCache,
        dress: Callable[[ModelRunner], Step],
        remember: Callable[[ExecutionMode], None],
    ) -> None:
        self._descriptor, self._copies = descriptor, copies
        self._find_safer, self._dress, self._remember = find_safer, dress, remember
        self._safer: list[ExecutionMode] | None = None
        self.now = dress(copies.get(descriptor, mode))
        self.given_up: str | None = None
        self._steps: dict[ExecutionMode, Step] = {mode: self.now}

    @property
    def safer(self) -> list[ExecutionMode]:
        """The better modes than the run's, best last."""
        if self._safer is None:
            self._safer = list(self._find_safer())
        return self._safer

    def step(self, mode: ExecutionMode) -> Step:
        """A step above, to compute single tiles on; made when it is first asked for, kept while the run lasts."""
        if mode not in self._steps:
            self._steps[mode] = self._dress(ModelRunner(self._descriptor, mode))
        return self._steps[mode]

    def fall_back(self, mode: ExecutionMode, for_good: bool) -> None:
        """Go on with `mode`, one of those above, in this run and, `for_good`, in all later ones."""
        self.given_up = self.given_up or self.now.mode.name
        self._safer = self.safer[self.safer.index(mode) + 1 :]
        self.now = self.step(mode)
        if for_good:
            self._copies.put(self._descriptor, self.now.runner)
            self._remember(mode)

    def save(self) -> None:
        """Keep what was measured of the compiled forwards."""
        for step in self._steps.values():
            if step.compiled:
                step.compiled.save()
