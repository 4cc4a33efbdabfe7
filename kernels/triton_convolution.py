"""3x3 convolutions by Triton: bias, activation and residuals in the same kernel, channel slices in and out.

An implicit matrix product: pixels by the 9 * C values around them, by the weights. Two ways to read the picture:
`_convolve` reads every pixel nine times, once for each tap. `_convolve_rows` reads it three times, once for each row of
taps, sums up for the left, the middle and the right taps apart, and shifts the sums into place at the end: a third of
the reading, for three times the sums. Which is faster, and in which blocks, is for the device to say
(autotuned_convolution.py).

Imports Triton, which not every torch brings along: to be imported only where a CUDA device is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .convolution import Residual
from .operands import check_dense, check_operand

_MOST_RESIDUALS = 2


class Blocks(NamedTuple):
    """How the work is cut up: one program computes `pixels` x `out_channels` results and reads `channels` at a time."""

    pixels: int
    out_channels: int
    channels: int
    warps: int
    stages: int
    by_rows: bool

    def __str__(self) -> str:
        way = "by rows" if self.by_rows else "by taps"
        return f"{way} {self.pixels}x{self.out_channels}x{self.channels}, {self.warps} warps, {self.stages} stages"


def suitable_blocks(channels: int, out_channels: int) -> tuple[Blocks, ...]:
    """What may suit a layer from `channels` to `out_channels` on Ampere and later; nothing where the kernels do not."""
    if channels % 16:
        return ()
    depth = next(depth for depth in (64, 32, 16) if channels % depth == 0)
    width = min(64, max(16, 1 << (out_channels - 1).bit_length()))
    suitable = [
        Blocks(128, width, depth, 4, 3, by_rows=False),
        Blocks(256, width, depth, 8, 3, by_rows=False),
        Blocks(128, width, depth, 8, 3, by_rows=True),
    ]
    if width < 64:  # else three sums of so many values leave no registers
        suitable.append(Blocks(128, width, min(depth, 32), 4, 3, by_rows=True))
    return tuple(suitable)


@dataclass(frozen=True)
class TritonConvolution:
    """The `Convolution` that is cut up into `blocks`.

    It raises `ValueError` for tensors whose shapes, types or devices do not belong together or that are not in the
    order of pixels, channels that `blocks` do not divide, and more than two residuals, besides what Triton raises.
    """

    blocks: Blocks

    def __call__(
        self,
        source: Tensor,
        target: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        slope: float | Tensor = 1.0,
        residuals: Sequence[Residual] = (),
    ) -> None:
        blocks = self.blocks
        count, channels, height, width = source.shape
        out_channels, pixels = len(weight), count * height * width
        if channels % blocks.channels or weight.stride() != (9 * channels, 1, 3 * channels, channels):
            raise ValueError(f"a weight of {tuple(weight.shape)}, strides {weight.stride()} does not suit {blocks}")
        if len(residuals) > _MOST_RESIDUALS:
            raise ValueError(f"{len(residuals)} residuals; the kernel takes {_MOST_RESIDUALS}")
        _check(source, target, weight, {"bias": bias, "slope": slope}, residuals)
        first, second = (*residuals, *[Residual(1.0, target)] * _MOST_RESIDUALS)[:_MOST_RESIDUALS]  # not read beyond
        by_rows = blocks.by_rows
        grid = (
            triton.cdiv(pixels, blocks.pixels - 2 if by_rows else blocks.pixels),
            triton.cdiv(out_channels, blocks.out_channels),
        )
        constants: dict[str, Any] = {
            "has_bias": bias is not None,
            "has_slopes": isinstance(slope, Tensor),
            "residual_count": len(residuals),
            "block_pixels": blocks.pixels,
            "block_out": blocks.out_channels,
            "block_channels": blocks.channels,
            "num_warps": blocks.warps,  # Triton's own
            "num_stages": blocks.stages,
        }
        with torch.cuda.device_of(source):  # Triton launches on the current device
            (_convolve_rows if by_rows else _convolve)[grid](
                source,
                target,
                weight,
                weight if bias is None else bias,
                slope,
                first.tensor,
                second.tensor,
                first.scale,
                second.scale,
                _pitch(source),
                _pitch(target),
                _pitch(first.tensor),
                _pitch(second.tensor),
                height,
                width,
                pixels,
                channels,
                out_channels,
                **constants,
            )


def _check(
    source: Tensor,
    target: Tensor,
    weight: Tensor,
    by_channel: Mapping[str, Tensor | float | None],
    residuals: Sequence[Residual],
) -> None:
    """Raise `ValueError` where shapes, types or devices do not belong together: the kernels get bare pointers. What
    they only add or multiply by may have another type than the source."""
    count, channels, height, width = source.shape
    shape, device = (count, len(weight), height, width), source.device
    check_operand("the weight", weight, (len(weight), channels, 3, 3), source.dtype, device)
    check_operand("the target", target, shape, None, device)
    for name, values in by_channel.items():
        if isinstance(values, Tensor):
            check_operand(f"the {name}", values, (len(weight),), None, device)
            check_dense(f"the {name}", values)
    for residual in residuals:
        check_operand("a residual", residual.tensor, shape, None, device)


def _pitch(tensor: Tensor) -> int:
    """How many values apart the pixels of a tensor [N, C, h, w] lie, one after the other through all its pictures."""
    count, channels, height, width = tensor.shape
    sides = ((width, 3, 1), (height, 2, width), (count, 0, width * height))
    told = [tensor.stride(dim) // pixels for side, dim, pixels in sides if side > 1]  # torch: of 1, a stride is any
    pitch = told[0] if told else channels
    if any(tensor.stride(dim) != pixels * pitch for side, dim, pixels in sides if side > 1) or (
        channels > 1 and tensor.stride(1) != 1
    ):
        raise ValueError(f"a tensor of {tuple(tensor.shape)}, strides {tensor.stride()} is not in the order of pixels")
    return pitch


# --- on the device ---------------------------------------------------------------------------------------------------
# Pixels are counted through all pictures, from the top left of the first: pixel p lies in row p // width. Pointers to
# them are 64 bits wide, what is added to such a pointer for a tap or a channel 32.


@triton.jit
def _finish(
    result,
    place,
    inside,
    target,
    bias,
    slope,
    first,
    second,
    first_scale,
    second_scale,
    target_pitch,
    first_pitch,
    second_pitch,
    out_channels,
    has_bias: tl.constexpr,
    has_slopes: tl.constexpr,
    residual_count: tl.constexpr,
    block_out: tl.constexpr,
):
    """What follows the sums `result` [pixels, block_out] of the pixels `place`, stored for those `inside`."""
    channel = tl.program_id(1) * block_out + tl.arange(0, block_out)
    known = channel < out_channels
    if has_bias:
        result += tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)[None, :]
    if has_slopes:
        slopes = tl.load(slope + channel, mask=known, other=1.0).to(tl.float32)[None, :]
        result = tl.where(result < 0, result * slopes, result)
    else:
        result = tl.where(result < 0, result * slope, result)
    mask = inside[:, None] & known[None, :]
    place = place.to(tl.int64)[:, None]
    if residual_count > 0:
        held = tl.load(first + place * first_pitch + channel[None, :], mask=mask, other=0.0)
        result = result * first_scale + held.to(tl.float32)
    if residual_count > 1:
        held = tl.load(second + place * second_pitch + channel[None, :], mask=mask, other=0.0)
        result = result * second_scale + held.to(tl.float32)
    tl.store(target + place * target_pitch + channel[None, :], result.to(target.dtype.element_ty), mask=mask)


# Or another size of picture, divisible by 16 or not, would be compiled for anew.
_SIZES = ["height", "width", "pixels"]


@triton.jit(do_not_specialize=_SIZES)
def _convolve(
    source,
    target,
    weight,
    bias,
    slope,
    first,
    second,
    first_scale,
    second_scale,
    source_pitch,
    target_pitch,
    first_pitch,
    second_pitch,
    height,
    width,
    pixels,
    channels,
    out_channels,
    has_bias: tl.constexpr,
    has_slopes: tl.constexpr,
    residual_count: tl.constexpr,
    block_pixels: tl.constexpr,
    block_out: tl.constexpr,
    block_channels: tl.constexpr,
):
    """Tap by tap. The weights lie as [out_channels, 9, channels]."""
    place = tl.program_id(0) * block_pixels + tl.arange(0, block_pixels)
    x, y = place % width, (place // width) % height
    channel, out_channel = tl.arange(0, block_channels), tl.program_id(1) * block_out + tl.arange(0, block_out)
    sources = source + place.to(tl.int64)[:, None] * source_pitch + channel[None, :]
    weights = weight + out_channel[None, :] * (9 * channels) + channel[:, None]
    known = (out_channel < out_channels)[None, :]
    there = tl.zeros((block_pixels,), dtype=tl.int32)  # a bit for each tap that lies in the picture: cheap to look up
    for number in tl.static_range(9):  # pyright: ignore[reportGeneralTypeIssues]  # Triton 3.9 declares no iterator
        row, column = y + (number // 3 - 1), x + (number % 3 - 1)
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (place < pixels)
        there |= inside.to(tl.int32) << number
    result = tl.zeros((block_pixels, block_out), dtype=tl.float32)
    for step in range(0, 9 * (channels // block_channels)):
        tap, start = step % 9, step // 9 * block_channels  # all taps of some channels first: they are still near
        offset = ((tap // 3 - 1) * width + tap % 3 - 1) * source_pitch + start
        picture = tl.load(sources + offset, mask=((there >> tap) & 1)[:, None] != 0, other=0.0)
        kernel = tl.load(weights + tap * channels + start, mask=known, other=0.0)
        result = tl.dot(picture, kernel, result, input_precision="ieee")
    _finish(
        result,
        place,
        place < pixels,
        target,
        bias,
        slope,
        first,
        second,
        first_scale,
        second_scale,
        target_pitch,
        first_pitch,
        second_pitch,
        out_channels,
        has_bias,
        has_slopes,
        residual_count,
        block_out,
    )


@triton.jit(do_not_specialize=_SIZES)
def _convolve_rows(
    source,
    target,
    weight,
    bias,
    slope,
    first,
    second,
    first_scale,
    second_scale,
    source_pitch,
    target_pitch,
    first_pitch,
    second_pitch,
    height,
    width,
    pixels,
    channels,
    out_channels,
    has_bias: tl.constexpr,
    has_slopes: tl.constexpr,
    residual_count: tl.constexpr,
    block_pixels: tl.constexpr,
    block_out: tl.constexpr,
    block_channels: tl.constexpr,
):
    """Row of taps by row of taps. What the left taps give a pixel is summed up at its left neighbour, what the right
    ones give at its right neighbour; so the first and the last pixel of a block only help their neighbours."""
    index = tl.arange(0, block_pixels)
    place = tl.program_id(0) * (block_pixels - 2) - 1 + index
    here = (place >= 0) & (place < pixels)
    x, y = place % width, (place // width) % height
    channel, out_channel = tl.arange(0, block_channels), tl.program_id(1) * block_out + tl.arange(0, block_out)
    sources = source + place.to(tl.int64)[:, None] * source_pitch + channel[None, :]
    weights = weight + out_channel[None, :] * (9 * channels) + channel[:, None]
    known = (out_channel < out_channels)[None, :]
    there = here.to(tl.int32) << 1  # a bit for each row of taps that lies in the picture
    there |= (here & (y > 0)).to(tl.int32) | ((here & (y < height - 1)).to(tl.int32) << 2)
    left = tl.zeros((block_pixels, block_out), dtype=tl.float32)
    middle = tl.zeros((block_pixels, block_out), dtype=tl.float32)
    right = tl.zeros((block_pixels, block_out), dtype=tl.float32)
    for step in range(0, 3 * (channels // block_channels)):
        row, start = step % 3, step // 3 * block_channels
        offset = (row - 1) * width * source_pitch + start
        picture = tl.load(sources + offset, mask=((there >> row) & 1)[:, None] != 0, other=0.0)
        kernels = weights + (3 * row * channels + start)
        left = tl.dot(picture, tl.load(kernels, mask=known, other=0.0), left, input_precision="ieee")
        kernels += channels
        middle = tl.dot(picture, tl.load(kernels, mask=known, other=0.0), middle, input_precision="ieee")
        kernels += channels
        right = tl.dot(picture, tl.load(kernels, mask=known, other=0.0), right, input_precision="ieee")
    before = tl.broadcast_to(tl.maximum(index - 1, 0)[:, None], (block_pixels, block_out))
    after = tl.broadcast_to(tl.minimum(index + 1, block_pixels - 1)[:, None], (block_pixels, block_out))
    result = middle
    result += tl.where((x > 0)[:, None], tl.gather(left, before, axis=0), 0.0)
    result += tl.where((x < width - 1)[:, None], tl.gather(right, after, axis=0), 0.0)
    _finish(
        result,
        place,
        here & (index > 0) & (index < block_pixels - 1),
        target,
        bias,
        slope,
        first,
        second,
        first_scale,
        second_scale,
        target_pitch,
        first_pitch,
        second_pitch,
        out_channels,
        has_bias,
        has_slopes,
        residual_count,
        block_out,
    )
