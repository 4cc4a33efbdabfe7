"""Which host there is: ComfyUI, or nobody but us.

Outside ComfyUI, where `comfy` cannot be imported, `run_context` gives a `StandaloneContext`, so that the nodes can be
called from a script or a test.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..api.context import RunContext
from ..api.surroundings import inside_comfyui
from ..storage.location import compiled_folder
from .comfyui import ComfyContext, comfyui_compiled_folder
from .standalone import StandaloneContext


@contextmanager
def run_context(model: object) -> Iterator[HostContext]:
    """The host's context for one run of `model`, an UPSCALE_MODEL off the wire, on behalf of the node that is executing
    now."""
    yield ComfyContext(model) if inside_comfyui() else StandaloneContext()


def cache_folder() -> Path:
    """Where runs keep what they compile (`RunContext.cache_folder`)."""
    return comfyui_compiled_folder() if inside_comfyui() else compiled_folder()


class HostContext(RunContext, Protocol):
    """A `RunContext` that can also show pictures on the way."""

    def show(self, picture: NDArray[np.uint8]) -> None:
        """Show a finished picture [H, W, 3]."""
