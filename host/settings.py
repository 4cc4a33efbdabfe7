"""What its user has set in ComfyUI's settings, ours and its own: read, never written."""

# pyright: reportMissingImports=false
# ComfyUI's modules are there inside ComfyUI only, and no package brings them.

from __future__ import annotations

import json
import logging
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
        changed = path.stat().st_mtime_ns
    except OSError:
        return usual
    found = _read(path, changed).get(name, usual)
    if isinstance(usual, float) and isinstance(found, int) and not isinstance(found, bool):
        return float(found)
    return found if type(found) is type(usual) else usual  # type: ignore[return-value]  # so it is of that type


@lru_cache(maxsize=1)
def _read(path: Path, changed: int) -> dict[str, Any]:
    """The settings in the file as it is since `changed`, in nanoseconds."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read (%s); the usual settings hold", path, first_line(error))
        return {}
    return found if isinstance(found, dict) else {}
