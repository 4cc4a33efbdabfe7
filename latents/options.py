"""The size that a latent is wanted in, and the choices there are; without torch, for which help is not to wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..api.checks import check_choice, check_factor

LatentResampling = Literal["none", "area", "bislerp"]
LATENT_RESAMPLINGS: tuple[LatentResampling, ...] = get_args(LatentResampling)
LEAST_LATENT_SCALE, MOST_LATENT_SCALE = 0.25, 8.0


@dataclass(frozen=True)
class LatentSize:
    """`scale_by`: the sides of the result as multiples of the latent's; 0: as the model enlarges, the most of those
    that it can. `resampling`: how what a model's own scale leaves is made up for; "none": it is an error. Raises
    `BadOptionError` on a value out of range."""

    scale_by: float = 0.0
    resampling: LatentResampling = "none"

    def __post_init__(self) -> None:
        check_factor("scale_by", self.scale_by, LEAST_LATENT_SCALE, MOST_LATENT_SCALE)
        check_choice("resampling", self.resampling, LATENT_RESAMPLINGS)
