"""The ways one run can compute its model: where it stands, and the steps above it, up to fp32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from spandrel import ImageModelDescriptor

from .compile_cache import CompiledForwards
from .contracts import MemoryCost, Precision
from .working import Variant, WorkingModel, WorkingModels


class Step(NamedTuple):
    """One way to compute: the copy of the model, what a forward costs, and what is compiled of it, if it may be."""

    working: WorkingModel
    cost: MemoryCost
    compiled: CompiledForwards | None


class Ladder:
    """`variants` in the order of their precision, the run's first; `dress` makes a step of a copy; `on_climb` is told
    when the run goes on with a higher variant."""

    def __init__(
        self,
        descriptor: ImageModelDescriptor,
        variants: Sequence[Variant],
        copies: WorkingModels,
        dress: Callable[[WorkingModel], Step],
        on_climb: Callable[[Variant], None],
    ) -> None:
        self._descriptor, self._copies, self._dress, self._on_climb = descriptor, copies, dress, on_climb
        self.above = tuple(variants[1:])
        self.now = dress(copies.get(descriptor, variants[0]))
        self.given_up: Precision | None = None
        self._spare: dict[Variant, Step] = {}

    def visit(self, variant: Variant) -> Step:
        """A step above, to compute single tiles on; made when it is first asked for, kept while the run lasts."""
        if variant not in self._spare:
            self._spare[variant] = self._dress(WorkingModel(self._descriptor, variant))
        return self._spare[variant]

    def save(self) -> None:
        """Keep what was measured of the compiled forwards."""
        for step in (self.now, *self._spare.values()):
            if step.compiled:
                step.compiled.save()

    def climb(self, variant: Variant) -> None:
        """Go on with `variant`, one of those above, for the rest of this run and in all later ones."""
        self.given_up = self.given_up or self.now.working.variant.precision
        self.now = self.visit(variant)
        self._copies.put(self._descriptor, self.now.working)
        self.above = self.above[self.above.index(variant) + 1 :]
        self._on_climb(variant)
