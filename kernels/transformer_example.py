"""A transformer block of attention within windows by torch's operations: what our kernels for it must
give, and what they are faster than."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from .shifted_windows import apart, from_windows, in_windows

Attend = Callable[[Tensor, Tensor, Tensor, Sequence[Tensor]], Tensor]


class Shape(NamedTuple):
    """Of a block: channels, heads, the hidden layer's channels; the window's side and the shift, pixels."""

    channels: int
    heads: int
    hidden: int
    window: int
    shift: int

    @property
    def multiplications(self) -> int:
        """For one window."""
        area, channels = self.window**2, self.channels
        return area * (channels * (4 * channels + 2 * self.hidden) + 2 * area * channels)


def relative_places(window: int) -> Tensor:
    """Where in Swin's table of biases that of each two pixels of a window is, [window^4]: by rows apart, columns
    apart."""
    at = torch.arange(window)
    apart = (at[:, None] - at + window - 1).view(-1)  # of each two rows, or columns
    rows = apart.view(window, 1, window, 1).expand(window, window, window, window)
    columns = apart.view(1, window, 1, window).expand(window, window, window, window)
    return (rows * (2 * window - 1) + columns).reshape(-1)


def example(shape: Shape, generator: torch.Generator) -> Any:
    """A block with random weights, as far as `pack` looks at it."""
    channels, heads, hidden, window, shift = shape
    block: Any = nn.Module()
    attention: Any = nn.Module()
    mlp: Any = nn.Module()
    block.norm1, block.norm2, block.attn, block.mlp = nn.LayerNorm(channels), nn.LayerNorm(channels), attention, mlp
    # `skip_init` draws no random numbers
    attention.qkv, attention.proj = (skip_init(nn.Linear, channels, many * channels) for many in (3, 1))
    mlp.fc1, mlp.fc2 = skip_init(nn.Linear, channels, hidden), skip_init(nn.Linear, hidden, channels)
    attention.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
    for parameter in block.parameters():
        parameter.data.copy_(torch.rand(parameter.shape, generator=generator) - 0.5)
    block.dim, block.num_heads, block.window_size, block.shift_size = channels, heads, window, shift
    attention.scale = math.sqrt(heads / channels)
    return block


def attention(query: Tensor, keys: Tensor, values: Tensor, biases: Sequence[Tensor]) -> Tensor:
    """`softmax(query @ keys^T + biases) @ values`."""
    return reduce(add, biases, query @ keys.mT).softmax(-1) @ values


@torch.no_grad()
def by_torch(block: Any, shape: Shape, x: Tensor, added: Tensor | float = 0.0, attend: Attend = attention) -> Tensor:
    """What the block makes of `x` [N, h, w, C], with `added`, by torch's operations, or attention by `attend`."""
    (count, height, width, channels), heads = x.shape, shape.heads
    window, shift, area = (shape.window, shape.window), (shape.shift, shape.shift), shape.window**2
    windows = in_windows(block.norm1(x).roll((-shape.shift, -shape.shift), (1, 2)), window)
    query, keys, values = block.attn.qkv(windows).view(-1, area, 3, heads, channels // heads).permute(2, 0, 3, 1, 4)
    table = block.attn.relative_position_bias_table[relative_places(shape.window)].view(area, area, heads)
    biases = [table.permute(2, 0, 1)[None]]
    if shape.shift:
        biases.append(apart((height, width), window, shift).repeat(count, 1, 1, 1))
    attended = attend(query * block.attn.scale, keys, values, biases).transpose(1, 2)
    whole = from_windows(attended.reshape(-1, area, channels), window, (height, width))
    y = x + block.attn.proj(whole).roll(shift, (1, 2)) + added
    return y + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(y))))
