"""What the process that compiles is asked for, as it is handed over: one file of JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ..backends.shapes import TileShapes
from ..models.execution import ExecutionMode


@dataclass(frozen=True)
class Request:
    """What to compile, and how it will be called. `id` is its name in the store in `folder`.

    `content` and `architecture` are what the weights must turn out to be; `mode` is compiled, and `eager` is what it
    has to be faster than. After `limit` seconds the worker gives up. `again`: it is published, and only what is faster
    is looked for, once more. `engine`: the name of the one that is to compile it, whatever is faster; "": whichever is.
    """

    id: str
    folder: str
    weights: str
    content: str
    architecture: str
    mode: ExecutionMode
    eager: ExecutionMode
    shapes: TileShapes
    device: str
    environment: str
    limit: float
    again: bool = False
    engine: str = ""

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "shapes": str(self.shapes)})

    @staticmethod
    def from_json(text: str) -> Request:
        told = json.loads(text)
        told["mode"], told["eager"] = ExecutionMode(**told["mode"]), ExecutionMode(**told["eager"])
        told["shapes"] = TileShapes.parse(told["shapes"])
        return Request(**told)
