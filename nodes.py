"""The node classes: widgets in, one call, results out."""

from __future__ import annotations

from typing import Any

from spandrel import ImageModelDescriptor
from torch import Tensor

from .api.report import UpscaleReport
from .canvas import aliases, old_values
from .canvas.last_run import with_last_run
from .canvas.lazy_video import LazyVideo, Work
from .canvas.model_list import model_list, one_node_widgets
from .canvas.offer import offer
from .canvas.validation import ChecksSize
from .canvas.video_wires import lazy_video
from .canvas.widgets import (
    FILM,
    LATENT,
    MODEL,
    OPTIONAL,
    REQUIRED,
    check_names,
    devices_of,
    latent_options_of,
    latent_size_of,
    options_of,
    video_options_of,
)
from .host import latent_models, upscale_models
from .host.context import errors_said, run_context
from .host.language import in_users_language
from .latents.architectures.convolutions import SCALES
from .latents.loader import check_latent_model
from .latents.model import LatentModel
from .latents.upscale import upscale_latent
from .upscale_engine import upscale, upscale_into, warm_up

upscale_models.offer_bundled_models()

_OF_PICTURES = {*REQUIRED, *OPTIONAL}
_OF_WARMING_UP = ("use_autocast", "precision", "tile_size")


class UpscaleImageCUDAspeed(ChecksSize):
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

    def upscale(self, upscale_model: ImageModelDescriptor, image: Tensor, **widgets: Any) -> dict[str, Any]:
        """`image` [B, H, W, C] 0..1 -> under "result" ([B, H*scale, W*scale, C] 0..1,), or of the size that is wanted,
        in ComfyUI's output type and device; under "ui" what the page shows of the run."""
        with errors_said():
            check_names(widgets, _OF_PICTURES)
            options, devices = options_of(widgets), devices_of(widgets)
        with run_context(upscale_model, devices) as context:
            made = upscale(image, upscale_model, options, context)
            return with_last_run(made.image, made.report, options)


class ImageUpscaleWithModelCUDAspeedFixed(UpscaleImageCUDAspeed):
    """The same node under the original pack's id, so that workflows saved with that run."""

    DESCRIPTION = (
        "The node of the original CUDAspeed pack, kept so that workflows saved with it run. "
        "For new ones take Upscale Image CUDAspeed, which does the same."
    )
    DEPRECATED = True

    def upscale(self, upscale_model: ImageModelDescriptor, image: Tensor, **widgets: Any) -> Any:
        """As the node of today, whichever of the original pack's formats the widgets come from."""
        return super().upscale(upscale_model, image, **old_values.as_now(widgets))


