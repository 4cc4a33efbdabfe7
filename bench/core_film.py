"""ComfyUI core's way with a film: LoadVideo, GetVideoComponents, ImageUpscaleWithModel, CreateVideo, SaveVideo, one
after the other: `python bench/core_film.py MODEL FILM OUT`, with the Python of a ComfyUI and its folder on PYTHONPATH.

What each node gives is kept to the end, as a prompt's outputs are. Writes the seconds from film to film as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from fractions import Fraction
from importlib import import_module
from typing import Any


def load(model_file: str) -> Any:
    """As core's loader does."""
    management, patching = import_module("comfy.model_management"), import_module("comfy.model_patcher")
    weights = import_module("comfy.utils").load_torch_file(model_file, safe_load=True)
    model: Any = import_module("spandrel").ModelLoader().load_from_state_dict(weights).eval()
    model.patcher = patching.CoreModelPatcher(
        model.model, load_device=management.get_torch_device(), offload_device=management.unet_offload_device()
    )
    return model


def main() -> None:
    model_file, film, out = sys.argv[1:]
    import_module("comfy.cli_args").args.cpu = True  # first of all: what is imported next looks for CUDA
    video = import_module("comfy_api.latest")
    node = import_module("comfy_extras.nodes_upscale_model").ImageUpscaleWithModel
    model = load(model_file)
    began = time.perf_counter()
    loaded = video.InputImpl.VideoFromFile(film)
    parts = loaded.get_components()
    larger = node.execute(model, parts.images).args[0]
    made = video.InputImpl.VideoFromComponents(
        video.Types.VideoComponents(images=larger, audio=parts.audio, frame_rate=Fraction(parts.frame_rate))
    )
    made.save_to(out, format=video.Types.VideoContainer("mp4"), codec=video.Types.VideoCodec("auto"))
    told = {"seconds": time.perf_counter() - began, "frames": len(parts.images)}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
