"""Folders for work that may be killed at any moment: each says whose it is, and goes when its owner is gone.

<store>/jobs/<some name>/owner        "<pid> <where>"
"""

from __future__ import annotations

import os
import platform
import stat
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from .files import delete, replace_whole
from .ownership import NotOwnError, NotRegularError, make_own_folder, read_own
from .processes import began

_OWNER = "owner"
_MOST_BYTES = 1000
_LONG = 24 * 3600  # seconds; no work takes as long


def scratch_folder(store: Path) -> Path:
    """A new folder for this process's work, in the store's own, so that what comes of it is moved and not copied.

    Raises `NotOwnError` where others could reach it, and any `OSError`.
    """
    jobs = store / "jobs"
    make_own_folder(jobs)
    made = Path(tempfile.mkdtemp(dir=jobs))
    hand_over(made, os.getpid())
    return made


def hand_over(scratch: Path, pid: int) -> None:
    """From now on the folder lives and dies with process `pid`."""
    replace_whole(scratch / _OWNER, f"{pid} {_here()}")


def sweep(store: Path) -> None:
    """Delete the folders whose owners are gone, and what else has been there for a day."""
    for path in (store / "jobs").glob("*"):
        with suppress(OSError):  # it has just ended by itself
            status = path.lstat()
            if time.time() - status.st_mtime > _LONG or _is_left(path, status):
                delete(path)


def _is_left(path: Path, status: os.stat_result) -> bool:
    """Whether the owner of the folder is known to be gone. A process that has got its number may be taken for it."""
    try:
        if stat.S_ISDIR(status.st_mode):
            pid, _, where = read_own(path / _OWNER, _MOST_BYTES).decode().partition(" ")
            return where == _here() and not began(int(pid))
    except (FileNotFoundError, NotOwnError, NotRegularError, ValueError):
        pass
    return False


@cache
def _here() -> str:
    """Among which processes this one is: another machine or container, which shares the folder, has others."""
    with suppress(OSError):
        return f"{platform.node()} {Path('/proc/self/ns/pid').readlink()}"
    return platform.node()
