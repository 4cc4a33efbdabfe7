"""Where a film moves, while most of it stands still: a part of the picture that had better be a tile of its own.

A picture in one piece is computed whole for whatever moves in it. So when for some frames all that changed lay within a
small part, the run goes on with tiles around that part; when it pays no more, with the whole picture again. Nothing but
the frames decides it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from ..api.model_info import ModelInfo
from ..tiling.plan import Around, Box, TilePlan, plan_around

_FRAMES = 6  # that tell
_LEFT = 12  # frames that a change of tiles must be worth
_PIXELS = 1 << 15  # of a picture that is worth it
_CLEARLY = 0.75
_EDGE = 16  # parts of a side, the outermost of which are looked at first


class MovingPart:
    """Of one run with a model that is `info`. `around` is what tiles lie around, if they do."""

    def __init__(self, info: ModelInfo, overlap: int) -> None:
        """Neighbours are to share at least so many pixels."""
        self._info, self._overlap = info, overlap
        self.around: Around | None = None
        self._before: list[Tensor] = []
        self._boxes: deque[Box | None] = deque(maxlen=_FRAMES)

    def forget(self) -> None:
        """What comes next has nothing to do with what was seen."""
        self._before = []
        self._boxes.clear()

    def see(self, pictures: Sequence[Tensor]) -> None:
        """The next frame, as the pictures [C, H, W] that it is for the model."""
        if self._before:
            self._boxes.append(_union([_changed(now, then) for now, then in zip(pictures, self._before, strict=True)]))
        self._before = [*pictures]

    def moves_on(self, plan: TilePlan, frames_left: int) -> bool:
        """Whether other tiles than those of `plan` had better be used for so many frames; `around` then says
        what they lie around."""
        if len(self._boxes) < _FRAMES or frames_left < _LEFT or (plan.alike and plan.count > 1):
            return False
        size = plan.rows.size, plan.columns.size
        now = sum(_computed(plan, box) for box in self._boxes) / _FRAMES
        box = _union(self._boxes)
        choices: dict[Around | None, int] = {None: size[0] * size[1]}
        if box and (tiles := plan_around(*size, self._info, around := Around(box, self._overlap))):
            choices[around] = _computed(tiles, box)
        best = min(choices, key=lambda around: choices[around])
        if best == self.around or choices[best] >= (_CLEARLY if best else 1.0) * now:
            return False
        self.around = best
        self._boxes.clear()
        return True


def may_move(info: ModelInfo, size: tuple[int, int], device: torch.device) -> bool:
    """Whether pictures of `size` (height, width) may be computed in tiles around what moves: large ones, by models of
    convolutions, where looking does not make the host wait."""
    local = info.convolutional and not (info.global_context or info.square or info.wraparound)
    return local and size[0] * size[1] >= _PIXELS and device.type == "cpu"


def _computed(plan: TilePlan, box: Box | None) -> int:
    """Pixels of the tiles that show something of `box`."""
    if box is None:
        return 0
    top, bottom, left, right = box
    return plan.rows.covered(top, bottom) * plan.columns.covered(left, right)


def _changed(now: Tensor, then: Tensor) -> Box | None:
    """Where two pictures [C, H, W] differ; None: nowhere."""
    height, width = now.shape[1:]
    tall, wide = height // _EDGE, width // _EDGE
    edges = (1, 0, tall), (1, height - tall, tall), (2, 0, wide), (2, width - wide, wide)
    if not any(torch.equal(now.narrow(*edge), then.narrow(*edge)) for edge in edges):
        return 0, height, 0, width
    apart = (now != then).any(dim=0)
    rows, columns = (apart.any(dim=dim).nonzero() for dim in (1, 0))
    if not len(rows):
        return None
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _union(boxes: Sequence[Box | None] | deque[Box | None]) -> Box | None:
    """The least box around all of them."""
    some = [box for box in boxes if box is not None]
    if not some:
        return None
    tops, bottoms, lefts, rights = zip(*some, strict=True)
    return min(tops), max(bottoms), min(lefts), max(rights)
