"""A file's bytes, read once and kept where nobody can change them any more: what was checked is what is loaded."""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import suppress
from pathlib import Path

from .files import delete
from .ownership import open_own
from .scratch import scratch_folder

if sys.platform == "linux":
    import fcntl

    _SEALS = fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

_BLOCK = 1 << 20


class PrivateCopy:
    """A copy of `path`, a file in the store that must be this user's alone, until it is closed.

    On Linux it lies in memory, under no name that others could take, and sealed: not even this process can write to it.
    Elsewhere, and where the system allows no such thing, it is a file in a scratch folder of the store's. It ends after
    `most` bytes and one. Raises what `open_own` raises, and another `OSError` where there is no room for it.
    """

    def __init__(self, path: Path, most: int) -> None:
        source = open_own(path)
        self._memory: int | None = _memory()
        self._folder: Path | None = None
        try:
            if self._memory is None:
                self._folder = scratch_folder(path.parent)
            self.sha256, self.bytes = self._fill(source, most + 1)
        except BaseException:  # an interrupt, too: half a copy is nobody's
            self.close()
            raise
        finally:
            os.close(source)

    @property
    def path(self) -> Path:
        """Where this process finds it. On Linux other files have the same path once it is closed."""
        if self._folder is not None:
            return self._folder / "copy"
        return Path(f"/proc/self/fd/{self._memory}")

    def close(self) -> None:
        """Give it back. What was loaded of it stays."""
        if self._memory is not None:
            os.close(self._memory)
        if self._folder is not None:
            delete(self._folder)
        self._memory = self._folder = None

    def __enter__(self) -> PrivateCopy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fill(self, source: int, most: int) -> tuple[str, int]:
        """Copy so much of `source`; the SHA-256 of that, and how many bytes it is."""
        digest, count = hashlib.sha256(), 0
        made = self._memory
        if made is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            made = os.open(self.path, flags, 0o600)
        try:
            while block := os.read(source, min(_BLOCK, most - count)):
                digest.update(block)
                count += len(block)
                while block:
                    block = block[os.write(made, block) :]
            if self._memory is not None and sys.platform == "linux":
                fcntl.fcntl(self._memory, *_SEALS)
        finally:
            if made != self._memory:
                os.close(made)
        return digest.hexdigest(), count


def _memory() -> int | None:
    """A new file in memory, or None where there is none that a loader can open."""
    if sys.platform != "linux":
        return None
    with suppress(OSError, AttributeError):  # forbidden here, or a C library without it
        memory = os.memfd_create("cudaspeed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        if Path(f"/proc/self/fd/{memory}").exists():
            return memory
        os.close(memory)
    return None
