"""What a process has seen of the tiles that a model makes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ..models.execution import ExecutionMode
from .tile_check import MOST_SHIFT, TileFault


@dataclass
class ModelObservations:
    """What this process has seen of a model. `most_shift` and `kinds` are its own way: it does so in fp32, too.
    `alike`: the modes of the best precision that give the same as torch's own kernels then, and need not be left.

    `defer_clamp`: it leaves faults in the picture even there, so that whole frames are looked after (postprocess.py).
    `repairs` counts the tiles that had to be computed again, by mode and device.
    """

    most_shift: float = MOST_SHIFT
    kinds: set[TileFault] = field(default_factory=set)
    alike: set[tuple[TileFault, ExecutionMode]] = field(default_factory=set)
    defer_clamp: bool = False
    repairs: Counter[tuple[str, str]] = field(default_factory=Counter)

    def told(self) -> str:
        """All of it in one line, the same in every process; "" where there is nothing that a run would decide otherwise
        for."""
        if self == ModelObservations():
            return ""
        unordered = (sorted(map(str, some)) for some in (self.kinds, self.alike, self.repairs.items()))
        return f"{self.most_shift} {self.defer_clamp} {' '.join(map(str, unordered))}"
