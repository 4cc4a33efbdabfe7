"""Attention without its matrices of scores: recognised while a model computes, whatever its architecture is called.

Every attention of spandrel's architectures is the same handful of operations, `softmax(q @ k^T * scale + bias) @ v`, in
modules that have little else in common. While `FusedAttention` is active, a product that may be the first of them is
not computed but noted; so is what it is multiplied by and what is added to it; and when its softmax meets `v`, all of
it is one call of a fused attention, which never holds the [N, M] scores: ours on a CPU (window_attention.py), else
torch's (Dao et al., FlashAttention, https://arxiv.org/abs/2205.14135). A product that turns out to be something else is
computed after all. Queries, keys, biases, and views of scores, must not be written to between the product and its
softmax; no known model does so, and autotune.py would see that it computes something else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar, Token
from functools import reduce
from itertools import repeat
from numbers import Number
from operator import add, mul, truediv
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..api.upstream import plain_tensor_functions, tensor_without_values
from . import window_attention

_MOST_CHANNELS = 128  # of a head: beyond, fused kernels are slow or missing
_ALIGNED = 8  # channels: what CUDA's fused kernels take
_MOST_WINDOWS = 65535  # at once, on CUDA: they are the last dimension of a grid of blocks

Function = Callable[..., Any]


_PRODUCT_TYPE: ContextVar[torch.dtype] = ContextVar("product type", default=torch.float32)


class FusedAttention(TorchFunctionMode):
    """While it is active, in this thread, attention is computed in one operation. For inference only. Our kernels
    multiply `products`, float32 or bfloat16."""

    def __init__(self, products: torch.dtype = torch.float32) -> None:
        super().__init__()
        self._products, self._before = products, list[Token[torch.dtype]]()

    def __enter__(self) -> FusedAttention:
        self._before.append(_PRODUCT_TYPE.set(self._products))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        _PRODUCT_TYPE.reset(self._before.pop())

    def __torch_function__(self, func: Function, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if func in _PRODUCTS and not kwargs and _may_be_scores(*args):
            return Scores.of(args[0], args[1].transpose(-2, -1))
        return func(*args, **(kwargs or {}))


class Scores(Tensor):
    """`query @ keys^T`, and what was done to it since: a tensor [..., N, M] that has no values until they are needed.

    `query` [..., N, d], `keys` [..., M, d]; `added` are tensors that are broadcast to the scores' shape; `normalized`
    says that their softmax was taken; `computed` are their values, from when they were needed.
    """

    query: Tensor
    keys: Tensor
    added: tuple[Tensor, ...]
    normalized: bool
    computed: Tensor | None

    @staticmethod
    def of(query: Tensor, keys: Tensor, added: tuple[Tensor, ...] = (), normalized: bool = False) -> Scores:
        shape = (*query.shape[:-1], keys.shape[-2])
        scores = tensor_without_values(Scores, shape, like=query)
        scores.query, scores.keys, scores.added, scores.normalized = query, keys, added, normalized
        scores.computed = None
        return scores

    @classmethod
    def __torch_function__(cls, func: Function, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """A function or method of torch's that was given scores: noted where it belongs to attention, else applied."""
        with plain_tensor_functions():
            if func in _TOLD:
                return func(*args)
            note = _NOTES.get(func) if args else None
            noted = note(*args, **(kwargs or {})) if note else None
            return _apply(func, args, kwargs) if noted is None else noted

    @classmethod
    def __torch_dispatch__(cls, func: Function, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """An operation that something within torch applied to scores."""
        return _apply(func, args, kwargs)


def _apply(func: Function, args: Sequence[Any], kwargs: Any) -> Any:
    return func(*map(_computed, args), **{name: _computed(value) for name, value in (kwargs or {}).items()})


def _computed(value: Any) -> Any:
    """The values of scores; of all else itself. Kept: what is done to them in place must not be lost."""
    if isinstance(value, list | tuple) and any(isinstance(one, Scores) for one in value):
        return [_computed(one) for one in value]
    if not isinstance(value, Scores):
        return value
    if value.computed is None:
        scores = reduce(add, value.added, value.query @ value.keys.transpose(-2, -1))
        value.computed = scores.softmax(-1) if value.normalized else scores
    return value.computed


def attend(query: Tensor, keys: Tensor, values: Tensor, added: Sequence[Tensor] = ()) -> Tensor:
    """`softmax(query @ keys^T + added) @ values`, [..., N, d], for query [..., N, d], keys and values [..., M, d], and
    tensors that are broadcast to [..., N, M]. On a meta device it takes the memory that it would take elsewhere."""
    lead = query.shape[:-2]
    pair = (math.prod(lead[:-1]), lead[-1]) if len(lead) > 1 else (*lead, 1)  # windows and heads, for the kernels
    query, keys, values = (tensor.reshape(*pair, *tensor.shape[-2:]) for tensor in (query, keys, values))
    biases = [_regrouped(tensor, lead, pair) for tensor in added]
    if query.is_meta and window_attention.ready():
        return query.new_empty(query.shape).reshape(*lead, *query.shape[-2:])
    if window_attention.suits(query, keys, values, biases):
        result = window_attention.attend(query, keys, values, biases, _PRODUCT_TYPE.get())
    else:
        result = _by_torch(query, keys, values, reduce(add, biases).to(query.dtype) if biases else None)
    return result.reshape(*lead, *result.shape[-2:])


def _by_torch(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """For query [W, H, N, d]; with channels filled up, and so many windows at a time, as CUDA's kernels want them."""
    channels, given = query.shape[-1], (query, keys, values)
    if channels % _ALIGNED and (query.is_cuda or query.is_meta):
        given = tuple(F.pad(tensor, (0, -channels % _ALIGNED)) for tensor in given)
    if query.is_meta:  # there torch would make scores
        return torch.empty_like(given[0])[..., :channels]
    most = _MOST_WINDOWS if query.is_cuda else len(query)
    biases = bias.split(most) if bias is not None and len(bias) > 1 else repeat(bias)
    pieces = zip(*(tensor.split(most) for tensor in given), biases, strict=False)
    results = [F.scaled_dot_product_attention(q, k, v, attn_mask=b, scale=1.0) for q, k, v, b in pieces]
    return (results[0] if len(results) == 1 else torch.cat(results))[..., :channels]


# --- what is noted: each returns the scores it leads to, or None where it is no part of attention --------------------


def _may_be_scores(query: Any, keys: Any) -> bool:
    """Whether `query @ keys` may be scores, [..., N, d] @ [..., d, M]: many, and wider than what they are made of."""
    if not (isinstance(query, Tensor) and isinstance(keys, Tensor)) or isinstance(query, Scores):
        return False
    return (
        2 < query.ndim == keys.ndim
        and query.shape[:-2] == keys.shape[:-2]
        and query.dtype == keys.dtype
        and query.shape[-1] == keys.shape[-2] <= min(_MOST_CHANNELS, keys.shape[-1])
    )


def _scaled(by: Function) -> Function:
    def noted(scores: Any, factor: Any = None, **more: Any) -> Scores | None:
        if more or not _raw(scores) or scores.added or not _one_per_matrix(factor, scores):
            return None
        return Scores.of(by(scores.query, factor), scores.keys)

    return noted


def _plus(scores: Any, other: Any = None, **more: Any) -> Scores | None:
    if not isinstance(scores, Scores):
        scores, other = other, scores
    if more or not _raw(scores) or not isinstance(other, Tensor) or isinstance(other, Scores):
        return None
    if not other.is_floating_point() or other.dtype == torch.float64 or not _broadcasts(other, scores):
        return None
    return Scores.of(scores.query, scores.keys, (*scores.added, other))


def _in_place(note: Function) -> Function:
    """What `note` notes, of the very scores that it is given."""

    def noted(scores: Any, other: Any = None, **more: Any) -> Scores | None:
        result = note(scores, other, **more) if isinstance(scores, Scores) else None
        if result is None:
            return None
        scores.query, scores.added = result.query, result.added
        return scores

    return noted


def _viewed(scores: Any, *shape: Any, **more: Any) -> Scores | None:
    """Only its leading dimensions in another grouping, as for windows' masks."""
    if more or not shape:
        return None
    sizes = list(shape[0] if len(shape) == 1 and isinstance(shape[0], list | tuple | torch.Size) else shape)
    if scores.computed is not None or not all(isinstance(size, int) for size in sizes):
        return None
    if -1 in sizes:
        sizes[sizes.index(-1)] = scores.numel() // max(1, -math.prod(sizes))
    lead, after = scores.shape[:-2], tuple(sizes[:-2])
    if tuple(sizes[-2:]) != tuple(scores.shape[-2:]) or math.prod(after) != math.prod(lead) or not after:
        return None
    query, keys = (tensor.reshape(*after, *tensor.shape[-2:]) for tensor in (scores.query, scores.keys))
    added = tuple(_regrouped(tensor, lead, after) for tensor in scores.added)
    return Scores.of(query, keys, added, scores.normalized)


def _softmax(scores: Any, dim: Any = None, dtype: Any = None, _stacklevel: int = 0, **more: Any) -> Scores | None:
    if more or not _raw(scores) or dim not in (-1, scores.ndim - 1) or dtype not in (None, scores.dtype):
        return None
    return Scores.of(scores.query, scores.keys, scores.added, normalized=True)


def _dropout(scores: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Scores | None:
    return None if training and p else scores


def _attended(scores: Any, values: Any = None, **more: Any) -> Tensor | None:
    if more or not isinstance(scores, Scores) or not scores.normalized or scores.computed is not None:
        return None
    if not isinstance(values, Tensor) or isinstance(values, Scores) or values.shape != scores.keys.shape:
        return None
    if values.dtype != scores.query.dtype:
        return None
    return attend(scores.query, scores.keys, values, scores.added)


def _raw(scores: Any) -> bool:
    """Whether it is scores as yet without softmax or values."""
    return isinstance(scores, Scores) and not scores.normalized and scores.computed is None


def _one_per_matrix(factor: Any, scores: Scores) -> bool:
    if not isinstance(factor, Tensor):
        return isinstance(factor, Number)
    return tuple(factor.shape[-2:]) in ((), (1,), (1, 1)) and _broadcasts(factor, scores)


def _broadcasts(tensor: Tensor, scores: Scores) -> bool:
    """Whether `tensor` is spread over the scores, and not they over it."""
    pairs = zip(reversed(tensor.shape), reversed(scores.shape), strict=False)
    return tensor.ndim <= scores.ndim and all(here in (1, there) for here, there in pairs)


def _regrouped(tensor: Tensor, lead: Sequence[int], after: Sequence[int]) -> Tensor:
    """`tensor`, broadcast to [*lead, N, M], in a shape that is broadcast to [*after, N, M], with no more values than
    that takes."""
    tensor = tensor[(None,) * (len(lead) + 2 - tensor.ndim)]
    same = 0  # of the last leading dimensions, which may stay as they are
    while same < min(len(lead), len(after)) and lead[-1 - same] == after[-1 - same]:
        same += 1
    front, kept = tensor.shape[: len(lead) - same], tensor.shape[len(lead) - same :]
    if math.prod(front) == 1:
        return tensor.reshape(*[1] * (len(after) - same), *kept)
    return tensor.expand(*lead[: len(lead) - same], *kept).reshape(*after[: len(after) - same], *kept)


_PRODUCTS = {torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__}
_TOLD = {
    *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "is_cuda")),
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point),
}
_NOTES: dict[Function, Function] = {
    **dict.fromkeys((torch.mul, Tensor.mul), _scaled(mul)),
    **dict.fromkeys((torch.div, Tensor.div), _scaled(truediv)),
    **dict.fromkeys((torch.add, Tensor.add), _plus),
    Tensor.mul_: _in_place(_scaled(mul)),
    Tensor.add_: _in_place(_plus),
    **dict.fromkeys((Tensor.view, Tensor.reshape, torch.reshape), _viewed),
    **dict.fromkeys((torch.softmax, Tensor.softmax, F.softmax), _softmax),
    F.dropout: _dropout,
    **dict.fromkeys(_PRODUCTS, _attended),
}
