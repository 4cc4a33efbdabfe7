"""Frames are written as pictures in a folder, each of them whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..images.codecs.picture import Picture
from ..images.files import ENDINGS_OF_16_BITS, write_image
from .frame_pattern import FramePattern

if TYPE_CHECKING:
    from av.packet import Packet

WITHOUT_ALPHA = (".jpg", ".jpeg")
_MOST_NOTES = 8

Origin = Callable[[int], tuple[int, Picture]]
"""Where a frame stands -> its number, and a picture with what is written beside its pixels, and its bits."""


@dataclass(frozen=True)
class FramesFormat:
    """How frames are written as pictures, as a `FilmFormat` says it of films: frames of `size` (height, width), which
    are turned as `matrix` says (nine numbers, as FFmpeg has them; None: not at all), with so many `bits` a channel, of
    a source that has times in `time_base`."""

    ending: str
    size: tuple[int, int]
    bits: int
    time_base: Fraction
    matrix: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def stored(self) -> tuple[int, int]:
        """(height, width) of what is written."""
        height, width = self.size
        return (width, height) if _is_transposed(self.matrix) else self.size

    @property
    def has_alpha(self) -> bool:
        """Whether a frame's transparency is written."""
        return self.ending not in WITHOUT_ALPHA

    @property
    def kept_bits(self) -> int:
        """Of `bits`, those that are written."""
        return self.bits if self.ending in ENDINGS_OF_16_BITS else 8

    @property
    def name(self) -> str:
        """The pictures' format."""
        return self.ending[1:]

    @property
    def pixel_format(self) -> str:
        """In words, as it is each frame's own."""
        return f"{self.kept_bits} bits"


class FrameFiles:
    """The files that `pattern` names, instead of the one of a film."""

    def __init__(self, pattern: FramePattern) -> None:
        self._pattern, self._bytes = pattern, 0
        self._older = {*pattern.numbers()}

    def tell(self) -> int:
        """Bytes written so far."""
        return self._bytes

    def write(self, number: int, picture: Picture) -> tuple[str, ...]:
        """The frame with this number; return what its format does not hold, in sentences. Raises `OutputError`."""
        path = self._pattern.path(number)
        lost = write_image(path, picture)
        self._bytes += path.stat().st_size
        self._older.discard(number)
        return lost

    @property
    def older(self) -> str:
        """A sentence on what an earlier run has left that was not written over; "" where nothing is."""
        if not self._older:
            return ""
        first = self._pattern.path(min(self._older)).name
        return f"{len(self._older)} frames of an earlier run are still there, {first} is the first of them"


class FolderWriter:
    """Frames into `files`, as `planned`, and numbered as `origin` says. What a frame's format does not hold is in
    `notes`."""

    def __init__(self, files: FrameFiles, planned: FramesFormat, origin: Origin) -> None:
        self._files, self._matrix, self._origin = files, planned.matrix, origin
        self._notes: dict[str, None] = {}

    def __enter__(self) -> FolderWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        pass  # every frame is whole already

    @property
    def notes(self) -> tuple[str, ...]:
        """In sentences, of the frames so far."""
        return (*self._notes,)

    def write(self, pixels: NDArray[np.float32], pts: int, duration: int) -> None:
        """The next frame [H, W, C] of 0..1, that stands at `pts`."""
        number, beside = self._origin(pts)
        for note in self._files.write(number, replace(beside, pixels=_turned(pixels, self._matrix))):
            if len(self._notes) < _MOST_NOTES:
                self._notes[note] = None

    def copy(self, packet: Packet[Any]) -> None:
        """A packet of another stream has no place here."""

    def finish(self) -> None:
        """All frames are there."""
        if self._files.older:
            self._notes[self._files.older] = None


def counted(bits: int) -> Origin:
    """Of frames that come without numbers: 1, 2, ..., of so many bits."""
    numbers = count(1)
    nothing = Picture(np.empty((0, 0, 3), np.float32), bits)
    return lambda pts: (next(numbers), nothing)


def with_bits(origin: Origin, bits: int) -> Origin:
    """As `origin` says, but of so many bits."""

    def changed(pts: int) -> tuple[int, Picture]:
        number, beside = origin(pts)
        return number, replace(beside, bits=bits)

    return changed


def _turned(pixels: NDArray[np.float32], matrix: tuple[int, ...] | None) -> NDArray[np.float32]:
    """As it is shown: `matrix` maps (x, y) to (m0 x + m3 y, m1 x + m4 y), see FFmpeg's libavutil/display.h."""
    if matrix is None:
        return pixels
    across, down = matrix[0], matrix[4]
    if _is_transposed(matrix):
        pixels = pixels.swapaxes(0, 1)
        across, down = matrix[3], matrix[1]
    return pixels[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


def _is_transposed(matrix: tuple[int, ...] | None) -> bool:
    return matrix is not None and abs(matrix[1]) > abs(matrix[0])
