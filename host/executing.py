"""The node that is executing now, and what ComfyUI's page keeps of nodes that have executed."""

# pyright: reportMissingImports=false
# ComfyUI's modules are there inside ComfyUI only, and no package brings them.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..api.surroundings import inside_comfyui
from .prompt_server import prompt_server


def executing_node() -> str | None:
    """Its id in the prompt that runs; None outside of a node, and before ComfyUI 0.3.45."""
    executing = _executing()
    return None if executing is None else executing.node_id


def complete_output(node: str | None, output: Mapping[str, Sequence[Any]]) -> None:
    """Have the page of the prompt that runs take `output` for that of `node`, which has executed before: what ComfyUI
    sends itself when one has. Nothing where there is no page, or no such node. Only the page hears of it: the history
    has what a node returned."""
    server, executing = prompt_server(), _executing()
    client = getattr(server, "client_id", None)
    if server is None or client is None or executing is None or node is None:
        return
    told = {"node": node, "display_node": node, "output": output, "prompt_id": executing.prompt_id}
    server.send_sync("executed", told, client)


def _executing() -> Any | None:
    if not inside_comfyui():
        return None
    try:
        from comfy_execution.utils import get_executing_context
    except ImportError:
        return None
    return get_executing_context()
