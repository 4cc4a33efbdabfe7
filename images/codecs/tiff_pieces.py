"""The strips and tiles of a TIFF: where they lie, and their samples, decompressed one at a time within bounds.

Source: TIFF 6.0 (Adobe, 1992), Adobe Photoshop TIFF Technical Notes (2002, deflate), Technical Note 3 (2005, floats).
"""

from __future__ import annotations

import lzma
import math
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ...api.errors import BadImageError
from ..limits import DecodeLimits, check_piece
from . import jpeg, webp
from . import tiff_directory as tag
from .source import size_of
from .tiff_directory import Directory

YCBCR = 6  # of the photometric interpretations
_GREY, _RGB = 1, 2
_PLAIN, _JPEG, _WEBP = 1, 7, 50001
_FAX_3, _FAX_4 = 3, 4
_CCITT = (2, _FAX_3, _FAX_4)
_DEFLATE = (8, 32946)
_LZW, _PACKBITS, _LZMA, _ZSTD = 5, 32773, 34925, 50000
_DECODED = (_PLAIN, _JPEG, _WEBP, *_CCITT, *_DEFLATE, _LZW, _PACKBITS, _LZMA, _ZSTD)
_NAMES = {6: "old-style JPEG", 32809: "ThunderScan", 33003: "JPEG 2000", 33005: "JPEG 2000", 34661: "JBIG",
          34676: "SGI LogL", 34712: "JPEG 2000", 34887: "LERC", 50002: "JPEG XL", 52546: "JPEG XL"}  # fmt: skip
_SUM, _FLOATING_SUM = 2, 3  # predictors
_MOST_PIECES = 1 << 18
_LONGEST_BESIDE = 1 << 20  # bytes of a piece that are not its pixels
_LZMA_MEMORY = 256 << 20  # bytes; the highest preset needs 65 million
_MORE_ROWS = tuple(np.random.default_rng(seed).bytes(256) for seed in range(4))  # codes of any kind
_CUT_SHORT = "the picture is cut short; copy or export it again"


@dataclass(frozen=True)
class Layout:
    """How the samples of a picture lie in the file. `dtype` is the native type of one sample.

    `across` x `down` pixels make a piece, a strip or a tile, that has `interleaved` samples of each, or of one plane.
    """

    width: int
    height: int
    samples: int
    bits: int
    dtype: np.dtype[Any]
    across: int
    down: int
    planar: bool
    tiled: bool

    @property
    def interleaved(self) -> int:
        return 1 if self.planar else self.samples

    @property
    def columns(self) -> int:
        return math.ceil(self.width / self.across)

    @property
    def a_plane(self) -> int:
        """Pieces of one plane."""
        return self.columns * math.ceil(self.height / self.down)

    @property
    def pieces(self) -> int:
        return self.a_plane * (self.samples if self.planar else 1)

    @property
    def row_bytes(self) -> int:
        return math.ceil(self.across * self.interleaved * self.bits / 8)

    def rows(self, top: int) -> int:
        """Of the piece that begins at row `top`: the last strip may be shorter than the others, tiles are not."""
        return self.down if self.tiled else min(self.down, self.height - top)


def layout_of(directory: Directory, bits: int, dtype: np.dtype[Any], limits: DecodeLimits) -> Layout:
    """Raises `BadImageError` for pieces too large or too many, and what is decoded in all too much."""
    width, height = directory.value(tag.WIDTH, 0), directory.value(tag.HEIGHT, 0)
    tiled = tag.TILE_WIDTH in directory.tags
    if tiled:
        across, down = directory.value(tag.TILE_WIDTH, 0), directory.value(tag.TILE_HEIGHT, 0)
    else:
        across, down = width, min(directory.value(tag.ROWS_PER_STRIP, height), height)
    samples = directory.samples
    planar = directory.value(tag.PLANAR, 1) == 2 and samples > 1
    if across < 1 or down < 1:
        raise BadImageError(f"the TIFF is damaged: its pieces have {across}x{down} pixels; export it again")
    layout = Layout(width, height, samples, bits, dtype, across, down, planar, tiled)
    what = f"one {'tile' if tiled else 'strip'} of {across}x{down} pixels with {layout.interleaved} samples"
    check_piece(across * down * layout.interleaved * dtype.itemsize, width, height, what)
    if layout.pieces > _MOST_PIECES:
        raise BadImageError(
            f"comes in {layout.pieces} pieces, more than the {_MOST_PIECES} that are read; export it again"
        )
    decoded = layout.pieces * across * down * layout.interleaved * dtype.itemsize
    limits.check_total(decoded, f"what is decoded of {width}x{height} pixels with {samples} samples")
    return layout


