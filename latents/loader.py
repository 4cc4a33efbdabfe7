"""Latent upscalers' files: which family one is of, and loading it without ever running code that came with it.

Families are told by the names of their weights, before spandrel is asked: it takes SwinFIR for SwinIR and DRCTFIR for
DRCT, and fails on what these have besides.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from spandrel import ModelBase, ModelLoader
from torch import Tensor, nn

from ..api.errors import BadModelError, BadOptionError, first_line
from ..memory import is_out_of_memory
from ..models import latent_upscalers
from ..models.construction import BoundedConstruction
from ..models.formats.errors import shown
from ..models.loader import not_an_upscaler, resolve_model
from ..models.meshgrid import ExplicitMeshgrid
from ..models.weights import read_weights
from .any_scale import NETWORK_PREFIX, SCALE_BUFFER
from .architectures import convolutions, craft, dat, drct, resizer, sesqui, swinfir
from .architectures.convolutions import SCALES
from .architectures.loading import filled
from .architectures.masks import is_constant
from .model import Family, LatentModel, LatentTraits
from .names import base_of, scale_of

Weights = Mapping[str, Tensor]

_NNLATENT_FACTOR = 0.13025  # SDXL's scaling factor, which its models of SD 1.5 were trained with, too


@dataclass(frozen=True)
class _Kind:
    """A family: `told_by` a name of those in `FIRST_CONVOLUTIONS`.

    `network` is made of the weights, and of the scale where these do not tell it. Of the `traits`, channels, base and
    scales are read off the file.
    """

    told_by: str
    network: Callable[..., nn.Module]
    traits: LatentTraits


_MOST_TOLD = 200  # characters of what does not fit: the names of weights are long, and the shapes come after them
_CITY96: Family = "SD-Latent-Upscaler"
_WITHOUT_CANVAS = 2.0  # of city96's scales, the one that is a whole number
_WINDOWS = 24  # DAT and DRCT look one and a half of their windows far (models/known_fields.py)
_KINDS = (
    _Kind(latent_upscalers.SWINFIR, swinfir.network_for, LatentTraits("SwinFIR", divisor=8, whole=True)),
    _Kind(latent_upscalers.DRCTFIR, drct.network_for, LatentTraits("DRCTFIR", divisor=16, whole=True)),
    _Kind(latent_upscalers.DRCT, drct.network_for, LatentTraits("DRCT", divisor=16, looks=_WINDOWS)),
    _Kind(latent_upscalers.DAT, dat.network_for, LatentTraits("DAT", divisor=16, looks=_WINDOWS)),
    _Kind(latent_upscalers.CRAFT, craft.network_for, LatentTraits("CRAFT", divisor=16, whole=True)),
    _Kind(latent_upscalers.CITY96_V2, convolutions.network_for, LatentTraits(_CITY96, looks=1, looks_enlarged=17)),
    _Kind(latent_upscalers.CITY96_V1, convolutions.network_for, LatentTraits(_CITY96, looks=2, looks_enlarged=11)),
    _Kind(
        latent_upscalers.NNLATENT,
        resizer.network_for,
        LatentTraits("NNLatentUpscale", scales=(1, 2), whole=True, sized=True, factor=_NNLATENT_FACTOR),
    ),
    _Kind(
        latent_upscalers.SESQUI,
        sesqui.network_for,
        # it mirrors two pixels at its edges, of a result that may be half as large
        LatentTraits("SesquiLSR", scales=(1, 2), minimum=6, whole=True, sized=True),
    ),
)


def load_latent_model(model: str | os.PathLike[str], scale: float | None = None) -> LatentModel:
    """Load a latent upscaler (safetensors, or weights by `torch.save`) to the CPU, in evaluation mode.

    `model` is a file's path, or the name of one in CUDASPEED_MODELS. `scale` is asked for where neither the weights nor
    the file's name tell what it enlarges by (city96's files that were renamed): 1.25, 1.5 or 2. Where they do, it is
    not looked at. Raises `BadModelError` for what `read_weights` refuses, for what is no latent upscaler, and for
    weights that do not fit together; `BadOptionError` where `scale` is missing, or is none of those.
    """
    path = resolve_model(model) if isinstance(model, str) else Path(model)
    return _made_of(read_weights(path, needed=lambda name: not is_constant(name)), path, scale)


def load_copied(path: Path) -> LatentModel:
    """A model whose module's state a run has written down, to be compiled elsewhere; for one scale, where it was."""
    weights = read_weights(path)
    scale = weights.pop(SCALE_BUFFER, None)
    if scale is None:
        return _made_of(weights, path, _WITHOUT_CANVAS)
    inner = {name.removeprefix(NETWORK_PREFIX): weight for name, weight in weights.items()}
    return _made_of(inner, path, float(scale)).at_scale(float(scale))


