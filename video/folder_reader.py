"""Frames that are pictures in a folder, read one by one as a film's are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..api.errors import BadFilmError, BadImageError
from ..images.codecs.picture import Picture, displayed
from ..images.files import read_image
from .facts import FilmFacts, FilmTags, Losses, PacketCount
from .frame_pattern import FramePattern

logger = logging.getLogger("cudaspeed")

_ANY_RATE = Fraction(25)  # where frames become frames, nobody asks
_MOST_NOTES = 8  # of pictures: each may tell other numbers
_NO_PIXELS = np.empty((0, 0, 1), np.float32)


@dataclass(frozen=True)
class PictureFrame:
    """The frame `picture`, which stands at `pts` and lasts one tick."""

    picture: Picture
    pts: int
    duration: int = 1


class FolderReader:
    """The frames that `pattern` finds, in the order of their numbers: a film without sound or anything else beside its
    pictures. What cannot be read is left out, and counted. They become a film of `rate` frames a second; None: they
    become frames again, whose writer asks for what was `beside` their pixels.

    Raises `BadFilmError` where there is no frame, or none that can be read.
    """

    others = ()
    covers: dict[int, bytes] = {}  # noqa: RUF012  # never any
    tags = FilmTags()

    def __init__(self, pattern: FramePattern, rate: Fraction | None) -> None:
        self._pattern, self._rate, self._becomes_film = pattern, rate or _ANY_RATE, rate is not None
        self._damaged, self._why = 0, ""
        self._notes: dict[str, None] = {}
        self._beside: dict[int, tuple[int, Picture]] = {}

    def __enter__(self) -> FolderReader:
        numbers = self._pattern.frames()
        self._rest = self._read(numbers)
        first = next(self._rest, None)
        if first is None:
            raise BadFilmError(f"{self._pattern}: none of its {len(numbers)} frames can be read ({self._why})")
        self._first = first
        self._notes.update(dict.fromkeys(_gaps(numbers)))  # whatever there is of others
        self.facts = FilmFacts(
            path=Path(str(self._pattern)),
            size=first.picture.pixels.shape[:2],
            pixel_format=_stored_as(first.picture),
            time_base=1 / self._rate,
            rate=self._rate,
            count=PacketCount(len(numbers), (len(numbers) - 1) / self._rate),
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._rest.close()

    @property
    def losses(self) -> Losses:
        """What could not be read so far."""
        return Losses(self._damaged)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of the frames read so far, in sentences."""
        return (*self._notes,)

    @property
    def first(self) -> PictureFrame:
        """The first frame, which `items` gives, too."""
        return self._first

    def items(self) -> Iterator[PictureFrame]:
        """Once: all frames that can be read."""
        yield self._first
        yield from self._rest

    def to_pixels(self, alpha: bool) -> Callable[[Any], NDArray[Any]]:
        """What makes pixels [H, W, C] float32 of 0..1 of a frame's picture: grey or RGB, with `alpha` where it has
        some. What is brighter than white is cut off for a film, in which white must be the same all the time."""

        def pixels_of(picture: Picture) -> NDArray[Any]:
            pixels = np.minimum(displayed(picture), 1) if self._becomes_film else picture.pixels
            if not alpha and pixels.shape[2] > picture.colours:
                self._note("transparency is left out: what is written has none")
            return pixels if alpha else pixels[..., : picture.colours]

        return pixels_of

    def beside(self, pts: int) -> tuple[int, Picture]:
        """Of the frame at `pts`: the number of its file, and what this holds beside pixels. Asked for once."""
        return self._beside.pop(pts)

    def _read(self, numbers: tuple[int, ...]) -> Generator[PictureFrame]:
        pts = 0
        for number in numbers:
            try:
                picture = read_image(self._pattern.path(number))
            except BadImageError as error:
                logger.warning("%s", error)
                self._damaged, self._why = self._damaged + 1, str(error)
                continue
            self._heed(picture)
            if not self._becomes_film:
                self._beside[pts] = number, replace(picture, pixels=_NO_PIXELS)
            yield PictureFrame(picture, pts)
            pts += 1

    def _heed(self, picture: Picture) -> None:
        """What its reader had to say of a picture, and what a film has no place for."""
        told = [*picture.warnings]
        if self._becomes_film and picture.metadata.icc:
            told.append("the frames' colour profile is left out, their numbers are taken for sRGB")
        if self._becomes_film and picture.white > 1:
            told.append("films have nothing brighter than white: what is was cut off")
        for note in told:
            self._note(note)

    def _note(self, note: str) -> None:
        if len(self._notes) < _MOST_NOTES:
            self._notes[note] = None


def _stored_as(picture: Picture) -> str:
    """FFmpeg's name for what a film of such frames is to be like: with their alpha and their bits, and with the chroma
    that every player takes."""
    alpha = "a" if picture.pixels.shape[2] in (2, 4) else ""
    return f"yuv{alpha}420p{'10le' if picture.bits > 8 else ''}"


def _gaps(numbers: tuple[int, ...]) -> Iterator[str]:
    missing = numbers[-1] - numbers[0] + 1 - len(numbers)
    if missing:
        before, after = next((one, other) for one, other in pairwise(numbers) if other > one + 1)
        first = f"{before + 1}" if after == before + 2 else f"{before + 1} to {after - 1}"
        more = f", and {missing - (after - before - 1)} more" if missing > after - before - 1 else ""
        yield f"frames are missing between the first and the last: {first}{more}"
