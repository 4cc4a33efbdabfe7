"""TIFF: what its samples mean; grey, RGB, palettes, CMYK; integers to 16 bits and floats; alpha of either kind.

Source: TIFF 6.0 (Adobe, 1992).
"""

from __future__ import annotations

from io import BytesIO
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ...api.errors import BadImageError
from ..limits import DecodeLimits, check_file, check_samples
from . import floats, tiff_metadata, with_pillow
from . import tiff_directory as tag
from .icc import profile_for
from .metadata import carried_by, without_profile
from .picture import Picture, displayed, first_only, levels, picture_of, upright
from .source import read_whole, size_of
from .tiff_directory import Directory, read_directory
from .tiff_pieces import YCBCR, check_compression, layout_of, read_samples

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _MASK, _CMYK = 0, 1, 2, 3, 4, 5
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, YCBCR: 3}  # samples without alpha
_KINDS = {
    _MASK: "a transparency mask", 8: "CIELab colours", 9: "ICC Lab colours", 10: "ITU Lab colours",
    32803: "raw pixels of a sensor", 34892: "raw pixels, linear", 32844: "CIE LogL light", 32845: "CIE LogLuv colours",
}  # fmt: skip
_UNSIGNED, _SIGNED, _FLOAT, _UNDEFINED = 1, 2, 3, 4
_FORMATS = {_SIGNED: "signed integers", 5: "complex integers", 6: "complex floats"}
_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA = 1, 2
_OLD_JPEG, _JPEG, _WEBP = 6, 7, 50001


def read(file: BinaryIO, limits: DecodeLimits) -> Picture:
    """The first picture of the file. Raises `BadImageError` for what is cut short, damaged, of a
    kind that is not supported, or beyond the limits."""
    directory = read_directory(file)
    width, height = directory.value(tag.WIDTH, 0), directory.value(tag.HEIGHT, 0)
    limits.check_size(width, height)
    check_samples(directory.samples)
    kind, bits = _kind(directory)
    photometric = _photometric(directory)
    layout = layout_of(directory, bits, np.dtype(kind), limits)
    notes = [first_only(directory.pages)] if directory.pages > 1 else []
    carried = carried_by(file, tiff_metadata.read)
    compression = directory.value(tag.COMPRESSION, 1)
    if compression == _OLD_JPEG or (photometric == YCBCR and compression not in (_JPEG, _WEBP)):
        check_file(size_of(file), width, height)  # Pillow converts colours that are there for some pixels only
        samples, more = with_pillow.decode("TIFF", read_whole(file, limits))
        return picture_of(samples, carried, notes + more)
    check_compression(directory)
    colours, alpha = _COLOURS[photometric], _alpha(directory, _COLOURS[photometric], notes)
    stored = read_samples(file, directory, layout, colours if alpha is None else alpha + 1, limits)
    with np.errstate(over="ignore"):  # of floats with 64 bits; what overflows is told as what it becomes
        values = stored.astype(np.float32)
    del stored
    white, bits_kept = 1.0, np.dtype(kind).itemsize * 8
    if np.dtype(kind).kind == "f":
        values, gaps = floats.without_gaps(values)
        notes += gaps + (["its floats of 64 bits were rounded to 32"] if bits == 64 else [])
        bits_kept = 32
    elif photometric != _PALETTE:
        values /= 2**bits - 1
    colour = _colour(values[..., :colours], photometric, directory)
    pixels = colour if alpha is None else _with_alpha(colour, values, alpha, directory)
    if photometric == _CMYK:
        carried = without_profile(carried)
        notes.append(with_pillow.CMYK)
    if bits_kept == 32:
        white, brighter = floats.under_white(pixels, colour.shape[2], None)
        notes += brighter
    pixels = np.ascontiguousarray(upright(pixels, carried.orientation))
    return Picture(pixels, bits_kept, carried.metadata, (*notes, *carried.notes), white)


