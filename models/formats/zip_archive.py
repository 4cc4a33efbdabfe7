"""The zip archives that `torch.save` writes, by the one layout it has: stored entries, and the ends where they belong.

Other readers are lenient, each in its own way, so that two of them can see different files in one archive. Nobody reads
after us, and what is not laid out as torch does it is refused.

Source of the layout: PKWARE's APPNOTE 6.3.10, sections 4.3.7 to 4.3.16 and 4.5.3.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO, NamedTuple

from .errors import DamagedError, RefusedError, shown

SIGNATURE = b"PK\x03\x04"
_MOST_ENTRIES = 1 << 17
_LONGEST_DIRECTORY = 32 << 20  # bytes
_LONGEST_NAME = 512

# Signature, disks, entries on this disk and in all, bytes and place of the directory, length of a comment.
_END = struct.Struct("<4s2H2H2IH")
# Signature, this record's length, versions, disks, entries on this disk and in all, bytes and place of the directory.
_END_64 = struct.Struct("<4sQ2H2I2Q2Q")
_LOCATOR_64 = struct.Struct("<4sIQI")  # signature, disk, place of the record above, disks
# Signature, versions, flags, method, time and date, CRC, bytes stored and in all, lengths of name, extra and comment,
# disk, attributes, place of the entry.
_LISTED = struct.Struct("<4s2H2H2H3I3HHH2I")
# Signature, version, flags, method, time and date, CRC, bytes stored and in all, lengths of name and extra.
_ENTRY = struct.Struct("<4sH2H2H3I2H")
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_ZIP64 = 0x0001  # the extra field of sizes beyond 32 bits
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF  # "look into the record for 64 bits"


class Entry(NamedTuple):
    """One file in the archive: `size` bytes from `start` of it. `crc` is their CRC-32, 0 where the writer left it out
    (torch can be told to). `packed` means compressed, which torch's programs are and its weights are not."""

    name: str
    start: int
    size: int
    crc: int
    packed: bool


def entries_of(file: BinaryIO, size: int) -> dict[str, Entry]:
    """The entries of the archive in `file`, which has `size` bytes, by name.

    Raises `DamagedError` or `RefusedError`. Reads the directory and the entries' headers only.
    """
    place, length, count = _directory(file, size)
    if count > _MOST_ENTRIES or length > _LONGEST_DIRECTORY:
        raise RefusedError(
            f"lists {count} parts in {length} bytes; at most {_MOST_ENTRIES} in {_LONGEST_DIRECTORY} are read. "
            "Use a .safetensors file of this model"
        )
    listing = _read(file, place, length)
    entries: dict[str, Entry] = {}
    position = 0
    for _ in range(count):
        entry, position = _listed(listing, position)
        if entry.name in entries:
            raise DamagedError(f"two parts are named {shown(entry.name)}")
        entries[entry.name] = _located(file, entry, place)
    if position != length:
        raise DamagedError("its directory is longer than what it lists")
    _check_apart(entries)
    return entries


def read_entry(file: BinaryIO, entry: Entry, into: memoryview | None = None) -> memoryview:
    """The bytes of `entry`, in `into` if given, which has as many. Raises `DamagedError` if they are not what was
    written, and `RefusedError` if it is packed."""
    if entry.packed:
        raise RefusedError("is a compressed archive, which torch.save does not write; save the model again")
    content = memoryview(bytearray(entry.size)) if into is None else into
    file.seek(entry.start)
    if file.readinto(content) != entry.size:  # type: ignore[attr-defined]
        raise DamagedError("it is cut short")
    if entry.crc and zlib.crc32(content) != entry.crc:
        raise DamagedError(f"the checksum of {shown(entry.name)} does not match")
    return content


