"""Animated PNG: frames out of the chunks that the format has for them, and into them; 8 or 16 bits a sample.

Pillow reads them, too, but cuts 16 bits to 8 and begins on the picture for programs that know no animations, which is
no part of this one. Source: Portable Network Graphics, third edition (W3C, 2025).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ...api.errors import BadImageError
from . import png_chunks, png_metadata
from .frames import Box, Film, Frame, Played, changes

_LEAVE, _CLEAR, _RESTORE = 0, 1, 2  # what becomes of a frame after its time
_REPLACE, _OVER = 0, 1  # what it does with what it covers
_MOST = 65535  # of either part of a delay
_CONTROL = struct.Struct(">IIIIIHHBB")
_GREY_TYPES = (0, 4)
_FOR_ALL = (b"PLTE", b"tRNS")  # palette and transparency of all frames


@dataclass
class _Part:
    """A frame as it is stored: where it goes, for how long, and its compressed pixels."""

    box: Box
    milliseconds: float
    dispose: int
    blend: int
    pixels: list[memoryview] = field(default_factory=list)


def played(data: bytes) -> Played | None:
    """How the PNG `data` is played; None if it holds no more than one picture."""
    number, plays, width, height = 0, None, 0, 0
    for chunk in png_chunks.chunks(data):
        if chunk.name == b"IHDR":
            width, height = struct.unpack_from(">II", chunk.payload)
        elif chunk.name == b"acTL" and len(chunk.payload) == 8:
            plays = struct.unpack(">II", chunk.payload)[1]
        elif chunk.name == b"IDAT" and plays is None:
            return None  # the mark of an animation stands before the pixels
        elif chunk.name == b"fcTL":
            number += 1
    return Played(number, (width, height), plays) if number > 1 and plays is not None else None


def frames(data: bytes) -> Iterator[Frame]:
    """The frames of an animation, decoded one at a time and composed. Raises `BadImageError` if one is damaged."""
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    channels = 2 if colour in _GREY_TYPES else 4
    canvas = np.zeros((height, width, channels), np.uint16 if bits == 16 else np.uint8)
    shared = [(chunk.name, chunk.payload) for chunk in png_chunks.chunks(data) if chunk.name in _FOR_ALL]
    for part in _parts(data):
        if part.box.right > width or part.box.bottom > height:
            raise BadImageError("a frame reaches out of the picture; export it again")
        before = canvas.copy() if part.dispose == _RESTORE else None
        header = struct.pack(">II", *part.box.size) + data[24:29]
        still = [(b"IHDR", header), *shared, *((b"IDAT", piece) for piece in part.pixels), (b"IEND", b"")]
        samples = _decoded(png_chunks.SIGNATURE + b"".join(png_chunks.chunk(*chunk) for chunk in still), channels)
        place = part.box.of(canvas)
        place[...] = _over(samples, place) if part.blend == _OVER else samples
        yield Frame(canvas.copy(), part.milliseconds)
        if part.dispose == _CLEAR:
            place[...] = 0
        elif before is not None:
            canvas = before


def has_still_beside(data: bytes) -> bool:
    """Whether the picture for viewers without animations is no frame: its pixels come before the first frame's."""
    first = next((chunk.name for chunk in png_chunks.chunks(data) if chunk.name in (b"fcTL", b"IDAT")), b"")
    return first == b"IDAT"


def _parts(data: bytes) -> Iterator[_Part]:
    part = None
    for chunk in png_chunks.chunks(data):
        if chunk.name == b"fcTL":
            if part and part.pixels:
                yield part
            if len(chunk.payload) != _CONTROL.size:
                raise BadImageError("a frame's size and place are damaged; export it again")
            _, width, height, left, top, delay, unit, dispose, blend = _CONTROL.unpack(chunk.payload)
            box = Box(left, top, left + width, top + height)
            part = _Part(box, delay * 1000 / (unit or 100), dispose, blend)
        elif part and chunk.name == b"IDAT":  # before the first fcTL it is no part of the animation
            part.pixels.append(chunk.payload)
        elif part and chunk.name == b"fdAT":
            part.pixels.append(chunk.payload[4:])
    if part and part.pixels:
        yield part


def _decoded(still: bytes, channels: int) -> NDArray[Any]:
    """The frame [h, w, channels] of a PNG that holds nothing else."""
    import imagecodecs  # here because ComfyUI, which hands us tensors, need not have it

    samples = imagecodecs.png_decode(still)
    samples = samples.reshape(*samples.shape[:2], -1)
    if samples.shape[2] < channels:
        opaque = np.full((*samples.shape[:2], 1), np.iinfo(samples.dtype).max, samples.dtype)
        samples = np.concatenate([samples, opaque], axis=2)
    return samples


def _over(above: NDArray[Any], below: NDArray[Any]) -> NDArray[Any]:
    """`above` laid over `below`, both with straight alpha."""
    top = float(np.iinfo(above.dtype).max)
    alpha, under = above[..., -1:] / top, below[..., -1:] / top
    both = alpha + under * (1 - alpha)
    share = np.divide(alpha, both, out=np.zeros_like(both), where=both > 0)
    colour = above[..., :-1] * share + below[..., :-1] * (1 - share)
    return np.rint(np.concatenate([colour, both * top], axis=2)).astype(above.dtype)


def write(file: BinaryIO, film: Film) -> tuple[str, ...]:
    """Write frame by frame; nothing is lost."""
    numbers = count()  # of the chunks that belong to the animation, whose order they tell
    for index, (frame, box) in enumerate(changes(film.frames)):
        encoded = png_chunks.encode_samples(box.of(frame))
        if index == 0:
            beside = [(b"acTL", struct.pack(">II", len(film.timing.durations), film.timing.plays))]
            beside += png_metadata.chunks_of(film.metadata)
            file.write(encoded[: png_chunks.HEADER_END] + b"".join(png_chunks.chunk(*chunk) for chunk in beside))
        place = (next(numbers), *box.size, box.left, box.top)
        control = _CONTROL.pack(*place, *_delay(film.timing.durations[index]), _LEAVE, _REPLACE)
        file.write(png_chunks.chunk(b"fcTL", control))
        for chunk in png_chunks.chunks(encoded):
            if chunk.name == b"IDAT" and index == 0:  # what programs show that know no animations
                file.write(png_chunks.chunk(b"IDAT", chunk.payload))
            elif chunk.name == b"IDAT":
                file.write(png_chunks.chunk(b"fdAT", struct.pack(">I", next(numbers)) + chunk.payload))
    file.write(png_chunks.chunk(b"IEND", b""))
    return ()


def _delay(milliseconds: float) -> tuple[int, int]:
    """Seconds as the nearest fraction of two 16-bit numbers."""
    seconds = min(milliseconds / 1000, _MOST)
    delay = Fraction(seconds).limit_denominator(min(_MOST, int(_MOST / max(seconds, 1))))
    return delay.numerator, delay.denominator
