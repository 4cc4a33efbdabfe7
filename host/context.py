"""Which host there is: ComfyUI, or nobody but us.

Outside ComfyUI, where `comfy` cannot be imported, `run_context` gives a `StandaloneContext`, so that the nodes can be
called from a script or a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..api.context import RunContext
from ..api.errors import CudaspeedError
from ..api.surroundings import inside_comfyui
from ..storage.location import compiled_folder
from .comfyui import ComfyContext, comfyui_compiled_folder, say_on_node
from .language import errors_in_users_language
from .standalone import StandaloneContext

_SAID = "said_on_node"


@contextmanager
def run_context(model: object, devices: str = "") -> Iterator[RunContext]:
    """The host's context for one run of `model`, an UPSCALE_MODEL off the wire, on behalf of the node that is executing
    now, which says what goes wrong within. With `devices`, on these instead of the host's. Raises `BadOptionError`
    where there are no such."""
    with errors_said():
        context = ComfyContext.of_several(model, devices) if inside_comfyui() else StandaloneContext(devices)
    with errors_said(context.say):
        yield context


def cache_folder() -> Path:
    """Where runs keep what they compile (`RunContext.cache_folder`)."""
    return comfyui_compiled_folder() if inside_comfyui() else compiled_folder()


@contextmanager
def errors_said(say: Callable[[str], None] = say_on_node) -> Iterator[None]:
    """Within it, or in a function that it decorates, what goes wrong is said on the node that is executing now, before
    it is raised: the host shows an error's text elsewhere. It is raised in its user's language."""
    with errors_in_users_language():
        try:
            yield
        except (CudaspeedError, MemoryError) as error:
            if str(error) and not hasattr(error, _SAID):  # Python's own have no words
                setattr(error, _SAID, True)  # once, however many functions it goes up through
                say(str(error))
            raise
