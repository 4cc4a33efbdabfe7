"""Workflows of the original pack: told to ComfyUI where it can replace nodes, and made to fit where it cannot."""

# pyright: reportMissingImports=false
# ComfyUI's modules are there inside ComfyUI only, and no package brings them.

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..api.errors import first_line
from .prompt_server import prompt_server

logger = logging.getLogger("cudaspeed")


@dataclass(frozen=True)
class Replacement:
    """A node of ours that stands for one that is no more. `widgets` are the old one's, in the order in which workflows
    hold their values; `kept` are those of its required inputs that the new one has, by the same names, and `more` what
    the new one wants besides."""

    old: str
    new: str
    widgets: Sequence[str]
    kept: Sequence[str]
    more: Mapping[str, Any]


def offer_replacement(replacement: Replacement) -> bool:
    """Have ComfyUI put the new node for the old one, in pages and in prompts. False where it cannot: older ones, and
    outside ComfyUI."""
    manager = getattr(prompt_server(), "node_replace_manager", None)
    if manager is None:
        return False
    try:
        from comfy_api.latest import io

        # ComfyUI looks each old input up, and fails where a prompt lacks one: optional ones must not be told of
        inputs: list[Any] = [{"new_id": name, "old_id": name} for name in replacement.kept]
        inputs += [{"new_id": name, "set_value": value} for name, value in replacement.more.items()]
        manager.register(
            io.NodeReplace(
                new_node_id=replacement.new,
                old_node_id=replacement.old,
                old_widget_ids=[*replacement.widgets],
                input_mapping=inputs,
                output_mapping=[{"new_idx": 0, "old_idx": 0}],
            )
        )
    except (ImportError, AttributeError, TypeError) as error:
        logger.debug("nodes cannot be replaced here: %s", first_line(error))
        return False
    return True


def on_prompt(change: Callable[[dict[str, Any]], None]) -> None:
    """Have every prompt's nodes, id -> node, changed before ComfyUI looks at them."""
    server = prompt_server()
    if server is None:
        return

    def handle(asked: dict[str, Any]) -> dict[str, Any]:
        nodes = asked.get("prompt")
        if isinstance(nodes, dict):
            change(nodes)
        return asked

    server.add_on_prompt_handler(handle)
