"""What a film is made of before it is opened: a file, or frames in memory. It may be opened again and again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Protocol

from ..api.errors import BadOptionError
from .clip import COLOURS, Clip, ClipReader
from .colour import HLG, PQ, colour_of
from .inputs import FilmInput
from .reader import FilmReader
from .sound import Sound, read_sound
from .window import Window

_NAMES = {HLG: "HDR", PQ: "HDR PQ"}


def colour_name(reader: FilmInput) -> str:
    """What the pixels of an open film mean, by ComfyUI's names, which are those of `COLOURS`."""
    return _NAMES.get(colour_of(reader.first.picture).transfer, "sRGB")


class Source(Protocol):
    """Where a film comes from."""

    def reader(self, window: Window, ending: str) -> FilmInput:
        """What reads the part of it that is in `window`, for a file with this `ending`."""
        ...

    def sound(self, start: Fraction, end: Fraction | None) -> Sound | None:
        """What is heard from `start` to `end` seconds."""
        ...

    def in_colour(self, name: str) -> Source:
        """The same, whose pixels mean what one of `COLOURS` says. Raises `BadOptionError` where that cannot be."""
        ...


@dataclass(frozen=True)
class FileSource:
    """A film in a file, which may lie in memory."""

    file: Path | BytesIO

    def reader(self, window: Window, ending: str) -> FilmReader:
        return FilmReader(self.file, window)

    def sound(self, start: Fraction, end: Fraction | None) -> Sound | None:
        return read_sound(self.file, start, end)

    def in_colour(self, name: str) -> FileSource:
        with FilmReader(self.file) as reader:
            own = colour_name(reader)
        if own != name:
            raise BadOptionError(
                f"color_space is {name!r}, and the film is {own}: colours are not converted; choose auto or {own}"
            )
        return self


@dataclass(frozen=True)
class ClipSource:
    """Frames in memory."""

    clip: Clip

    def reader(self, window: Window, ending: str) -> ClipReader:
        return ClipReader(self.clip, ending, window)

    def sound(self, start: Fraction, end: Fraction | None) -> Sound | None:
        return self.clip.sound and self.clip.sound.part(start, end)

    def in_colour(self, name: str) -> ClipSource:
        if name not in COLOURS:
            raise BadOptionError(f"color_space is {name!r}; choose auto, or one of {', '.join(COLOURS)}")
        bits = self.clip.bits if name == "sRGB" else 10
        return ClipSource(replace(self.clip, colour=name, bits=bits))
