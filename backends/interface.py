"""What an engine is asked to compile, and the face of every engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ..api.model_info import Forward
from ..api.options import Precision
from .shapes import TileShapes


@dataclass(frozen=True)
class Work:
    """A forward to compile for `shapes`, on `device`.

    `module` takes float32, on the device, in evaluation mode, and gives and computes what its weights are: float32, but
    for an engine that `offer.weights_in` says another type; the engine may compute in `precision`. `example` is a
    batch [N, C, h, w] of the shapes; where a side may vary, it is neither 1 nor another's. What the engine leaves
    behind goes into the folder `scratch`, which is deleted; what it may use again, beside it.
    """

    module: nn.Module
    example: Tensor
    shapes: TileShapes
    precision: Precision
    device: torch.device
    scratch: Path


class Engine(Protocol):
    """Compiles a model's forward into one file, and loads it again. It is imported where it is used, never before."""

    @property
    def name(self) -> str:
        """As reports, the store and options have it: "openvino"."""
        ...

    def version(self) -> str:
        """Of what is installed, "" where nothing is. Imports nothing, takes no more than a millisecond or two."""
        ...

    def lacks(self, device: torch.device) -> str:
        """Why it cannot be used for `device`, in one sentence that says what to do (the pip line); "" where it can.
        Imports nothing."""
        ...

    def build(self, work: Work, target: Path) -> None:
        """Compile into the file `target`. For a process of its own: takes the interpreter for seconds, may crash.
        Raises `CompileError` in one sentence where the model has what the engine lacks."""
        ...

    def bytes_held(self, file_bytes: int) -> int:
        """Of memory where it computes, at most, by what `load` makes of a file of so many bytes, between two batches;
        what it works in is not counted."""
        ...

    def load(self, path: Path, device: torch.device) -> Forward:
        """The forward in a file that `build` made: x [N, C, h, w] float32 on `device` -> float32, the caller's own.

        It checks no shapes: give it only what `TileShapes.fit` accepts. The file must come from the trusted store.
        Raises `CompileError` for a file of another version or of something else, `OSError` where it cannot be read.
        """
        ...