def check_compression(directory: Directory) -> None:
    compression = directory.value(tag.COMPRESSION, 1)
    if compression not in _DECODED:
        name = _NAMES.get(compression, f"number {compression}")
        raise BadImageError(f"is a TIFF of a compression that is not supported ({name}); save it with deflate or LZW")


def read_samples(
    file: BinaryIO, directory: Directory, layout: Layout, wanted: int, limits: DecodeLimits
) -> NDArray[Any]:
    """The first `wanted` samples of each pixel, [H, W, wanted], as `layout.dtype` has them."""
    out = np.empty((layout.height, layout.width, wanted), layout.dtype)
    places = _places(file, directory, layout, wanted)
    limits.check_total(sum(length for _, length in places), "what is read of the file")
    for place, (start, length) in enumerate(places):
        plane, index = divmod(place, layout.a_plane)
        top, left = index // layout.columns * layout.down, index % layout.columns * layout.across
        file.seek(start)
        piece = _decoded(file.read(length), directory, layout, layout.rows(top))
        below, right = min(layout.height, top + layout.down), min(layout.width, left + layout.across)
        channels = slice(plane, plane + 1) if layout.planar else slice(0, wanted)
        out[top:below, left:right, channels] = piece[: below - top, : right - left, : 1 if layout.planar else wanted]
    return out


def _places(file: BinaryIO, directory: Directory, layout: Layout, wanted: int) -> list[tuple[int, int]]:
    """Start and length of each piece that is needed. Missing or empty ones would be black, without an error."""
    needed = layout.a_plane * (min(wanted, layout.samples) if layout.planar else 1)
    size = size_of(file)
    starts = directory.tags.get(tag.TILE_OFFSETS if layout.tiled else tag.STRIP_OFFSETS, ())[:needed]
    lengths = directory.tags.get(tag.TILE_BYTES if layout.tiled else tag.STRIP_BYTES, ())[:needed]
    if not len(lengths) and len(starts) == 1:  # some programs leave that out
        lengths = [size - int(starts[0])]
    places = [(int(start), int(length)) for start, length in zip(starts, lengths, strict=False)]
    if len(places) < needed or any(length < 1 or start + length > size for start, length in places):
        raise BadImageError(_CUT_SHORT)
    most = _LONGEST_BESIDE + 2 * layout.row_bytes * layout.down  # no way of compressing makes more of it
    return [(start, min(length, most)) for start, length in places]


def _decoded(data: bytes, directory: Directory, layout: Layout, rows: int) -> NDArray[Any]:
    """[rows, across, interleaved] of one piece, or with fewer rows and columns where the picture ends in it."""
    import imagecodecs  # here because ComfyUI, which hands us tensors, need not have it

    compression, predictor = directory.value(tag.COMPRESSION, 1), directory.value(tag.PREDICTOR, 1)
    if compression in (_JPEG, _WEBP):
        return _picture_inside(data, directory, layout, rows)
    if directory.value(tag.FILL_ORDER, 1) == 2:
        data = bytes(imagecodecs.bitorder_decode(data))
    shape = (rows, layout.across, layout.interleaved)
    if compression in _CCITT:
        return _fax(data, compression, directory, layout, rows)
    inflated = _inflated(data, compression, rows * layout.row_bytes)
    if len(inflated) < rows * layout.row_bytes:
        raise BadImageError(_CUT_SHORT)
    if predictor == _FLOATING_SUM and layout.dtype.kind == "f":
        stored = np.frombuffer(inflated, layout.dtype, math.prod(shape)).reshape(shape)
        return imagecodecs.floatpred_decode(stored, axis=-2)
    if layout.bits % 8:
        samples = imagecodecs.packints_decode(inflated, layout.dtype, layout.bits, runlen=layout.across * shape[2])
    else:
        samples = np.frombuffer(inflated, directory.order + layout.dtype.str[1:], math.prod(shape))
    samples = samples[: math.prod(shape)].reshape(shape).astype(layout.dtype, copy=False)
    if predictor == _SUM:
        unsigned = np.dtype(f"u{layout.dtype.itemsize}")
        summed = np.cumsum(samples.view(unsigned), axis=1, dtype=unsigned)
        return (summed & 2**layout.bits - 1 if layout.bits % 8 else summed).view(layout.dtype)
    if predictor != 1:
        raise BadImageError(
            f"has samples with the predictor {predictor}, a kind that is not supported; save it with none"
        )
    return samples


