"""What a GIF carries beside its pixels: comments, XMP, a colour profile; and the blocks that all of a GIF is made of.

Source: CompuServe GIF89a; Adobe's extension for XMP, the ICC's for profiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .icc import profile_for
from .metadata import MOST_TEXTS, Chunk, Metadata, Stored
from .text import COMMENT, comment_chunk, read_texts, unkept

SIGNATURES = (b"GIF87a", b"GIF89a")
HEADER_END = 13
IMAGE = -1  # in place of a label
_EXTENSION, _FRAME, _END = 0x21, 0x2C, 0x3B
_COMMENT, _APPLICATION = 0xFE, 0xFF
_XMP, _XMP_TRAILER, _ICC, _REPEATED = b"XMP DataXMP", 258, b"ICCRGBG1012", b"NETSCAPE2.0"
_COMMENTS = (COMMENT, "parameters")  # the Stable Diffusion web UIs look for the latter there
_STORED_CHANNELS = 3  # a palette is RGB


class Block(NamedTuple):
    """An extension (its label) or an image (`IMAGE`), the bytes before its sub-blocks, and where these lie."""

    label: int
    head: bytes
    start: int
    end: int


def blocks(data: bytes) -> Iterator[Block]:
    """All to the end mark, or to where the file breaks off. What is no block is passed over, as decoders do."""
    place = HEADER_END + palette_size(data[10]) if len(data) >= HEADER_END else len(data)
    while place + 1 < len(data) and data[place] != _END:
        start, label = place, data[place + 1]
        if data[start] == _EXTENSION:
            place += 2
        elif data[start] == _FRAME:
            label = IMAGE
            place += 10 + palette_size(data[place + 9] if place + 9 < len(data) else 0) + 1
        else:
            place += 1
            continue
        head, inside = data[start:place], place
        while place < len(data) and data[place]:
            place += 1 + data[place]
        place += 1
        yield Block(label, head, inside, min(place, len(data)))


def palette_size(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _joined(data: bytes, block: Block) -> bytes:
    """What is in the sub-blocks of one."""
    content, place = bytearray(), block.start
    while place < block.end and data[place]:
        content += data[place + 1 : place + 1 + data[place]]
        place += 1 + data[place]
    return bytes(content)


def sub_blocks(data: bytes) -> bytes:
    parts = (data[start : start + 255] for start in range(0, len(data), 255))
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def read(data: bytes) -> Stored:
    """Comments, XMP and colour profile."""
    comments: list[Chunk] = []
    xmp, icc, end = None, None, 0
    for block in blocks(data):
        end = block.end
        if block.label == _COMMENT and len(comments) < MOST_TEXTS:
            comments.append(comment_chunk(_joined(data, block)))
        elif block.label == _APPLICATION:
            content = _joined(data, block)
            if content.startswith(_ICC):
                icc = content[len(_ICC) :]
            elif content.startswith(_XMP):  # not in sub-blocks: as it is, then bytes that lead any reader to the end
                xmp = data[block.start + 1 + len(_XMP) : max(block.end - _XMP_TRAILER, 0)]
    ended = data.find(_END, end) >= 0
    notes = () if ended else ("has no end mark, as if it was cut short; frames may be missing",)
    return Stored(Metadata(icc=icc, text=tuple(comments)), xmp=xmp, notes=notes)


def extensions(metadata: Metadata) -> tuple[bytes, tuple[str, ...]]:
    """What of `metadata` the format can hold, as blocks; and warnings about the rest."""
    icc, notes = profile_for(metadata, _STORED_CHANNELS, "GIF")
    made = _application(_ICC) + sub_blocks(icc) if icc else b""
    if metadata.xmp:
        made += _application(_XMP) + metadata.xmp + b"\1" + bytes(range(255, -1, -1)) + b"\0"
    texts, lost = read_texts(metadata.text)
    made += b"".join(
        bytes([_EXTENSION, _COMMENT]) + sub_blocks(text.raw) for text in texts if text.keyword in _COMMENTS
    )
    lost += [text.keyword for text in texts if text.keyword not in _COMMENTS]
    notes += tuple(unkept("GIF", lost, metadata.private))
    if metadata.exif:
        notes += ("GIF has no place for EXIF data; it was left out",)
    if metadata.resolution:
        notes += ("GIF has no place for a resolution (dpi); it was left out",)
    return made, notes


def repetitions(plays: int) -> bytes:
    """The block that says how often an animation is played; 0 for ever. For once there is none."""
    if plays == 1:
        return b""
    again = min(plays - 1, 65535) if plays else 0  # told is how often it is played again, and 0 for ever
    return _application(_REPEATED) + sub_blocks(b"\1" + again.to_bytes(2, "little"))


def _application(name: bytes) -> bytes:
    return bytes([_EXTENSION, _APPLICATION, len(name)]) + name
