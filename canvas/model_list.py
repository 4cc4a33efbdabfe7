"""The list of upscale models on a node: what there is to choose from, and the widgets of the node that does it all."""

from __future__ import annotations

from typing import Any

from ..host.upscale_models import upscale_model_labels, upscale_model_names
from .widgets import OPTIONAL, REQUIRED, Widgets

LABELS = "cudaspeed_labels"
"""Under which a list tells the page what its models are, name -> words. The values stay plain file names, as those of
core's loader are, so that one loader can be put for the other, and a saved workflow does not depend on the words."""

_SIZE = ("scale_by", "target_width", "target_height", "fit")


def model_list() -> tuple[list[str], dict[str, Any]]:
    """The widget `model_name`."""
    return (
        upscale_model_names(),
        {
            "tooltip": "A file in models/upscale_models, or one that came with this pack. The list tells scale and "
            "architecture where the file does.",
            LABELS: upscale_model_labels(),
        },
    )


def one_node_widgets() -> Widgets:
    """What the node that does it all shows, the size that is wanted, and what it folds away, all else."""
    size = {name: _shown(name, advanced=False) for name in _SIZE}
    rest = {name: _shown(name, advanced=True) for name in (*REQUIRED, *OPTIONAL) if name not in _SIZE}
    return {**size, **rest}


def _shown(name: str, advanced: bool) -> tuple[Any, dict[str, Any]]:
    kind, shown = {**REQUIRED, **OPTIONAL}[name]
    shown = {key: value for key, value in shown.items() if key != "advanced"}
    return kind, {**shown, "advanced": True} if advanced else shown
