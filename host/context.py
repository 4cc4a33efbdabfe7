"""Which host there is: ComfyUI, or nobody but us.

Outside ComfyUI, where `comfy` cannot be imported, `run_context` gives a `StandaloneContext`, so that the nodes can be
called from a script or a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..api.context import RunContext
from ..api.errors import CudaspeedError
from ..api.surroundings import inside_comfyui
from .comfyui import ComfyContext, say_on_node
from .standalone import StandaloneContext


@contextmanager
def run_context(model: object) -> Iterator[RunContext]:
    """The host's context for one run of `model`, an UPSCALE_MODEL off the wire, on behalf of the node that is executing
    now, which says what goes wrong within."""
    context = ComfyContext(model) if inside_comfyui() else StandaloneContext()
    with errors_said(context.say):
        yield context


@contextmanager
def errors_said(say: Callable[[str], None] = say_on_node) -> Iterator[None]:
    """What goes wrong within is said on the node that is executing now, before it is raised: the host shows an error's
    text elsewhere."""
    try:
        yield
    except CudaspeedError as error:
        say(str(error))
        raise
