"""Where the pack finds itself: inside ComfyUI or not, and where torch's import would fail, which is mended here.

The package's first import, so that nothing of ours imports torch before it: of a user without a name, and in a working
folder that was deleted, the import fails. Elsewhere it changes nothing, and imports neither torch nor spandrel.
"""

from __future__ import annotations

import getpass
import importlib
import importlib.util
import os
import tempfile
from pathlib import Path


def inside_comfyui() -> bool:
    """Whether ComfyUI's modules can be imported."""
    return importlib.util.find_spec("comfy") is not None and importlib.util.find_spec("folder_paths") is not None


def make_torch_importable() -> None:
    """See to it that torch and spandrel can be imported from now on, whatever the surroundings."""
    _name_inductor_folder()
    try:
        Path.cwd()
    except FileNotFoundError:
        _import_from_another_folder()


def _name_inductor_folder() -> None:
    """Torch names a folder by the user, and cannot be imported by one who has no name, as in many containers. It is
    named by number then, where torch would have it, and as torch itself does: in this variable."""
    if os.name != "nt" and not os.environ.get("TORCHINDUCTOR_CACHE_DIR"):
        try:
            getpass.getuser()
        except (KeyError, OSError):  # OSError: since Python 3.13
            folder = Path(tempfile.gettempdir()) / f"torchinductor_{os.getuid()}"
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def _import_from_another_folder() -> None:
    """Import torch and spandrel at once: without a working folder torch's import fails, and oneMKL ends the process."""
    deleted = os.open(".", os.O_RDONLY)
    try:
        os.chdir(os.sep)
        importlib.import_module("spandrel")  # which imports torch
    finally:
        os.fchdir(deleted)
        os.close(deleted)


make_torch_importable()
