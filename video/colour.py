"""Colours of films: by which matrix and range a film's numbers become RGB and back, which is never left to defaults.

Of a film that does not say its matrix, swscale takes BT.601 whatever its size, and an RGB frame that does not say one
is written by it: red, 255 0 0, becomes 81 90 240, which players of BT.709 (63 102 240) show as another red.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .full_range import between, from_limited, to_limited
from .pixel_formats import has_alpha, is_deep
from .pyav import load_av

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame

# FFmpeg's numbers (AVColorSpace, AVColorRange, AVColorTransferCharacteristic), which are those of ITU-T H.273.
RGB, REC709, UNSPECIFIED, REC601, REC2020 = 0, 1, 2, 6, 9
LIMITED, FULL = 1, 2
PQ, HLG = 16, 18
_LINES_OF_HD = 720
# What swscale makes of white of limited range in floats, and takes for it, from 10 bits on: 255 of 256, nearly.
_WHITE = 65283 / 65535
# SWS_BICUBIC, SWS_FULL_CHR_H_INT, SWS_FULL_CHR_H_INP, SWS_ACCURATE_RND, which PyAV 17 has no names for: chroma is
# interpolated for every pixel, and nothing rounded early. Else an 8-bit film that is read and written again is off by
# more than one value on average.
_FLAGS = 1 << 2 | 1 << 13 | 1 << 14 | 1 << 18
# matrix -> swscale's number for it; it has none for YCgCo, ICtCp and others
_KNOWN = {REC709: 1, 4: 4, 5: 5, REC601: 5, 7: 7, REC2020: 9, 10: 9}


@dataclass(frozen=True)
class Colour:
    """What a film's numbers mean: `matrix`, `levels` (limited or full range), `primaries` and `transfer`, as ITU-T
    H.273 numbers them; 2 where the film does not say primaries or transfer."""

    matrix: int
    levels: int
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED

    @property
    def working(self) -> int:
        """swscale's matrix for it; that of BT.709 for one that it does not know. The way there and back is the same, so
        that colours stay what they are even so."""
        return _KNOWN.get(self.matrix, _KNOWN[REC709])

    @property
    def is_known(self) -> bool:
        """Whether what the model sees are its colours."""
        return self.matrix in _KNOWN

    @property
    def is_hdr(self) -> bool:
        return self.transfer in (PQ, HLG)


def colour_of(frame: VideoFrame) -> Colour:
    """As a decoded frame is tagged. Where it has no matrix: BT.601 below 720 lines, BT.709 from there; where it has no
    range: limited, but for RGB, grey, and what is called yuvj. That of an RGB frame is the one it is to be written
    by."""
    name, rgb = frame.format.name, frame.format.is_rgb or frame.format.has_palette
    matrix = frame.colorspace
    if rgb or matrix in (RGB, UNSPECIFIED):
        matrix = REC601 if frame.height < _LINES_OF_HD else REC709
    levels = frame.color_range
    if rgb:
        levels = LIMITED
    elif levels not in (LIMITED, FULL):
        levels = FULL if name.startswith(("yuvj", "gray", "ya", "mono")) else LIMITED
    return Colour(matrix, levels, frame.color_primaries, frame.color_trc)


class ToPixels:
    """From a film's frames to pixels, [H, W, 3], or [H, W, 4] with `alpha`: bytes where the frame has 8 bits a channel,
    else float32 of 0..1, in the film's own transfer. One object for one thread."""

    def __init__(self, alpha: bool) -> None:
        self._alpha, self._reformatter = alpha, _reformatter()

    def __call__(self, frame: VideoFrame) -> NDArray[Any]:
        colour, name = colour_of(frame), frame.format.name
        if name in ("gbrpf32le", "gbrapf32le"):  # as it is wanted
            return frame.to_ndarray()[..., : 4 if self._alpha else 3]
        forms = ("rgba", "gbrapf32le") if self._alpha else ("rgb24", "gbrpf32le")
        levels = FULL if frame.format.is_rgb or frame.format.has_palette else colour.levels
        given = to_limited(frame) if levels == FULL and between(name) else frame
        levels = levels if given is frame else LIMITED
        tagged, given.colorspace = given.colorspace, colour.working  # PyAV 17 takes BT.2020 from nowhere else
        made = self._reformatter.reformat(
            given,
            format=forms[is_deep(name)],
            src_colorspace=colour.working,
            dst_colorspace=colour.working,
            src_color_range=levels,
            dst_color_range=FULL,
            interpolation=_FLAGS,
        )
        given.colorspace = tagged
        pixels = made.to_ndarray()
        if is_deep(name) and levels == LIMITED:
            pixels[..., :3] *= 1 / _WHITE
        return pixels


class FromPixels:
    """From pixels [H, W, C] float32 of 0..1 (grey or RGB, or either with alpha) to frames of `pixel_format`, tagged as
    `colour` is. One object for one thread."""

    def __init__(self, pixel_format: str, colour: Colour) -> None:
        self._format, self._colour, self._reformatter = pixel_format, colour, _reformatter()
        self._av = load_av()
        self._is_rgb = self._av.VideoFormat(pixel_format).is_rgb

    def __call__(self, pixels: NDArray[np.float32]) -> VideoFrame:
        alpha, deep = has_alpha(self._format), is_deep(self._format)
        if pixels.shape[-1] <= 2:
            pixels = np.dstack([pixels[..., :1]] * 3 + [pixels[..., 1:]])
        if not alpha:
            pixels = pixels[..., :3]
        elif pixels.shape[-1] == 3:
            pixels = np.dstack([pixels, np.ones_like(pixels[..., :1])])
        form = (("rgb24", "gbrpf32le"), ("rgba", "gbrapf32le"))[alpha][deep]
        colour, levels = self._colour, FULL if self._is_rgb else self._colour.levels
        detour = between(self._format) if levels == FULL and not self._is_rgb else None
        if detour:
            levels = LIMITED
        if not deep:
            values = np.rint(pixels * 255).astype(np.uint8)
        elif levels == LIMITED:
            values = np.dstack([pixels[..., :3] * np.float32(_WHITE), pixels[..., 3:]])
        else:
            values = np.ascontiguousarray(pixels)
        given = self._av.VideoFrame.from_ndarray(values, form)
        given.colorspace = colour.working
        frame = self._reformatter.reformat(
            given,
            format=detour or self._format,
            src_colorspace=colour.working,
            dst_colorspace=colour.working,
            src_color_range=FULL,
            dst_color_range=levels,
            interpolation=_FLAGS,
        )
        frame = from_limited(frame, self._format) if detour else frame
        tag(frame, colour, self._is_rgb)
        return frame


def tag(target: VideoFrame | VideoCodecContext, colour: Colour, is_rgb: bool) -> None:
    """Say on a frame, or an encoder's context, what its numbers mean: encoders want to hear it on both."""
    target.colorspace = RGB if is_rgb else colour.matrix
    target.color_range = FULL if is_rgb else colour.levels
    target.color_primaries, target.color_trc = colour.primaries, colour.transfer


def _reformatter() -> Any:
    load_av()
    from av.video.reformatter import VideoReformatter

    return VideoReformatter()
