"""Where what outlives the process is kept, outside ComfyUI."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path


def compiled_folder() -> Path:
    """Where compiled models are kept: `CUDASPEED_CACHE_DIR`, else a folder of ours in the platform's for caches, else,
    for a user without a home, in the folder for temporary files. It need not exist, nor be one that can be written."""
    asked = os.environ.get("CUDASPEED_CACHE_DIR")
    if asked:
        return _absolute(asked)
    caches = _caches_folder()
    return caches / "cudaspeed" / "compiled" if caches else _temporary_folder() / "compiled"


def _caches_folder() -> Path | None:
    """The platform's folder for caches; None where nothing tells it. Relative paths count as not set, as the XDG Base
    Directory Specification has it."""
    if sys.platform != "darwin":
        told = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", "")
        if Path(told).is_absolute():
            return Path(told)
    try:
        home = Path.home()
    except RuntimeError:  # neither HOME nor the system's list of users tells it
        return None
    within = {"win32": "AppData/Local", "darwin": "Library/Caches"}.get(sys.platform, ".cache")
    return home / within if home.is_absolute() else None


def _temporary_folder() -> Path:
    """This user's in the folder for temporary files, which is everybody's, but on Windows."""
    name = "cudaspeed" if sys.platform == "win32" else f"cudaspeed-{os.getuid()}"
    try:
        return Path(tempfile.gettempdir()) / name
    except FileNotFoundError:  # there is no folder that this user may write into
        return Path(os.sep) / name


def _absolute(path: str) -> Path:
    try:
        return Path(path).absolute()
    except FileNotFoundError:  # the working folder was deleted, and what is relative to it is nowhere
        return Path(path)
