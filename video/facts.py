"""What is known of a film before its frames are computed, and of a frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


@dataclass(frozen=True)
class Frame:
    """A decoded frame, which stands at `pts` and lasts `duration` ticks of the film's time base; 0: unknown."""

    picture: VideoFrame
    pts: int
    duration: int


@dataclass(frozen=True)
class PacketCount:
    """What the packets of a film tell without being decoded: how many there are, how many `seconds` lie between the
    first and the last, and whether they come at a `variable` rate."""

    packets: int = 0
    seconds: Fraction = Fraction(0)
    variable: bool = False

    @property
    def rate(self) -> float | None:
        """Frames a second, where that is known."""
        return float((self.packets - 1) / self.seconds) if self.packets > 1 and self.seconds > 0 else None


@dataclass(frozen=True)
class FilmFacts:
    """A film as its file and its first frame have it.

    `size` is (height, width) of the frames as they are stored, before `display_matrix` (nine numbers, as FFmpeg has
    them; None: shown as stored) turns them by `rotation` degrees counterclockwise. `pixel_aspect` is a pixel's width
    over its height. `rate` is frames a second on average, `count` what the packets tell; both are no clock: times are
    those of the frames, in ticks of `time_base` seconds.
    """

    path: Path
    size: tuple[int, int]
    pixel_format: str
    time_base: Fraction
    rate: Fraction
    count: PacketCount
    pixel_aspect: Fraction = Fraction(1)
    rotation: int = 0
    display_matrix: tuple[int, ...] | None = None
    interlaced: bool = False


@dataclass(frozen=True)
class FilmTags:
    """What a film's file says of it in words: of all of it, `of_file`, and of its pictures, `of_stream`, whose
    `disposition` says when players show them; and its `chapters`, as PyAV has them."""

    of_file: Mapping[str, str] = field(default_factory=dict)
    of_stream: Mapping[str, str] = field(default_factory=dict)
    disposition: int = 0
    chapters: Sequence[Any] = ()


@dataclass(frozen=True)
class Losses:
    """What a reader met: `damaged` packets and frames, as the decoder tells them; `retimed` frames whose time was
    missing, equal to the one before or earlier; about how many are `missing` at the end, by the length that the file
    tells."""

    damaged: int = 0
    retimed: int = 0
    missing: int = 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know, in sentences."""
        told = []
        if self.damaged:
            told.append(f"{self.damaged} damaged packets or frames were met; what could be decoded is there")
        if self.missing:
            told.append(f"about {self.missing} frames are missing at the end: the file is cut short")
        if self.retimed:
            told.append(f"{self.retimed} frames had no time, or one that ran backwards: they were put in order")
        return tuple(told)
