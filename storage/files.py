"""What files need that several processes share: a lock, whole replacement, a hash."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .ownership import check_regular

if sys.platform == "win32":
    import msvcrt

    def _take(file: int) -> None:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

    def _give_back(file: int) -> None:
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _take(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _give_back(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)


_READING_SECONDS = 2.0
# No link is followed; and on a FIFO, which is none of ours, nobody waits for whoever may never read it.
_CAREFULLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


@contextmanager
def locked(path: Path, seconds: float) -> Iterator[None]:
    """Hold the lock that is the file `path`, alone among processes and threads; at the latest it ends with its process.

    Raises `TimeoutError` when another holds it for longer than `seconds`, another `OSError` where it cannot be made or
    is no regular file.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | _CAREFULLY, 0o600)
    try:
        check_regular(path, os.fstat(lock))
        end = time.monotonic() + seconds
        while True:
            try:
                _take(lock)
                break
            except (BlockingIOError, PermissionError) as error:  # the latter is Windows' word for it
                if time.monotonic() > end:
                    raise TimeoutError(f"{path}: another process has held this lock for {seconds:g} s") from error
            time.sleep(0.005)
        try:
            yield
        finally:
            _give_back(lock)  # closing alone would not, if a child was forked meanwhile that has the file open too
    finally:
        os.close(lock)


def replace_whole(path: Path, text: str) -> None:
    """Write `text` to `path`, for this user only, so that a kill at any time leaves the old file or the new one.

    For one writer at a time: the half-written file always has the same name, so that kills leave no heap of them.
    Raises `OSError` if it cannot be written; the old file is there still.
    """
    new = path.with_suffix(".new")
    if new.exists() or new.is_symlink():  # what a killed writer left, or whatever it is
        new.unlink()
    made = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CAREFULLY, 0o600)
    with os.fdopen(made, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    # On Windows a file cannot be replaced in the milliseconds in which somebody reads it.
    end = time.monotonic() + (_READING_SECONDS if sys.platform == "win32" else 0)
    while True:
        try:
            new.replace(path)
            return
        except PermissionError:
            if time.monotonic() >= end:
                raise
        time.sleep(0.005)


def sha256_of(path: Path) -> str:
    """The hash of a file's bytes, in hexadecimal digits; about a second per gigabyte."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def bytes_in(folder: Path) -> int:
    """Bytes of all files in a folder and below; 0 where there is none."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # deleted meanwhile
                total += Path(root, name).lstat().st_size
    return total


def delete(path: Path) -> None:
    """Delete a file or folder, if the system lets us: on Windows it does not while a process has the file loaded."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
