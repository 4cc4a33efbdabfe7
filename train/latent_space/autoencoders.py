"""Autoencoders of diffusion models, from a local folder as diffusers saves them: `config.json` and safetensors.

Both layouts: AutoencoderKL (of SD, SDXL, Flux, ...) and AutoencoderTiny. TAESD, which is one, gives latents that are
multiplied by their model's factor and shifted already: what they are divided by is asked for. The weights are read by
this pack's reader; diffusers makes the network. Pictures are -1..1, latents raw, without a scaling factor: those of
0..1, or latents times 0.13025, are what training for sudo-latent-upscale failed with (its README says so).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cudaspeed.api.errors import first_line
from cudaspeed.models.weights import read_weights

_WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Autoencoder:
    """`factor` pixels of a picture's side are one of a latent's; `sha256` of the weights' file tells what latents are
    of. `scaling`: what the network's latents are raw ones times, minus the shift: (factor, shift)."""

    network: Any
    channels: int
    factor: int
    sha256: str
    scaling: tuple[float, float] = (1.0, 0.0)

    @torch.inference_mode()
    def encode(self, pictures: Tensor, sampled: bool) -> Tensor:
        """Pictures [N, 3, H, W], -1..1, sides multiples of `factor`, to raw latents [N, C, H / factor, W / factor].

        `sampled`: drawn from the distribution that the encoder gives, where it gives one; else its mean.
        """
        encoded = self.network.encode(pictures)
        if not hasattr(encoded, "latent_dist"):
            return encoded.latents / self.scaling[0] + self.scaling[1]
        return encoded.latent_dist.sample() if sampled else encoded.latent_dist.mode()

    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents to pictures, about -1..1; gradients pass."""
        return self.network.decode((latents - self.scaling[1]) * self.scaling[0]).sample


# (factor, shift) of the models that TAESDs are for (ComfyUI, comfy/latent_formats.py).
TAESD = {"SD 1.5": (0.18215, 0.0), "SDXL": (0.13025, 0.0), "SD3": (1.5305, 0.0609), "Flux": (0.3611, 0.1159)}
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # of attention, before 0.18


def load_autoencoder(folder: Path, device: str, taesd: str = "") -> Autoencoder:
    """The autoencoder in `folder`, to be used, not trained; `taesd`: whose TAESD it is, "SDXL". Raises
    `FileNotFoundError` where a file is missing, `BadModelError` for weights that the reader refuses, `ValueError` for
    another kind of model, a TAESD of no known one, and weights that are not those of the configuration."""
    import diffusers

    config = json.loads((folder / "config.json").read_text("utf-8"))
    kind = config.get("_class_name")
    if kind not in ("AutoencoderKL", "AutoencoderTiny"):
        raise ValueError(f"{folder}: is a {kind}; an AutoencoderKL or AutoencoderTiny (TAESD) is needed")
    network = getattr(diffusers, kind).from_config(config)
    if taesd and (kind != "AutoencoderTiny" or taesd not in TAESD):
        raise ValueError(f"{folder}: is a {kind}, and {taesd} no TAESD of those known: {', '.join(TAESD)}")
    try:
        network.load_state_dict({_renamed(key): value for key, value in read_weights(folder / _WEIGHTS).items()})
    except RuntimeError as error:
        raise ValueError(f"{folder}: {_WEIGHTS} is not what config.json tells: {first_line(error)}") from error
    network.eval().requires_grad_(False).to(device)
    with torch.inference_mode():
        side = 64
        found = Autoencoder(network, 0, 1, "").encode(torch.zeros(1, 3, side, side, device=device), sampled=False)
    digest = hashlib.sha256((folder / _WEIGHTS).read_bytes()).hexdigest()
    return Autoencoder(network, found.shape[1], side // found.shape[2], digest, TAESD.get(taesd, (1.0, 0.0)))


def _renamed(key: str) -> str:
    """Of files that older diffusers wrote."""
    block, _, part = key.rpartition(".")
    before, _, name = block.rpartition(".")
    return f"{before}.{_OLD_NAMES[name]}.{part}" if name in _OLD_NAMES and "attentions" in key else key
