"""What engines keep of their own beside the compiled models, in a folder that the store shares with them: what XLA
compiled for the devices of this machine. Where it is gone, they make it again."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from .files import delete


def folder_of_xla(store: Path) -> Path:
    """Where it lies in the folder of a store."""
    return store / "xla"


def kept_by_engines(store: Path) -> dict[Path, os.stat_result]:
    """The files, those used longest ago first."""
    found = {}
    for path in folder_of_xla(store).glob("*"):
        with suppress(OSError):  # deleted meanwhile
            found[path] = path.lstat()
    return dict(sorted(found.items(), key=lambda one: max(one[1].st_atime, one[1].st_mtime)))


def bytes_of_engines(store: Path) -> int:
    return sum(status.st_size for status in kept_by_engines(store).values())


def make_room(store: Path, most_bytes: int) -> None:
    """Delete what was used longest ago, until the rest is within `most_bytes`."""
    kept = kept_by_engines(store)
    total = sum(status.st_size for status in kept.values())
    for path, status in kept.items():
        if total <= most_bytes:
            return
        delete(path)
        total -= status.st_size


def clear_engines_own(store: Path) -> None:
    """Delete all of it."""
    delete(folder_of_xla(store))
