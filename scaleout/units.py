"""Units of work, and what came of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

State = Literal["waiting", "done", "failed"]


class Listed(NamedTuple):
    """Something to be done, as it was found: from the file `source` into the file `target`, which is a path within the
    output folder. `made_from` is the same for as long as the input is."""

    source: str
    target: str
    made_from: str


@dataclass(frozen=True)
class Unit:
    """Something to be done, by its `number` in the manifest."""

    number: int
    source: str
    target: str
    made_from: str


@dataclass(frozen=True)
class Outcome:
    """What came of a unit that was `made_from` something, in so many `tries`, by which `worker`, in how many `seconds`.
    `error`: why nothing did; "": it is done. `again`: another try may do better; `full`: there is no room for the
    result, which is no fault of the unit's. `record`: what is told of it."""

    number: int
    made_from: str
    tries: int = 1
    worker: str = ""
    seconds: float = 0.0
    error: str = ""
    again: bool = False
    full: bool = False
    record: dict[str, Any] = field(default_factory=dict)
