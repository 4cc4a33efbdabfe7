"""Upscale CUDAspeed: pictures upscaled by any model that spandrel loads, fast and within the memory there is.

In Python: `upscale(image, load_model("4x.pth"))`. In ComfyUI, which imports this folder as a pack: the nodes.

What needs torch is imported when it is first asked for, so that the command line answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .api import surroundings

# isort: split
from .api.errors import (
    BadFilmError,
    BadImageError,
    BadModelError,
    BadOptionError,
    BrokenOutputError,
    CudaspeedError,
    MissingLibraryError,
    ModelFailedError,
    OutOfMemoryError,
    OutputError,
)
from .api.options import UpscaleOptions
from .api.resize import Resize

if TYPE_CHECKING:
    from .host.standalone import StandaloneContext
    from .library import upscale
    from .models.loader import load_model
    from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, WEB_DIRECTORY

__all__ = [
    "BadFilmError",
    "BadImageError",
    "BadModelError",
    "BadOptionError",
    "BrokenOutputError",
    "CudaspeedError",
    "MissingLibraryError",
    "ModelFailedError",
    "OutOfMemoryError",
    "OutputError",
    "Resize",
    "StandaloneContext",
    "UpscaleOptions",
    "load_model",
    "upscale",
]

_LATER = {"StandaloneContext": ".host.standalone", "load_model": ".models.loader", "upscale": ".library"}

if surroundings.inside_comfyui():
    _LATER |= dict.fromkeys(("NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"), ".nodes")
    __all__ += ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]


def __getattr__(name: str) -> Any:
    """What was not asked for before (PEP 562). Raises `ImportError`, whatever went wrong: an `AttributeError` out of
    somebody's module would tell `hasattr`, by which ComfyUI asks, that there are no nodes, and not why."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(_LATER[name], __name__), name)
    except AttributeError as error:
        raise ImportError(f"{name} cannot be imported: {error}") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
