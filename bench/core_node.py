"""ComfyUI core's own upscale node, outside of a running ComfyUI: from a checkout that PYTHONPATH names.

ComfyUI's modules know each other by top-level names (`comfy`, `folder_paths`), so its folder must be on Python's path.
Whoever starts a benchmark puts it there, as for any module that is not installed; nothing here changes the path of a
running process, and the node runs in the same process as the others, where it is timed and its memory is seen.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
from collections.abc import Callable

import torch
from spandrel import ImageModelDescriptor
from torch import Tensor


def core_node(model: ImageModelDescriptor, device: torch.device) -> Callable[[Tensor], Tensor]:
    """`ImageUpscaleWithModel` with a copy of `model`: a picture [B, H, W, 3] in, [B, sH, sW, 3] in main memory out.

    Raises `ImportError` where there is no checkout, or this Python lacks what it requires.
    """
    if importlib.util.find_spec("comfy") is None:
        raise ImportError("PYTHONPATH names no checkout of ComfyUI")
    # first of all: the modules below look for CUDA when they are imported, unless it is said that there is none
    importlib.import_module("comfy.cli_args").args.cpu = device.type == "cpu"
    management = importlib.import_module("comfy.model_management")
    patching = importlib.import_module("comfy.model_patcher")
    node = importlib.import_module("comfy_extras.nodes_upscale_model").ImageUpscaleWithModel
    ours = copy.deepcopy(model)
    patcher = getattr(patching, "CoreModelPatcher", patching.ModelPatcher)
    ours.patcher = patcher(  # as core's loader does; older nodes do not look at it
        ours.model, load_device=management.get_torch_device(), offload_device=management.unet_offload_device()
    )
    if hasattr(node, "execute"):
        return lambda image: node.execute(ours, image).args[0]
    return lambda image: node().upscale(ours, image)[0]
