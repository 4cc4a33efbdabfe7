"""How much a picture file may ask for, known from its header before anything is decoded.

A few bytes can stand for any number of pixels. What is decoded is bounded by the number of pixels alone, so that one
option raises every limit: memory stays within a small multiple of what the pixels take as float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..api.errors import BadImageError, BadOptionError

MOST_SAMPLES = 32  # a pixel's, in a TIFF or OpenEXR; colours and alpha are four
MOST_SCANS = 128  # of a JPEG; programs write up to 20, and each may cost as much as a picture
_SLACK = 64 << 20  # bytes that a picture of any size may have: metadata, tiles that reach over its edges
_BYTES_PER_PIXEL = 16  # float32 RGBA
_PIECE_BYTES_PER_PIXEL = 4 * _BYTES_PER_PIXEL  # all of it in one strip, with channels that are left out


@dataclass(frozen=True)
class DecodeLimits:
    """What `read_image` decodes at most.

    `max_megapixels`: width times height in millions; the default is twice Pillow's `MAX_IMAGE_PIXELS`, where Pillow
    itself sees a decompression bomb. Raises `BadOptionError` unless it is a number above 0.
    """

    max_megapixels: float = 178.95697

    def __post_init__(self) -> None:
        if not 0 < self.max_megapixels < math.inf:
            raise BadOptionError(f"max_megapixels is {self.max_megapixels}; a number above 0 is needed")

    @property
    def pixels(self) -> int:
        return round(self.max_megapixels * 1e6)

    @property
    def total_bytes(self) -> int:
        """Of a file that is read whole, of everything that is decoded of one: the largest picture as float32 RGBA."""
        return self.pixels * _BYTES_PER_PIXEL + _SLACK

    def check_size(self, width: int, height: int) -> None:
        """Raise `BadImageError` unless there are pixels, and no more than the limit."""
        if width < 1 or height < 1:
            raise BadImageError(f"has no pixels ({width}x{height})")
        if width * height > self.pixels:
            raise BadImageError(
                f"has {width}x{height} pixels, {width * height / 1e6:.1f} megapixels, more than the "
                f"{self.max_megapixels:g} that are read, because small files can claim any size. If it is meant, "
                f"raise the limit with --max-megapixels {math.ceil(width * height / 1e6)}"
            )

    def check_total(self, size: int, what: str) -> None:
        """Raise `BadImageError` if `what`, a file or all that is decoded of one, has more than `total_bytes`."""
        if size > self.total_bytes:
            needed = math.ceil((size - _SLACK) / _BYTES_PER_PIXEL / 1e6)
            raise BadImageError(
                f"{what} has {_megabytes(size)}, more than the {_megabytes(self.total_bytes)} that are read. "
                f"If it is meant, raise the limit with --max-megapixels {needed}"
            )


DEFAULT_LIMITS = DecodeLimits()


def check_file(size: int, width: int, height: int) -> None:
    """Raise `BadImageError` if a file of `size` bytes is too long to hold one picture of that size and nothing else."""
    most = width * height * _BYTES_PER_PIXEL + _SLACK
    if size > most:
        raise BadImageError(
            f"the file has {_megabytes(size)}, more than the {_megabytes(most)} that {width}x{height} pixels can take; "
            "export it again"
        )


def check_piece(size: int, width: int, height: int, what: str) -> None:
    """Raise `BadImageError` if `what`, decoded at one go for a picture of `width` x `height`, has too many bytes."""
    most = width * height * _PIECE_BYTES_PER_PIXEL + _SLACK
    if size > most:
        raise BadImageError(
            f"{what} has {_megabytes(size)} when decoded, more than the {_megabytes(most)} that are granted to "
            f"{width}x{height} pixels; save it in smaller pieces, or with its colours alone"
        )


def check_samples(count: int) -> None:
    """Raise `BadImageError` if a pixel has more than `MOST_SAMPLES` samples, or none."""
    if not 1 <= count <= MOST_SAMPLES:
        raise BadImageError(
            f"has {count} samples a pixel; 1 to {MOST_SAMPLES} are read: save it with its colours and alpha alone"
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
