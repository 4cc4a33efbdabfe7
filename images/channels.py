"""Between the picture's channels and the model's: what goes through the model, and how the result is put back.

The picture has 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha) channels and comes back with as many. A grey model
sees a colour picture's channels one by one, as three grey pictures: no conversion loses colour, at three times the
work. Alpha goes through the model as one more grey picture where that is worth its work, and is interpolated else. The
colours of invisible pixels are not kept: they are made of their neighbours', so that nothing hidden reaches over edges.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..api.errors import BadImageError, BadModelError
from ..api.model_info import ModelInfo
from ..api.options import AlphaMode
from ..api.samples import PICTURES, Samples
from .alpha import bleed, has_edges, hold, is_constant, lanczos

AlphaWay = Literal["none", "native", "model", "lanczos"]


@dataclass(frozen=True)
class ChannelPlan:
    """How a picture of `picture` channels meets a model of `model_in` -> `model_out` channels.

    `alpha`: there is "none"; the model takes RGBA ("native"); it is a picture of its own for the model ("model"); or it
    is enlarged by "lanczos". `samples`: what the values are.
    """

    picture: int
    model_in: int
    model_out: int
    alpha: AlphaWay
    samples: Samples = PICTURES

    @property
    def has_alpha(self) -> bool:
        return self.alpha != "none"

    @property
    def colours(self) -> int:
        return self.picture - self.has_alpha

    @property
    def one_by_one(self) -> bool:
        """Colour channels go through a grey model as separate pictures."""
        return self.model_in == self.model_out == 1 and self.colours == 3

    @property
    def pictures_per_frame(self) -> int:
        return (3 if self.one_by_one else 1) + (self.alpha == "model")

    @property
    def direct(self) -> bool:
        """The model's picture is the frame as it is to be."""
        return self.picture == self.model_in == self.model_out and self.alpha in ("none", "native")

    def to_model(self, frame: Tensor) -> Tensor:
        """A frame [H, W, picture], brought within its samples' limits -> what the model sees, [pictures_per_frame,
        model_in, H, W]."""
        planes = self._seen(frame).permute(2, 0, 1)
        if self.direct:
            return planes[None]
        colour, alpha = planes[: self.colours], planes[self.colours :]
        pictures = colour[:, None] if self.one_by_one else self._picture(colour, alpha)
        return torch.cat([pictures, self._picture(alpha)]) if self.alpha == "model" else pictures

    def from_model(self, output: Tensor, frame: Tensor) -> Tensor:
        """The model's pictures [pictures_per_frame, H*s, W*s, model_out] -> a frame [H*s, W*s, picture].

        `frame` [H, W, picture] is the input, whose alpha is the measure for the result's.
        """
        if self.direct:
            return output[0]
        colour = output[:3, ..., 0].permute(1, 2, 0) if self.one_by_one else _with_colours(output[0], self.colours)
        if not self.has_alpha:
            return colour
        if self.alpha == "native":
            alpha = output[0, ..., 3:]
        else:
            alpha = self._alpha(output[-1], frame[..., -1].clamp(0, 1))[..., None].to(colour)
        return torch.cat([colour, alpha], dim=-1)

    def reference(self, frame: Tensor) -> Tensor:
        """What to judge the first channels of a result by, [H, W, C]: those of `frame` [H, W, picture] that the model
        made for it. The rest, alpha that is not its own, is held by the input's."""
        seen = self._seen(frame)
        return seen if self.alpha == "native" else seen[..., : self.colours]

    def _seen(self, frame: Tensor) -> Tensor:
        """What counts of a frame: a picture's values of 0..1 (`validate_image` says what else there may be), its
        visible colours."""
        inside = self.samples.inside(frame)  # a copy: the frame is the caller's
        return bleed(inside) if self.has_alpha else inside

    def _alpha(self, last: Tensor, small: Tensor) -> Tensor:
        """Alpha of the size of the model's `last` picture [H*s, W*s, model_out], of the input's, `small` [H, W]."""
        if is_constant(small):
            return small[:1, :1].expand(last.shape[:2])
        scale = last.shape[0] // small.shape[0]
        if self.alpha == "lanczos":
            return hold(lanczos(small, scale), small)
        large = _with_colours(last, 1)[..., 0]
        holes = large.isnan()
        if bool(holes.any()):
            large = torch.where(holes, lanczos(small, scale).to(large), large)
        return hold(large, small)

    def _picture(self, planes: Tensor, alpha: Tensor | None = None) -> Tensor:
        """Colours, or a grey plane, [1 or 3, H, W], and alpha [1, H, W], opaque without -> [1, model_in, H, W]."""
        if self.model_in >= 3:
            planes = planes.expand(3, -1, -1)
        elif len(planes) == 3:  # a model that makes colour of grey
            planes = planes.mean(dim=0, keepdim=True)
        if self.model_in == 4:
            planes = torch.cat([planes, alpha if alpha is not None and len(alpha) else torch.ones_like(planes[:1])])
        return planes[None]


def _with_colours(picture: Tensor, colours: int) -> Tensor:
    """The model's picture [H, W, 1, 3 or 4] as [H, W, colours], 1 or 3; its alpha is left out."""
    colour = picture[..., :3] if picture.shape[-1] >= 3 else picture
    if colour.shape[-1] > colours:
        return colour.mean(dim=-1, keepdim=True)
    return colour.expand(-1, -1, colours)


def plan_channels(
    picture: int, info: ModelInfo, alpha_mode: AlphaMode = "auto", alphas: Iterable[Tensor] = ()
) -> ChannelPlan:
    """The plan for frames of `picture` channels, whose `alphas` [H, W] are looked at where they matter.

    Automatically, alpha with sharp edges goes through a model that enlarges and keeps colours (RGB to RGB, grey to
    grey); a model for RGBA takes it in any case unless Lanczos is asked for. Latents go through the model as they are.
    Raises `BadModelError` for a model of pictures with unusual channels (not 1, 3 or 4), `BadImageError` for latents
    whose channels are not the model's.
    """
    takes, gives = info.in_channels, info.out_channels
    if info.samples.limits is None:
        if picture != takes:
            raise BadImageError(f"the latent has {picture} channels, {info.name} is for {takes}")
        return ChannelPlan(picture, takes, gives, "none", info.samples)
    if takes not in (1, 3, 4) or gives not in (1, 3, 4):
        raise BadModelError(
            f"{info.name} takes {takes} and gives {gives} channels; "
            "choose a model for grey (1), RGB (3) or RGBA (4) pictures"
        )
    return ChannelPlan(picture, takes, gives, _alpha_way(picture, info, alpha_mode, alphas))


def _alpha_way(picture: int, info: ModelInfo, mode: AlphaMode, alphas: Iterable[Tensor]) -> AlphaWay:
    if picture not in (2, 4):
        return "none"
    if mode == "lanczos":
        return "lanczos"
    takes, gives = info.in_channels, info.out_channels
    if takes == gives == 4:
        return "native"
    if mode == "model":
        return "lanczos" if all(is_constant(alpha.clamp(0, 1)) for alpha in alphas) else "model"
    enlarges = info.scale > 1 and min(takes, 3) == min(gives, 3)
    return "model" if enlarges and any(has_edges(alpha.clamp(0, 1)) for alpha in alphas) else "lanczos"
