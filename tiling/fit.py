"""The size that is wanted: what of a picture is kept, how large that becomes, and how often the model runs for it.

As one does it by hand: the model, as often as it takes to come near; before its last run, and no earlier, the picture
made as small as may be for the result to come out as wanted; and where no run follows, the result made larger or
smaller. Whole numbers throughout, but for the grid before the last run: half of 101 pixels are 50.5, of which the model
is shown 51.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..api.options import TilingMode
from ..api.resize import Fit, Resample, Resize

_BY_FILTER = 1.25  # times what the runs before gave: so much larger a filter makes it, before the model runs once more


@dataclass(frozen=True)
class Sampling:
    """What becomes of the pixels along one axis: `size` of them are made `resized`, of these `length` are kept from
    `start` on, and `before` and `after` empty ones are added. The axis `wraps` where a picture's ends fit together.

    `resized` may be a fraction, and the last pixel kept then reaches over the picture's end.
    """

    size: int
    resized: float
    start: int
    length: int
    before: int = 0
    after: int = 0
    wraps: bool = False

    @property
    def total(self) -> int:
        """Pixels that come of it."""
        return self.before + self.length + self.after

    @property
    def ratio(self) -> float:
        """Pixels that one new one stands for."""
        return self.size / self.resized

    @property
    def changes(self) -> bool:
        """Whether anything becomes of the pixels at all."""
        return (self.resized, self.start, self.total) != (self.size, 0, self.size)


@dataclass(frozen=True)
class Resampling:
    """How a picture is made another size: by its axes, with `resample` for values between pixels."""

    rows: Sampling
    columns: Sampling
    resample: Resample

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of what becomes of it."""
        return self.rows.total, self.columns.total

    @property
    def given(self) -> tuple[int, int]:
        """(height, width) of the picture."""
        return self.rows.size, self.columns.size

    @property
    def moves_only(self) -> bool:
        """Whether every pixel stays what it is, and only its place changes."""
        return self.rows.ratio == self.columns.ratio == 1

    @property
    def cuts(self) -> bool:
        """Whether pixels are left out."""
        return any(axis.length < axis.resized for axis in (self.rows, self.columns))

    @property
    def pads(self) -> bool:
        """Whether empty ones are added."""
        return any(axis.before or axis.after for axis in (self.rows, self.columns))


@dataclass(frozen=True)
class Pass:
    """A run of the model over frames of `size` (height, width), whose results are made `result` by `resampling`; None:
    they are so already."""

    size: tuple[int, int]
    result: tuple[int, int]
    resampling: Resampling | None


def plan_passes(
    size: tuple[int, int], scale: int, resize: Resize, tiling_mode: TilingMode = "none"
) -> tuple[Pass, ...]:
    """How a model of `scale` makes frames of `size` (height, width) as large as `resize` wants them: in one pass, or
    several, each of which is given what the one before made.

    As few as get there, or so near that a filter does the rest: the result of the last one is at most 1.25 times
    enlarged. A model that does not enlarge runs once.
    """
    if not resize:
        return (Pass(size, (size[0] * scale, size[1] * scale), None),)
    wraps = tiling_mode in ("wrap", "wrap_y"), tiling_mode in ("wrap", "wrap_x")
    wanted = [replace(axis, wraps=wrap) for axis, wrap in zip(_wanted(size, resize), wraps, strict=True)]
    passes: list[Pass] = []
    for runs_to_come in reversed(range(_times(wanted, scale))):
        made = (size[0] * scale, size[1] * scale)
        shown = [replace(axis, size=side) for axis, side in zip(wanted, made, strict=True)]
        if runs_to_come > 1:
            shown = [_before_an_earlier_run(axis) for axis in shown]
        elif runs_to_come:
            steps = [_before_the_last_run(axis, scale) for axis in shown]
            shown, wanted = [step[0] for step in steps], [step[1] for step in steps]
        resampling = Resampling(shown[0], shown[1], resize.resample) if any(axis.changes for axis in shown) else None
        result = resampling.size if resampling else made
        passes.append(Pass(size, result, resampling))
        size = result
    return tuple(passes)


def result_size(size: tuple[int, int], scale: int, resize: Resize) -> tuple[int, int]:
    """(height, width) of what a model of `scale` makes of a frame of `size`, where `resize` is asked for."""
    return plan_passes(size, scale, resize)[-1].result


def _wanted(size: tuple[int, int], resize: Resize) -> tuple[Sampling, Sampling]:
    """What is to become of the rows and columns of the input, of `size` (height, width)."""
    height, width = size
    if not (resize.height and resize.width):
        ratio = resize.scale_by or max(resize.height / height, resize.width / width)
        target = resize.height or _rounded(height * ratio), resize.width or _rounded(width * ratio)
        return _whole(height, target[0]), _whole(width, target[1])
    if resize.fit == "stretch":
        return _whole(height, resize.height), _whole(width, resize.width)
    ratios = resize.height / height, resize.width / width
    ratio = max(ratios) if resize.fit == "crop" else min(ratios)
    return _fitted(height, resize.height, ratio, resize.fit), _fitted(width, resize.width, ratio, resize.fit)


def _whole(size: int, resized: int) -> Sampling:
    return Sampling(size, resized, 0, resized)


def _fitted(size: int, target: int, ratio: float, fit: Fit) -> Sampling:
    """`size` pixels times `ratio`, in the middle of `target`, or `target` of their middle, or neither."""
    resized = _rounded(size * ratio)
    if fit == "crop":
        resized = max(resized, target)
        return Sampling(size, resized, (resized - target) // 2, target)
    resized = min(resized, target)
    room = target - resized if fit == "pad" else 0
    return Sampling(size, resized, 0, resized, before=room // 2, after=room - room // 2)


def _rounded(length: float) -> int:
    """The nearest whole number of pixels, a half upwards; at least one."""
    return max(1, math.floor(length + 0.5))


def _times(wanted: list[Sampling], scale: int) -> int:
    """How often a model of `scale` runs until the longer axis is nearly as large as `wanted`."""
    ratio = max((axis.resized - 0.5) / axis.size for axis in wanted)  # what is wanted was rounded to pixels
    times = 1
    while scale > 1 and _BY_FILTER * scale**times < ratio:
        times += 1
    return times


def _before_an_earlier_run(axis: Sampling) -> Sampling:
    """What becomes of the pixels that `axis` has before a run that is not the last: where the other axis grows much
    more, no more of them than are wanted in the end."""
    most = min(axis.size, int(axis.resized))  # whole, as it was asked for
    return replace(_whole(axis.size, most), wraps=axis.wraps and most < axis.size)


def _before_the_last_run(axis: Sampling, scale: int) -> tuple[Sampling, Sampling]:
    """What becomes of the pixels that `axis` has before a model of `scale` runs on them, and what is to become of its
    result. If they are no fewer than it takes: as many as it takes, of what is kept in the end."""
    if axis.size * scale < axis.resized:
        return _whole(axis.size, axis.size), axis
    if axis.wraps:  # all of the period
        shown = math.ceil(axis.resized / scale)
        return replace(_whole(axis.size, shown), wraps=True), replace(axis, size=shown * scale)
    first, stop = axis.start // scale, math.ceil((axis.start + axis.length) / scale)
    made = (stop - first) * scale
    rest = replace(axis, size=made, resized=made, start=axis.start - first * scale)
    return Sampling(axis.size, axis.resized / scale, first, stop - first), rest
