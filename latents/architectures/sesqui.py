"""SesquiLSR (github.com/LoganBooker/SesquiLSR): latents enlarged to any size, by shuffled pixels to twice the size and
from there by filters that the network computes for each row and each column.

Raw VAE latents [N, C, h, w] and a size (rows, columns), once to twice theirs, to [N, C, rows, columns]. Published for 4
(SDXL), 16 (Flux; Wan 2.1) and 32 channels (Flux 2), 3.07 M parameters with 4. Its normalisation is over all pixels, so
that each value of the result depends on all of the latent. Sides of a latent: three at least, for what convolutions
mirror beyond its edges.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .loading import count_of, sides_of, unfilled

_FIRST_TAP = -1  # a filter's first value lies one pixel before the place that it computes
_LEAST_SHARE = 0.01  # of the enlarged latent's side in the target's, as the network is told it
_SWING = 0.2  # most that a computed filter differs from the one that is learned for all places
_EPSILON = 1e-6


class GateSizes(NamedTuple):
    """Of a gated block: channels of its gates, of what they let through, and between its last two convolutions."""

    gates: int
    values: int
    middle: int


class Sizes(NamedTuple):
    """Of a network; the defaults are the published ones. `before`, `after`: blocks before and after enlarging, whose
    gates are `gates_before`, `gates_after`, and at it `gates_within`. `lift`: channels of the second way to enlarge."""

    channels: int = 4
    width: int = 128
    before: int = 8
    after: int = 6
    gates_before: GateSizes = GateSizes(24, 192, 96)
    gates_within: GateSizes = GateSizes(32, 256, 128)
    gates_after: GateSizes = GateSizes(32, 256, 128)
    lift: int = 64
    rank: int = 2
    taps: int = 4
    frequencies: int = 4
    embedded: int = 8
    hidden: int = 64


class PixelNorm(nn.Module):
    """Mean 0 and deviation 1 over all channels and pixels; also gives the deviation there was."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        variance, mean = torch.var_mean(x, dim=(1, 2, 3), correction=0, keepdim=True)
        deviation = (variance + _EPSILON).sqrt()
        return (x - mean) / deviation * self.weight[:, None, None], deviation


