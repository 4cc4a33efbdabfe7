"""Frames that lie in memory, with sound, as a film: nothing of them is lost on the way to the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..api.errors import BadFilmError
from .colour import HLG, LIMITED, PQ, REC709, REC2020, Colour, ToPixels, tag
from .facts import FilmFacts, FilmTags, Frame, Losses, PacketCount
from .pixel_formats import has_alpha
from .pyav import load_av
from .sound import Sound, encode_sound
from .window import WHOLE, Window

if TYPE_CHECKING:
    from av.packet import Packet
    from av.stream import Stream

_SRGB = 13  # the transfer of IEC 61966-2-1, as ITU-T H.273 numbers it
COLOURS = {
    "sRGB": Colour(REC709, LIMITED, REC709, _SRGB),
    "HDR": Colour(REC2020, LIMITED, REC2020, HLG),
    "HDR PQ": Colour(REC2020, LIMITED, REC2020, PQ),
}
"""What the pixels of frames in memory may mean, by ComfyUI's names."""
_SOUND = {".webm": "libopus", ".mkv": "flac"}
_USUAL_SOUND = "aac"  # which every player of mp4 knows


@dataclass(frozen=True)
class Clip:
    """`images` [N, H, W, C] of 0..1 (C: 3, or 4 with alpha), `rate` of them a second, with their `sound`. As a film
    they are to have `bits` a channel and 4:2:0, and mean what `colour` says."""

    images: Tensor
    rate: Fraction
    sound: Sound | None = None
    bits: int = 8
    colour: str = "sRGB"

    def part(self, window: Window) -> Clip:
        """The frames that begin in it, with what is heard while they are shown."""
        if window == WHOLE:
            return self
        first = math.ceil(window.start * self.rate)
        last = len(self.images) if window.end is None else math.ceil(window.end * self.rate)
        images = self.images[first:last]
        sound = self.sound and self.sound.part(first / self.rate, (first + len(images)) / self.rate)
        return replace(self, images=images, sound=sound)


class ClipReader:
    """A clip, or what of it is in `window`, as a `FilmInput`, whose sound goes into a file with this `ending`. Raises
    `BadFilmError` where there is no frame."""

    def __init__(self, clip: Clip, ending: str, window: Window = WHOLE) -> None:
        self._av = load_av()
        self._clip, self._ending = clip.part(window), ending
        if not len(self._clip.images):
            where = "" if window == WHOLE else f" in the part that begins at {float(window.start):g} s"
            raise BadFilmError(f"the film has no frames{where}")
        self.begins = Fraction(0) if window == WHOLE else math.ceil(window.start * clip.rate) / clip.rate
        self.covers: dict[int, bytes] = {}
        self.losses = Losses()
        self.tags = FilmTags(disposition=self._av.stream.Disposition.default)
        self.facts = self._facts()

    def __enter__(self) -> ClipReader:
        sound = self._clip.sound
        self._sound: Any = None
        if sound is not None and sound.samples.shape[-1]:
            self._sound = self._av.open(encode_sound(sound, _SOUND.get(self._ending, _USUAL_SOUND)))
        self.others: tuple[Stream, ...] = tuple(self._sound.streams) if self._sound else ()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._sound:
            self._sound.close()

    @property
    def first(self) -> Frame:
        """Of what the film is to be: it has no pixels, but its tags."""
        height, width = self.facts.size
        picture = self._av.VideoFrame(width, height, self.facts.pixel_format)
        tag(picture, COLOURS[self._clip.colour], is_rgb=False)
        return Frame(picture, 0, self._step)

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    def to_pixels(self, alpha: bool) -> Callable[[Any], NDArray[Any]]:
        return ToPixels(alpha and has_alpha(self.facts.pixel_format))

    def items(self) -> Iterator[Frame | Packet[Any]]:
        if self._sound:
            for packet in self._sound.demux():
                if packet.size:
                    yield packet
        for number, image in enumerate(self._clip.images):
            pixels = np.ascontiguousarray(image.detach().float().cpu().numpy())
            form = "gbrapf32le" if pixels.shape[-1] == 4 else "gbrpf32le"
            yield Frame(self._av.VideoFrame.from_ndarray(pixels, form), number * self._step, self._step)

    @property
    def _step(self) -> int:
        return self._clip.rate.denominator

    def _facts(self) -> FilmFacts:
        images, rate = self._clip.images, self._clip.rate
        number, height, width, channels = images.shape
        alpha, deep = "a" if channels == 4 else "", "10le" if self._clip.bits > 8 else ""
        return FilmFacts(
            path=Path("the film"),
            size=(height, width),
            pixel_format=f"yuv{alpha}420p{deep}",
            time_base=Fraction(1, rate.numerator),
            rate=rate,
            count=PacketCount(number, (number - 1) / rate),
        )
