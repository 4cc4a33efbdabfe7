"""How good enlarged latents are, as the autoencoder's decoder shows them, beside bilinear and bislerp ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cudaspeed.latents.resample import resample

from .autoencoders import Autoencoder
from .pairs import Pairs


@dataclass(frozen=True)
class Judgement:
    """PSNR in dB of decoded latents: of the network's, of bilinear and of bislerp ones, of the true ones."""

    made: float
    bilinear: float
    bislerp: float
    true: float

    @property
    def gain(self) -> float:
        """Of the network's over the better of the two, dB."""
        return self.made - max(self.bilinear, self.bislerp)


@torch.inference_mode()
def judge(network: nn.Module, pairs: Pairs, autoencoder: Autoencoder, device: torch.device) -> list[Judgement]:
    """For each pair, against its "picture" where it has one, else against its decoded large latents, in RGB 0..1. Sides
    of small latents are cut to a multiple of 16 before."""
    judged = []
    for index in range(len(pairs)):
        held = {name: tensor[None].to(device) for name, tensor in pairs.whole(index).items()}
        small, large, picture = _cut(held, autoencoder.factor, pairs.about.scale)
        size = (large.shape[2], large.shape[3])
        shown = autoencoder.decode(large)
        expected = shown if picture is None else picture.float() / 127.5 - 1
        ways = (
            network(small),
            F.interpolate(small, size=size, mode="bilinear"),
            resample(small, size, "bislerp"),
        )
        decoded = [*map(autoencoder.decode, ways), shown]
        judged.append(Judgement(*(_psnr(one, expected) for one in decoded)))
    return judged


def mean(judged: list[Judgement]) -> Judgement:
    """Of each number."""
    return Judgement(*(math.fsum(numbers) / len(judged) for numbers in zip(*map(_numbers, judged), strict=True)))


def _numbers(one: Judgement) -> tuple[float, ...]:
    return one.made, one.bilinear, one.bislerp, one.true


def _cut(held: dict[str, Tensor], factor: int, scale: float) -> tuple[Tensor, Tensor, Tensor | None]:
    small, large, picture = held["small"], held["large"], held.get("picture")
    height, width = (side // 16 * 16 for side in small.shape[2:])
    tall, wide = round(height * scale), round(width * scale)
    if picture is not None:
        picture = picture[..., : tall * factor, : wide * factor]
    return small[..., :height, :width], large[..., :tall, :wide], picture


def _psnr(made: Tensor, true: Tensor) -> float:
    error = ((made.clamp(-1, 1) - true.clamp(-1, 1)) / 2).double().square().mean().item()
    return -10 * math.log10(max(error, 1e-12))
