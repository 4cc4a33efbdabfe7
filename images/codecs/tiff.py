"""TIFF by tifffile: 8 and 16 bits, any layout of samples, alpha of either kind."""

from __future__ import annotations

import math
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...api.errors import BadImageError
from . import tiff_metadata, with_pillow
from .carried import read_carried
from .icc import profile_for
from .picture import Picture, check_size, first_only, levels, picture_of

_UNASSOCIATED_ALPHA, _ASSOCIATED_ALPHA = 2, 1
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3}  # channels without alpha


def read(data: bytes) -> Picture:
    import tifffile  # here because ComfyUI, which hands us tensors, need not have it

    with tifffile.TiffFile(BytesIO(data)) as file:
        if not len(file.pages):
            raise BadImageError("the picture is cut short; copy or export it again")
        page = file.pages.first
        check_size(page.imagewidth, page.imagelength)
        _check_is_whole(page, len(data))
        if page.sampleformat != 1 or page.bitspersample not in (1, 2, 4, 8, 16):
            raise BadImageError(
                f"has {page.bitspersample}-bit samples of TIFF sample format {int(page.sampleformat)}; "
                "save it with 8- or 16-bit unsigned integers"
            )
        if page.bitspersample < 8 or (page.bitspersample == 8 and page.photometric not in _COLOURS):
            return with_pillow.read(data)  # bilevel, palette, CMYK, YCbCr: Pillow converts them
        samples, notes = _samples(page)
        if len(file.pages) > 1:
            notes.append(first_only(len(file.pages)))
        return picture_of(samples, read_carried(data), notes)


def encode(picture: Picture) -> tuple[bytes, tuple[str, ...]]:
    import tifffile

    channels = picture.pixels.shape[2]
    icc, misfit = profile_for(picture.metadata, channels, "TIFF")
    buffer = BytesIO()
    tifffile.imwrite(
        buffer,
        levels(picture.pixels, picture.bits),
        photometric="rgb" if channels >= 3 else "minisblack",
        planarconfig="contig",
        extrasamples=("unassalpha",) if channels in (2, 4) else None,
        compression="zlib",
        predictor=True,
        iccprofile=icc,
        byteorder=tiff_metadata.byte_order(picture.metadata),
        metadata=None,  # no description of shapes for tifffile's own use
        software=False,
    )
    data, lost = tiff_metadata.with_metadata(buffer.getvalue(), picture.metadata)
    return data, misfit + lost


def _check_is_whole(page: Any, size: int) -> None:
    """Missing or empty pieces would come back as black pixels, without an error."""
    starts, lengths = page.dataoffsets, page.databytecounts
    inside = all(n > 0 and start + n <= size for start, n in zip(starts, lengths, strict=False))
    if not inside or min(len(starts), len(lengths)) < math.prod(page.chunked):
        raise BadImageError("the picture is cut short; copy or export it again")


def _samples(page: Any) -> tuple[NDArray[Any], list[str]]:
    """[H, W, C] of any layout (strips, tiles, interleaved, planar), black at 0, alpha not premultiplied; warnings."""
    colours = _COLOURS.get(page.photometric)
    planes, depth, height, width, interleaved = page.shaped
    if colours is None or depth != 1 or planes * interleaved < colours:
        raise BadImageError(f"is a {page.bitspersample}-bit TIFF that is neither grey nor RGB; save it as RGB")
    samples = page.asarray().reshape(planes, height, width, interleaved)
    samples = samples.transpose(1, 2, 0, 3).reshape(height, width, planes * interleaved)
    colour, extra = samples[..., :colours], samples[..., colours:]
    top = np.iinfo(samples.dtype).max
    if page.photometric == _WHITE_IS_ZERO:
        colour = top - colour
    meaning = page.extrasamples[0] if extra.shape[2] and page.extrasamples else None
    if meaning not in (_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA):
        return colour, [f"{extra.shape[2]} extra channels that are not alpha were left out"] if extra.shape[2] else []
    alpha = extra[..., :1]
    if meaning == _ASSOCIATED_ALPHA:
        straight = np.rint(colour * (float(top) / np.maximum(alpha, 1)))
        colour = np.minimum(straight, top).astype(samples.dtype)
    more = extra.shape[2] - 1
    return np.concatenate([colour, alpha], axis=2), [f"{more} channels beyond alpha were left out"] if more else []
