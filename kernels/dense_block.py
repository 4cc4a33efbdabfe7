"""Dense blocks of the RRDB family (ESRGAN, arXiv 1809.00219) without concatenations.

A dense block convolves its input, then its input and that result, and so on; the plain module copies all of it together
before every convolution. Here it lies in one page from the start: [N, features + 4 * growth, h, w], pixel by pixel, the
input in the first channels; every convolution reads the channels that are there by then and writes the next ones.

Pages come from torch's allocator at the beginning of a group's forward and go back at its end. So all groups of a
network use the same memory without knowing of each other, two forwards never write into one page unless a stream puts
them in order, and a CUDA graph has its pages in its own pool. Nothing is kept between forwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from .autotuned_convolution import fastest_convolution
from .convolution import Convolution, Residual, activation_slope, computing_type, parameters_of, simple_convolution
from .heartbeat import beat

DENSE_SCALE = 0.2  # of a block's result, beside its input; the same for the group's
DENSE_CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")
_BLOCKS = ("RDB1", "RDB2", "RDB3")


class Place(NamedTuple):
    """A module in a network: `parent`'s child `name`."""

    parent: nn.Module
    name: str
    module: nn.Module


class DenseBlock(nn.Module):
    """What `block`, one that `is_dense_block`, does, with its parameters, within a page."""

    def __init__(self, block: nn.Module, convolve: Convolution) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(getattr(block, name)[0] for name in DENSE_CONVOLUTIONS)
        activations = [getattr(block, name)[1] for name in DENSE_CONVOLUTIONS[:-1]]
        self._slopes = [cast(float, activation_slope(activation)) for activation in activations]  # or it were none
        self._convolve = convolve

    def forward(self, page: Tensor, target: Tensor, residuals: Sequence[Residual] = ()) -> None:
        """Fill `page` [N, channels, h, w], whose first channels are the block's input, and write what becomes of it
        into `target` [N, features, h, w], with further residuals at the end."""
        *growing, last = cast("Sequence[nn.Conv2d]", self.convolutions)
        for convolution, slope in zip(growing, self._slopes, strict=True):
            there = convolution.in_channels
            target_here = page[:, there : there + convolution.out_channels]
            self._convolve(page[:, :there], target_here, *parameters_of(convolution, page.dtype), slope)
            beat()
        residuals = [Residual(DENSE_SCALE, page[:, : last.out_channels]), *residuals]
        self._convolve(page, target, *parameters_of(last, page.dtype), residuals=residuals)
        beat()


class DenseGroup(nn.Module):
    """The same as `group`, an RRDB that `is_dense_group`, and with its parameters: x [N, C, h, w] -> the same shape and
    type, in the order of pixels (channels_last).

    It computes in the type of its weights, or in autocast's where that is on. Its blocks write into each other's pages;
    two in turn are enough, for the group's own residual is its input.
    """

    def __init__(self, group: nn.Module, convolve: Convolution = fastest_convolution) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(DenseBlock(getattr(group, name), convolve) for name in _BLOCKS)

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        blocks = cast("Sequence[DenseBlock]", self.blocks)
        features, last = x.shape[1], cast(nn.Conv2d, blocks[-1].convolutions[-1])
        shape, dtype = (len(x), last.in_channels, *x.shape[2:]), computing_type(last.weight)
        page, other = (
            torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last) for _ in range(2)
        )
        page[:, :features] = x
        for block in blocks[:-1]:
            block(page, other[:, :features])
            page, other = other, page
        result = torch.empty_like(x, memory_format=torch.channels_last)
        blocks[-1](page, result, [Residual(DENSE_SCALE, x)])
        return result


def is_dense_block(module: nn.Module) -> bool:
    """Whether `module` is spandrel's plain dense block: five 3x3 convolutions, activations after all but the last, and
    not ESRGAN+'s further paths."""
    if type(module).__name__ != "ResidualDenseBlock_5C" or module.conv1x1 is not None:
        return False
    parts = [[*getattr(module, name)] for name in DENSE_CONVOLUTIONS]
    if [len(part) for part in parts] != [2, 2, 2, 2, 1]:
        return False
    convolutions = [part[0] for part in parts]
    if not all(map(simple_convolution, convolutions)):
        return False
    return all(isinstance(activation_slope(part[1]), float) for part in parts[:-1])


def is_dense_group(module: nn.Module) -> bool:
    """Whether `module` is spandrel's RRDB of plain dense blocks."""
    return type(module).__name__ == "RRDB" and all(is_dense_block(getattr(module, name)) for name in _BLOCKS)


def dense_groups(network: nn.Module) -> Iterator[Place]:
    """Where `network` has groups that a `DenseGroup` can stand for."""
    for parent in network.modules():
        for name, child in parent.named_children():
            if is_dense_group(child):
                yield Place(parent, name, child)


def rewrite_dense_groups(network: nn.Module, convolve: Convolution = fastest_convolution) -> int:
    """Replace, in place, the groups of `network` by ones without concatenations; how many there were."""
    places = list(dense_groups(network))
    for parent, name, group in places:
        setattr(parent, name, DenseGroup(group, convolve))
    return len(places)
