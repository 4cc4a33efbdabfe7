"""The node classes: widgets in, one call, a tuple out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spandrel import ImageModelDescriptor
from torch import Tensor

from . import host
from .api.errors import BadOptionError
from .api.options import (
    ALPHA_MODES,
    COMPILE_MODES,
    LEVELS,
    MAX_BATCH,
    MAX_OVERLAP,
    MAX_TILE,
    PRECISION_CHOICES,
    TILING_MODES,
    UpscaleOptions,
)
from .api.resize import FITS, MOST_SCALE, MOST_SIDE, RESAMPLES, Resize
from .upscale_engine import upscale, warm_up

# Widgets that are called otherwise than the option they set: by the original pack's names, or saved workflows break.
_OPTIONS = {
    "use_autocast": "autocast",
    "tile_size": "tile",
    "enable_compile": "compile",
    "optimization_level": "level",
}
# Those of the size that is wanted, and what `Resize` calls them.
_SIZE = {
    "scale_by": "scale_by",
    "target_width": "width",
    "target_height": "height",
    "fit": "fit",
    "resample": "resample",
}
_SWITCHES = {"use_autocast": "enable", "enable_compile": "enable", "reproducible": "disable"}  # as they are by default

host.offer_bundled_models()


def options_of(widgets: Mapping[str, Any]) -> UpscaleOptions:
    """A node's widgets, name -> value, as options: "enable" and "disable" become booleans. What has no widget stays as
    it is by default. Raises `BadOptionError` on a value that cannot be."""
    options = {_OPTIONS.get(name, name): value for name, value in widgets.items() if name not in _SIZE}
    size = {_SIZE[name]: value for name, value in widgets.items() if name in _SIZE}
    for name, usual in _SWITCHES.items():
        switch = widgets.get(name, usual)
        if switch not in ("enable", "disable"):
            raise BadOptionError(f"{name} is {switch!r}; choose enable or disable")
        options[_OPTIONS.get(name, name)] = switch == "enable"
    return UpscaleOptions(**options, resize=Resize(**size))


class UpscaleImageCUDAspeed:
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
        # Names, order, types and defaults are the original pack's: saved workflows hold values by position.
        return {
            "required": {
                "upscale_model": ("UPSCALE_MODEL", {"tooltip": "From Load Upscale Model."}),
                "image": ("IMAGE", {"tooltip": "One or more frames, with or without alpha."}),
                "use_autocast": (
                    ["enable", "disable"],
                    {
                        "default": "enable",
                        "tooltip": "In half precision, keep delicate operations in fp32. Disable: everything in half.",
                    },
                ),
                "precision": (
                    [*PRECISION_CHOICES],
                    {"default": "auto", "tooltip": "auto: the fastest that this model and device do well."},
                ),
                "tile_size": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": MAX_TILE,
                        "step": 64,
                        "tooltip": "Largest side of a tile in input pixels; 0: as large as memory allows.",
                    },
                ),
                "overlap": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": MAX_OVERLAP,
                        "step": 8,
                        "tooltip": "Least overlap of neighbouring tiles in input pixels; 0: what suits the model.",
                    },
                ),
                "enable_compile": (
                    ["enable", "disable"],
                    {"default": "enable", "tooltip": "Compile the model where the work ahead repays the wait."},
                ),
                "optimization_level": (
                    [*LEVELS],
                    {
                        "default": "balanced",
                        "tooltip": "How much of the free memory to use: half (balanced), nearly all (speed), "
                        "as little as is sensible (memory).",
                    },
                ),
            },
            "optional": {
                "batch_size": (
                    "INT",
                    {"default": 1, "min": 1, "max": MAX_BATCH, "step": 1, "tooltip": "Most frames computed at once."},
                ),
                "compile_mode": (
                    [*COMPILE_MODES],
                    {
                        "default": "auto",
                        "tooltip": "auto: compile in the background once the work repays it. background: at once. "
                        "wait: before the first tile.",
                    },
                ),
                "tiling_mode": (
                    [*TILING_MODES],
                    {
                        "default": "none",
                        "tooltip": "For seamless textures, which stay seamless. wrap: in both directions. "
                        "wrap_x: left to right. wrap_y: top to bottom.",
                    },
                ),
                "alpha_mode": (
                    [*ALPHA_MODES],
                    {
                        "default": "auto",
                        "tooltip": "How transparency is enlarged. auto: sharp edges by the model, anything else "
                        "smoothly (lanczos).",
                    },
                ),
                "reproducible": (
                    ["disable", "enable"],
                    {
                        "default": "disable",
                        "tooltip": "Only choices that need no measuring, so that two machines of one kind agree: "
                        "fp32 unless asked otherwise, torch's own kernels, nothing compiled. Slower.",
                    },
                ),
                "scale_by": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": MOST_SCALE,
                        "step": 0.01,
                        "tooltip": "Size of the result, as a factor of the input's; 0: the model's. Results are made "
                        "that size before they are stored; the model runs again where one run is not enough.",
                    },
                ),
                "target_width": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": MOST_SIDE,
                        "step": 1,
                        "tooltip": "Width of the result in pixels, instead of scale_by; 0: by the height.",
                    },
                ),
                "target_height": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": MOST_SIDE,
                        "step": 1,
                        "tooltip": "Height of the result in pixels, instead of scale_by; 0: by the width.",
                    },
                ),
                "fit": (
                    [*FITS],
                    {
                        "default": "stretch",
                        "tooltip": "Where target_width and target_height have another aspect. stretch: give it up. "
                        "crop: fill them, cut the rest off. pad: all of it, in black or transparent. inside: as large "
                        "as fits.",
                    },
                ),
                "resample": (
                    [*RESAMPLES],
                    {
                        "default": "lanczos",
                        "tooltip": "How the model's result is made the wanted size. lanczos: sharp. bicubic: softer. "
                        "area: the mean of what a pixel covers.",
                    },
                ),
            },
        }

    def upscale(self, upscale_model: ImageModelDescriptor, image: Tensor, **widgets: Any) -> tuple[Tensor]:
        """`image` [B, H, W, C] 0..1 -> ([B, H*scale, W*scale, C] 0..1,), or of the size that is wanted, in ComfyUI's
        output type and device."""
        options = options_of(widgets)
        with host.run_context(upscale_model) as context:
            return (upscale(image, upscale_model, options, context).image,)


class ImageUpscaleWithModelCUDAspeedFixed(UpscaleImageCUDAspeed):
    """The same node under the original pack's id, so that workflows saved with that run."""

    DEPRECATED = True


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
        asked = UpscaleImageCUDAspeed.INPUT_TYPES()["required"]
        return {
            "required": {
                "upscale_model": asked["upscale_model"],
                "width": ("INT", {**side, "tooltip": "Width of the pictures to come, before upscaling."}),
                "height": ("INT", {**side, "tooltip": "Height of the pictures to come, before upscaling."}),
                **{name: asked[name] for name in ("use_autocast", "precision", "tile_size")},
            }
        }

    def warm_up(self, upscale_model: ImageModelDescriptor, width: int, height: int, **widgets: Any) -> dict[str, Any]:
        """The model as it came, and "compiled", or in a few words why it is not."""
        with host.run_context(upscale_model) as context:
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
        return {"required": {"model_name": (host.upscale_model_names(),)}}

    def load_model(self, model_name: str) -> tuple[ImageModelDescriptor]:
        """The model of that name, on the CPU, in the precision of its file."""
        return (host.load_upscale_model(model_name),)


NODE_CLASS_MAPPINGS = {
    "UpscaleImageCUDAspeed": UpscaleImageCUDAspeed,
    "ImageUpscaleWithModelCUDAspeedFixed": ImageUpscaleWithModelCUDAspeedFixed,
    "WarmUpUpscalerCUDAspeed": WarmUpUpscalerCUDAspeed,
    "UpscaleModelLoader": UpscaleModelLoader,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "UpscaleImageCUDAspeed": "🚀 Upscale Image CUDAspeed",
    "ImageUpscaleWithModelCUDAspeedFixed": "🚀 Upscale Image CUDAspeed (old workflows)",
    "WarmUpUpscalerCUDAspeed": "Warm Up Upscaler (CUDAspeed)",
    "UpscaleModelLoader": "Load Upscale Model",
}
