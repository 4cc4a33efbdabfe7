"""What its user has set in ComfyUI's settings, ours and its own: read, never written."""

# pyright: reportMissingImports=false
# ComfyUI's modules are there inside ComfyUI only, and no package brings them.

from __future__ import annotations

import json
import logging
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from ..api.errors import first_line
from ..api.surroundings import inside_comfyui

logger = logging.getLogger("cudaspeed")

Value = TypeVar("Value", bool, int, float, str)


def setting(name: str, usual: Value) -> Value:
    """What is set under `name` ("CUDAspeed.Preview"), or `usual` where nothing is, where it is of another kind, and
    outside ComfyUI. A settings file that cannot be read is told once, and as if there were none."""
    if not inside_comfyui():
        return usual
    import folder_paths

    path = Path(folder_paths.get_user_directory()) / "default" / "comfy.settings.json"
    try:
        status = path.stat()
    except OSError:
        return usual
    found = _read(path, (status.st_mtime_ns, status.st_size)).get(name, usual)
    if isinstance(usual, float) and type(found) in (int, float):
        return float(found) if abs(found) <= sys.float_info.max else usual  # type: ignore[return-value]  # no NaN is
    return found if type(found) is type(usual) else usual  # type: ignore[return-value]  # so it is of that type


@lru_cache(maxsize=1)
def _read(path: Path, changed: tuple[int, int]) -> dict[str, Any]:
    """The settings in the file as it is since it `changed`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no settings")
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("%s cannot be read (%s); the usual settings hold", path, first_line(error))
        return {}
    return found
