"""ComfyUI's server, where there is one."""

# pyright: reportMissingImports=false
# ComfyUI's modules are there inside ComfyUI only, and no package brings them.

from __future__ import annotations

from typing import Any

from ..api.surroundings import inside_comfyui


def prompt_server() -> Any | None:
    """None outside ComfyUI, and in one that was imported without its server, as scripts and tests do."""
    if not inside_comfyui():
        return None
    try:
        from server import PromptServer
    except ImportError:
        return None
    return getattr(PromptServer, "instance", None)
