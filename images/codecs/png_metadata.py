"""What a PNG carries beside its pixels: found in its chunks, and made chunks again.

Source: Portable Network Graphics, third edition (W3C, 2025).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from . import png_chunks
from .exif import to_bytes
from .metadata import LARGEST, MOST_TEXTS, Chunk, Metadata, Resolution, Stored
from .text import inflate, keyword_of, named, read_texts

_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_COLOUR = (b"cICP", b"mDCV", b"cLLI", b"gAMA", b"cHRM", b"sRGB")  # in the order in which they are written
_OF_THE_OLD_SAMPLES = frozenset(b"tRNS sBIT bKGD hIST sPLT tIME acTL fcTL fdAT iDOT".split())
_XMP = "XML:com.adobe.xmp"
_HEX = {"Raw profile type exif": "exif", "Raw profile type APP1": "exif", "Raw profile type xmp": "xmp"}
_INCH = 0.0254  # metres
_BY_METRE = 1


def read(data: bytes) -> Stored:
    """Text and colour chunks as they are; of those that we do not know the ones that the format lets be copied."""
    found = _Found()
    for chunk in png_chunks.chunks(data):
        if chunk.name[:1].islower() and chunk.name not in _OF_THE_OLD_SAMPLES:
            if chunk.sound:
                found.add(chunk.name, bytes(chunk.payload))
            else:
                found.lost[chunk.name.decode("latin-1")] = None
    return found.stored()


class _Found:
    """Chunks, sorted by what they are for."""

    def __init__(self) -> None:
        self.icc: bytes | None = None
        self.blocks: dict[str, bytes] = {}  # "exif", "xmp"
        self.resolution: Resolution | None = None
        self.text: list[Chunk] = []
        self.colour: dict[bytes, bytes] = {}
        self.private: list[Chunk] = []
        self.lost: dict[str, None] = {}  # in their order, each once
        self.damaged: list[str] = []

    def add(self, name: bytes, payload: bytes) -> None:
        if name in _TEXT:
            self._add_text((name, payload))
        elif name in _COLOUR:
            self.colour.setdefault(name, payload)
        elif name == b"eXIf":
            self.blocks["exif"] = payload
        elif name == b"iCCP" and not self.icc and "colour profile" not in self.damaged:
            self._add_profile(payload)
        elif name == b"pHYs" and len(payload) == 9 and payload[8] == _BY_METRE:
            across, down = struct.unpack(">II", payload[:8])
            self.resolution = (across * _INCH, down * _INCH) if across and down else None
        elif name[3:].islower() and len(self.private) < MOST_TEXTS:  # may be copied whatever becomes of the pixels
            self.private.append((name, payload))
        else:
            self.lost[name.decode("latin-1")] = None

    def _add_profile(self, payload: bytes) -> None:
        try:
            self.icc = inflate(payload[:81].partition(b"\0")[2][1:] + payload[81:], LARGEST)
        except (ValueError, zlib.error):
            self.damaged.append("colour profile")

    def _add_text(self, chunk: Chunk) -> None:
        keyword = keyword_of(chunk)
        kind = "xmp" if keyword == _XMP else _HEX.get(keyword)
        if kind is None and len(self.text) < MOST_TEXTS:
            self.text.append(chunk)
            return
        if kind is None:
            self.lost[keyword] = None
            return
        if kind in self.blocks or f"{kind.upper()} data" in self.damaged:
            return  # one counts, and each could cost as much as the largest
        texts, _ = read_texts([chunk])
        try:
            block = texts[0].raw if keyword == _XMP else _from_hex(texts[0].raw)
        except (IndexError, ValueError):
            self.damaged.append(f"{kind.upper()} data")
        else:
            self.blocks[kind] = block

    def stored(self) -> Stored:
        colour = tuple((name, self.colour[name]) for name in _COLOUR if name in self.colour)
        metadata = Metadata(
            icc=self.icc,
            resolution=self.resolution,
            text=tuple(self.text),
            colour=colour,
            private=tuple(self.private),
        )
        notes = [f"its {what} is damaged, or too large to be one, and was left out" for what in self.damaged]
        if self.lost:
            notes.append(f"chunks of the PNG that are damaged or bound to its pixels were left out: {named(self.lost)}")
        return Stored(metadata, self.blocks.get("exif"), self.blocks.get("xmp"), tuple(dict.fromkeys(notes)))


def _from_hex(text: bytes) -> bytes:
    """As ImageMagick writes a profile: a line with its name, one with its length, then hexadecimal digits."""
    _, _, _, digits = (b"\n" + text.strip()).split(b"\n", 3)
    return bytes.fromhex(digits.decode("ascii"))


def with_metadata(encoded: bytes, metadata: Metadata) -> bytes:
    """The PNG file `encoded` with `metadata` in it, all of which the format can hold."""
    beside = b"".join(png_chunks.chunk(name, payload) for name, payload in chunks_of(metadata))
    return encoded[: png_chunks.HEADER_END] + beside + encoded[png_chunks.HEADER_END :] if beside else encoded


def chunks_of(metadata: Metadata) -> Iterator[Chunk]:
    """In an order that the format allows, right after the header."""
    yield from metadata.colour
    if metadata.icc:
        yield b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc)
    if metadata.resolution:
        across, down = (min(round(value / _INCH), 2**31 - 1) for value in metadata.resolution)
        yield b"pHYs", struct.pack(">IIB", across, down, _BY_METRE)
    if metadata.exif:
        yield b"eXIf", to_bytes(metadata.exif)
    if metadata.xmp:
        yield b"iTXt", _XMP.encode() + b"\0\0\0\0\0" + metadata.xmp
    yield from metadata.text
    yield from metadata.private
