"""Between the picture's channels and the model's: what goes through the model, and how the result is put back.

The picture has 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha) channels and comes back with as many. Alpha is
upscaled bicubically unless the model takes it. A grey model sees a colour picture's channels one by one, as three grey
pictures: no conversion loses colour, at three times the work.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .contracts import BadModelError, ModelTraits


@dataclass(frozen=True)
class ChannelPlan:
    """How a picture of `picture` channels meets a model of `model_in` -> `model_out` channels."""

    picture: int
    model_in: int
    model_out: int

    @property
    def has_alpha(self) -> bool:
        return self.picture in (2, 4)

    @property
    def colours(self) -> int:
        return self.picture - self.has_alpha

    @property
    def alpha_through_model(self) -> bool:
        return self.has_alpha and self.model_in == 4 and self.model_out == 4

    @property
    def one_by_one(self) -> bool:
        """Colour channels go through a grey model as separate pictures."""
        return self.model_in == self.model_out == 1 and self.colours == 3

    @property
    def pictures_per_frame(self) -> int:
        return 3 if self.one_by_one else 1

    def to_model(self, frame: Tensor) -> Tensor:
        """A frame [H, W, picture] -> what the model sees, [pictures_per_frame, model_in, H, W] (often a view)."""
        colour = frame[..., : self.colours].permute(2, 0, 1)
        if self.one_by_one:
            return colour[:, None]
        if self.model_in >= 3 and self.colours == 1:
            colour = colour.expand(3, -1, -1)
        elif self.model_in == 1:  # a model that makes colour of grey
            colour = colour.mean(dim=0, keepdim=True)
        if self.model_in == 4:
            alpha = frame[None, ..., -1] if self.has_alpha else torch.ones_like(colour[:1])
            colour = torch.cat([colour, alpha])
        return colour[None]

    def from_model(self, output: Tensor, frame: Tensor) -> Tensor:
        """The model's pictures [pictures_per_frame, H*s, W*s, model_out] -> a frame [H*s, W*s, picture].

        `frame` [H, W, picture] is the input, whose alpha is upscaled where the model did not do it.
        """
        if self.one_by_one:
            colour = output[..., 0].permute(1, 2, 0)
        else:
            colour = output[0, ..., :3] if self.model_out >= 3 else output[0, ..., :1]
        if self.colours == 1 and colour.shape[-1] == 3:
            colour = colour.mean(dim=-1, keepdim=True)
        elif self.colours == 3 and colour.shape[-1] == 1:
            colour = colour.expand(-1, -1, 3)
        if not self.has_alpha:
            return colour
        if self.alpha_through_model:
            alpha = output[0, ..., 3:]
        else:
            small = frame[None, None, ..., -1].float()
            large = F.interpolate(small, size=colour.shape[:2], mode="bicubic").clamp_(0, 1)
            alpha = large[0, 0, ..., None].to(colour)
        return torch.cat([colour, alpha], dim=-1)


def plan_channels(picture: int, traits: ModelTraits) -> ChannelPlan:
    """The plan for `picture` channels. Raises `BadModelError` for a model of unusual channels (not 1, 3 or 4)."""
    if traits.in_channels not in (1, 3, 4) or traits.out_channels not in (1, 3, 4):
        raise BadModelError(
            f"{traits.name} takes {traits.in_channels} and gives {traits.out_channels} channels; "
            "choose a model for grey (1), RGB (3) or RGBA (4) pictures"
        )
    return ChannelPlan(picture, traits.in_channels, traits.out_channels)
