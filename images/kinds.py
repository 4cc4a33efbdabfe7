"""What kind of picture a file is, told by its first bytes: names lie, and many pictures have none that tells."""

from __future__ import annotations

HEAD_BYTES = 18  # of a file, which `recognise` wants

ENDINGS = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif", ".exr",
)  # fmt: skip
"""What pictures of these kinds are usually called."""

WRITABLE_ENDINGS = (".png", ".apng", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".gif", ".exr")
"""Of the formats that are written, too."""

_BEGINNINGS = {
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "JPEG": (b"\xff\xd8\xff",),
    "GIF": (b"GIF87a", b"GIF89a"),
    # little and big endian, each also with its version the wrong way round, as some programs write it; then BigTIFF
    "TIFF": (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+"),
    "OpenEXR": (b"\x76\x2f\x31\x01",),
}
_BMP_HEADER_BYTES = (12, 16, 40, 52, 56, 64, 108, 124)  # of OS/2 and Windows, in all versions


def recognise(head: bytes) -> str | None:
    """The kind of picture that begins with `head`, a file's first `HEAD_BYTES` or more; None for anything else.

    One of "PNG" (APNG too), "JPEG", "WebP", "TIFF" (BigTIFF too), "BMP", "GIF" and "OpenEXR". That a file begins like a
    picture does not mean that it is whole.
    """
    for kind, beginnings in _BEGINNINGS.items():
        if head.startswith(beginnings):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    # Two letters alone would take many a text for a picture.
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES:
        return "BMP"
    return None