def encode(picture: Picture) -> tuple[bytes, tuple[str, ...]]:
    """The file's bytes: integers of 8 or 16 bits, or floats of 32, as the picture had them; warnings."""
    import tifffile  # here because ComfyUI, which hands us tensors, need not have it

    channels = picture.pixels.shape[2]
    icc, misfit = profile_for(picture.metadata, channels, "TIFF")
    buffer = BytesIO()
    tifffile.imwrite(
        buffer,
        _of_floats(picture) if picture.bits == 32 else levels(picture, picture.bits),
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


def _of_floats(picture: Picture) -> NDArray[np.float32]:
    values = displayed(picture)
    return values[..., 0] if values.shape[2] == 1 else values


def _kind(directory: Directory) -> tuple[str, int]:
    """The type of a sample as numpy calls it, without the order of its bytes; and its bits in the file."""
    depths = set(directory.values(tag.BITS)) or {1}
    formats = set(directory.values(tag.SAMPLE_FORMAT)) or {_UNSIGNED}
    if len(depths) > 1 or len(formats) > 1:
        raise BadImageError(f"has samples of several kinds (bits: {sorted(depths)}); save it with 8 or 16 bits each")
    bits, form = depths.pop(), formats.pop()
    if form == _FLOAT and bits in (16, 32, 64):
        return f"f{bits // 8}", bits
    if form in (_UNSIGNED, _UNDEFINED) and 1 <= bits <= 16:
        return "u1" if bits <= 8 else "u2", bits
    name = _FORMATS.get(form, "floats" if form == _FLOAT else "integers")
    raise BadImageError(
        f"has samples of a kind that is not supported ({name} of {bits} bits); "
        "save it with integers of 8 or 16 bits, unsigned, or floats of 32"
    )


def _photometric(directory: Directory) -> int:
    """What the samples mean; supported in the depth they have."""
    photometric = directory.value(tag.PHOTOMETRIC, _RGB if directory.samples > 2 else _BLACK_IS_ZERO)
    kind, bits = _kind(directory)
    name = _KINDS.get(photometric, f"photometric interpretation {photometric}")
    if directory.value(tag.DEPTH, 1) > 1:
        name, photometric = "a volume", _MASK
    elif photometric == _PALETTE and (kind != "u1" or len(directory.tags.get(tag.COLOUR_MAP, ())) != 3 << bits):
        name, photometric = f"a palette of {bits} bits", _MASK
    elif kind[0] == "f" and photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
        name, photometric = "floats that are neither grey nor RGB", _MASK
    elif photometric in _COLOURS and directory.samples < _COLOURS[photometric]:
        name, photometric = f"{directory.samples} samples, which are too few for its colours", _MASK
    if photometric not in _COLOURS:
        raise BadImageError(f"is a TIFF of a kind that is not supported ({name}, {bits} bits a sample); save it as RGB")
    return photometric


def _alpha(directory: Directory, colours: int, notes: list[str]) -> int | None:
    """Which sample of a pixel is alpha; what is left out is noted."""
    meanings = directory.values(tag.EXTRA_SAMPLES)
    extra = directory.samples - colours
    if extra == 1 and not meanings:  # it is not said, and other readers take it for one
        return colours
    for index, meaning in enumerate(meanings[:extra]):
        if meaning in (_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA):
            if extra > 1:
                notes.append(f"{extra - 1} channels beyond alpha were left out")
            return colours + index
    if extra:
        notes.append(f"{extra} extra channels that are not alpha were left out")
    return None


def _colour(values: NDArray[np.float32], photometric: int, directory: Directory) -> NDArray[np.float32]:
    """Grey or RGB, black at 0; of a palette `values` are the places in it, else 0 to 1, or floats."""
    if photometric == _WHITE_IS_ZERO:
        return np.maximum(1 - values, 0)
    if photometric == _CMYK:
        return (1 - values[..., :3]) * (1 - values[..., 3:])
    if photometric == _PALETTE:
        entries = directory.tags[tag.COLOUR_MAP].reshape(3, -1).T
        entries = entries if entries.max() < 256 else entries // 256  # some programs leave the factor out
        table: NDArray[np.float32] = (entries / np.float32(255)).astype(np.float32)
        return table[values[..., 0].astype(np.uint8)]
    return values


def _with_alpha(
    colour: NDArray[np.float32], values: NDArray[np.float32], place: int, directory: Directory
) -> NDArray[np.float32]:
    """[H, W, C] with alpha, the sample at `place`, as the last channel, and not multiplied by it."""
    alpha = values[..., place : place + 1].copy()
    if directory.value(tag.PHOTOMETRIC, 1) == _PALETTE:  # whose values are not 0 to 1 yet
        alpha /= 2 ** directory.value(tag.BITS, 1) - 1
    if _ASSOCIATED_ALPHA in directory.values(tag.EXTRA_SAMPLES):
        straight = np.divide(colour, alpha, out=np.zeros_like(colour), where=alpha > 0)
        is_float = directory.value(tag.SAMPLE_FORMAT, 1) == _FLOAT
        colour = straight if is_float else np.minimum(straight, 1)
    return np.concatenate([colour, alpha], axis=2)
