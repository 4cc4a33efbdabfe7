"""NNLatentUpscale: latents enlarged once to twice by residual blocks that are told the scale, with attention over all
pixels, before and after a plain enlargement.

Raw VAE latents [N, C, h, w] and a size to [N, C, rows, columns]; 6.27 M parameters with 4 channels. Written
from a description alone, since its licence (GPL-3) is another than ours. Taken from the description: 128 channels, ten
residual blocks and two attentions on each side, group norms of 32 groups, SiLU, the keys `embed.0.weight` [32, 1] and
`in_blocks.1.q.weight`, and 6.3 M parameters. Reconstructed, and compared with no published file: all other names, the
second linear layer of the embedding, that the embedding is added between the convolutions of a block, where the second
attention stands (read off the keys where they say so), one head, the bilinear enlargement of features, that nothing
leads round the blocks, and that the embedding is told the scale itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from .loading import count_of, sides_of, unfilled

_GROUPS = 32


class Sizes(NamedTuple):
    """Of a network. `before`, `after`: the blocks on each side of the enlargement, which of them are attention."""

    channels: int = 4
    width: int = 128
    embedded: int = 32
    before: Sequence[bool] = tuple(place in (1, 7) for place in range(12))
    after: Sequence[bool] = tuple(place in (1, 7) for place in range(12))


class Norm(nn.GroupNorm):
    """In float32, whatever the weights are: it is given what blocks add up to, which stays float32 as well, and what it
    gives is rounded once, where a convolution takes it."""

    def __init__(self, width: int) -> None:
        super().__init__(_GROUPS, width)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # its name for it is Python's
        return F.group_norm(x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps)


class Outer(nn.Conv2d):
    """From latents to features, or back: in float32, whatever the weights are, since here a rounding is seen whole. It
    is a hundredth of the work."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # its name for it is Python's
        bias = None if self.bias is None else self.bias.float()
        return F.conv2d(x.float(), self.weight.float(), bias, padding=self.padding)


class ResidualBlock(nn.Module):
    """Two convolutions; what is known of the scale is added between them."""

    def __init__(self, width: int, embedded: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = Norm(width), Norm(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.emb = nn.Linear(embedded, width)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        dtype = embedding.dtype
        hidden = self.conv1(F.silu(self.norm1(x)).to(dtype)).float() + self.emb(F.silu(embedding))[:, :, None, None]
        return x + self.conv2(F.silu(self.norm2(hidden)).to(dtype))


class PixelAttention(nn.Module):
    """Of each pixel to all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = Norm(width)
        self.q, self.k, self.v, self.proj = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        normal = self.norm(x).to(embedding.dtype)
        # each pixel's channels side by side: torch's attention without a matrix of scores takes nothing else
        query, keys, values = (part(normal).flatten(2).mT.contiguous()[:, None] for part in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(query, keys, values)[:, 0].mT
        return x + self.proj(attended.reshape(x.shape))


class Resizer(nn.Module):
    """Blocks, enlarging, blocks."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, embedded = sizes.width, sizes.embedded
        self.embed = nn.Sequential(nn.Linear(1, embedded), nn.SiLU(), nn.Linear(embedded, embedded))
        self.conv_in = Outer(sizes.channels, width, 3, padding=1)
        self.in_blocks, self.out_blocks = (
            nn.ModuleList(PixelAttention(width) if attends else ResidualBlock(width, embedded) for attends in side)
            for side in (sizes.before, sizes.after)
        )
        self.norm_out = Norm(width)
        self.conv_out = Outer(width, sizes.channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        rows, columns = x.shape[-2:]
        scale = ((size[0] / rows) * (size[1] / columns)) ** 0.5
        embedding = self.embed(x.new_full((1, 1), scale))
        features = self.conv_in(x)
        for block in self.in_blocks:
            features = block(features, embedding)
        features = F.interpolate(features, size=size, mode="bilinear", align_corners=False)
        for block in self.out_blocks:
            features = block(features, embedding)
        return self.conv_out(F.silu(self.norm_out(features))).to(x.dtype)


def network_for(weights: Mapping[str, Tensor]) -> nn.Module:
    """As large as the one that a state dict is of."""
    return unfilled(lambda: Resizer(sizes_of(weights)))


def sizes_of(weights: Mapping[str, Tensor]) -> Sizes:
    """Of the network that a state dict is of."""
    width, channels, _, _ = sides_of(weights, "conv_in.weight", (None, None, 3, 3))
    if width % _GROUPS:
        raise ValueError(f"conv_in.weight: expected a multiple of {_GROUPS} channels, found {width}")
    return Sizes(
        channels=channels,
        width=width,
        embedded=sides_of(weights, "embed.0.weight", (None, 1))[0],
        before=_attentions(weights, "in_blocks."),
        after=_attentions(weights, "out_blocks."),
    )


def _attentions(weights: Mapping[str, Tensor], prefix: str) -> list[bool]:
    return [
        any(f"{prefix}{place}.{part}.weight" in weights for part in "qkv") for place in range(count_of(weights, prefix))
    ]
