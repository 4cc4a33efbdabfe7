"""Autoencoders of diffusion models, from a local folder as diffusers saves them: `config.json` and safetensors.

Both layouts: AutoencoderKL (of SD, SDXL, Flux, ...) and AutoencoderTiny (TAESD). The weights are read by this pack's
reader; diffusers makes the network. Pictures are -1..1, latents raw, without a scaling factor: those of 0..1, or
latents times 0.13025, are what training for sudo-latent-upscale failed with (its README says so).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cudaspeed.models.weights import read_weights

_WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Autoencoder:
    """`factor` pixels of a picture's side are one of a latent's; `sha256` of the weights' file tells what latents are
    of."""

    network: Any
    channels: int
    factor: int
    sha256: str

    @torch.inference_mode()
    def encode(self, pictures: Tensor, sampled: bool) -> Tensor:
        """Pictures [N, 3, H, W], -1..1, sides multiples of `factor`, to raw latents [N, C, H / factor, W / factor].

        `sampled`: drawn from the distribution that the encoder gives, where it gives one; else its mean.
        """
        encoded = self.network.encode(pictures)
        if not hasattr(encoded, "latent_dist"):
            return encoded.latents
        return encoded.latent_dist.sample() if sampled else encoded.latent_dist.mode()

    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents to pictures, about -1..1; gradients pass."""
        return self.network.decode(latents).sample


def load_autoencoder(folder: Path, device: str) -> Autoencoder:
    """The autoencoder in `folder`, to be used, not trained. Raises `FileNotFoundError` where a file is missing,
    `BadModelError` for weights that the reader refuses, `ValueError` for another kind of model, `RuntimeError` where
    the weights are not those of the configuration."""
    import diffusers

    config = json.loads((folder / "config.json").read_text("utf-8"))
    kind = config.get("_class_name")
    if kind not in ("AutoencoderKL", "AutoencoderTiny"):
        raise ValueError(f"{folder}: is a {kind}; an AutoencoderKL or AutoencoderTiny (TAESD) is needed")
    network = getattr(diffusers, kind).from_config(config)
    network.load_state_dict(read_weights(folder / _WEIGHTS))
    network.eval().requires_grad_(False).to(device)
    with torch.inference_mode():
        side = 64
        found = Autoencoder(network, 0, 1, "").encode(torch.zeros(1, 3, side, side, device=device), sampled=False)
    digest = hashlib.sha256((folder / _WEIGHTS).read_bytes()).hexdigest()
    return Autoencoder(network, found.shape[1], side // found.shape[2], digest)
