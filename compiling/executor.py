"""What runs a compiled forward, and gives way to the eager one when it is wrong or breaks down."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from ..api.errors import ModelFailedError, first_line
from ..api.model_info import Forward, ModelInfo
from ..api.options import Precision
from ..backends.errors import DeviceFullError
from ..backends.offer import bytes_held
from ..backends.shapes import TileShapes
from ..kernels.numerics import OF_A_MODEL, compare
from ..models.execution import ExecutionMode
from ..models.result_check import check_result
from ..storage.index import Entry


class Owner(Protocol):
    """Whom a compiled executor belongs to: it has the eager forward, and is told what is not to be used again."""

    info: ModelInfo
    eager: Forward
    precision: Precision
    mode: ExecutionMode

    def refuse(self, shapes: TileShapes, reason: str, lasting: bool) -> None:
        """Go on without what was compiled for `shapes`: in this process, and, where `lasting`, until something
        changes."""


class CompiledExecutor:
    """One compiled forward in memory, an `Executor`. Its first call is checked against the eager one, to which it gives
    way.

    Not where that was done before (`checked`): the same file, in the same surroundings, computes the same.
    """

    def __init__(self, owner: Owner, shapes: TileShapes, forward: Forward, entry: Entry) -> None:
        self._owner: Owner = weakref.proxy(owner)  # no circle: what is released must go at once
        self.shapes, self.checked, self.sha256, self.engine = shapes, entry.verified, entry.sha256, entry.engine
        self.bytes_held = bytes_held(entry.engine, entry.bytes)
        self._forward: Forward | None = forward

    @property
    def mode(self) -> ExecutionMode:
        """Compiled while its results are right, as far as they were looked at, and it has not broken down."""
        works = self.checked and self._forward is not None
        return replace(self._owner.mode, backend="compiled") if works else self._owner.mode

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether it was made for such a batch; from another it would compute nonsense."""
        return self.shapes.fit(shape)

    def distrust(self, reason: str) -> None:
        """Never again, until something changes."""
        self.give_way(reason, lasting=True)

    def release(self) -> None:
        """Forget the forward; its library stays with the process."""
        self._forward = None

    def __call__(self, tiles: Tensor) -> Tensor:
        if self._forward is None or not self.accepts(tiles.shape):
            return self._owner.eager(tiles)
        result = None
        try:
            result = check_result(self._forward(tiles), tiles, self._owner.info)
        except DeviceFullError:  # smaller tiles, not other code
            raise
        except ModelFailedError as error:  # it would give no other shape the next time
            self.give_way(f"its result was refused: {first_line(error)}", lasting=True)
        except Exception as error:  # whatever compiled code raises, the eager forward gives the picture
            self.give_way(f"{type(error).__name__}: {first_line(error)}", lasting=False)
        # out here, where the error no longer holds the failed call's tensors
        if result is not None and (self.checked or self._agrees(tiles, result)):
            return result
        return self._owner.eager(tiles)

    def _agrees(self, x: Tensor, result: Tensor) -> bool:
        """Whether the batch's first tile is what the eager forward gives."""
        truth = self._owner.eager(x[:1])
        reason = compare(result[:1], truth, OF_A_MODEL[self._owner.precision])
        if reason:
            self.give_way(f"its result was refused: {reason}", lasting=True)
        self.checked = bool(torch.isfinite(truth).any())
        return not reason

    def give_way(self, reason: str, lasting: bool) -> None:
        """Leave the work to the eager forward from now on."""
        if self._forward is None:  # it was said before
            return
        self._forward = None
        self._owner.refuse(self.shapes, reason, lasting)
