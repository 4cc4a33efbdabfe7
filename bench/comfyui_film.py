"""A film inside ComfyUI, in a process without its server: `python bench/comfyui_film.py core|ours MODEL FILM OUT`, with
the Python of a ComfyUI and its folder on PYTHONPATH.

"core" is its own nodes' way: LoadVideo, GetVideoComponents, ImageUpscaleWithModel, CreateVideo, SaveVideo, one after
the other, where what each node gives is kept to the end, as a prompt's outputs are; "ours" has our node between
LoadVideo and SaveVideo. Writes the seconds from film to film as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from fractions import Fraction
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

_OURS = "upscale_pack"


def load(model_file: str) -> Any:
    """As core's loader does."""
    management, patching = import_module("comfy.model_management"), import_module("comfy.model_patcher")
    weights = import_module("comfy.utils").load_torch_file(model_file, safe_load=True)
    model: Any = import_module("spandrel").ModelLoader().load_from_state_dict(weights).eval()
    model.patcher = patching.CoreModelPatcher(
        model.model, load_device=management.get_torch_device(), offload_device=management.unet_offload_device()
    )
    return model


def by_core(model: Any, film: Any, out: str) -> int:
    """How many frames there were."""
    video: Any = import_module("comfy_api.latest")
    node = import_module("comfy_extras.nodes_upscale_model").ImageUpscaleWithModel
    parts = film.get_components()
    larger = node.execute(model, parts.images).args[0]
    made = video.InputImpl.VideoFromComponents(
        video.Types.VideoComponents(images=larger, audio=parts.audio, frame_rate=Fraction(parts.frame_rate))
    )
    made.save_to(out, format=video.Types.VideoContainer("mp4"), codec=video.Types.VideoCodec("auto"))
    return len(parts.images)


def load_ours() -> None:
    """This pack, imported as ComfyUI does when it starts, with its nodes, which import ComfyUI's server: neither is the
    film's time."""
    pack = Path(__file__).absolute().parent.parent
    spec: Any = spec_from_file_location(_OURS, pack / "__init__.py", submodule_search_locations=[str(pack)])
    sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])
    _ = sys.modules[spec.name].NODE_CLASS_MAPPINGS


def by_ours(model: Any, film: Any, out: str) -> int:
    """The same."""
    node = sys.modules[_OURS].NODE_CLASS_MAPPINGS["UpscaleVideoCUDAspeed"]()
    (made,) = node.upscale(model, film, precision="fp32", enable_compile="disable")
    made.save_to(out)
    return made.get_frame_count()


def upscale_film() -> None:
    whose, model_file, film, out = sys.argv[1:]
    import_module("comfy.cli_args").args.cpu = True  # first of all: what is imported next looks for CUDA
    video, model = import_module("comfy_api.latest"), load(model_file)
    if whose == "ours":
        load_ours()
    began = time.perf_counter()
    frames = {"core": by_core, "ours": by_ours}[whose](model, video.InputImpl.VideoFromFile(film), out)
    sys.stdout.write(json.dumps({"seconds": time.perf_counter() - began, "frames": frames}) + "\n")


if __name__ == "__main__":
    upscale_film()
