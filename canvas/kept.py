"""What is kept for later runs, as the page shows it and its user lets go of it: compiled models on disk, and what is in
memory."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import Any

from ..host.context import cache_folder
from ..host.upscale_models import let_go_of_models
from ..pipeline.holdings import Holdings
from ..storage.artifacts import ArtifactStore
from ..storage.clearing import clear_all
from ..upscale_engine import let_go

logger = logging.getLogger("cudaspeed")

_unloading = threading.Lock()


def compiled_models() -> dict[str, Any]:
    """How many there are, and the bytes that they take on disk."""
    store = ArtifactStore(cache_folder())
    ready = [entry for entry in store.entries().values() if entry.state == "ready"]
    return {"models": len(ready), "bytes": store.size()}


def clear_compiled_models() -> dict[str, Any]:
    """As `cudaspeed cache clear` does it; the bytes that were freed. What is being compiled stays. Raises `OSError`
    where the folder cannot be changed."""
    freed = clear_all(cache_folder())
    logger.info("compiled models cleared: %.1f MB", freed / 1e6)
    return {"freed": freed}


def unload() -> None:
    """Let go of what is in memory, once the host has unloaded its models, and log what that was, if there was any."""
    loaded = let_go_of_models()
    if _unloading.acquire(blocking=False):  # else it is on its way
        try:
            let_go(tell=partial(_unloaded, loaded))
        except BaseException:  # whatever it was goes on up
            _unloading.release()  # the next time it may go well
            raise


def _unloaded(loaded: int, freed: Holdings) -> None:
    _unloading.release()
    told = [f"{loaded / 1e6:.0f} MB of models for the next run"] if loaded else []
    told += [str(freed)] if freed != Holdings() else []
    if told:
        logger.info("unloaded: %s", ", ".join(told))
