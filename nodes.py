"""The node classes: widgets in, one call, results out."""

from __future__ import annotations

from typing import Any

from spandrel import ImageModelDescriptor
from torch import Tensor

from .canvas.last_run import with_last_run
from .canvas.lazy_video import LazyVideo
from .canvas.validation import ChecksSize
from .canvas.video_wires import lazy_video
from .canvas.widgets import FILM, MODEL, OPTIONAL, REQUIRED, options_of, video_options_of
from .host import upscale_models
from .host.context import errors_said, run_context
from .upscale_engine import upscale, warm_up

upscale_models.offer_bundled_models()


class UpscaleImageCUDAspeed(ChecksSize):
    """Upscale images with a model: tiled, in half precision and compiled where that is safe and pays."""

    CATEGORY = "image/upscaling"
    DESCRIPTION = (
        "Upscales images with an upscale model, fast and without running out of memory. "
        "Every setting can stay as it is: tile, overlap, precision and compiling are chosen automatically."
    )
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "upscale"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "upscale_model": MODEL,
                "image": ("IMAGE", {"tooltip": "One or more frames, with or without alpha."}),
                **REQUIRED,
            },
            "optional": OPTIONAL,
        }

    def upscale(self, upscale_model: ImageModelDescriptor, image: Tensor, **widgets: Any) -> dict[str, Any]:
        """`image` [B, H, W, C] 0..1 -> under "result" ([B, H*scale, W*scale, C] 0..1,), or of the size that is wanted,
        in ComfyUI's output type and device; under "ui" what the page shows of the run."""
        with run_context(upscale_model) as context:
            options = options_of(widgets)
            return with_last_run(upscale(image, upscale_model, options, context), options)


class ImageUpscaleWithModelCUDAspeedFixed(UpscaleImageCUDAspeed):
    """The same node under the original pack's id, so that workflows saved with that run."""

    DEPRECATED = True


class UpscaleVideoCUDAspeed(ChecksSize):
    """Upscale a film with a model while it is saved, so that it may be of any length."""

    CATEGORY = "image/upscaling"
    DESCRIPTION = (
        "Upscales a video of any length with an upscale model. It is computed frame by frame while Save Video writes "
        "it, with its sound, subtitles, chapters and colours, in memory that does not grow with it. "
        "Every setting can stay as it is."
    )
    SEARCH_ALIASES = ("video upscaler", "upscale film", "enlarge video", "super resolution", "video enhance")
    RETURN_TYPES = ("VIDEO",)
    OUTPUT_TOOLTIPS = ("Upscaled when it is saved. For its frames as images it must fit into memory.",)
    FUNCTION = "upscale"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "upscale_model": MODEL,
                "video": ("VIDEO", {"tooltip": "From Load Video, or any other node that makes one."}),
            },
            "optional": FILM,
        }

    def upscale(self, upscale_model: ImageModelDescriptor, video: Any, **widgets: Any) -> tuple[LazyVideo]:
        """The video upscaled, of which nothing but the first frame was looked at. Raises what cannot be written."""
        with errors_said():
            made = lazy_video(video, upscale_model, options_of(widgets), video_options_of(widgets))
            made.check()
        return (made,)


class WarmUpUpscalerCUDAspeed:
    """Find out ahead of time what suits an upscale model here, and compile it, so that no later run does."""

    CATEGORY = "image/upscaling"
    DESCRIPTION = (
        "Finds out how an upscale model is computed best here, compiles it for pictures of a size, and waits for it. "
        "The result is kept on disk: every later run of this model, in this and later sessions, begins with it. "
        "Use the same precision settings as in the upscaling node."
    )
    RETURN_TYPES = ("UPSCALE_MODEL", "STRING")
    RETURN_NAMES = ("upscale_model", "status")
    FUNCTION = "warm_up"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        side = {"default": 1024, "min": 1, "max": 16384, "step": 1}
        return {
            "required": {
                "upscale_model": MODEL,
                "width": ("INT", {**side, "tooltip": "Width of the pictures to come, before upscaling."}),
                "height": ("INT", {**side, "tooltip": "Height of the pictures to come, before upscaling."}),
                **{name: REQUIRED[name] for name in ("use_autocast", "precision", "tile_size")},
            }
        }

    def warm_up(self, upscale_model: ImageModelDescriptor, width: int, height: int, **widgets: Any) -> dict[str, Any]:
        """The model as it came, and "compiled", or in a few words why it is not."""
        with run_context(upscale_model) as context:
            status = warm_up(upscale_model, (height, width), options_of(widgets), context)
        return {"ui": {"text": (status,)}, "result": (upscale_model, status)}


class UpscaleModelLoader:
    """Load an upscale model. ComfyUI has a node of this name and keeps its own; this one serves hosts without it."""

    CATEGORY = "loaders"
    DESCRIPTION = "Loads a single-image upscale model through spandrel."
    RETURN_TYPES = ("UPSCALE_MODEL",)
    FUNCTION = "load_model"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model_name": (upscale_models.upscale_model_names(),)}}

    def load_model(self, model_name: str) -> tuple[ImageModelDescriptor]:
        """The model of that name, on the CPU, in the precision of its file."""
        return (upscale_models.load_upscale_model(model_name),)


NODE_CLASS_MAPPINGS = {
    "UpscaleImageCUDAspeed": UpscaleImageCUDAspeed,
    "ImageUpscaleWithModelCUDAspeedFixed": ImageUpscaleWithModelCUDAspeedFixed,
    "UpscaleVideoCUDAspeed": UpscaleVideoCUDAspeed,
    "WarmUpUpscalerCUDAspeed": WarmUpUpscalerCUDAspeed,
    "UpscaleModelLoader": UpscaleModelLoader,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "UpscaleImageCUDAspeed": "🚀 Upscale Image CUDAspeed",
    "ImageUpscaleWithModelCUDAspeedFixed": "🚀 Upscale Image CUDAspeed (old workflows)",
    "UpscaleVideoCUDAspeed": "🚀 Upscale Video CUDAspeed",
    "WarmUpUpscalerCUDAspeed": "Warm Up Upscaler (CUDAspeed)",
    "UpscaleModelLoader": "Load Upscale Model",
}
