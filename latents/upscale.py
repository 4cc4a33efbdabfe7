"""A LATENT through a latent upscaler: checked, laid out as frames, enlarged, and put back as it came.

The engine, which enlarges frames, stands above this package, and is handed over.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..api.errors import BadImageError, BadOptionError
from ..api.report import UpscaleReport
from .any_scale import Canvas, enlarged
from .layout import Layout, layout_of
from .loader import check_latent_model
from .model import LatentModel, LatentTraits
from .normalisation import Normalisation, normalisation_of
from .options import LatentResampling, LatentSize
from .resample import resample

logger = logging.getLogger("cudaspeed")

Latent = Mapping[str, Any]
"""As on ComfyUI's wires: "samples", and whatever else goes with them."""
Enlarge = Callable[[Tensor, Tensor, LatentModel], UpscaleReport]
"""Takes frames [F, h, w, C] through a model into a tensor [F, H, W, C] of the size that it gives, as
`upscale_engine.upscale_into` does."""

_BASES = {4: "SD 1.5, SDXL", 16: "Flux, SD3, Wan, Qwen", 32: "Flux2", 128: "Flux2"}


def upscale_latent(
    latent: Latent, model: object, size: LatentSize, enlarge: Enlarge, vae: object = None
) -> tuple[dict[str, Any], UpscaleReport]:
    """Enlarge a LATENT by a latent upscaler of ours.

    Samples [B, C, H, W] or [B, C, T, H, W], of any floating type and on any device, come back as such; a mask with
    them, "noise_mask", is made as much larger, and all else is carried. Values are not clamped. `vae`: ComfyUI's, for
    Flux2's latents, which its autoencoder normalises; no others need it. Raises `BadImageError` for what is no latent
    or not one for the model, and for a VAE that is not Flux2's where that is needed, `BadOptionError` for a scale that
    the model has not, `BadModelError` for what is no latent upscaler, and what `enlarge` raises.
    """
    model = check_latent_model(model)
    given = _checked_samples(latent)
    layout = _layout_of(given, model)
    own, wanted = _scales(model.traits, size)
    normalisation = normalisation_of(vae) if layout.folded and vae is not None else None
    raw = normalisation.undone(given) if normalisation else given
    frames, report = _through(layout.to_frames(raw), model, own, layout.result_size(own), enlarge)
    if wanted != own:
        frames = _resampled(frames, layout.result_size(wanted), size.resampling)
    samples = layout.to_wire(frames)
    if normalisation:
        samples = normalisation.done(samples).to(given.dtype)
    notes = (*report.notes, *_notes(model.traits, report, layout, normalisation))
    report = replace(report, output_size=(*samples.shape[-2:],), input_size=layout.shape[-2:], notes=notes)
    for warning in report.warnings:
        logger.warning(warning)
    result = {**latent, "samples": samples}
    if isinstance(mask := latent.get("noise_mask"), Tensor):
        result["noise_mask"] = _enlarged_mask(mask, wanted)
    return result, report


def _through(
    frames: Tensor, model: LatentModel, scale: float, result: tuple[int, int], enlarge: Enlarge
) -> tuple[Tensor, UpscaleReport]:
    """Frames [F, h, w, C] through the model at `scale`, [F, *result, C], and what `enlarge` tells."""
    canvas = Canvas((frames.shape[1], frames.shape[2]), result, scale)
    at_scale = model.at_scale(scale, canvas)
    direct = at_scale is model
    sides = result if direct else canvas.sides
    made = torch.empty(len(frames), *sides, frames.shape[3], dtype=frames.dtype, device=frames.device)
    report = enlarge(frames if direct else canvas.of(frames), made, at_scale)
    return made[:, : result[0], : result[1]], report


def _resampled(frames: Tensor, size: tuple[int, int], how: LatentResampling) -> Tensor:
    return resample(frames.permute(0, 3, 1, 2).float(), size, how).to(frames.dtype).permute(0, 2, 3, 1)


def _enlarged_mask(mask: Tensor, scale: float) -> Tensor:
    """A mask [..., H, W], of whatever rank, which may be of the latent's size or of the picture's."""
    size = [enlarged(side, scale) for side in mask.shape[-2:]]
    flat = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    return F.interpolate(flat, size=size, mode="bilinear").reshape(*mask.shape[:-2], *size).to(mask.dtype)


def _notes(
    traits: LatentTraits, report: UpscaleReport, layout: Layout, normalisation: Normalisation | None
) -> list[str]:
    """What one should know of the result."""
    notes = []
    if traits.whole and report.tiles > layout.frames:
        notes.append(
            f"{traits.family} looks at all of a latent at once and was computed in tiles, which changes the result; "
            "give it more memory, or a smaller latent"
        )
    if layout.folded and normalisation is None:
        notes.append(
            "Flux2's latents are normalised by its autoencoder, and were enlarged as they are, which is not what the "
            "model was trained for; connect Flux2's VAE"
        )
    return notes


def _scales(traits: LatentTraits, size: LatentSize) -> tuple[float, float]:
    """By how much the model enlarges, and by how much in the end. Raises `BadOptionError`."""
    least, most = traits.scales
    wanted = size.scale_by or most
    if least <= wanted <= most:
        return wanted, wanted
    told = f"{most:g}" if traits.fixed else f"{least:g} to {most:g}"
    if size.resampling == "none":
        raise BadOptionError(
            f"scale_by is {wanted:g}, and {traits.family} enlarges by {told}; set scale_by to that, or resampling to "
            "area or bislerp"
        )
    return min(max(wanted, least), most), wanted


def _layout_of(samples: Tensor, model: LatentModel) -> Layout:
    layout = layout_of((*samples.shape,), model.traits.channels)
    if layout is None:
        found, needed = samples.shape[1], model.traits.channels
        raise BadImageError(
            f"this latent has {found} channels ({_BASES.get(found, 'of a kind unknown here')}), and "
            f"{model.traits.family} is for {needed} ({model.traits.base or _BASES[needed]}); choose a latent upscaler "
            "for what made the latent"
        )
    return layout


def _checked_samples(latent: Latent) -> Tensor:
    """The samples of a LATENT. Raises `BadImageError` where there is nothing to enlarge."""
    samples = latent.get("samples") if isinstance(latent, Mapping) else None
    if getattr(samples, "is_nested", False):  # torch's, and ComfyUI's own
        raise BadImageError(
            "the latent has several tensors in one (picture and sound); split it, and enlarge one of them"
        )
    if not isinstance(samples, Tensor):
        raise BadImageError(f"the latent's samples are a {type(samples).__name__}; connect a LATENT")
    shape = (*samples.shape,)
    if samples.ndim not in (4, 5) or not samples.is_floating_point():
        raise BadImageError(
            f"the latent's samples are {samples.dtype} of the shape {shape}; floats [batch, channels, height, width], "
            "or with time before height, are needed"
        )
    if math.prod(shape) == 0:
        raise BadImageError(f"the latent has no values (shape {shape})")
    bad = int((~torch.isfinite(samples)).sum())
    if bad:
        raise BadImageError(
            f"{bad} of the latent's {samples.numel()} values are NaN or infinite; find the node that makes them "
            "(a sampler in half precision is the usual one)"
        )
    return samples
