"""XMP packets: the orientation they tell, and what a new picture makes wrong in them.

Source: ISO 16684-1; the properties are those of the namespaces tiff, exif and xmp.
"""

from __future__ import annotations

import re

_TIFF, _EXIF, _XMP = (f"http://ns.adobe.com/{name}/1.0/".encode() for name in ("tiff", "exif", "xap"))
_USUAL_PREFIXES = {_TIFF: b"tiff", _EXIF: b"exif", _XMP: b"xmp"}  # other readers look for these, declared or not
_STALE = {
    _TIFF: (b"Orientation", b"ImageWidth", b"ImageLength"),
    _EXIF: (b"PixelXDimension", b"PixelYDimension"),
    _XMP: (b"Thumbnails",),
}
_MOST_PREFIXES = 8


def without_what_is_stale(packet: bytes) -> tuple[bytes, int]:
    """`packet` without orientation, sizes and thumbnails, all else byte for byte; and its orientation (1..8), 1 if it
    tells none.

    Raises `ValueError` if it is not UTF-8, or made to be slow.
    """
    packet.decode()
    orientation = 1
    for namespace, names in _STALE.items():
        for prefix in _prefixes(packet, namespace):
            for name in names:
                packet, values = _without(packet, prefix + b":" + name)
                if name == b"Orientation":
                    orientation = next((int(v) for v in values if re.fullmatch(rb"[1-8]", v)), orientation)
    return packet, orientation


def _prefixes(packet: bytes, namespace: bytes) -> set[bytes]:
    declared = re.finditer(rb"xmlns:([\w.-]{1,64})=[\"']" + re.escape(namespace) + rb"[\"']", packet)
    found = {_USUAL_PREFIXES[namespace], *(declaration[1] for declaration in declared)}
    if len(found) > _MOST_PREFIXES:  # each is looked for in all of the packet
        raise ValueError("more prefixes of one namespace than any program writes")
    return found


def _without(packet: bytes, name: bytes) -> tuple[bytes, list[bytes]]:
    """Without the attributes and elements called `name`; and what they held."""
    values: list[bytes] = []
    kept, place = [], 0
    # Beginning with the name, which is found fast, and not with the space before it.
    for attribute in re.finditer(re.escape(name) + rb"\s{0,8}=\s{0,8}[\"']([^\"'<>]{0,256})[\"']", packet):
        start = attribute.start() - 1
        if start >= place and packet[start : start + 1].isspace():
            values.append(attribute[1].strip())
            kept.append(packet[place:start])
            place = attribute.end()
    packet = b"".join([*kept, packet[place:]])
    kept, place, closing = [], 0, b"</" + name + b">"
    for opening in re.finditer(b"<" + re.escape(name) + rb"(?=[\s>])[^>]{0,256}>", packet):
        if opening.start() < place or opening[0].endswith(b"/>"):  # inside of one that is gone, or empty
            continue
        end = packet.find(closing, opening.end())
        if end < 0:
            break
        values.append(packet[opening.end() : end].strip())
        kept.append(packet[place : opening.start()])
        place = end + len(closing)
    return b"".join([*kept, packet[place:]]), values
