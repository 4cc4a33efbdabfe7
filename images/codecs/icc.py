"""Colour profiles for formats that tell colours by nothing else, one made of what a PNG tells in numbers among them.

Source: ICC.1:2022 (profiles), ITU-T H.273 (the numbers of cICP), W3C PNG third edition.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metadata import Metadata

_SPACE = slice(16, 20)  # of a profile's header
_GREY, _RGB = b"GRAY", b"RGB "
_D50 = np.array([0.9642, 1.0, 0.8249])
_D65 = (0.3127, 0.329)
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

Primaries = tuple[tuple[float, float], ...]  # xy of white, red, green, blue
Colours = tuple[Primaries, tuple[float, ...]]  # and the curve: gamma, then as ICC's third kind has it a, b, c, d

_SRGB_PRIMARIES: Primaries = (_D65, (0.64, 0.33), (0.3, 0.6), (0.15, 0.06))
_PRIMARIES: dict[int, Primaries] = {
    1: _SRGB_PRIMARIES,
    5: (_D65, (0.64, 0.33), (0.29, 0.6), (0.15, 0.06)),
    6: (_D65, (0.63, 0.34), (0.31, 0.595), (0.155, 0.07)),
    9: (_D65, (0.708, 0.292), (0.17, 0.797), (0.131, 0.046)),
    11: ((0.314, 0.351), (0.68, 0.32), (0.265, 0.69), (0.15, 0.06)),
    12: (_D65, (0.68, 0.32), (0.265, 0.69), (0.15, 0.06)),
}
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_VIDEO_CURVE = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
_CURVES: dict[int, tuple[float, ...]] = {
    4: (2.2,), 5: (2.8,), 8: (1.0,), 13: _SRGB_CURVE, **dict.fromkeys((1, 6, 14, 15), _VIDEO_CURVE)
}  # fmt: skip
_HDR_CURVES = (b"\x10", b"\x12")  # PQ and HLG
_SRGB_GAMMA = 0.45455
_NEAR = 0.005  # in gamma; what programs round to


def profile_for(metadata: Metadata, channels: int, format_name: str) -> tuple[bytes | None, tuple[str, ...]]:
    """The profile for a format that has no other place for colours and stores pixels of `channels`; and warnings.

    What a PNG tells in numbers (cICP, gAMA, cHRM) becomes a profile, unless it is sRGB, which is what a picture without
    a profile is taken for.
    """
    chunks = dict(metadata.colour)
    notes: tuple[str, ...] = ()
    if chunks.keys() & {b"mDCV", b"cLLI"} or chunks.get(b"cICP", b"")[1:2] in _HDR_CURVES:
        notes = (f"{format_name} has no place for HDR colours (cICP, mDCV, cLLI); without, colours may differ",)
    if metadata.icc or notes:
        if metadata.icc and metadata.icc[_SPACE] == _GREY and channels > 2:
            return None, (
                *notes,
                f"{format_name} stores grey as RGB, which a grey colour profile does not fit; it was left out",
            )
        return metadata.icc, notes
    try:
        told = _from_cicp(chunks[b"cICP"]) if b"cICP" in chunks else _from_gamma(chunks)
        return (_profile(told, channels) if told else None), ()
    except (KeyError, ValueError, OverflowError, struct.error, ZeroDivisionError, np.linalg.LinAlgError):
        names = ", ".join(name.decode() for name in chunks)
        return None, (f"{format_name} has no place for colours as {names} tell them; without, colours may differ",)


def _from_cicp(payload: bytes) -> Colours | None:
    primaries, curve, matrix, full_range = payload
    if matrix != 0 or full_range != 1:
        raise ValueError("not RGB of full range")
    told = _PRIMARIES[primaries], _CURVES[curve]
    return None if told == (_SRGB_PRIMARIES, _SRGB_CURVE) else told


def _from_gamma(chunks: dict[bytes, bytes]) -> Colours | None:
    if b"sRGB" in chunks or not chunks.keys() & {b"gAMA", b"cHRM"}:
        return None
    gamma, primaries = _SRGB_GAMMA, _SRGB_PRIMARIES
    if b"gAMA" in chunks:
        (stored,) = struct.unpack(">I", chunks[b"gAMA"])
        gamma = stored / 100_000
    if b"cHRM" in chunks:
        numbers = [number / 100_000 for number in struct.unpack(">8I", chunks[b"cHRM"])]
        primaries = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    as_srgb = abs(gamma - _SRGB_GAMMA) <= _NEAR
    if as_srgb and np.allclose(primaries, _SRGB_PRIMARIES, atol=_NEAR):
        return None
    if not 0.05 <= gamma <= 20:
        raise ValueError("no gamma of any display")
    return primaries, _SRGB_CURVE if as_srgb else (1 / gamma,)


def _profile(told: Colours, channels: int) -> bytes:
    """A display profile of version 4: a curve for grey; for colours a matrix, too."""
    primaries, curve = told
    white = _xyz(primaries[0])
    adapt = _adaptation(white)
    tags = {
        b"desc": _words("RGB as told by the PNG"),
        b"cprt": _words("CC0"),
        b"wtpt": _numbers(b"XYZ ", _D50),
        b"chad": _numbers(b"sf32", adapt.ravel()),
    }
    encoded = b"para" + struct.pack(">IHH", 0, 0 if len(curve) == 1 else 3, 0) + _fixed(curve)
    if channels <= 2:
        tags[b"kTRC"] = encoded
    else:
        columns = np.stack([_xyz(xy) for xy in primaries[1:]], axis=1)
        columns = adapt @ (columns * np.linalg.solve(columns, white))
        if np.abs(columns).max() > 4:
            raise ValueError("primaries that span no colours")
        for name, column in zip((b"r", b"g", b"b"), columns.T, strict=True):
            tags[name + b"XYZ"] = _numbers(b"XYZ ", column)
            tags[name + b"TRC"] = encoded
    return _assembled(tags, _GREY if channels <= 2 else _RGB)


def _assembled(tags: dict[bytes, bytes], space: bytes) -> bytes:
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, payload in tags.items():
        table += name + struct.pack(">II", start + len(body), len(payload))
        body += payload + bytes(-len(payload) % 4)
    header = struct.pack(">I4xI4s4s4s", start + len(body), 0x04400000, b"mntr", space, b"XYZ ")
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(_D50)
    return header.ljust(128, b"\0") + table + body


def _xyz(xy: tuple[float, float]) -> NDArray[np.float64]:
    x, y = xy
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _adaptation(white: NDArray[np.float64]) -> NDArray[Any]:
    """From `white` to the D50 of profiles, by Bradford's matrix."""
    return np.linalg.solve(_BRADFORD, np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white)) @ _BRADFORD)


def _numbers(kind: bytes, values: NDArray[np.float64]) -> bytes:
    return kind + bytes(4) + _fixed(values)


def _fixed(values: NDArray[np.float64] | tuple[float, ...]) -> bytes:
    return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)


def _words(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return b"mluc" + struct.pack(">IIIHHII", 0, 1, 12, 0x656E, 0x5553, len(encoded), 28) + encoded
