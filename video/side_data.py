"""What a film says beside its pictures: how it is turned, and how bright its master was."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.sidedata.sidedata import SideData
    from av.video.frame import VideoFrame

_RATIONALS = 10  # of AVMasteringDisplayMetadata: three primaries, white, each x and y; least and most luminance
_MASTERING = struct.Struct(f"={2 * _RATIONALS}i2i")
_LIGHT = struct.Struct("=2I")
_MATRIX = struct.Struct("=9i")
_CHROMATICITY, _LUMINANCE = 50000, 10000  # units a whole: SMPTE ST 2086, as HEVC writes it
_LOST = {
    "DOVI_RPU_BUFFER": "Dolby Vision",
    "DOVI_METADATA": "Dolby Vision",
    "DYNAMIC_HDR_PLUS": "HDR10+",
    "DYNAMIC_HDR_VIVID": "HDR Vivid",
}


@dataclass(frozen=True)
class MasteringDisplay:
    """The display that a film was mastered on (SMPTE ST 2086). Chromaticities are (x, y) of red, green, blue and white;
    `luminance` is (least, most) in candelas a square metre. None: not told."""

    primaries: tuple[tuple[Fraction, Fraction], ...] | None
    luminance: tuple[Fraction, Fraction] | None


@dataclass(frozen=True)
class Brightness:
    """What HDR displays are told of a film: of the master, and of the light in it, (brightest pixel, brightest frame on
    average) in candelas a square metre (CTA-861.3)."""

    mastering: MasteringDisplay | None = None
    light: tuple[int, int] | None = None

    def __bool__(self) -> bool:
        return self.mastering is not None or self.light is not None


def brightness_of(frame: VideoFrame) -> Brightness:
    """As a decoded frame has it."""
    found = _entries(frame)
    light = found.get("CONTENT_LIGHT_LEVEL")
    mastering = found.get("MASTERING_DISPLAY_METADATA")
    return Brightness(
        _mastering(mastering) if mastering and len(mastering) >= _MASTERING.size else None,
        _LIGHT.unpack_from(light) if light and len(light) >= _LIGHT.size else None,
    )


def display_matrix(frame: VideoFrame) -> tuple[int, ...] | None:
    """How it is turned and mirrored for showing, as FFmpeg's nine numbers; None: not at all."""
    data = _entries(frame).get("DISPLAYMATRIX")
    matrix = _MATRIX.unpack_from(data) if data and len(data) >= _MATRIX.size else None
    return None if matrix == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30) else matrix


def lost_of(frame: VideoFrame) -> tuple[str, ...]:
    """The names of what a frame has that cannot be written with another: it describes each frame's own pixels."""
    return tuple(dict.fromkeys(name for kind, name in _LOST.items() if kind in _entries(frame)))


def x265_parameters(brightness: Brightness) -> dict[str, str]:
    """Parameters of libx265."""
    return _as_parameters(brightness, "master-display", "max-cll")


def x264_parameters(brightness: Brightness) -> dict[str, str]:
    """Parameters of libx264."""
    return _as_parameters(brightness, "mastering-display", "cll")


def svt_parameters(brightness: Brightness) -> dict[str, str]:
    """Parameters of SVT-AV1, which takes fractions."""
    told: dict[str, str] = {}
    mastering = brightness.mastering
    if mastering and mastering.primaries and mastering.luminance:
        red, green, blue, white = (f"({float(x):.5f},{float(y):.5f})" for x, y in mastering.primaries)
        least, most = (f"{float(value):.4f}" for value in mastering.luminance)
        told["mastering-display"] = f"G{green}B{blue}R{red}WP{white}L({most},{least})"
    if brightness.light:
        told["content-light"] = "{},{}".format(*brightness.light)
    return told


def _as_parameters(brightness: Brightness, of_master: str, of_light: str) -> dict[str, str]:
    """As x264 and x265 take them: chromaticities in units of 1/50000, luminances of 1/10000."""
    told: dict[str, str] = {}
    mastering = brightness.mastering
    if mastering and mastering.primaries and mastering.luminance:
        red, green, blue, white = (
            f"({round(x * _CHROMATICITY)},{round(y * _CHROMATICITY)})" for x, y in mastering.primaries
        )
        least, most = (round(value * _LUMINANCE) for value in mastering.luminance)
        told[of_master] = f"G{green}B{blue}R{red}WP{white}L({most},{least})"
    if brightness.light:
        told[of_light] = "{},{}".format(*brightness.light)
    return told


def _entries(frame: VideoFrame) -> dict[str, bytes]:
    """By the names of their kinds, the first of each (PyAV looks them up wrongly where a kind is there twice)."""
    found: dict[str, bytes] = {}
    entries: Iterable[SideData] = iter(frame.side_data)  # type: ignore[assignment]  # PyAV's stub has a dictionary
    for entry in entries:
        found.setdefault(entry.type.name, bytes(entry))
    return found


def _mastering(data: bytes) -> MasteringDisplay:
    numbers = _MASTERING.unpack_from(data)
    values = [Fraction(*numbers[k : k + 2]) if numbers[k + 1] else Fraction(0) for k in range(0, 2 * _RATIONALS, 2)]
    has_primaries, has_luminance = numbers[2 * _RATIONALS :]
    pairs = tuple((values[k], values[k + 1]) for k in range(0, 8, 2))
    return MasteringDisplay(pairs if has_primaries else None, (values[8], values[9]) if has_luminance else None)
