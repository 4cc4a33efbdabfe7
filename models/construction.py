"""Building a network for weights that nobody vouches for, within bounds on work and memory.

How many layers a network gets, and how large each is, spandrel infers from names and shapes: a file of some kilobytes
can ask for terabytes. So what torch is asked to make is counted while it is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..api.upstream import TorchDispatchMode, tree_leaves

_OPERATIONS, _OPERATIONS_PER_TENSOR = 3_000, 10  # spandrel's architectures need 3 to 8 a tensor
_MOST_OPERATIONS = 40_000  # some seconds; the largest models need 11,000
_BYTES = 1 << 30  # whatever the model: tables for windows are computed, and in no file
_BYTES_PER_BYTE = 8  # weights in half precision become full ones, and are made, filled, copied
_LARGE = 1 << 24  # elements; what may give as many is tried without memory before it is done


class OversizedNetworkError(ValueError):
    """The network is far larger than the weights for it."""


class BoundedConstruction(TorchDispatchMode):
    """Within it, torch makes no more than a network for `weights` can need; beyond, `OversizedNetworkError` is raised.

    In this thread alone. What would be too large is refused before any of its memory is touched.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._operations = min(_OPERATIONS + _OPERATIONS_PER_TENSOR * len(weights), _MOST_OPERATIONS)
        self._bytes = _BYTES + _BYTES_PER_BYTE * sum(tensor.nbytes for tensor in weights.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._operations -= 1
        if self._operations < 0:
            raise OversizedNetworkError("the network that they describe has far more layers than they have weights for")
        if _writes(func):
            return func(*args, **kwargs)
        if _most_elements(args) > _LARGE:
            self._charge(_tried(func, args, kwargs))
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        self._charge(result)
        return result

    def _charge(self, result: object) -> None:
        # a search takes longer than most operations
        leaves = (result,) if isinstance(result, Tensor) else tree_leaves(result)
        self._bytes -= sum(leaf.untyped_storage().nbytes() for leaf in leaves if isinstance(leaf, Tensor))
        if self._bytes < 0:
            raise OversizedNetworkError("the network that they describe takes far more memory than they do")


class WithoutStartingWeights(TorchFunctionMode):
    """While it is active, in this thread, nothing is written into parameters: random numbers for a network whose
    weights are all replaced can take longer than reading these. Until then they are what their memory held."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        written = args[0] if args else kwargs.get("tensor")  # so `torch.nn.init` has it
        # torch's names for what it does in place end so
        if isinstance(written, nn.Parameter) and func.__name__.endswith("_") and func.__name__[0] != "_":
            return written
        return func(*args, **kwargs)


def _writes(func: Any) -> bool:
    """Whether an operation writes into a tensor that is there: torch ends the names of such with an underscore."""
    return func.overloadpacket.__name__.endswith("_")


def _most_elements(args: Any) -> int:
    """No fewer than the result of an operation on `args` has: a shape's product, or each element with each."""
    count = 1
    for arg in args:
        if isinstance(arg, Tensor):
            count *= max(1, arg.numel())
        elif isinstance(arg, int):
            count *= max(1, abs(arg))
        elif isinstance(arg, list | tuple):
            numbers = [abs(item) or 1 for item in arg if isinstance(item, int)]
            count *= math.prod(numbers) * max(1, sum(item.numel() for item in arg if isinstance(item, Tensor)))
    return count


def _tried(func: Any, args: Any, kwargs: Any) -> Any:
    """The result without its content, on torch's meta device."""
    if "device" in kwargs:
        kwargs = {**kwargs, "device": torch.device("meta")}
    return func(*(_emptied(arg) for arg in args), **kwargs)


def _emptied(arg: Any) -> Any:
    if isinstance(arg, Tensor):
        return arg.to("meta")
    return [_emptied(item) for item in arg] if isinstance(arg, list) else arg
