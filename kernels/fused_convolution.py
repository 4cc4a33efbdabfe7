"""Convolutions that are followed by an activation, as one step: the body of Compact, the upsampling of ESRGAN."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from .autotuned_convolution import fastest_convolution
from .convolution import Convolution, activation_slope, computing_type, parameters_of, simple_convolution

_LEAST_CHANNELS = 16


class FusedConvolution(nn.Module):
    """`activation(convolution(x))`: x [N, C, h, w] -> [N, C', h, w], in the order of pixels (channels_last).

    It has the parameters of both, and computes in the type of its weight, or in autocast's where that is on.
    """

    def __init__(
        self, convolution: nn.Conv2d, activation: nn.Module, convolve: Convolution = fastest_convolution
    ) -> None:
        super().__init__()
        self.convolution, self.activation, self._convolve = convolution, activation, convolve

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(computing_type(self.convolution.weight), memory_format=torch.channels_last)
        weight, bias = parameters_of(self.convolution, x.dtype)
        slope = activation_slope(self.activation)
        assert slope is not None
        if isinstance(slope, Tensor):
            slope = slope.expand(len(weight)).contiguous()  # a PReLU may have one for all channels
        shape = (len(x), len(weight), *x.shape[2:])
        result = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        self._convolve(x, result, weight, bias, slope)
        return result


def fuse_chains(network: nn.Module, convolve: Convolution = fastest_convolution) -> int:
    """Replace, in place, convolutions and activations that follow each other in `network`; how many pairs there were.

    Looked for where modules run one after the other. The activation's place is taken by one that does nothing. To be
    called after `rewrite_dense_groups`, which knows its groups by their parts.
    """
    pairs = list(fusible_pairs(network))
    for chain, index in pairs:
        convolution = cast(nn.Conv2d, chain[index])
        chain[index], chain[index + 1] = FusedConvolution(convolution, chain[index + 1], convolve), nn.Identity()
    return len(pairs)


def fusible_pairs(network: nn.Module) -> Iterator[tuple[nn.Sequential | nn.ModuleList, int]]:
    """Where `network` has a convolution at an index of a chain, and its activation next."""
    for chain in _chains(network):
        for index, (convolution, activation) in enumerate(pairwise([*chain])):
            if _fusible(convolution, activation):
                yield chain, index


def _chains(network: nn.Module) -> Iterator[nn.Sequential | nn.ModuleList]:
    """Every `nn.Sequential`, and the body of spandrel's Compact."""
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            yield module
        elif type(module).__name__ == "SRVGGNetCompact":
            yield cast(nn.ModuleList, module.body)


def _fusible(convolution: nn.Module, activation: nn.Module) -> bool:
    """Not the first convolution, from three colours, for which the kernel has no blocks."""
    return (
        simple_convolution(convolution)
        and convolution.in_channels >= _LEAST_CHANNELS
        and activation_slope(activation) is not None
    )