def _inflated(data: bytes, compression: int, most: int) -> bytes | bytearray:
    """`data` decompressed, `most` bytes of it at most."""
    import imagecodecs

    if compression == _PLAIN:
        return data[:most]
    if compression in _DEFLATE:
        return zlib.decompressobj().decompress(data, most)
    if compression == _LZMA:
        return lzma.LZMADecompressor(memlimit=_LZMA_MEMORY).decompress(data, most)
    decode = {_LZW: imagecodecs.lzw_decode, _PACKBITS: imagecodecs.packbits_decode, _ZSTD: imagecodecs.zstd_decode}
    return decode[compression](data, out=most)


def _fax(data: bytes, compression: int, directory: Directory, layout: Layout, rows: int) -> NDArray[Any]:
    import imagecodecs

    if layout.bits != 1 or layout.interleaved != 1:
        raise BadImageError("the TIFF is damaged: fax compression is for one bit; export it again")
    options = directory.value(tag.T4_OPTIONS, 0)

    def decode(data: bytes) -> NDArray[Any]:
        if compression == _FAX_3:
            return imagecodecs.ccittfax3_decode(data, rows, layout.across, t4options=options)
        decode = imagecodecs.ccittfax4_decode if compression == _FAX_4 else imagecodecs.ccittrle_decode
        return decode(data, rows, layout.across)

    samples = decode(data).reshape(rows, layout.across, 1)
    # Rows that the data do not reach stay empty, in silence. What is added behind whole data is passed over; behind
    # such as end early it is taken for more rows.
    if not samples[-1].any() and any(not np.array_equal(samples[..., 0], decode(data + more)) for more in _MORE_ROWS):
        raise BadImageError(_CUT_SHORT)
    return samples


def _picture_inside(data: bytes, directory: Directory, layout: Layout, rows: int) -> NDArray[Any]:
    """A piece that is a JPEG or WebP of its own, whose own header must not claim more than the piece has."""
    import imagecodecs

    inside = None if directory.value(tag.COMPRESSION, 1) == _WEBP else jpeg.examine(data)
    width, height = (inside.width, inside.height) if inside else webp.size(data)
    if width > layout.across or height > layout.down:
        raise BadImageError(
            f"the TIFF is damaged: a piece of {layout.across}x{layout.down} pixels holds a picture of {width}x{height}"
        )
    if inside is None:
        piece = imagecodecs.webp_decode(data, hasalpha=layout.interleaved == 4)
    else:
        jpeg.check_data(inside, data)
        photometric = directory.value(tag.PHOTOMETRIC, 1)
        tables = directory.tags.get(tag.JPEG_TABLES)

        def decode(data: bytes) -> NDArray[Any]:
            return imagecodecs.jpeg_decode(
                data,
                tables=None if tables is None else tables.tobytes(),
                colorspace=_RGB if photometric == _RGB and not layout.planar and not _is_jfif(inside, data) else None,
                outcolorspace=_GREY if layout.planar else _RGB if photometric in (_RGB, YCBCR) else None,
            )

        piece = decode(data)
        if jpeg.ends_early(inside, data, piece, decode):
            raise BadImageError(_CUT_SHORT)
    piece = piece.reshape(*piece.shape[:2], -1)
    needed = (min(rows, layout.height), min(layout.across, layout.width), layout.interleaved)
    if piece.shape[2] != needed[2] or piece.dtype != layout.dtype:
        raise BadImageError("the TIFF is damaged: a picture inside is of another kind than it says; export it again")
    return piece


def _is_jfif(frame: jpeg.Frame, data: bytes) -> bool:
    return any(data[start : start + 5] == b"JFIF\0" for _, start, _ in frame.segments)
