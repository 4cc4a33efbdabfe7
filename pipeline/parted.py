"""What runs have in common that are parts of one: the mode that they begin in, and how much there is to do in all."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..models.precision import Choice


class SharedModes:
    """The modes that parts of a run begin in: on devices of a kind the one that the first of them chose. For several
    threads."""

    def __init__(self) -> None:
        self._chosen: dict[str, Choice] = {}

    def first(self, kind: str, choice: Choice) -> Choice:
        """What was chosen first on a kind of device, which is this `choice` where nothing was."""
        return self._chosen.setdefault(kind, choice)

    def forget(self, kind: str) -> None:
        """Pictures did not come out well in it: choose anew."""
        self._chosen.pop(kind, None)


@dataclass(frozen=True)
class PartOfRun:
    """A run that is part of another, beside others of the same `modes`. `pixels_after`: input pixels that the same
    device will have to do when it is over."""

    pixels_after: int = 0
    modes: SharedModes = field(default_factory=SharedModes)