class GatedBlock(nn.Module):
    """A residual of many channels, groups of which a gate each lets through."""

    def __init__(self, channels: int, sizes: GateSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.norm = PixelNorm(channels)
        self.up = nn.Conv2d(channels, sizes.values + sizes.gates, 1, bias=False)
        self.down = nn.Conv2d(sizes.values, sizes.middle, 1, bias=False)
        self.mix = _mirrored(sizes.middle, channels, 3)
        self.act = nn.Mish()

    def forward(self, x: Tensor) -> Tensor:
        normal, deviation = self.norm(x)
        values, gates = self.up(normal).split((self.sizes.values, self.sizes.gates), dim=1)
        grouped = self.act(values).unflatten(1, (self.sizes.gates, -1))
        passed = (grouped * torch.tanh(gates / 2)[:, :, None]).flatten(1, 2)
        return x + self.mix(self.down(passed)) * deviation


class Waves(nn.Module):
    """Places within a pixel, [n], as sines and cosines of some frequencies, [n, 2 * frequencies]."""

    freqs: Tensor

    def __init__(self, frequencies: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.logspace(0, 2, frequencies, base=2.0))

    def forward(self, places: Tensor) -> Tensor:
        angles = places[:, None] * self.freqs.float() * math.pi
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


class Axis(NamedTuple):
    """Where the rows, or the columns, of a target lie in what it is computed of: each one `within` a pixel at `base`,
    [n] each; `share`: the binary logarithm of one side by the other."""

    base: Tensor
    within: Tensor
    share: float

    @classmethod
    def of(cls, source: int, target: int, device: torch.device) -> Axis:
        places = (torch.arange(target, device=device, dtype=torch.float32) + 0.5) * (source / target) - 0.5
        base = places.floor().clamp(0, source - 1)
        return cls(base.long(), places - base, math.log2(max(source / target, _LEAST_SHARE)))


class Enlarging(nn.Module):
    """To twice the size, and from there to any."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, rank, taps = sizes.width, sizes.rank, sizes.taps
        self.ps_expand = nn.Conv2d(width, 4 * width, 1)
        self.lift_expand = nn.Conv2d(width, 4 * sizes.lift, 1, bias=False)
        self.lift_mix = _mirrored(sizes.lift, width, 3)
        self.refine = GatedBlock(width, sizes.gates_within)
        self.base_taps = nn.Parameter(torch.zeros(rank, 2, width, taps))
        self.pe = Waves(sizes.frequencies)
        self.axis_emb = nn.Embedding(2, sizes.embedded)
        self.rank_emb = nn.Embedding(rank, sizes.embedded)
        self.filter_net = nn.Sequential(
            nn.Linear(2 * sizes.frequencies + 1 + 2 * sizes.embedded, sizes.hidden),
            nn.Mish(),
            nn.Linear(sizes.hidden, width * taps),
        )
        self.rank_gain = nn.Parameter(torch.zeros(rank))

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        twice = F.pixel_shuffle(self.ps_expand(x), 2)
        twice = self.refine(twice + self.lift_mix(F.pixel_shuffle(self.lift_expand(x), 2)))
        rows, columns = (
            Axis.of(source, target, x.device) for source, target in zip(twice.shape[-2:], size, strict=True)
        )
        row_filters, column_filters = self._filters(0, rows), self._filters(1, columns)
        # A sum of separable filters, each with a gain of its own.
        results = [
            gain * _filtered(_filtered(twice, columns, along_columns, -1), rows, along_rows, -2)
            for gain, along_rows, along_columns in zip(
                self.rank_gain.sigmoid(), row_filters, column_filters, strict=True
            )
        ]
        return sum(results[1:], results[0])

    def _filters(self, axis: int, places: Axis) -> Tensor:
        """[rank, taps, width, n]"""
        known = torch.cat(
            (
                self.pe(places.within),
                torch.full_like(places.within, places.share)[:, None],
                self.axis_emb.weight[axis].expand(len(places.within), -1),
            ),
            dim=-1,
        )
        ranks, count = len(self.rank_gain), len(known)
        told = torch.cat((known.expand(ranks, -1, -1), self.rank_emb.weight[:, None].expand(-1, count, -1)), dim=-1)
        computed = self.filter_net(told.to(self.base_taps.dtype)).unflatten(-1, (self.base_taps.shape[2], -1))
        change = _SWING * torch.tanh(computed)
        change = change - change.mean(-1, keepdim=True)  # which adds nothing to a plain area
        return (change + self.base_taps[:, axis, None]).permute(0, 3, 2, 1)


class Sesqui(nn.Module):
    """Blocks, enlarging, blocks; added to a bicubic enlargement that a convolution corrects."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        channels, width = sizes.channels, sizes.width
        self.head_conv = nn.Sequential(
            _mirrored(channels, width // 2, 3), nn.Mish(), _mirrored(width // 2, width, 3, bias=True)
        )
        self.in_blocks = nn.Sequential(*[GatedBlock(width, sizes.gates_before) for _ in range(sizes.before)])
        self.upsample = Enlarging(sizes)
        self.out_blocks = nn.Sequential(*[GatedBlock(width, sizes.gates_after) for _ in range(sizes.after)])
        self.tail_conv = nn.Sequential(
            nn.Conv2d(width, width // 2, 1, bias=False), nn.Mish(), _mirrored(width // 2, channels, 3, bias=True)
        )
        self.skip_conv = _mirrored(channels, channels, 5)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        learned = self.out_blocks(self.upsample(self.in_blocks(self.head_conv(x)), size))
        plain = F.interpolate(x, size=size, mode="bicubic", align_corners=False)
        return self.tail_conv(learned) + self.skip_conv(plain)


def network_for(weights: Mapping[str, Tensor]) -> nn.Module:
    """As large as the one that a state dict is of."""
    return unfilled(lambda: Sesqui(sizes_of(weights)))


def sizes_of(weights: Mapping[str, Tensor]) -> Sizes:
    """Of the network that a state dict is of."""
    half, channels, _, _ = sides_of(weights, "head_conv.0.weight", (None, None, 3, 3))
    width = sides_of(weights, "head_conv.2.weight", (None, half, 3, 3))[0]
    rank, _, _, taps = sides_of(weights, "upsample.base_taps", (None, 2, width, None))
    return Sizes(
        channels=channels,
        width=width,
        before=count_of(weights, "in_blocks."),
        after=count_of(weights, "out_blocks."),
        gates_before=_gates_of(weights, "in_blocks.0", width),
        gates_within=_gates_of(weights, "upsample.refine", width),
        gates_after=_gates_of(weights, "out_blocks.0", width),
        lift=sides_of(weights, "upsample.lift_mix.weight", (width, None, 3, 3))[1],
        rank=rank,
        taps=taps,
        frequencies=sides_of(weights, "upsample.pe.freqs", (None,))[0],
        embedded=sides_of(weights, "upsample.axis_emb.weight", (2, None))[1],
        hidden=sides_of(weights, "upsample.filter_net.0.bias", (None,))[0],
    )


def _gates_of(weights: Mapping[str, Tensor], block: str, width: int) -> GateSizes:
    both, _, _, _ = sides_of(weights, f"{block}.up.weight", (None, width, 1, 1))
    middle, values, _, _ = sides_of(weights, f"{block}.down.weight", (None, None, 1, 1))
    gates = both - values
    if gates < 1 or values % gates:
        raise ValueError(f"{block}.up.weight: expected {values} channels and one for each group, found {both}")
    return GateSizes(gates, values, middle)


def _filtered(x: Tensor, places: Axis, filters: Tensor, dim: int) -> Tensor:
    """`x` [N, C, h, w] at the `places` of dimension `dim`, by `filters` [taps, C, n]. Tap by tap: all at once would
    take several times the memory."""
    last, sums = x.shape[dim] - 1, []
    for tap, factors in enumerate(filters, _FIRST_TAP):
        seen = x.index_select(dim, (places.base + tap).clamp(0, last))
        term = seen * (factors[:, None] if dim == -1 else factors[..., None])
        sums = [sums[0] + term] if sums else [term]
    return sums[0]


def _mirrored(inputs: int, outputs: int, side: int, bias: bool = False) -> nn.Conv2d:
    """A convolution that sees a mirror beyond the edges."""
    return nn.Conv2d(inputs, outputs, side, padding=side // 2, padding_mode="reflect", bias=bias)
