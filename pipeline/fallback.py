"""The ways one run can compute its model: where it stands, and the steps above it, up to fp32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from spandrel import ImageModelDescriptor

from ..compile_cache import CompiledForwards
from ..memory import MemoryCost
from ..models.runner import Variant, WorkingModel, WorkingModels


class Step(NamedTuple):
    """One way to compute: the copy of the model, what a forward costs, and what is compiled of it, if it may be."""

    working: WorkingModel
    cost: MemoryCost
    compiled: CompiledForwards | None

    @property
    def variant(self) -> Variant:
        return self.working.variant


class Ladder:
    """The run begins in `variant`. `find_above` gives the better ones in the order of their precision, asked when they
    are first needed; `dress` makes a step of a copy; `remember` is told what later runs had better begin with."""

    def __init__(
        self,
        descriptor: ImageModelDescriptor,
        variant: Variant,
        find_above: Callable[[], Sequence[Variant]],
        copies: WorkingModels,
        dress: Callable[[WorkingModel], Step],
        remember: Callable[[Variant], None],
    ) -> None:
        self._descriptor, self._copies = descriptor, copies
        self._find_above, self._dress, self._remember = find_above, dress, remember
        self._above: list[Variant] | None = None
        self.now = dress(copies.get(descriptor, variant))
        self.given_up: str | None = None
        self._steps: dict[Variant, Step] = {variant: self.now}

    @property
    def above(self) -> list[Variant]:
        """The better variants than the run's, best last."""
        if self._above is None:
            self._above = list(self._find_above())
        return self._above

    def visit(self, variant: Variant) -> Step:
        """A step above, to compute single tiles on; made when it is first asked for, kept while the run lasts."""
        if variant not in self._steps:
            self._steps[variant] = self._dress(WorkingModel(self._descriptor, variant))
        return self._steps[variant]

    def climb(self, variant: Variant, for_good: bool) -> None:
        """Go on with `variant`, one of those above, in this run and, `for_good`, in all later ones."""
        self.given_up = self.given_up or self.now.variant.name
        self._above = self.above[self.above.index(variant) + 1 :]
        self.now = self.visit(variant)
        if for_good:
            self._copies.put(self._descriptor, self.now.working)
            self._remember(variant)

    def save(self) -> None:
        """Keep what was measured of the compiled forwards."""
        for step in self._steps.values():
            if step.compiled:
                step.compiled.save()
