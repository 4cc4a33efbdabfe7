"""Films of more than 8 bits in full range: by way of 16 bits of limited range, which swscale converts exactly.

Full range itself it converts by the ratio that 8 bits have, 255 to 219; with 10 bits it is 1023 to 876, and white comes
back 4 of 1023 too bright.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .pyav import load_av

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.plane import VideoPlane

_PLANAR = re.compile(r"(yuva?4(?:20|22|44)p)(10|12|14|16)le")
# 16 bits of limited range: black, and the distance to white; no colour, and the distance from one end to the other.
_BLACK, _TO_WHITE = 16 << 8, 219 << 8
_GREY, _COLOURS = 128 << 8, 224 << 8
_LUMA, _ALPHA = 0, 3  # planes


def between(pixel_format: str) -> str | None:
    """The pixel format by way of which full range of `pixel_format` is converted; None: not needed, or not known."""
    found = _PLANAR.fullmatch(pixel_format)
    return f"{found[1]}16le" if found else None


def to_limited(frame: VideoFrame) -> VideoFrame:
    """A frame of full range, in a format that `between` knows, as 16 bits of limited range."""
    name = between(frame.format.name)
    assert name is not None
    most = _most(frame.format.name)
    made = load_av().VideoFrame(frame.width, frame.height, name)
    for number, (plane, target) in enumerate(zip(frame.planes, made.planes, strict=True)):
        values = _read(plane).astype(np.float32)
        if number == _LUMA:
            values = values / most * _TO_WHITE + _BLACK
        elif number == _ALPHA:
            values = values / most * 0xFFFF
        else:
            values = (values - (most + 1) / 2) / most * _COLOURS + _GREY
        _write(target, values, 0xFFFF)
    return made


def from_limited(frame: VideoFrame, pixel_format: str) -> VideoFrame:
    """The way back, into `pixel_format`."""
    most = _most(pixel_format)
    made = load_av().VideoFrame(frame.width, frame.height, pixel_format)
    for number, (plane, target) in enumerate(zip(frame.planes, made.planes, strict=True)):
        values = _read(plane).astype(np.float32)
        if number == _LUMA:
            values = (values - _BLACK) / _TO_WHITE * most
        elif number == _ALPHA:
            values = values / 0xFFFF * most
        else:
            values = (values - _GREY) / _COLOURS * most + (most + 1) / 2
        _write(target, values, most)
    return made


def _most(pixel_format: str) -> int:
    """The largest value of a channel."""
    found = _PLANAR.fullmatch(pixel_format)
    assert found is not None
    return (1 << int(found[2])) - 1


def _read(plane: VideoPlane) -> NDArray[np.uint16]:
    stored: Any = plane  # a buffer, of which PyAV's stub does not tell
    lines = np.frombuffer(stored, np.uint16).reshape(-1, plane.line_size // 2)
    return lines[: plane.height, : plane.width]


def _write(plane: VideoPlane, values: NDArray[Any], most: int) -> None:
    lines = np.zeros((plane.buffer_size // plane.line_size, plane.line_size // 2), np.uint16)
    lines[: plane.height, : plane.width] = np.rint(values).clip(0, most)
    plane.update(lines.tobytes())
