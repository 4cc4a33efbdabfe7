"""Attention within windows as Swin Transformer has it (Liu et al., arXiv 2103.14030), [windows, pixels, C] to the same.

It takes the place of spandrel's in the blocks of its SwinIR and DRCT, under the same keys. Masks are float32 there, and
their own attention adds them to scores of 16 bits as they are: that makes float32 of these, and torch multiplies them
with no values of 16 bits. The blocks stay spandrel's, but for their masks (masks.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .masks import with_shared_masks, with_shared_places


class WindowAttention(nn.Module):
    """Of square windows. Scores are made, added to and used one after the other, without views between, so that
    kernels/attention_fusion.py makes one call of them."""

    relative_position_index: Tensor

    def __init__(self, channels: int, window: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.num_heads = heads
        self.scale = (channels // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", _places(window))
        self.qkv = nn.Linear(channels, 3 * channels, bias=bias)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask`: [windows of one latent, pixels, pixels]."""
        windows, pixels, channels = x.shape
        each = windows if mask is None else len(mask)
        split = self.qkv(x).view(-1, each, pixels, 3, self.num_heads, channels // self.num_heads)
        query, keys, values = split.permute(3, 0, 1, 4, 2, 5)  # each [latents, windows, heads, pixels, C / heads]
        scores = (query * self.scale) @ keys.transpose(-2, -1)
        scores = scores + self._biases().to(scores.dtype)
        if mask is not None:
            scores = scores + mask[:, None].to(scores.dtype)
        attended = scores.softmax(-1) @ values
        return self.proj(attended.transpose(-3, -2).reshape(windows, pixels, channels))

    def _biases(self) -> Tensor:
        """[heads, pixels, pixels]"""
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)


def _places(window: int) -> Tensor:
    """[pixels, pixels]: the row of the table for where the first pixel lies as seen from the second."""
    place = torch.arange(window**2)
    row, column = place // window, place % window
    down, right = row[:, None] - row + window - 1, column[:, None] - column + window - 1
    return down * (2 * window - 1) + right


def as_it_comes(network: Any, x: Tensor) -> Tensor:
    """What the parts of spandrel's SwinIR or DRCT make of latents, without the padding and the mean of its forward."""
    x = network.conv_first(x)
    x = network.conv_after_body(network.forward_features(x)) + x
    return network.conv_last(network.upsample(network.conv_before_upsample(x)))


def with_own_attention(network: nn.Module) -> None:
    """Gives all of spandrel's blocks in `network` the attention above, and masks that they share."""
    for block in list(network.modules()):
        given: Any = getattr(block, "attn", None)
        if hasattr(given, "relative_position_bias_table"):
            bias = given.qkv.bias is not None
            block.attn = WindowAttention(given.dim, given.window_size[0], given.num_heads, bias)
    with_shared_masks(network)
    with_shared_places(network)
