"""DAT's attention and gates (Chen et al., 2023, arXiv 2308.03364) on a CPU, in channels-last memory throughout:
spandrel's lay pixels and channels the other way round before and after each convolution, and copy windows three times.

Modules for spandrel's, with the same parts under the same names, which may be replaced by faster ones as they are.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..api.upstream import has_hooks
from .attention_fusion import attend
from .shifted_windows import apart, from_windows, in_windows

_PLACE = "spandrel.architectures.DAT."
_LEAST_NORM = 1e-12  # of a channel: that of `F.normalize`


def rearranged(module: nn.Module) -> nn.Module | None:
    """The module for one of DAT's, made of its parts, for evaluation; None for any other."""
    kind = _KINDS.get(type(module).__name__) if type(module).__module__.startswith(_PLACE) else None
    return None if kind is None or any(map(has_hooks, module.modules())) else kind(module)


class SpatialGate(nn.Module):
    """Half of the channels times what a convolution makes of the others: x [N, h * w, 2 C] -> [N, h * w, C]."""

    def __init__(self, gate: Any) -> None:
        super().__init__()
        self.norm, self.conv = gate.norm, gate.conv

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        kept, other = x.chunk(2, dim=-1)
        return kept * _in_line(self.conv(_as_picture(self.norm(other), height, width)))


class SpatialAttention(nn.Module):
    """Attention within windows, those of one half of the channels across those of the other, beside a convolution:
    x [N, h * w, C] -> the same."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.qkv, self.proj, self.dwconv = attention.qkv, attention.proj, _without_norms(attention.dwconv)
        self.channel_interaction = _without_norms(attention.channel_interaction)
        self.spatial_interaction = _without_norms(attention.spatial_interaction)
        self._heads, self._scale = attention.num_heads // 2, attention.attns[0].scale
        shifted = attention.attn_mask_0 is not None
        self._windows = [(part.H_sp, part.W_sp) for part in attention.attns]
        shifts = tuple(attention.shift_size)
        self._shifts = [shifts, shifts[::-1]] if shifted else [(0, 0)] * 2
        for name, part in zip(("bias_0", "bias_1"), attention.attns, strict=True):
            area = part.H_sp * part.W_sp
            with torch.no_grad():
                table = part.pos(part.rpe_biases)[part.relative_position_index.view(-1)]
            self.register_buffer(name, table.view(area, area, -1).permute(2, 0, 1).contiguous())

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        count, pixels, channels = x.shape
        side = max(max(window) for window in self._windows)
        qkv = self.qkv(x).view(count, height, width, 3, 2, channels // 2)
        right, below = -width % side, -height % side
        padded = F.pad(qkv, (0, 0, 0, 0, 0, 0, 0, right, 0, below)) if right or below else qkv
        halves = [self._half(padded[..., k, :], k)[:, :height, :width] for k in range(2)]
        attended = torch.cat(halves, dim=-1).view(count, pixels, channels)
        convolved = self.dwconv(qkv[:, :, :, 2].reshape(count, height, width, channels).permute(0, 3, 1, 2))
        across = torch.sigmoid(self.channel_interaction(convolved)).view(count, 1, channels)
        along = torch.sigmoid(self.spatial_interaction(_as_picture(attended, height, width)))
        return self.proj(attended * across + _in_line(along) * _in_line(convolved))

    def _half(self, qkv: Tensor, which: int) -> Tensor:
        """What one half of the channels of `qkv` [N, h, w, 3, c] attends to, [N, h, w, c]."""
        (count, height, width, _, channels), window, shift = qkv.shape, self._windows[which], self._shifts[which]
        if any(shift):
            qkv = qkv.roll((-shift[0], -shift[1]), (1, 2))
        windows = in_windows(qkv, window).unflatten(-1, (self._heads, channels // self._heads))
        query, keys, values = windows.permute(2, 0, 3, 1, 4)
        bias: Tensor = getattr(self, f"bias_{which}")
        added = [bias[None]]
        if any(shift):
            mask = apart((height, width), window, shift).to(qkv)
            added.append(mask.repeat(count, 1, 1, 1) if count > 1 else mask)
        attended = attend(query * self._scale, keys, values, added).transpose(1, 2)
        whole = from_windows(attended.flatten(2), window, (height, width))
        return whole.roll(shift, (1, 2)) if any(shift) else whole


class ChannelAttention(nn.Module):
    """Attention of channels to channels, by all pixels, beside a convolution: x [N, h * w, C] -> the same."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.qkv, self.proj, self.dwconv = attention.qkv, attention.proj, _without_norms(attention.dwconv)
        self.channel_interaction = _without_norms(attention.channel_interaction)
        self.spatial_interaction = _without_norms(attention.spatial_interaction)
        self.temperature, self._heads = attention.temperature, attention.num_heads

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        count, pixels, channels = x.shape
        qkv = self.qkv(x).view(count, pixels, 3, self._heads, channels // self._heads)
        query, keys, values = (part.contiguous() for part in qkv.unbind(2))
        of_queries, of_keys = (part.square().sum(1).sqrt().clamp_min(_LEAST_NORM) for part in (query, keys))
        products = query.permute(0, 2, 3, 1) @ keys.transpose(1, 2)
        scores = products / of_queries[..., None] / of_keys[..., None, :] * self.temperature
        attended = values.transpose(1, 2) @ scores.softmax(-1).mT
        attended = attended.transpose(1, 2).reshape(count, pixels, channels)
        convolved = self.dwconv(_as_picture(values.view(count, pixels, channels), height, width))
        across = torch.sigmoid(self.channel_interaction(_as_picture(attended, height, width))).view(count, 1, channels)
        along = torch.sigmoid(self.spatial_interaction(convolved))
        return self.proj(attended * _in_line(along) + _in_line(convolved) * across)


_KINDS: dict[str, type[nn.Module]] = {
    "SpatialGate": SpatialGate,
    "Adaptive_Spatial_Attention": SpatialAttention,
    "Adaptive_Channel_Attention": ChannelAttention,
}


def _as_picture(pixels: Tensor, height: int, width: int) -> Tensor:
    """[N, h * w, C] as [N, C, h, w] in channels-last memory, without a copy."""
    return pixels.view(len(pixels), height, width, -1).permute(0, 3, 1, 2)


def _in_line(picture: Tensor) -> Tensor:
    """[N, C, h, w] as [N, h * w, C]; a copy only where it is not in channels-last memory."""
    return picture.permute(0, 2, 3, 1).flatten(1, 2)


def _without_norms(parts: nn.Sequential) -> nn.Sequential:
    """With each norm of a batch in the convolution before it."""
    kept: list[nn.Module] = []
    for part in parts:
        if isinstance(part, nn.BatchNorm2d) and kept and type(kept[-1]) is nn.Conv2d:
            kept[-1] = fuse_conv_bn_eval(kept[-1], part)
        else:
            kept.append(part)
    return nn.Sequential(*kept)
