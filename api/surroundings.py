"""Imports torch and spandrel where that would fail: a user without a name, a working folder that was deleted.

The package's first import, before anything that imports them by itself. Elsewhere it changes nothing.
"""

from __future__ import annotations

import getpass
import importlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def import_torch() -> None:
    """Import torch and spandrel, in any surroundings."""
    _name_inductor_folder()
    with _some_working_folder():
        importlib.import_module("spandrel")  # which imports torch


def _name_inductor_folder() -> None:
    """Torch names a folder by the user, and cannot be imported by one who has no name, as in many containers. It is
    named by number then, where torch would have it, and as torch itself does: in this variable."""
    if os.name != "nt" and not os.environ.get("TORCHINDUCTOR_CACHE_DIR"):
        try:
            getpass.getuser()
        except (KeyError, OSError):  # OSError: since Python 3.13
            folder = Path(tempfile.gettempdir()) / f"torchinductor_{os.getuid()}"
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


@contextmanager
def _some_working_folder() -> Iterator[None]:
    """The body runs in a working folder that exists: without one torch's import fails, and oneMKL ends the process."""
    try:
        Path.cwd()
    except FileNotFoundError:
        deleted = os.open(".", os.O_RDONLY)
        try:
            os.chdir(os.sep)
            yield
        finally:
            os.fchdir(deleted)
            os.close(deleted)
    else:
        yield


import_torch()
