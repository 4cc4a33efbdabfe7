"""PNG: its chunks, 8 and 16 bits a sample by libpng, and what may lie beside the picture without costing it.

Source: Portable Network Graphics, third edition (W3C, 2025).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from ...api.errors import BadImageError
from ..limits import DecodeLimits, check_file
from .exif import upright_exif
from .picture import Picture, first_only, levels, lost_depth, picture_of
from .source import read_whole, refuse_sparse, size_of

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_END = 33  # signature, then the IHDR chunk: length, name, 13 bytes, checksum
_AROUND = 12  # bytes of a chunk beside its payload: length, name, checksum
_MOST_CHUNKS = 1 << 18  # two gigabytes in chunks of eight kilobytes, as libpng writes them
_BEFORE_PIXELS = 1 << 16  # bytes from the start, in which an animation says that it is one
_LONGEST_SIDE = 1_000_000  # pixels; libpng's limit
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # all that decoding needs
_USED = (b"iCCP", b"eXIf")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_XMP, _RAW_EXIF = b"XML:com.adobe.xmp", b"Raw profile type exif"
_CALLED = {b"iCCP": "colour profile", _XMP: "XMP"}
_DEFLATE_RATIO = 1032  # the most that RFC 1951 makes of a byte
_LONGEST_KEYWORD = 80  # bytes, with the zero behind it
_LARGEST_BESIDE = 32 << 20  # bytes, inflated; the largest profiles in use have a few megabytes
_CUT_SHORT = "the picture is cut short; copy or export it again"


class Chunk(NamedTuple):
    """One chunk as it lies in the file; `payload` is a view of the file's bytes, not a copy."""

    name: bytes
    payload: memoryview
    checksum: int

    @property
    def sound(self) -> bool:
        """Whether the checksum fits; reads the whole payload."""
        return zlib.crc32(self.payload, zlib.crc32(self.name)) == self.checksum


def chunks(data: bytes) -> Iterator[Chunk]:
    """The chunks of a PNG in their order, to the last one, `IEND`. What comes after it is left alone.

    Raises `BadImageError` where a chunk reaches beyond the end of the file, has no name of four letters, or is one too
    many (2**18). Checksums are not looked at: `Chunk.sound` does so.
    """
    view, place = memoryview(data), len(SIGNATURE)
    for _ in range(_MOST_CHUNKS):
        if place + _AROUND > len(view):
            raise BadImageError(_CUT_SHORT)
        length, name = struct.unpack_from(">I4s", view, place)
        end = place + 8 + length
        if not name.isalpha():
            raise BadImageError(
                f"the PNG is damaged: a chunk is named {name!r} at byte {place}; copy or export it again"
            )
        if end + 4 > len(view):
            raise BadImageError(_CUT_SHORT)
        yield Chunk(name, view[place + 8 : end], int.from_bytes(view[end : end + 4], "big"))
        if name == b"IEND":
            return
        place = end + 4
    raise BadImageError(f"the PNG has more than {_MOST_CHUNKS} chunks, the limit; export it again")


def chunk(name: bytes, payload: bytes | memoryview) -> bytes:
    """The bytes of one chunk, with length and checksum."""
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(payload, zlib.crc32(name)))


