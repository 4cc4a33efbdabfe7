"""The widgets of the nodes: how the host shows them, and what options they stand for."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from ..api.errors import BadOptionError
from ..api.options import (
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
from ..api.resize import FITS, MOST_SCALE, MOST_SIDE, RESAMPLES, Resize
from ..latents.options import LATENT_RESAMPLINGS, MOST_LATENT_SCALE, LatentSize
from ..video.encoders import ENCODERS
from ..video.options import AUTOMATIC, BITS, CODECS, VideoOptions

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

Widgets = dict[str, tuple[Any, dict[str, Any]]]
MODEL = ("UPSCALE_MODEL", {"tooltip": "From Load Upscale Model."})
# Names, order, types and defaults are the original pack's: saved workflows hold values by position.
_REQUIRED: Widgets = {
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
            "step": 8,  # what is typed is rounded to steps: with 64, 30 would become 0, which means automatic
            "tooltip": "Largest side of a tile in input pixels; 0: automatic, the whole picture where memory allows.",
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
        {"default": "enable", "tooltip": "Use compiled code, and compile in the background once the work repays it."},
    ),
    "optimization_level": (
        [*LEVELS],
        {
            "default": "balanced",
            "tooltip": "How much of the free memory to use: half (balanced), nearly all (speed), "
            "as little as is sensible (memory).",
        },
    ),
}
_OPTIONAL: Widgets = {
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
    "devices": (
        "STRING",
        {
            "default": "",
            "tooltip": "Devices that share the work, as cuda:0,cuda:1, or all. Each has its own copy of the model, and "
            "computes some of the frames, or a part of a single picture. Empty: ComfyUI's device.",
        },
    ),
}
_NO_OPTIONS = ("devices",)  # where, and not how, pictures are upscaled


def _folded(widgets: Widgets, seen: Container[str]) -> Widgets:
    """Those that are not `seen` at first: folded away, where the host can, until somebody asks for all."""
    return {
        name: (kind, shown if name in seen else {**shown, "advanced": True}) for name, (kind, shown) in widgets.items()
    }


_SEEN_OF_PICTURES = ("precision", "tile_size", "enable_compile")
REQUIRED = _folded(_REQUIRED, _SEEN_OF_PICTURES)
OPTIONAL = _folded(_OPTIONAL, _SEEN_OF_PICTURES)

_OF_FILMS: Widgets = {
    "codec": (
        [*CODECS],
        {
            "default": AUTOMATIC,
            "tooltip": "The encoder. auto: H.264 by libx264, VP9 in webm. A codec that is chosen in Save Video wins.",
        },
    ),
    "crf": (
        "INT",
        {
            "default": -1,
            "min": -1,
            "max": max(encoder.most_crf for encoder in ENCODERS.values()),
            "step": 1,
            "tooltip": "The encoder's number for quality: small is good, and large files. -1: visually lossless, 17 to "
            "24 by the encoder.",
        },
    ),
    "bit_depth": (
        [AUTOMATIC, *(str(bits) for bits in BITS if bits)],
        {"default": AUTOMATIC, "tooltip": "Bits a channel of the result. auto: 8 as the film, 10 for one of more."},
    ),
    "segments": (
        ["disable", "enable"],
        {
            "default": "disable",
            "tooltip": "Keep what is done in segments of 10 seconds: after an interrupt or a crash, the same prompt "
            "goes on with them. The video takes twice the room while it is put together.",
        },
    ),
}
_SEGMENT_SECONDS = 10.0
_NOT_FOR_FILMS = {"tiling_mode"}  # nobody's film is a seamless texture
_SIZES_OF_FILMS = ("scale_by", "target_width", "target_height", "fit")
_SEEN_OF_FILMS = ("codec", "crf", "bit_depth", *_SIZES_OF_FILMS)
_FILM: Widgets = {
    **_OF_FILMS,
    **{name: _OPTIONAL[name] for name in _SIZES_OF_FILMS},
    **{name: widget for name, widget in {**_REQUIRED, **_OPTIONAL}.items() if name not in _NOT_FOR_FILMS},
}
_LATENT_SIZE: Widgets = {
    "scale_by": (
        "FLOAT",
        {
            "default": 0.0,
            "min": 0.0,
            "max": MOST_LATENT_SCALE,
            "step": 0.01,
            "tooltip": "Size of the result, as a factor of the latent's; 0: the most that the model enlarges by.",
        },
    ),
    "resampling": (
        [*LATENT_RESAMPLINGS],
        {
            "default": "none",
            "tooltip": "How a size is reached that the model has not. none: it is an error. area: means, blurred. "
            "bislerp: turns from one latent pixel to the next, and keeps their length.",
        },
    ),
}
_OF_LATENTS = (*_REQUIRED, "batch_size", "compile_mode", "reproducible")
LATENT = {
    **_LATENT_SIZE,
    **_folded({name: {**_REQUIRED, **_OPTIONAL}[name] for name in _OF_LATENTS}, _SEEN_OF_PICTURES),
}
"""Those of a latent: its size, and what pictures have, too, as far as it means something."""
FILM = _folded(_FILM, _SEEN_OF_FILMS)
"""Those of a film: how it is written, its size, and, folded away where the host can, what pictures have, too."""


def check_names(given: Iterable[str], known: Container[str]) -> None:
    """Raises `BadOptionError` where a node is given an input that it does not have. The host leaves out such that are
    values, but not those that come along wires."""
    unknown = sorted(name for name in given if name not in known)
    if unknown:
        names = ", ".join(map(repr, unknown))
        raise BadOptionError(f"this node has no input {names}; disconnect it, or update the pack that has the node")


def options_of(widgets: Mapping[str, Any]) -> UpscaleOptions:
    """A node's widgets, name -> value, as options: "enable" and "disable" become booleans. What has no widget stays as
    it is by default. Raises `BadOptionError` on a value that cannot be."""
    of_pictures = {name: value for name, value in widgets.items() if name not in (*_OF_FILMS, *_NO_OPTIONS)}
    options = {_OPTIONS.get(name, name): value for name, value in of_pictures.items() if name not in _SIZE}
    size = {_SIZE[name]: value for name, value in widgets.items() if name in _SIZE}
    for name, usual in _SWITCHES.items():
        options[_OPTIONS.get(name, name)] = _is_enabled(name, widgets.get(name, usual))
    return UpscaleOptions(**options, resize=Resize(**size))


def devices_of(widgets: Mapping[str, Any]) -> str:
    """A node's widgets, of which it takes the devices that are asked for; "" where none are. Raises `BadOptionError`
    for what is no text."""
    devices = widgets.get("devices", "")
    if not isinstance(devices, str):
        raise BadOptionError(
            f"devices is {devices!r:.200}; give names with commas between them, as cuda:0,cuda:1, or all"
        )
    return devices


def latent_size_of(widgets: Mapping[str, Any]) -> LatentSize:
    """A node's widgets, of which it takes those of a latent's size. Raises `BadOptionError`."""
    return LatentSize(widgets.get("scale_by", 0.0), widgets.get("resampling", "none"))


def latent_options_of(widgets: Mapping[str, Any]) -> UpscaleOptions:
    """The rest of a latent's widgets, as `options_of`."""
    return options_of({name: value for name, value in widgets.items() if name not in _LATENT_SIZE})


def video_options_of(widgets: Mapping[str, Any]) -> VideoOptions:
    """A node's widgets, of which it takes those that only films have, as options. Raises `BadOptionError`."""
    crf, bits = widgets.get("crf", -1), widgets.get("bit_depth", AUTOMATIC)
    choices = _OF_FILMS["bit_depth"][0]
    if bits not in choices:
        raise BadOptionError(f"bit_depth is {bits!r}; choose one of {', '.join(choices)}")
    segments = _is_enabled("segments", widgets.get("segments", "disable"))
    return VideoOptions(
        codec=widgets.get("codec", AUTOMATIC),
        crf=None if crf == -1 else crf,
        bits=0 if bits == AUTOMATIC else int(bits),
        segment_seconds=_SEGMENT_SECONDS if segments else 0,
    )


def _is_enabled(name: str, switch: object) -> bool:
    if switch not in ("enable", "disable"):
        raise BadOptionError(f"{name} is {switch!r}; choose enable or disable")
    return switch == "enable"
