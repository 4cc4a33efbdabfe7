"""Weights in the order in which our kernels for CPUs read them (`multiply` in csrc/product.h)."""

from __future__ import annotations

import torch
from torch import Tensor


def in_blocks(matrices: Tensor, lanes: int, products: torch.dtype) -> Tensor:
    """[..., C * O] of matrices [..., C, O], O a multiple of `lanes`, C even where `products`, what they will be
    multiplied as, are bfloat16: blocks of the outputs that are summed up at once, two registers, or one. For bfloat16s
    two channels of an output lie side by side."""
    together = 2 if products == torch.bfloat16 else 1
    blocks = (
        block.unflatten(-2, (-1, together)).transpose(-1, -2).flatten(-3) for block in matrices.split(2 * lanes, dim=-1)
    )
    return torch.cat([*blocks], dim=-1)
