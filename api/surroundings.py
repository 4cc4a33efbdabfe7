"""Imports torch where its import would fail: a user without a name, a working folder that was deleted.

The package's first import, before anything that imports torch by itself. Where torch is there already, as inside
ComfyUI, it does nothing.
"""

from __future__ import annotations

import getpass
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def import_torch() -> None:
    """Import torch, in any surroundings."""
    if "torch" not in sys.modules:
        _name_inductor_folder()
        with _some_working_folder():
            import torch  # noqa: F401


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
    """The body runs in a working folder that exists: without one oneMKL ends the process when torch loads it."""
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