def _made_of(weights: dict[str, Tensor], path: Path, scale: float | None) -> LatentModel:
    kind = next((kind for kind in _KINDS if kind.told_by in weights), None)
    if kind is None:
        raise BadModelError(f"{path}: {_what_else(read_weights(path))}")  # with what other models have
    channels = _channels_of(path, kind, weights)
    scales = _scales_of(path, kind, scale)
    try:
        with BoundedConstruction(weights):
            network = _network_for(kind, weights, scales[1])
        filled(network, weights)
    except Exception as error:  # architectures raise all sorts on weights that do not fit together
        if is_out_of_memory(error):
            raise MemoryError(f"{path}: there is no memory for the model; close other programs") from error
        raise BadModelError(
            f"{path}: {kind.traits.family} weights do not fit together: {shown(first_line(error), most=_MOST_TOLD)}"
        ) from error
    if isinstance(whole := getattr(network, "upscale", None), int):  # spandrel's; the weights told it
        scales = whole, whole
    divisor = kind.traits.divisor
    if isinstance(window := getattr(network, "window_size", None), int):  # of all that attend within windows
        divisor = window
    traits = replace(kind.traits, channels=channels, scales=scales, divisor=divisor, base=base_of(path.stem))
    return LatentModel(network, traits)


def _network_for(kind: _Kind, weights: Weights, scale: float) -> nn.Module:
    return kind.network(weights, scale) if kind.traits.family == _CITY96 else kind.network(weights)


def check_latent_model(model: object) -> LatentModel:
    """Return `model` if it is a latent upscaler of ours. Raises `BadModelError` otherwise, saying what it is and which
    node takes it."""
    if isinstance(model, LatentModel):
        return model
    if isinstance(model, ModelBase):
        raise BadModelError(
            f"{model.architecture.name} enlarges pictures, not latents; use UpscaleImageCUDAspeed behind a VAE Decode, "
            "or a model of LatentUpscaleModelLoaderCUDAspeed here"
        )
    raise BadModelError(
        f"the latent upscale model is a {type(model).__name__}; connect the output of "
        "LatentUpscaleModelLoaderCUDAspeed (models of ComfyUI's own loader are for its nodes for LTXV and Hunyuan)"
    )


def _channels_of(path: Path, kind: _Kind, weights: Weights) -> int:
    """Of the latents that it takes. Raises `BadModelError` where these are pictures, or nothing tells."""
    name = latent_upscalers.FIRST_CONVOLUTIONS[kind.told_by]
    first = weights.get(name)
    if first is None or first.ndim != 4:
        found = "is missing" if first is None else f"has the shape {[*first.shape]}"
        raise BadModelError(
            f"{path}: {kind.traits.family} weights need {name} of the shape [features, channels, rows, columns]; "
            f"it {found}"
        )
    channels = first.shape[1]
    if channels not in latent_upscalers.LATENT_CHANNELS:
        raise BadModelError(
            f"{path}: is {kind.traits.family} for {channels} channels, which are no latent's "
            f"({', '.join(map(str, latent_upscalers.LATENT_CHANNELS))}); a model for pictures is loaded by "
            "UpscaleModelLoader"
        )
    return channels


def _scales_of(path: Path, kind: _Kind, asked: float | None) -> tuple[float, float]:
    """The least and the greatest that it enlarges by. Raises `BadOptionError` where nothing tells."""
    if kind.traits.family != _CITY96:
        return kind.traits.scales
    scale = scale_of(path.stem) or asked
    if scale is None or round(scale, 6) not in SCALES:  # it may have been a float32 on its way
        raise BadOptionError(
            f"scale is {asked or 'not set'}, and neither the weights nor the name of {path.name} tell what it enlarges "
            f"by; set it to what it was trained for: {', '.join(f'{some:g}' for some in SCALES)}"
        )
    return scale, scale


def _what_else(weights: Weights) -> str:
    """What a file is that is no latent upscaler, as the end of a sentence on it."""
    try:
        with ExplicitMeshgrid(), BoundedConstruction(weights):
            name = ModelLoader().load_from_state_dict({**weights}).architecture.name
    except Exception:  # whatever it is, it is no model for pictures
        told = not_an_upscaler(weights)
        known = ", ".join(dict.fromkeys(kind.traits.family for kind in _KINDS))
        seen = ", ".join(shown(name, most=40) for name in [*weights][:3])
        if told.startswith("is "):
            return told
        return f"is no latent upscaler that is known here ({known}); its first weights are {seen}"
    return f"is a model for pictures ({name}): load it with UpscaleModelLoader, or choose a latent upscaler here"