def _directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Place and length of the directory in bytes, and how many entries it lists."""
    if size < _END.size:
        raise DamagedError("it is cut short")
    end_at = size - _END.size
    signature, disk, first_disk, here, count, length, place, comment = _END.unpack(_read(file, end_at, _END.size))
    if signature != b"PK\x05\x06" or comment or disk or first_disk or here != count:
        raise DamagedError("it is cut short, or something was appended")
    if count == _FULL_16 or _FULL_32 in (length, place) or _has_locator(file, end_at):
        return _directory_64(file, end_at)
    if place + length != end_at:
        raise DamagedError("its directory is not where it should be")
    return place, length, count


def _has_locator(file: BinaryIO, end_at: int) -> bool:
    at = end_at - _LOCATOR_64.size
    return at >= 0 and _read(file, at, 4) == b"PK\x06\x07"


def _directory_64(file: BinaryIO, end_at: int) -> tuple[int, int, int]:
    """The same from the record for 64 bits, which must lie where torch writes it: just before its locator."""
    locator_at = end_at - _LOCATOR_64.size
    record_at = locator_at - _END_64.size
    if record_at < 0:
        raise DamagedError("it is cut short")
    signature, _, told, _ = _LOCATOR_64.unpack(_read(file, locator_at, _LOCATOR_64.size))
    if signature != b"PK\x06\x07" or told != record_at:
        raise DamagedError("the record of its directory is not where it should be")
    signature, more, _, _, disk, first_disk, here, count, length, place = _END_64.unpack(
        _read(file, record_at, _END_64.size)
    )
    if signature != b"PK\x06\x06" or more != _END_64.size - 12 or disk or first_disk or here != count:
        raise DamagedError("the record of its directory is damaged")
    if place + length != record_at:
        raise DamagedError("its directory is not where it should be")
    return place, length, count


def _listed(listing: bytes, position: int) -> tuple[Entry, int]:
    """The entry listed at `position` of the directory, with the place of its header as start; where the next begins."""
    if position + _LISTED.size > len(listing):
        raise DamagedError("its directory is cut short")
    fields = _LISTED.unpack_from(listing, position)
    signature, flags, method, crc, stored, size = fields[0], fields[3], fields[4], *fields[7:10]
    name_length, extra_length, comment_length, disk, place = *fields[10:13], fields[13], fields[16]
    name_at = position + _LISTED.size
    extra_at = name_at + name_length
    after = extra_at + extra_length + comment_length
    if signature != b"PK\x01\x02" or disk or after > len(listing) or name_length > _LONGEST_NAME:
        raise DamagedError("its directory is damaged")
    if flags & _ENCRYPTED:
        raise RefusedError("is an encrypted archive; use a .safetensors or .pth file of this model")
    extra = listing[extra_at : extra_at + extra_length]
    size, stored, place = _beyond_32_bits(extra, size, stored, place)
    if size != stored and not method:
        raise DamagedError("its directory is damaged")
    name = listing[name_at:extra_at].decode("utf-8", "surrogateescape")
    return Entry(name, place, stored, crc, method != 0), after


def _beyond_32_bits(extra: bytes, *fields: int) -> list[int]:
    """`fields`, in the order in which the extra field for 64 bits has those that did not fit."""
    long = b""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == _ZIP64:
            long = extra[position + 4 : position + 4 + length]
            break
        position += 4 + length
    missing = sum(field == _FULL_32 for field in fields)
    if len(long) < 8 * missing:
        raise DamagedError("its directory is damaged")
    values = iter(struct.unpack_from(f"<{missing}Q", long))
    return [next(values) if field == _FULL_32 else field for field in fields]


def _located(file: BinaryIO, entry: Entry, limit: int) -> Entry:
    """`entry` with the start of its content instead of its header's, which must agree; it ends by `limit`."""
    name = entry.name.encode("utf-8", "surrogateescape")
    if entry.start + _ENTRY.size + len(name) > limit:
        raise DamagedError("a part begins behind the end")
    header = _read(file, entry.start, _ENTRY.size + len(name))
    fields = _ENTRY.unpack_from(header)
    signature, method, name_length, extra_length = fields[0], fields[3], *fields[9:11]
    if signature != SIGNATURE or (method != 0) != entry.packed or header[_ENTRY.size :] != name[:name_length]:
        raise DamagedError(f"the header of {shown(entry.name)} says otherwise than the directory")
    start = entry.start + len(header) + extra_length
    if name_length != len(name) or start + entry.size > limit:
        raise DamagedError(f"{shown(entry.name)} is cut short")
    return entry._replace(start=start)


def _check_apart(entries: dict[str, Entry]) -> None:
    """A small archive whose parts lie in each other would be large when read."""
    end = 0
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.size)):
        if entry.start < end:
            raise DamagedError(f"{shown(entry.name)} lies in another part")
        end = entry.start + entry.size


def _read(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    content = file.read(size)
    if len(content) != size:
        raise DamagedError("it is cut short")
    return content
