"""Products in one type: what torchax is to trace of a model of bfloat16s.

Some architectures make tensors on the way that are float32 whatever their weights are: SwinIR its masks, for tiles
that are no squares. JAX makes float32 of both, as torch does, and the next layer is refused: torch by itself, too, but
not where our attention takes the masks in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_PRODUCTS = {"linear", "matmul", "__matmul__", "bmm", "einsum", "conv1d", "conv2d", "conv3d", "conv_transpose2d"}


class OneTypeProducts(nn.Module):
    """`module`, in whose products float32 becomes bfloat16 where it meets that; all else is computed as it comes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        with _Narrowing():
            return self.module(x)


class _Narrowing(TorchFunctionMode):
    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {**(kwargs or {})}
        if getattr(func, "__name__", "") in _PRODUCTS and torch.bfloat16 in _types_in((args, given)):
            args, given = _narrow(args), _narrow(given)
        return func(*args, **given)


def _types_in(given: Any) -> set[torch.dtype]:
    if isinstance(given, Tensor):
        return {given.dtype}
    parts = given.values() if isinstance(given, dict) else given if isinstance(given, tuple | list) else ()
    return set().union(*map(_types_in, parts))


def _narrow(given: Any) -> Any:
    if isinstance(given, Tensor):
        return given.to(torch.bfloat16) if given.dtype == torch.float32 else given
    if isinstance(given, dict):
        return {name: _narrow(part) for name, part in given.items()}
    return type(given)(map(_narrow, given)) if isinstance(given, tuple | list) else given
