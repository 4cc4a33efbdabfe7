"""ComfyUI core's own upscale node, from a real checkout that COMFYUI_DIR names, outside of a running ComfyUI."""

from __future__ import annotations

import copy
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from spandrel import ImageModelDescriptor
from torch import Tensor


def core_node(model: ImageModelDescriptor, device: torch.device) -> Callable[[Tensor], Tensor]:
    """`ImageUpscaleWithModel` with a copy of `model`: a picture [B, H, W, 3] in, [B, sH, sW, 3] in main memory out.

    Raises `ImportError` where there is no checkout, or this Python lacks what it requires.
    """
    comfy = _import_comfyui(device)
    ours = copy.deepcopy(model)
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    management = comfy.model_management
    ours.patcher = patcher(  # as core's loader does; older nodes do not look at it
        ours.model, load_device=management.get_torch_device(), offload_device=management.unet_offload_device()
    )
    node = comfy.node.ImageUpscaleWithModel
    if hasattr(node, "execute"):
        return lambda image: node.execute(ours, image).args[0]
    return lambda image: node().upscale(ours, image)[0]


def _import_comfyui(device: torch.device) -> ModuleType:
    """A namespace of what is needed. ComfyUI finds its modules by their top-level names and, while it is imported,
    reads its own options from the command line, where it must find that there is no CUDA."""
    folder = os.environ.get("COMFYUI_DIR")
    if not folder or not Path(folder, "comfy").is_dir():
        raise ImportError("COMFYUI_DIR names no checkout of ComfyUI")
    if folder not in sys.path:
        sys.path.append(folder)
    comfy, command_line = ModuleType("comfy"), sys.argv
    try:
        sys.argv = ["main.py", *(["--cpu"] if device.type == "cpu" else [])]
        importlib.import_module("comfy.options").enable_args_parsing()
        comfy.model_management = importlib.import_module("comfy.model_management")
        comfy.model_patcher = importlib.import_module("comfy.model_patcher")
        comfy.node = importlib.import_module("comfy_extras.nodes_upscale_model")
    finally:
        sys.argv = command_line
    return comfy
