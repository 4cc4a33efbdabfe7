"""The second stage: a discriminator of latents, and at the very end a contextual loss on what it sees.

sudo-latent-upscale had EfficientNetV2-b0 for a discriminator, and for the contextual loss a classifier of latents of
its own, which there is no file of; here the discriminator's first features take its place. Its README recommends the
contextual loss to nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .losses import contextual

_DEPTH = 1  # of timm's features: an eighth of the latent's sides and less would be of no place in it


@dataclass(frozen=True)
class SecondStage:
    """`weight` of what the discriminator says, and of the `contextual` loss; the steps at which they begin."""

    weight: float = 0.0
    begins: int = 0
    contextual: float = 0.0
    contextual_begins: int = 0

    @property
    def wanted(self) -> bool:
        return self.weight > 0 or self.contextual > 0


class Discriminator(nn.Module):
    """Latents [N, C, h, w] -> how true each looks, [N, 1], by timm's EfficientNetV2-b0 with random weights. Raises
    `ModuleNotFoundError` where timm is not installed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        import timm

        self.network = timm.create_model("tf_efficientnetv2_b0", pretrained=False, in_chans=channels, num_classes=1)

    def forward(self, latents: Tensor) -> Tensor:
        return self.network(latents)

    def features(self, latents: Tensor) -> Tensor:
        """[N, F, h / 4, w / 4], of its first blocks."""
        return self.network.forward_intermediates(latents, indices=[_DEPTH], intermediates_only=True)[0]


def said_of(discriminator: Discriminator, made: Tensor, true: Tensor, stage: SecondStage, step: int) -> Tensor:
    """What a result's loss grows by. No gradient stays in the discriminator's own weights that its step would not
    clear."""
    parts = []
    if stage.weight and step >= stage.begins:
        told = discriminator(made)
        parts.append(stage.weight * F.binary_cross_entropy_with_logits(told, torch.ones_like(told)))
    if stage.contextual and step >= stage.contextual_begins:
        with torch.no_grad():
            expected = discriminator.features(true)
        parts.append(stage.contextual * contextual(discriminator.features(made), expected))
    return torch.stack(parts).sum() if parts else made.new_zeros(())


def lesson(discriminator: nn.Module, made: Tensor, true: Tensor) -> Tensor:
    """The discriminator's own loss."""
    of_true, of_made = discriminator(true), discriminator(made.detach())
    return F.binary_cross_entropy_with_logits(of_true, torch.ones_like(of_true)) + (
        F.binary_cross_entropy_with_logits(of_made, torch.zeros_like(of_made))
    )
