"""The node classes: widgets in, one call, a tuple out."""

from __future__ import annotations

from typing import Any

from spandrel import ImageModelDescriptor
from torch import Tensor

from .canvas import aliases
from .canvas.lazy_video import LazyVideo
from .canvas.page_routes import offer_routes
from .canvas.video_wires import lazy_video
from .canvas.widgets import FILM, MODEL, OPTIONAL, REQUIRED, options_of, video_options_of
from .host import upscale_models
from .host.context import run_context
from .host.language import errors_in_users_language
from .upscale_engine import upscale, warm_up

upscale_models.offer_bundled_models()
offer_routes()


class UpscaleImageCUDAspeed:
    """Upscale images with a model: tiled, in half precision and compiled where that is safe and pays."""

    CATEGORY = "image/upscaling"
    DESCRIPTION = (
        "Upscales images with an upscale model, fast and without running out of memory. "
        "Every setting can stay as it is: tile, overlap, precision and compiling are chosen automatically."
    )
    SEARCH_ALIASES = aliases.OF_PICTURES
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("The upscaled frames, in the order in which they came, alpha included.",)
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

    @errors_in_users_language()
    def upscale(self, upscale_model: ImageModelDescriptor, image: Tensor, **widgets: Any) -> tuple[Tensor]:
        """`image` [B, H, W, C] 0..1 -> ([B, H*scale, W*scale, C] 0..1,), or of the size that is wanted, in ComfyUI's
        output type and device."""
        options = options_of(widgets)
        with run_context(upscale_model) as context:
            return (upscale(image, upscale_model, options, context).image,)


class ImageUpscaleWithModelCUDAspeedFixed(UpscaleImageCUDAspeed):
    """The same node under the original pack's id, so that workflows saved with that run."""

    DESCRIPTION = (
        "The node of the original CUDAspeed pack, kept so that workflows saved with it run. "
        "For new ones take Upscale Image CUDAspeed, which does the same."
    )
    DEPRECATED = True


class UpscaleVideoCUDAspeed:
    """Upscale a film with a model while it is saved, so that it may be of any length."""

    CATEGORY = "image/upscaling"
    DESCRIPTION = (
        "Upscales a video of any length with an upscale model. It is computed frame by frame while Save Video writes "
        "it, with its sound, subtitles, chapters and colours, in memory that does not grow with it. "
        "Every setting can stay as it is."
    )
    SEARCH_ALIASES = aliases.OF_FILMS
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

    @errors_in_users_language()
    def upscale(self, upscale_model: ImageModelDescriptor, video: Any, **widgets: Any) -> tuple[LazyVideo]:
        """The video upscaled, of which nothing but the first frame was looked at. Raises what cannot be written."""
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
    SEARCH_ALIASES = aliases.OF_WARMING_UP
    RETURN_TYPES = ("UPSCALE_MODEL", "STRING")
    RETURN_NAMES = ("upscale_model", "status")
    OUTPUT_TOOLTIPS = (
        "The model as it came: wired through this node, it is warmed up before it is used.",
        "compiled, not needed, or in a few words why it is not compiled.",
    )
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

    @errors_in_users_language()
    def warm_up(self, upscale_model: ImageModelDescriptor, width: int, height: int, **widgets: Any) -> dict[str, Any]:
        """The model as it came, and "compiled", or in a few words why it is not."""
        with run_context(upscale_model) as context:
            status = warm_up(upscale_model, (height, width), options_of(widgets), context)
        return {"ui": {"text": (status,)}, "result": (upscale_model, status)}


class UpscaleModelLoader:
    """Load an upscale model. ComfyUI has a node of this name and keeps its own; this one serves hosts without it."""

    CATEGORY = "loaders"
    DESCRIPTION = "Loads an upscale model for single images."
    SEARCH_ALIASES = aliases.OF_LOADING
    RETURN_TYPES = ("UPSCALE_MODEL",)
    OUTPUT_TOOLTIPS = ("The model, for every node that upscales with one.",)
    FUNCTION = "load_model"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        names = upscale_models.upscale_model_names()
        return {"required": {"model_name": (names, {"tooltip": "A file in models/upscale_models, or a bundled one."})}}

    @errors_in_users_language()
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
