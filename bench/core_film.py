"""ComfyUI core's way with a film: LoadVideo, GetVideoComponents, ImageUpscaleWithModel, CreateVideo, SaveVideo, one
after the other: `python bench/core_film.py MODEL FILM OUT`, with the Python of a ComfyUI and its folder on PYTHONPATH.

What each node gives is kept to the end, as a prompt's outputs are. Writes the seconds from film to film as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from fractions import Fraction

model_file, film, out = sys.argv[1:]
sys.argv[1:] = ["--cpu"]

import comfy.cli_args  # type: ignore[import-not-found]  # noqa: E402  # which reads the arguments when it is imported

comfy.cli_args.args.cpu = True

import comfy.model_management as management  # type: ignore[import-not-found]  # noqa: E402
import comfy.model_patcher as patching  # type: ignore[import-not-found]  # noqa: E402
import comfy.utils  # type: ignore[import-not-found]  # noqa: E402
from comfy_api.latest import InputImpl, Types  # type: ignore[import-not-found]  # noqa: E402
from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel  # type: ignore[import-not-found]  # noqa: E402
from spandrel import ModelLoader  # noqa: E402

model = ModelLoader().load_from_state_dict(comfy.utils.load_torch_file(model_file, safe_load=True)).eval()
model.patcher = patching.CoreModelPatcher(
    model.model, load_device=management.get_torch_device(), offload_device=management.unet_offload_device()
)
began = time.perf_counter()
loaded = InputImpl.VideoFromFile(film)
components = loaded.get_components()
larger = ImageUpscaleWithModel.execute(model, components.images).args[0]
parts = Types.VideoComponents(images=larger, audio=components.audio, frame_rate=Fraction(components.frame_rate))
InputImpl.VideoFromComponents(parts).save_to(out, format=Types.VideoContainer("mp4"), codec=Types.VideoCodec("auto"))
sys.stdout.write(json.dumps({"seconds": time.perf_counter() - began, "frames": len(components.images)}) + "\n")
