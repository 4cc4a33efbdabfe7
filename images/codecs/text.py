"""Comments and texts: the chunks that a PNG has for them, and the places that EXIF has for some."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .exif import ASCII, MAIN, PHOTO, UNDEFINED, USER_COMMENT, Exif, Field, to_bytes
from .icc import profile_for
from .metadata import LARGEST, Chunk, Metadata

COMMENT = "Comment"
_KEYWORD = 80  # bytes, with the zero at its end
_MOST_UNREAD = 8

_DESCRIPTION = (MAIN, 0x010E)
# Where other programs look for it: the Stable Diffusion web UIs for `parameters`, ComfyUI for the workflow (which its
# own node writes there into WebP files), everybody else for the rest. The first place that is free is taken.
_PLACES = {
    "parameters": ((PHOTO, USER_COMMENT), _DESCRIPTION),
    "prompt": ((MAIN, 0x0110),),  # Model
    "workflow": ((MAIN, 0x010F),),  # Make
    "Description": (_DESCRIPTION,),
    "Software": ((MAIN, 0x0131),),
    "Author": ((MAIN, 0x013B),),
    "Copyright": ((MAIN, 0x8298),),
    COMMENT: ((PHOTO, USER_COMMENT), _DESCRIPTION),
}
_NAMED = ("prompt", "workflow")  # ComfyUI writes and looks for "workflow:{...}"


@dataclass(frozen=True)
class Text:
    """A keyword and what it says, as text and as the bytes that were stored."""

    keyword: str
    value: str
    raw: bytes


def comment_chunk(raw: bytes) -> Chunk:
    """A comment of another format. Its encoding is not told there; what cannot be UTF-8 is taken for Latin-1."""
    raw = raw.rstrip(b"\0")
    try:
        raw.decode()
    except UnicodeDecodeError:
        return b"tEXt", COMMENT.encode() + b"\0" + raw
    return text_chunk(COMMENT, raw)


def text_chunk(keyword: str, utf8: bytes) -> Chunk:
    if utf8.isascii():
        return b"tEXt", keyword.encode() + b"\0" + utf8
    return b"iTXt", keyword.encode() + b"\0\0\0\0\0" + utf8


def keyword_of(chunk: Chunk) -> str:
    return chunk[1][:_KEYWORD].partition(b"\0")[0].decode("latin-1")


def named(keywords: Iterable[str]) -> str:
    """For a warning: each once, the first few, and nothing that a terminal would obey."""
    distinct = list(dict.fromkeys(keywords))
    shown = ", ".join("".join(c if c.isprintable() else "?" for c in keyword) for keyword in distinct[:8])
    return shown + (f" and {len(distinct) - 8} more" if len(distinct) > 8 else "")


def read_texts(chunks: Iterable[Chunk]) -> tuple[list[Text], list[str]]:
    """Those that can be read within bounds, and the keywords of those that cannot."""
    texts, unread, left = [], [], LARGEST
    for chunk in chunks:
        if len(unread) == _MOST_UNREAD:  # each cost as much as the largest
            left = 0
        try:
            text = _read(chunk, left)
        except (ValueError, zlib.error):
            unread.append(keyword_of(chunk))
            continue
        left -= len(text.raw)
        texts.append(text)
    return texts, unread


def _read(chunk: Chunk, limit: int) -> Text:
    name, payload = chunk
    keyword = keyword_of(chunk)
    rest = payload[len(keyword) + 1 :]
    encoding = "latin-1"
    if name == b"zTXt":
        rest = inflate(rest[1:], limit)
    elif name == b"iTXt":
        compressed, _, rest = rest[:1], *rest[2:].split(b"\0", 1)
        rest = rest.split(b"\0", 1)[1]
        rest = inflate(rest, limit) if compressed == b"\1" else rest
        encoding = "utf-8"
    if len(rest) > limit:
        raise ValueError("too large")
    return Text(keyword, rest.decode(encoding), bytes(rest))


def inflate(data: bytes, limit: int) -> bytes:
    """Raises `ValueError` beyond `limit` bytes or where the data ends early, `zlib.error` if they are damaged."""
    if not limit:
        raise ValueError("too many")
    stream = zlib.decompressobj()
    found = stream.decompress(data, limit)
    if not stream.eof:
        raise ValueError("too large, or cut short")
    return found


def into_exif(texts: Iterable[Text], exif: Exif, limit: int | None = None) -> tuple[Exif, list[str]]:
    """`exif` with those of `texts` that it has a free place for, in at most `limit` bytes; and the others' keywords."""
    lost = []
    first = {keyword: place for place, keyword in enumerate(_PLACES)}
    for text in sorted(texts, key=lambda text: first.get(text.keyword, len(first))):
        place = next((place for place in _PLACES.get(text.keyword, ()) if exif.get(*place) is None), None)
        more = exif.set(place[0], place[1], _field(text, place)) if place else exif
        if place is None or (limit is not None and len(to_bytes(more)) > limit):
            lost.append(text.keyword)
        else:
            exif = more
    return exif, lost


def _field(text: Text, place: tuple[int, int]) -> Field:
    if place == (PHOTO, USER_COMMENT):
        return Field(UNDEFINED, b"UNICODE\0" + text.value.encode("utf-16-be", "replace"))
    value = f"{text.keyword}:{text.value}" if text.keyword in _NAMED else text.value
    return Field(ASCII, value.encode("utf-8", "replace") + b"\0")


def unkept(format_name: str, keywords: Sequence[str], private: Sequence[Chunk]) -> list[str]:
    """Warnings about texts and chunks that `format_name` has no place for."""
    notes = []
    if keywords:
        notes.append(f"{format_name} has no place for the text of {named(keywords)}; PNG keeps it")
    if private:
        names = named(name.decode("latin-1") for name, _ in private)
        notes.append(f"{format_name} has no place for the PNG chunks {names}; PNG keeps them")
    return notes


def kept_nowhere(metadata: Metadata, format_name: str) -> tuple[str, ...]:
    """Warnings of a format that has a place for pixels alone."""
    icc, hdr = profile_for(metadata, 3, format_name)
    there = {
        "colour profile": icc,
        "EXIF data": metadata.exif,
        "XMP data": metadata.xmp,
        "resolution (dpi)": metadata.resolution,
    }
    notes = [f"{format_name} has no place for the {name}; it was left out" for name, found in there.items() if found]
    return (*hdr, *notes, *unkept(format_name, [keyword_of(chunk) for chunk in metadata.text], metadata.private))
