"""Files as the formats are handed them: regular ones only, opened once, never read beyond a bound."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from ...api.errors import BadImageError
from ..limits import DecodeLimits

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_BLOCK = 512  # bytes, of what the system counts
_LONG = 64 << 20


def open_regular(path: Path, wanted: str = "a picture file") -> BinaryIO:
    """Open `path`, following links, for reading from its start. `wanted` is what it should be, for an error.

    Raises `BadImageError` unless it is a regular file: a pipe would wait for ever, a device may have no end, or begin
    to work when it is opened. Raises `OSError` as `open` does.
    """
    _check_kind(path.stat(), wanted)
    # It may have become something else meanwhile: opened without waiting for a writer, and looked at once more.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check_kind(os.fstat(handle), wanted)
        return os.fdopen(handle, "rb")
    except BaseException:  # an interrupt, too: nobody else closes it
        os.close(handle)
        raise


def _check_kind(status: os.stat_result, wanted: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise BadImageError(f"is {kind}, not {wanted}")


def size_of(file: BinaryIO) -> int:
    """In bytes, as the file system tells it now."""
    return os.fstat(file.fileno()).st_size


def refuse_sparse(file: BinaryIO) -> None:
    """Raise `BadImageError` for a long file that is mostly holes: what is compressed has none, and holes read as zeros
    that take memory. For formats whose size in pixels does not bound the file's."""
    status = os.fstat(file.fileno())
    on_disk = getattr(status, "st_blocks", status.st_size) * _BLOCK
    if status.st_size > _LONG and on_disk < status.st_size // 2:
        raise BadImageError(f"the file is damaged: of its {status.st_size / 1e6:.1f} MB, {on_disk / 1e6:.1f} are there")


def read_whole(file: BinaryIO, limits: DecodeLimits) -> bytes:
    """All bytes of `file`. Raises `BadImageError` if there are more than `limits` has it, or it grows meanwhile."""
    size = size_of(file)
    limits.check_total(size, "the file")
    file.seek(0)
    data = file.read(size + 1)
    limits.check_total(len(data), "the file")
    return data
