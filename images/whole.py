"""Files that appear complete or not at all, and what a kill leaves of such a file, cleared away by a later run."""

from __future__ import annotations

import os
import re
import stat
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from ..api.errors import OutputError

_OURS = re.compile(r"\.cudaspeed-[0-9a-f]{32}\.tmp")
_OLD_SECONDS = 24 * 3600.0  # since the last byte came; an animation's come as its frames are computed


Result = TypeVar("Result")


def write_whole(path: Path, write: Callable[[BinaryIO], Result]) -> Result:
    """Have `write` fill a file that takes the place of `path` once it is complete, and return what it returns.

    A failure, an interrupt or a kill at any time leaves what was there before. A file or a symbolic link that is there
    is replaced; what a link leads to is not touched. Raises `OutputError`.
    """
    # Beside the target, so that the last step is a rename within one file system, which is all or nothing.
    temporary = path.with_name(f".cudaspeed-{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            result = write(file)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # gone after the rename; and where it cannot be removed, the first error matters more
            temporary.unlink()
    return result


def make_folder(path: Path) -> None:
    """Make the folder that the file `path` is to lie in. Raises `OutputError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: its folder cannot be made: {error.strerror or error}") from error


def sweep_leftovers(folder: Path) -> None:
    """Delete what killed runs of this user left unfinished in `folder` more than a day ago. Nothing raises."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _OURS.fullmatch(entry.name):
                with suppress(OSError):  # another run was faster
                    _delete_if_old(Path(entry.path))


def _delete_if_old(path: Path) -> None:
    status = path.lstat()
    ours = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    if stat.S_ISREG(status.st_mode) and ours and time.time() - status.st_mtime > _OLD_SECONDS:
        path.unlink()
