"""Weights in the order in which our kernels for CPUs read them (`multiply` in csrc/product.h)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

# Values that torch works on by one thread (at::internal::GRAIN_SIZE). A model's weights are hundreds of such steps, in
# each of which all threads wait for one another, on a busy machine for as long as others are served in between: 2.3 s
# of RealCUGAN's first call.
_BY_ONE_THREAD = 1 << 15


def in_blocks(matrices: Tensor, lanes: int, products: torch.dtype) -> Tensor:
    """[..., C * O] of matrices [..., C, O], O a multiple of `lanes`, C even where `products`, what they will be
    multiplied as, are bfloat16: blocks of the outputs that are summed up at once, two registers, or one. For bfloat16s
    two channels of an output lie side by side."""
    channels, outputs = matrices.shape[-2:]
    found = matrices.new_empty(*matrices.shape[:-2], channels * outputs)
    for start, piece in pieces_in_blocks(matrices, lanes, products):
        found[..., start : start + piece.shape[-1]] = piece
    return found


def pieces_in_blocks(
    matrices: Tensor, lanes: int, products: torch.dtype, copies: int = 1
) -> Iterator[tuple[int, Tensor]]:
    """The same piece by piece, each with where it begins. One thread works on each, also where `copies` as many values
    become of it."""
    together, start = 2 if products == torch.bfloat16 else 1, 0
    others = math.prod(matrices.shape[:-2]) * copies
    for block in matrices.split(2 * lanes, dim=-1):
        rows = max(1, _BY_ONE_THREAD // (others * block.shape[-1] * together)) * together
        for piece in block.split(rows, dim=-2):
            ordered = piece.unflatten(-2, (-1, together)).transpose(-1, -2).flatten(-3)
            yield start, ordered
            start += ordered.shape[-1]