class ImageUpscaleWithModelCUDAspeed(ImageUpscaleWithModelCUDAspeedFixed):
    """The original pack's first node, for hosts that cannot replace nodes. It computes on one device."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        tile, overlap = REQUIRED["tile_size"], REQUIRED["overlap"]
        return {
            "required": {
                "upscale_model": MODEL,
                "image": ("IMAGE", {"tooltip": "One or more frames, with or without alpha."}),
                **{name: REQUIRED[name] for name in ("use_autocast", "precision")},
                "multi_gpu_mode": (["auto", "primary_only", "dual_gpu"], {"tooltip": "Not used any more."}),
                "tile_size": (tile[0], {**tile[1], "default": 512}),
                "overlap": (overlap[0], {**overlap[1], "default": 32}),
            },
            "optional": {
                "gpu_load_balance": (
                    "FLOAT",
                    {"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": "Not used any more."},
                )
            },
        }


class UpscaleImageWithModelCUDAspeed(UpscaleImageCUDAspeed):
    """Load a model and upscale images with it, in one node."""

    DESCRIPTION = (
        "Upscales images with an upscale model from the list: a loader and an upscaling node in one. "
        "Every setting but the model can stay as it is."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model_name": model_list(),
                "image": ("IMAGE", {"tooltip": "One or more frames, with or without alpha."}),
            },
            "optional": one_node_widgets(),
        }

    @classmethod
    def VALIDATE_INPUTS(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, model_name: str | None = None
    ) -> bool | str:
        """True, or what is wrong with the file, before anything runs. Of the wanted size the host checks the ranges:
        with it in here too, a wrong one would mark the model, and a wrong model the size."""
        return _usable(model_name)

    @classmethod
    def IS_CHANGED(cls, model_name: str | None = None, **_: Any) -> str:
        """Another text when the file is another one, and nothing else: what is the same does not run again."""
        return "" if model_name is None else upscale_models.upscale_model_stamp(model_name)

    def upscale(self, model_name: str, image: Tensor, **widgets: Any) -> Any:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        """As the loader and the upscaling node one after the other. The model stays a while for the next prompt."""
        with errors_said():
            check_names(widgets, _OF_PICTURES)
            options_of(widgets)  # before a model is loaded in vain
            model = upscale_models.load_upscale_model(model_name, keep=True)
        return super().upscale(model, image, **widgets)


class UpscaleVideoCUDAspeed(ChecksSize):
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

    @errors_said()
    def upscale(self, upscale_model: ImageModelDescriptor, video: Any, **widgets: Any) -> tuple[LazyVideo]:
        """The video upscaled, of which nothing but the first frame was looked at. Raises what cannot be written."""
        check_names(widgets, FILM)
        work = Work(upscale_model, options_of(widgets), video_options_of(widgets), devices_of(widgets))
        made = lazy_video(video, work)
        made.check()
        return (made,)


class UpscaleLatentCUDAspeed:
    """Upscale latents between two samplers, without decoding them."""

    CATEGORY = "latent/upscaling"
    DESCRIPTION = (
        "Upscales a latent with a latent upscaler, for a second sampler, without decoding and encoding it. "
        "Every setting can stay as it is."
    )
    SEARCH_ALIASES = aliases.OF_LATENTS
    RETURN_TYPES = ("LATENT",)
    RETURN_NAMES = ("latent",)
    OUTPUT_TOOLTIPS = ("The enlarged latent, with its mask, and all else that came with it.",)
    FUNCTION = "upscale"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "latent_upscale_model": (
                    "LATENT_UPSCALE_MODEL",
                    {"tooltip": "From Load Latent Upscale Model (CUDAspeed)."},
                ),
                "latent": (
                    "LATENT",
                    {"tooltip": "Of one picture, several, or a film, as a sampler gives it."},
                ),
            },
            "optional": {
                **LATENT,
                "vae": ("VAE", {"tooltip": "Only for Flux2: its VAE, by which its latents are normalised."}),
            },
        }

    def upscale(
        self, latent_upscale_model: object, latent: dict[str, Any], vae: object = None, **widgets: Any
    ) -> dict[str, Any]:
        """`latent` with samples [B, C, H, W] or [B, C, T, H, W] -> under "result" (the same, larger,); under "ui" what
        the page shows of the run."""
        with errors_said():
            check_names(widgets, LATENT)
            model = check_latent_model(latent_upscale_model)
        with run_context(model) as context:
            options = latent_options_of(widgets)

            def enlarge(frames: Tensor, target: Tensor, scaled: LatentModel) -> UpscaleReport:
                return upscale_into(frames, target, scaled, options, context)

            made, report = upscale_latent(latent, model, latent_size_of(widgets), enlarge, vae)
            return with_last_run(made, report, options)


class LatentUpscaleModelLoaderCUDAspeed:
    """Load a latent upscaler by our own reader, which runs nothing that is in the file and says what a wrong one is."""

    CATEGORY = "loaders"
    DESCRIPTION = (
        "Loads a latent upscaler of sudo-latent-upscale, SD-Latent-Upscaler, NNLatentUpscale or SesquiLSR: "
        "safely, whatever the file holds, and saying what it is where it is no such model."
    )
    SEARCH_ALIASES = aliases.OF_LOADING_LATENT
    RETURN_TYPES = ("LATENT_UPSCALE_MODEL",)
    RETURN_NAMES = ("latent_upscale_model",)
    OUTPUT_TOOLTIPS = ("For Upscale Latent CUDAspeed.",)
    FUNCTION = "load_model"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        names = latent_models.latent_model_names()
        return {
            "required": {"model_name": (names, {"tooltip": "A file in models/latent_upscale_models."})},
            "optional": {
                "scale": (
                    ["auto", *(f"{scale:g}" for scale in SCALES)],
                    {
                        "default": "auto",
                        "advanced": True,
                        "tooltip": "What a file of SD-Latent-Upscaler enlarges by that was renamed: its weights do not "
                        "tell. auto: by its name.",
                    },
                )
            },
        }

    @classmethod
    def IS_CHANGED(cls, model_name: str | None = None, **_: Any) -> str:
        """Another text when the file is another one."""
        return "" if model_name is None else latent_models.latent_model_stamp(model_name)

    @errors_said()
    def load_model(self, model_name: str, scale: str = "auto", **others: Any) -> tuple[LatentModel]:
        """The latent upscaler of that name, on the CPU, in the precision of its file."""
        check_names(others, ())
        model = latent_models.load_latent_upscaler(model_name, None if scale == "auto" else float(scale))
        with run_context(model) as context:
            context.say(f"{model_name}: {latent_models.summary_of(model)}")
        return (model,)


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
                **{name: REQUIRED[name] for name in _OF_WARMING_UP},
            }
        }

    def warm_up(self, upscale_model: ImageModelDescriptor, width: int, height: int, **widgets: Any) -> dict[str, Any]:
        """The model as it came, and "compiled", or in a few words why it is not."""
        with run_context(upscale_model) as context:
            check_names(widgets, _OF_WARMING_UP)
            status = warm_up(upscale_model, (height, width), options_of(widgets), context)
        return {"ui": {"text": (status,)}, "result": (upscale_model, status)}


class UpscaleModelLoaderCUDAspeed:
    """Load an upscale model by our own reader, which runs nothing that is in the file and says what a wrong one is."""

    CATEGORY = "loaders"
    DESCRIPTION = (
        "Loads an upscale model: safely, whatever the file holds, and saying what it is where it is no such model. "
        "The list shows each model's scale and architecture."
    )
    SEARCH_ALIASES = aliases.OF_LOADING
    RETURN_TYPES = ("UPSCALE_MODEL",)
    RETURN_NAMES = ("upscale_model",)
    OUTPUT_TOOLTIPS = ("For Upscale Image CUDAspeed, and for ComfyUI's own Upscale Image (using Model).",)
    FUNCTION = "load_model"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model_name": model_list()}}

    @classmethod
    def VALIDATE_INPUTS(cls, model_name: str | None = None) -> bool | str:
        """True, or what is wrong with the file, before anything runs."""
        return _usable(model_name)

    @classmethod
    def IS_CHANGED(cls, model_name: str | None = None) -> str:
        """Another text when the file is another one."""
        return "" if model_name is None else upscale_models.upscale_model_stamp(model_name)

    @errors_said()
    def load_model(self, model_name: str, **others: Any) -> tuple[ImageModelDescriptor]:
        """The model of that name, on the CPU, in the precision of its file; what it is stays to be read on the node."""
        check_names(others, ())
        model = upscale_models.load_upscale_model(model_name)
        with run_context(model) as context:
            context.say(f"{model_name}: {upscale_models.summary_of(model)}")
        return (model,)


def _usable(model_name: str | None) -> bool | str:
    """True, or what is wrong with a model by its name; None comes along a wire, and is known when it is run."""
    return model_name is None or in_users_language(upscale_models.check_upscale_model(model_name)) or True


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

    @errors_said()
    def load_model(self, model_name: str, **others: Any) -> tuple[ImageModelDescriptor]:
        """The model of that name, on the CPU, in the precision of its file."""
        check_names(others, ())
        return (upscale_models.load_upscale_model(model_name),)


_CLASSES = {
    "UpscaleImageCUDAspeed": UpscaleImageCUDAspeed,
    "UpscaleImageWithModelCUDAspeed": UpscaleImageWithModelCUDAspeed,
    "UpscaleModelLoaderCUDAspeed": UpscaleModelLoaderCUDAspeed,
    old_values.FIXED: ImageUpscaleWithModelCUDAspeedFixed,
    "UpscaleVideoCUDAspeed": UpscaleVideoCUDAspeed,
    "UpscaleLatentCUDAspeed": UpscaleLatentCUDAspeed,
    "LatentUpscaleModelLoaderCUDAspeed": LatentUpscaleModelLoaderCUDAspeed,
    "WarmUpUpscalerCUDAspeed": WarmUpUpscalerCUDAspeed,
    "UpscaleModelLoader": UpscaleModelLoader,
}
_OFFER = offer(_CLASSES, ImageUpscaleWithModelCUDAspeed)
NODE_CLASS_MAPPINGS, WEB_DIRECTORY = _OFFER.nodes, _OFFER.web_directory
_DISPLAY_NAMES = {
    "UpscaleImageCUDAspeed": "🚀 Upscale Image CUDAspeed",
    "UpscaleImageWithModelCUDAspeed": "🚀 Upscale Image with Model CUDAspeed",
    "UpscaleModelLoaderCUDAspeed": "Load Upscale Model (CUDAspeed)",
    old_values.FIXED: "🚀 Upscale Image CUDAspeed (old workflows)",
    old_values.FOR_TWO_CARDS: "🚀 Upscale Image CUDAspeed (for two cards, old workflows)",
    "UpscaleVideoCUDAspeed": "🚀 Upscale Video CUDAspeed",
    "UpscaleLatentCUDAspeed": "🚀 Upscale Latent CUDAspeed",
    "LatentUpscaleModelLoaderCUDAspeed": "Load Latent Upscale Model (CUDAspeed)",
    "WarmUpUpscalerCUDAspeed": "Warm Up Upscaler (CUDAspeed)",
    "UpscaleModelLoader": "Load Upscale Model",
}
NODE_DISPLAY_NAME_MAPPINGS = {name: _DISPLAY_NAMES[name] for name in NODE_CLASS_MAPPINGS}
