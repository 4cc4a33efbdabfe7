"""What the scripts of ComfyUI's page (`web/js`) ask us, and by which paths."""

from __future__ import annotations

from ..host import routes
from .kept import clear_compiled_models, compiled_models, unload
from .load import Load


def offer_routes() -> None:
    """Have them answered, and hear of "Unload models". Once a process."""
    routes.offer("GET", "/cudaspeed/monitor", Load().told)
    routes.offer("GET", "/cudaspeed/cache", compiled_models)
    routes.offer("POST", "/cudaspeed/cache/clear", clear_compiled_models)
    routes.when_unloaded(unload)
