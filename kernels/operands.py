"""What a kernel that is handed bare pointers must be sure of first: for a wrong tensor it would read or write memory
that is another's, and say nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_operand(
    name: str, tensor: Tensor, shape: Sequence[int], dtype: torch.dtype | None, device: torch.device
) -> None:
    """Raise `ValueError`, which names the operand, unless `tensor` has this shape and type, None for any, and lies on
    this device."""
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)} instead of {tuple(shape)}")
    if dtype is not None and tensor.dtype != dtype:
        raise ValueError(f"{name} is of {tensor.dtype} instead of {dtype}")
    if tensor.device != device:
        raise ValueError(f"{name} lies on {tensor.device} instead of {device}")


def check_dense(name: str, tensor: Tensor) -> None:
    """Raise `ValueError`, which names the operand, unless the values of its last dimension lie side by side."""
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(f"{name}'s last dimension is not dense: its strides are {tensor.stride()}")


def check_writable(name: str, tensor: Tensor) -> None:
    """Raise `ValueError`, which names the operand, where several of its values share a place in memory."""
    if any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)):
        raise ValueError(f"{name} has values that share a place in memory: its strides are {tensor.stride()}")
