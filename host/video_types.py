"""ComfyUI's VIDEO, and where its files may lie for a while."""

# pyright: reportMissingImports=false
# ComfyUI's modules are there inside ComfyUI only, and no package brings them.

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..api.errors import MissingLibraryError, first_line
from ..api.surroundings import inside_comfyui

_UPDATE = "update ComfyUI to 0.8 or newer"


@dataclass(frozen=True)
class VideoTypes:
    """ComfyUI's classes: of what goes along VIDEO wires, of such that are frames in memory, and of a film in parts."""

    video: type
    from_components: type
    components: type


def video_types() -> VideoTypes:
    """Raises `MissingLibraryError` outside ComfyUI, and in one that has no VIDEO, or none that tells its file."""
    try:
        from comfy_api.latest import Input, InputImpl, Types
    except ImportError as error:
        raise MissingLibraryError(f"ComfyUI's VIDEO is not there ({first_line(error)}); {_UPDATE}") from error
    if not hasattr(Input.Video, "get_stream_source"):
        raise MissingLibraryError(f"this ComfyUI's VIDEO does not tell its file; {_UPDATE}")
    return VideoTypes(Input.Video, InputImpl.VideoFromComponents, Types.VideoComponents)


def temporary_folder() -> Path:
    """Where ComfyUI keeps what it deletes when it starts anew."""
    if not inside_comfyui():
        return Path(tempfile.gettempdir())
    import folder_paths

    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder
