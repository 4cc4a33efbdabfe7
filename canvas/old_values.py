"""What the original pack saved, as our nodes have it. It had three formats, of which one is ours to this day.

1. `ImageUpscaleWithModelCUDAspeedFixed` with seven widgets: ours.
2. The same with `enable_debug` before `batch_size`: in a page without our script the switch lands in `batch_size`, and
   the number behind it in `compile_mode`.
3. `ImageUpscaleWithModelCUDAspeed`, for two cards: `multi_gpu_mode` before `tile_size`, `gpu_load_balance` at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .widgets import REQUIRED

FIXED = "ImageUpscaleWithModelCUDAspeedFixed"
FOR_TWO_CARDS = "ImageUpscaleWithModelCUDAspeed"
WIDGETS_FOR_TWO_CARDS = ("use_autocast", "precision", "multi_gpu_mode", "tile_size", "overlap", "gpu_load_balance")
KEPT_FOR_TWO_CARDS = ("upscale_model", "image", "use_autocast", "precision", "tile_size", "overlap")
MORE_FOR_TWO_CARDS = {name: REQUIRED[name][1]["default"] for name in REQUIRED if name not in KEPT_FOR_TWO_CARDS}
_GONE = ("enable_debug", "multi_gpu_mode", "gpu_load_balance")


def as_now(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs of an old node by name, without those that are no more and with each value where it belongs."""
    now = {name: value for name, value in inputs.items() if name not in _GONE}
    moved = now.get("compile_mode")
    if isinstance(moved, int) and not isinstance(moved, bool):  # a mode is a word
        now["batch_size"] = moved
        del now["compile_mode"]
    elif isinstance(now.get("batch_size"), bool):
        del now["batch_size"]
    return now


def change_old_nodes(nodes: dict[str, Any]) -> None:
    """A prompt's nodes, id -> node, those of the original pack as ours. What is no node is left to ComfyUI."""
    for node in nodes.values():
        if not isinstance(node, dict) or not isinstance(node.get("inputs"), dict):
            continue
        kind = node.get("class_type")
        if kind == FIXED:
            node["inputs"] = as_now(node["inputs"])
        elif kind == FOR_TWO_CARDS:
            # ComfyUI 0.33 replaces it, and answers with a bare error where anything is missing that it looks for
            if not isinstance(node.get("_meta"), dict):
                node["_meta"] = {}
            if not {*KEPT_FOR_TWO_CARDS} <= node["inputs"].keys():  # which it tells of a node that it need not replace
                node["class_type"], node["inputs"] = FIXED, {**MORE_FOR_TWO_CARDS, **as_now(node["inputs"])}
