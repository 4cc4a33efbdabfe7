"""OpenEXR: linear light of any brightness, in floats of 16 or 32 bits, by OpenEXR's own package.

Its light is shown by sRGB's curve, as models know pictures, and made light again where it is written: `floats.py`.
Source: OpenEXR, Technical Introduction (colours are multiplied by alpha).
"""

from __future__ import annotations

from contextlib import redirect_stdout
from io import BytesIO, StringIO
from typing import Any, BinaryIO

import numpy as np

from ...api.errors import BadImageError
from ..limits import DecodeLimits, check_piece, check_samples
from . import floats
from .picture import Picture, displayed, first_only
from .text import kept_nowhere

_COLOURS = (("R", "G", "B"), ("Y",))
_ALPHA, _CHROMA = "A", "RY"
_LARGEST_SAMPLE = 4  # bytes


def read(file: BinaryIO, limits: DecodeLimits) -> Picture:
    """The first part, its channels R, G, B, or Y, and A. Raises `BadImageError` for what is damaged, of a kind that is
    not supported, or beyond the limits."""
    import OpenEXR  # an extra of its own, which few need

    headers = [part.header for part in OpenEXR.File(file, header_only=True).parts]
    width, height = _check(headers, limits)
    file.seek(0)
    # Of OpenEXR's two readers the other ends the process on some damaged files. This one prints what is damaged to
    # standard output, where the command line's records go, and leaves the part out.
    with redirect_stdout(StringIO()) as told:
        decoded = OpenEXR.File(file, separate_channels=True).parts
    if len(decoded) < len(headers):
        raise ValueError(told.getvalue().strip())
    channels = decoded[0].channels
    names = next((names for names in _COLOURS if all(name in channels for name in names)), None)
    if names is None or _CHROMA in channels:
        raise BadImageError(f"has the channels {', '.join(sorted(channels))}; R, G and B, or Y alone are needed")
    used = [*names, *([_ALPHA] if _ALPHA in channels else [])]
    if any(channels[name].pixels.shape != (height, width) or channels[name].pixels.dtype.kind != "f" for name in used):
        raise BadImageError("has channels of a kind that is not supported; save it with floats for each pixel")
    notes = [first_only(len(headers))] if len(headers) > 1 else []
    if len(channels) > len(used):
        notes.append(f"the channels {', '.join(sorted(set(channels) - set(used)))} were left out")
    if "chromaticities" in headers[0]:
        notes.append("its chromaticities are not kept; the values are")
    pixels, gaps = floats.without_gaps(np.stack([channels[name].pixels for name in used], axis=2).astype(np.float32))
    colour, alpha = pixels[..., : len(names)], pixels[..., len(names) :]
    if alpha.shape[2]:
        np.divide(colour, alpha, out=colour, where=alpha > 0)  # light without anything to give it stays as it is
    colour[...] = floats.shown(colour)
    white, brighter = floats.under_white(pixels, len(names), floats.BRIGHTEST_LIGHT)
    return Picture(pixels, 32, warnings=(*notes, *gaps, *brighter), white=white)


def encode(picture: Picture) -> tuple[bytes, tuple[str, ...]]:
    """The file's bytes, floats of 32 bits; warnings."""
    import OpenEXR

    values = displayed(picture)
    colour, alpha = floats.light(values[..., : picture.colours]), values[..., picture.colours :]
    if alpha.shape[2]:
        colour = colour * alpha
    names = _COLOURS[picture.colours == 1]
    planes = [*np.moveaxis(colour, 2, 0), *np.moveaxis(alpha, 2, 0)]
    buffer = BytesIO()
    channels = {name: np.ascontiguousarray(plane) for name, plane in zip((*names, _ALPHA), planes, strict=False)}
    OpenEXR.File({"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}, channels).write(buffer)
    return buffer.getvalue(), kept_nowhere(picture.metadata, "OpenEXR")


def _check(headers: list[dict[str, Any]], limits: DecodeLimits) -> tuple[int, int]:
    """Width and height of the first part. All parts are decoded with it, so that all are looked at."""
    first, total = (0, 0), 0
    for header in headers:
        (left, top), (right, bottom) = ([int(end) for end in corner] for corner in header["dataWindow"])
        width, height = right - left + 1, bottom - top + 1
        limits.check_size(width, height)
        check_samples(len(header["channels"]))
        if "deep" in str(header.get("type")):
            raise BadImageError("has deep pixels, a kind that is not supported; save it flattened")
        tiles = header.get("tiles")
        if tiles is not None:
            size = tiles.xSize * tiles.ySize * len(header["channels"]) * _LARGEST_SAMPLE
            check_piece(size, width, height, f"one tile of {tiles.xSize}x{tiles.ySize} pixels")
        first = first if total else (width, height)
        total += width * height * len(header["channels"]) * _LARGEST_SAMPLE
    check_piece(total, first[0], first[1], f"what {len(headers)} parts have in all their channels")
    return first
