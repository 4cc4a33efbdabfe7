"""JPEG: its segments and scans; whether all of the picture is there; pixels by Pillow, from what makes pixels alone.

Source: ITU-T T.81, Annexes B, F and G.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ...api.errors import BadImageError
from ..limits import MOST_SCANS, DecodeLimits, check_file
from . import jpeg_metadata, with_pillow
from .metadata import carried_by, without_profile
from .picture import Picture, picture_of
from .source import read_whole, size_of

_SOI, _EOI, _SOS, _DRI, _DHT, _DQT, _DAC = 0xD8, 0xD9, 0xDA, 0xDD, 0xC4, 0xDB, 0xCC
_APP0, _APP1, _APP2, _APP14 = 0xE0, 0xE1, 0xE2, 0xEE
_FRAMES = frozenset(range(0xC0, 0xD0)) - {_DHT, 0xC8, _DAC}
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2  # those with Huffman codes, which Pillow's decoder reads
_ARITHMETIC = (0xC9, 0xCA)
_ALONE = frozenset({1, _SOI, *range(0xD0, 0xD8)})  # markers without a length
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_MOST_SEGMENTS = 1 << 16  # profiles and XMP of many megabytes come in parts of 64 KB
_EXIF, _XMP, _ICC, _MORE = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0", b"MPF\0"
_JUNK = bytes(range(1, 200, 3))  # no marker among them
_MID_GREY = (126, 129)  # what decoders make of a block without data, whatever the colours
_BEFORE_PIXELS = 64 << 20  # bytes: profiles and XMP, which come before the header
_CUT_SHORT = "the picture is cut short; copy or export it again"


@dataclass(frozen=True)
class Scan:
    """One scan: how many blocks it has to tell of, in how many intervals between restarts, and where its data lie."""

    blocks: int
    intervals: int
    first_of_blocks: bool  # it begins them: each costs a bit at least
    start: int
    end: int


@dataclass
class Frame:
    """What the header tells. `kind` is the marker of the frame, `sampling` [component] -> (across, down)."""

    kind: int = 0
    bits: int = 8
    width: int = 0
    height: int = 0
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)
    scans: list[Scan] = field(default_factory=list)
    segments: list[tuple[int, int, int]] = field(default_factory=list)  # marker, start of the payload, end
    end: int = 0  # where the picture's bytes end, before an end mark
    interval: int = 0  # units of data between restarts, 0 for none


def examine(data: bytes, header_only: bool = False) -> Frame:
    """The segments and scans of the first picture in `data`, or, `header_only`, what comes before its data.

    Raises `BadImageError` for damage, more than 2**16 segments or `MOST_SCANS` scans, and for two frames.
    """
    frame, place = Frame(), 2
    for _ in range(_MOST_SEGMENTS):
        place = data.find(b"\xff", place)
        if place < 0 or place + 2 > len(data):
            frame.end = len(data)
            return frame
        marker = data[place + 1]
        if marker == _EOI:
            frame.end = place
            return frame
        if marker in (0, 0xFF) or marker in _ALONE:
            place += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        start, place = place + 4, place + 2 + length
        if length < 2 or place > len(data):
            raise BadImageError(_CUT_SHORT)
        frame.segments.append((marker, start, place))
        if marker in _FRAMES:
            _begin(frame, marker, data[start:place])
            if header_only:
                return frame
        elif marker == _DRI and length >= 4:
            frame.interval = int.from_bytes(data[start : start + 2], "big")
        elif marker == _SOS:
            found = _END_OF_SCAN.search(data, place)
            end = found.start() if found else len(data)
            frame.scans.append(_scan(frame, data[start:place], place, end))
            place = end
            if len(frame.scans) > MOST_SCANS:
                raise BadImageError(f"has more than {MOST_SCANS} scans, the limit; save it again as a baseline JPEG")
    raise BadImageError(f"has more than {_MOST_SEGMENTS} segments, the limit; save it again")


def _begin(frame: Frame, marker: int, payload: bytes) -> None:
    if frame.kind:
        raise BadImageError("the JPEG is damaged: it has two frame headers; copy or export it again")
    frame.kind = marker
    frame.bits, frame.height, frame.width, count = struct.unpack_from(">BHHB", payload)
    for index in range(count):
        name, sampling = struct.unpack_from("BB", payload, 6 + 3 * index)
        frame.sampling[name] = (sampling >> 4 or 1, sampling & 15 or 1)


def _scan(frame: Frame, header: bytes, start: int, end: int) -> Scan:
    names = [name for name in header[1 : 1 + 2 * header[0] : 2] if name in frame.sampling]
    first, approximated = header[-3], header[-1] >> 4
    most_across = max((across for across, _ in frame.sampling.values()), default=1)
    most_down = max((down for _, down in frame.sampling.values()), default=1)
    if len(names) == 1:  # not interleaved: the component's own blocks, without those that only fill up units
        across, down = frame.sampling[names[0]]
        units = math.ceil(math.ceil(frame.width * across / most_across) / 8)
        units *= math.ceil(math.ceil(frame.height * down / most_down) / 8)
        blocks = units
    else:
        units = math.ceil(frame.width / (8 * most_across)) * math.ceil(frame.height / (8 * most_down))
        blocks = units * sum(across * down for across, down in map(frame.sampling.__getitem__, names))
    intervals = math.ceil(units / frame.interval) if frame.interval else 1
    return Scan(blocks, intervals, first == 0 and approximated == 0, start, end)


def check_data(frame: Frame, data: bytes) -> None:
    """Raise `BadImageError` unless each scan has the least of bits that its blocks take, and all its restarts.

    A block takes a Huffman code for its mean and, where its other coefficients are in the same scan, one for their end:
    one bit each at least. Whether what is there is enough, only decoding can tell: `ends_early`.
    """
    bits_a_block = dict.fromkeys(_SEQUENTIAL, 2) | {_PROGRESSIVE: 1}
    least = bits_a_block.get(frame.kind, 0)
    if not frame.scans:
        raise BadImageError(_CUT_SHORT)
    for scan in frame.scans:
        if scan.first_of_blocks and 8 * (scan.end - scan.start) < least * scan.blocks:
            raise BadImageError(
                f"the picture is cut short: {frame.width}x{frame.height} pixels cannot be told in "
                f"{scan.end - scan.start} bytes; copy or export it again"
            )
        if scan.intervals > 1 + sum(1 for _ in _RESTART.finditer(data, scan.start, scan.end)):
            raise BadImageError(_CUT_SHORT)


def ends_early(frame: Frame, data: bytes, samples: NDArray[Any], decode: Callable[[bytes], NDArray[Any]]) -> bool:
    """Whether the data ended before the picture did, which decoders fill up with grey in silence.

    Anything added behind a whole picture is passed over; behind one that is cut short it is taken for more of it. So it
    is decoded again with something added, where it may have been: every scan but the first tells only more of what is
    there already, and in the first what is missing is mid-grey, in the last block too.
    """
    last = samples[(samples.shape[0] - 1) // 8 * 8 :, (samples.shape[1] - 1) // 8 * 8 :]
    low, high = _MID_GREY
    if len(frame.scans) == 1 and frame.kind in _SEQUENTIAL and not (low <= last.min() and last.max() <= high):
        return False
    end = frame.scans[-1].end
    return not np.array_equal(samples, decode(data[:end] + _JUNK + data[end:]))


def read(file: BinaryIO, limits: DecodeLimits) -> Picture:
    """The picture; of several in one file the first. Raises `BadImageError` for what is cut short, damaged, of a kind
    that is not supported, or beyond the limits."""
    frame = examine(file.read(_BEFORE_PIXELS), header_only=True)
    if not frame.kind:
        raise BadImageError(_CUT_SHORT)
    if frame.kind not in (*_SEQUENTIAL, _PROGRESSIVE, *_ARITHMETIC) or frame.bits != 8:
        raise BadImageError(
            f"is a JPEG of a kind that is not supported ({frame.bits} bits a sample, process {frame.kind - 0xC0}); "
            "save it as a baseline JPEG of 8 bits, or as PNG"
        )
    limits.check_size(frame.width, frame.height)
    check_file(size_of(file), frame.width, frame.height)
    data = read_whole(file, limits)
    frame = examine(data)
    check_data(frame, data)
    plain = _pixels_alone(frame, data)
    samples, notes = with_pillow.decode("JPEG", plain)
    whole = examine(plain)
    if ends_early(whole, plain, samples, lambda more: with_pillow.decode("JPEG", more)[0]):
        raise BadImageError(_CUT_SHORT)
    parts = [(marker, data[start:end]) for marker, start, end in frame.segments]
    if any(marker == _APP2 and part.startswith(_MORE) for marker, part in parts):
        notes.append("holds further pictures; only the first was read")
    carried = carried_by(parts, jpeg_metadata.read)
    return picture_of(samples, without_profile(carried) if with_pillow.CMYK in notes else carried, notes)


def _pixels_alone(frame: Frame, data: bytes) -> bytes:
    """The segments that make pixels, alone: what damage or sizes the others have must not cost the picture."""
    kept, scans = [b"\xff\xd8"], iter(frame.scans)
    for marker, start, end in frame.segments:
        if marker < _APP0 or marker in (_APP0, _APP14):
            kept.append(data[start - 4 : end])
        if marker == _SOS:
            scan = next(scans)
            kept.append(data[scan.start : scan.end])
    return b"".join([*kept, b"\xff\xd9" * (frame.end < len(data))])
