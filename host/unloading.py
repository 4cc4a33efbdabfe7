"""What is let go of when somebody presses ComfyUI's "Unload models"."""

# pyright: reportMissingImports=false
# aiohttp is there inside ComfyUI only.

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from .prompt_server import prompt_server

logger = logging.getLogger("cudaspeed")

_PATHS = ("/free", "/api/free")


def on_unload(let_go: Callable[[], int]) -> None:
    """Call `let_go` whenever ComfyUI is asked over HTTP to unload its models, and say how many bytes it tells of.

    Models that nobody has loaded on a device are in none of ComfyUI's lists, so it cannot tell that they are to go.
    """
    server = prompt_server()
    if server is None:
        return
    from aiohttp import web  # ComfyUI's own

    @web.middleware
    async def watch(request: Any, handler: Any) -> Any:
        response = await handler(request)
        if request.method == "POST" and request.path in _PATHS and await _asks_to_unload(request):
            freed = let_go()
            if freed:
                logger.info("unloaded upscale models that were kept for the next run: %.1f MB", freed / 1e6)
        return response

    server.app.middlewares.append(watch)


async def _asks_to_unload(request: Any) -> bool:
    try:
        asked = await request.json()  # read already, and kept by the request
    except ValueError:
        return False
    return isinstance(asked, dict) and bool(asked.get("unload_models") or asked.get("free_memory"))
