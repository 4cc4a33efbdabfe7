"""Subtitles that are text, from the form that one container has them in into that of another."""

from __future__ import annotations

import re

IN_CONTAINER = {".mp4": "mov_text", ".mov": "mov_text", ".mkv": "subrip", ".webm": "webvtt"}
"""What text is called in the containers that are written."""
_ASS_FIELDS = 8  # before the text of a line: number, layer, style, name, three margins, effect
_TAGS = re.compile(r"<[^<>]*>|\{[^{}]*\}")  # of HTML's and ASS's kinds
# The least that the encoder of mov_text wants to know of styles, in ASS, of which FFmpeg makes everything else.
ASS_HEADER = b"""[Script Info]\r
ScriptType: v4.00+\r
\r
[V4+ Styles]\r
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, \
Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, \
MarginV, Encoding\r
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,0\r
\r
[Events]\r
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\r
"""


def is_text(codec: str) -> bool:
    """Whether subtitles of this codec, as FFmpeg names it, are text."""
    return codec in ("srt", "subrip", "text", "webvtt", "mov_text", "ass", "ssa")


def text_of(codec: str, data: bytes) -> str:
    """The text in a packet, without fonts, colours and places; "" for a pause."""
    if codec == "mov_text":
        length = int.from_bytes(data[:2], "big")
        return data[2 : 2 + length].decode("utf-8", "replace")
    text = data.decode("utf-8", "replace")
    if codec in ("ass", "ssa"):
        text = text.split(",", _ASS_FIELDS)[-1].replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " ")
    return _TAGS.sub("", text).strip("\0\r\n")


def packet_of(codec: str, text: str) -> bytes:
    """`text` as the contents of a packet."""
    data = text.encode("utf-8")
    if codec == "mov_text":
        data = data[:0xFFFF]
        return len(data).to_bytes(2, "big") + data
    return data
