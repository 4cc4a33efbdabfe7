"""What Flux2's autoencoder does to latents behind its encoder, and takes back before its decoder.

Latent upscalers are for latents as the encoder gives them; Flux2's wire has them normalised, channel by channel of the
128 folded ones, by numbers that are among the autoencoder's weights (ComfyUI, comfy/ldm/models/autoencoder.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..api.errors import BadImageError

_LEAST_VARIANCE = 1e-4  # that its square roots are taken of more than


@dataclass(frozen=True)
class Normalisation:
    """`means` and `deviations` [C] of raw latents, float32."""

    means: Tensor
    deviations: Tensor

    def undone(self, samples: Tensor) -> Tensor:
        """Samples [B, C, ...] as on the wire -> raw ones, float32."""
        return samples.float() * _along(self.deviations, samples) + _along(self.means, samples)

    def done(self, raw: Tensor) -> Tensor:
        """Raw samples [B, C, ...] -> as on the wire."""
        return (raw - _along(self.means, raw)) / _along(self.deviations, raw)


def normalisation_of(vae: Any) -> Normalisation:
    """That of the autoencoder in a VAE of ComfyUI's. Raises `BadImageError` where it has none."""
    norm = getattr(getattr(vae, "first_stage_model", None), "bn", None)
    means, variances = getattr(norm, "running_mean", None), getattr(norm, "running_var", None)
    if not isinstance(means, Tensor) or not isinstance(variances, Tensor):
        raise BadImageError("the connected VAE normalises no latents, as Flux2's does; connect Flux2's, or none")
    return Normalisation(means.detach().float(), (variances.detach().float() + _LEAST_VARIANCE).sqrt())


def _along(values: Tensor, samples: Tensor) -> Tensor:
    return values.to(samples.device).view(1, -1, *[1] * (samples.ndim - 2))
