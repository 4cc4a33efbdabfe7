"""Units of work, and what came of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

State = Literal["waiting", "done", "failed"]
WHOLE = -1
"""The part of a unit that is all of its source."""


class Listed(NamedTuple):
    """Something to be done, as it was found: from the file `source` into the file `target`, which is a path within the
    output folder. `made_from` is the same for as long as the input is."""

    source: str
    target: str
    made_from: str


@dataclass(frozen=True)
class Unit:
    """Something to be done, by its `number` in the manifest: all of `source`, or a `part` of it. `given` is what those
    who split the source in parts have to tell who does one, or who puts them together."""

    number: int
    source: str
    target: str
    made_from: str
    part: int = WHOLE
    given: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """A part of a source, by its number there, which becomes the file `target` in the output folder; `given` as in a
    `Unit`."""

    part: int
    target: str
    given: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What came of a unit that was `made_from` something, in so many `tries`, by which `worker`, in how many `seconds`.
    `error`: why nothing did; "": it is done. `again`: another try may do better; `full`: there is no room for the
    result, which is no fault of the unit's. `record`: what is told of it. With `parts` nothing is done yet: these come
    first, and then the unit once more, which is `given` something then."""

    number: int
    made_from: str
    tries: int = 1
    worker: str = ""
    seconds: float = 0.0
    error: str = ""
    again: bool = False
    full: bool = False
    record: dict[str, Any] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    given: dict[str, Any] = field(default_factory=dict)


FOLDER = ".farm"
"""The farm's own, in the output's."""
TOGETHER = f"{FOLDER}/together"
"""The folder, in the output's, where parts lie until they are put together."""


def together_of(unit: Unit) -> str:
    """Where in the output folder those of the unit's source do, which are of its content as it is."""
    return f"{TOGETHER}/{hashlib.sha256(f'{unit.source} {unit.made_from}'.encode()).hexdigest()[:16]}"