def read(file: BinaryIO, limits: DecodeLimits) -> Picture:
    """The picture, of an animation the first frame. What lies beside it may be damaged, or of any size: that costs a
    warning, never the picture. Raises `BadImageError` for what is cut short, damaged or beyond the limits."""
    import imagecodecs  # here because ComfyUI, which hands us tensors, need not have it

    head = file.read(_BEFORE_PIXELS)
    if head[8:16] != b"\0\0\0\x0dIHDR" or len(head) < _HEADER_END:
        raise BadImageError("the PNG's header is damaged or cut short; copy or export it again")
    width, height = struct.unpack(">II", head[16:24])
    limits.check_size(width, height)
    if max(width, height) > _LONGEST_SIDE:
        raise BadImageError(f"has {width}x{height} pixels; sides up to {_LONGEST_SIDE} are read: cut it into pieces")
    if b"acTL" in head:
        refuse_sparse(file)
    else:
        check_file(size_of(file), width, height)
    notes: list[str] = []
    beside, pixels = _sorted_out(read_whole(file, limits), notes)
    if len(pixels) * _DEFLATE_RATIO < height * (width * head[24] // 8):
        raise BadImageError(
            f"the picture is cut short: {width}x{height} pixels cannot be told in {len(pixels)} bytes; "
            "copy or export it again"
        )
    orientation, exif, damaged = upright_exif(_exif(beside), beside.get(_XMP))
    return picture_of(imagecodecs.png_decode(pixels), orientation, beside.get(b"iCCP"), exif, notes + damaged)


def _sorted_out(data: bytes, notes: list[str]) -> tuple[dict[bytes, bytes], bytes]:
    """What lies beside the picture and is of use, by chunk or by keyword; and a PNG of the picture alone.

    libpng and Pillow have limits of their own for what lies beside, and refuse the picture with it: they do not get it.
    """
    beside: dict[bytes, bytes] = {}
    pixels: list[bytes | memoryview] = [SIGNATURE]
    frames, seen = 0, set[bytes]()
    for part in chunks(data):
        if part.name in _PIXEL_CHUNKS:
            frames = frames or part.name == b"IDAT"
            pixels += [
                struct.pack(">I4s", len(part.payload), part.name),
                part.payload,
                part.checksum.to_bytes(4, "big"),
            ]
            continue
        frames += part.name == b"fcTL"
        key = part.name if part.name in _USED else bytes(part.payload[:_LONGEST_KEYWORD]).partition(b"\0")[0]
        if part.name not in _USED and (part.name not in _TEXTS or key not in (_XMP, _RAW_EXIF)):
            continue
        if key in seen:  # once is what the format has, and each could be a bomb
            continue
        seen.add(key)
        try:
            if not part.sound:
                raise ValueError("a wrong checksum")
            beside[key] = _content(part)
        except (ValueError, zlib.error) as error:
            notes.append(f"its {_CALLED.get(key, 'EXIF data')} is damaged and was left out ({error})")
    if frames > 1:
        notes.append(first_only(frames))
    return beside, b"".join(pixels)


def _content(part: Chunk) -> bytes:
    """The payload without keyword, language and compression. Raises `ValueError` and `zlib.error`."""
    if part.name == b"eXIf":
        return bytes(part.payload)
    _, _, rest = bytes(part.payload).partition(b"\0")
    if part.name == b"tEXt":
        return rest
    if part.name == b"iTXt":
        compressed = rest[:1] == b"\1"
        rest = rest[2:].split(b"\0", 2)[-1]
    else:  # zTXt, iCCP: one byte says how it is compressed, and there is one way
        compressed, rest = True, rest[1:]
    return _inflated(rest) if compressed else rest


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    content = inflater.decompress(data, _LARGEST_BESIDE)
    if not inflater.eof:
        raise ValueError(f"cut short, or more than {_LARGEST_BESIDE >> 20} MiB")
    return content


def _exif(beside: dict[bytes, bytes]) -> bytes | None:
    """From its own chunk, or from the text in which ImageMagick put it before there was one: hexadecimal digits."""
    if b"eXIf" in beside or _RAW_EXIF not in beside:
        return beside.get(b"eXIf")
    try:
        return bytes.fromhex("".join(beside[_RAW_EXIF].decode("latin-1").split("\n")[3:]))
    except ValueError:
        return b"?"  # damaged, which reading it will tell


def encode(picture: Picture) -> tuple[bytes, tuple[str, ...]]:
    """The file's bytes, of 8 or 16 bits a sample as the picture had them, 16 for floats; warnings."""
    import imagecodecs

    bits = min(picture.bits, 16)
    data = bytes(imagecodecs.png_encode(levels(picture, bits)))
    beside = b""
    if picture.icc:
        beside += chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(picture.icc))
    if picture.exif:
        beside += chunk(b"eXIf", picture.exif.removeprefix(b"Exif\0\0"))
    return data[:_HEADER_END] + beside + data[_HEADER_END:], lost_depth(picture, "PNG", 16)
