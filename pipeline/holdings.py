"""What a process holds of models between runs and could let go of: counted, before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..devices.pinned import PINNED
from ..models.runner import ModelRunner


@dataclass(frozen=True)
class Holdings:
    """`copies` of models; `weights`: their bytes, by the device that they lie on; `compiled`: packages that are loaded,
    which take `compiled_bytes`; `pinned`: bytes of main memory."""

    copies: int = 0
    weights: Counter[str] = field(default_factory=Counter)
    compiled: int = 0
    compiled_bytes: int = 0
    pinned: int = 0

    def __sub__(self, rest: Holdings) -> Holdings:
        """What went, where `rest` is left; what came meanwhile does not count."""
        return Holdings(
            max(0, self.copies - rest.copies),
            self.weights - rest.weights,  # which keeps what is more than nothing
            max(0, self.compiled - rest.compiled),
            max(0, self.compiled_bytes - rest.compiled_bytes),
            max(0, self.pinned - rest.pinned),
        )

    def __str__(self) -> str:
        """In words: "2 copies of models (34 MB on cuda:0), 1 compiled model (3 MB), 64 MB
        pinned"; "nothing"."""
        where = ", ".join(f"{size / 1e6:.0f} MB on {place}" for place, size in sorted(self.weights.items()))
        copies = _count(self.copies, "copy of a model", "copies of models") + f" ({where})" * bool(where)
        told = [
            copies if self.copies else "",
            f"{_count(self.compiled, 'compiled model', 'compiled models')} ({self.compiled_bytes / 1e6:.0f} MB)"
            if self.compiled
            else "",
            f"{self.pinned / 1e6:.0f} MB pinned" if self.pinned else "",
        ]
        return ", ".join(part for part in told if part) or "nothing"


def holdings_of(copies: Iterable[ModelRunner]) -> Holdings:
    """What there is now, where there are these copies."""
    weights: Counter[str] = Counter()
    count = compiled = compiled_bytes = 0
    for runner in copies:
        count += 1
        weights[str(runner.device)] += runner.bytes
        for forwards in [*runner.compiled.values()]:
            compiled += forwards.loaded
            compiled_bytes += forwards.bytes_loaded
    return Holdings(count, weights, compiled, compiled_bytes, PINNED.held_bytes())


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
