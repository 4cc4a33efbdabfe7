"""A model's modules replaced, in our copy, by faster ones that compute the same."""

from __future__ import annotations

from typing import Any

import torch
from spandrel.architectures.Compact import Compact
from spandrel.architectures.SPAN import SPAN
from torch import nn

from ..api.model_info import Kernels
from ..api.upstream import has_hooks
from . import linear, transformer_block
from .convolution import is_gelu
from .dat_blocks import rearranged
from .dense_block import DENSE_CONVOLUTIONS, DENSE_SCALE, DenseGroup, dense_groups, is_dense_block, rewrite_dense_groups
from .fused_convolution import FusedConvolution, fuse_chains, fusible_pairs
from .heartbeat import beat
from .linear import PackedLinear, PackedPointwise
from .winograd import aligned, follows, suits
from .winograd_modules import PICTURE, WinogradChain, WinogradConvolution, WinogradDenseBlock, WinogradSpanBlock

_MLP = ("fc1", "act")  # names of a layer and the activation after it, where attention models have both
_SPAN_READ = "block_6"  # of SPAN's blocks that whose first convolution's result is read again
_SPAN_SLOPE = 0.05  # of the leaky ReLU in SPAN's Conv3XC (arXiv 2311.12770 and spandrel's architecture)


def rewrite(model: nn.Module, kernels: Kernels, products: torch.dtype = torch.float32) -> int:
    """Replace in place what `kernels` take over, and return how many modules that were. "winograd" multiplies
    `products`, float32 or bfloat16.

    "winograd" (float32 on the CPU, and `winograd.prepare` must have been asked): most 3x3 convolutions, and transformer
    blocks where those kernels are there; with products of bfloat16s linear layers, too (and `linear.prepare`). "fused"
    (any device, made for CUDA): RRDB's dense blocks without concatenations, convolutions with their activations.
    "attention" takes over no modules.
    """
    if kernels == "fused":
        return rewrite_dense_groups(model) + fuse_chains(model)  # in this order: groups are known by their parts
    return _use_winograd(model, _is_in_order(model), products) if kernels == "winograd" else 0


def fold_convolutions(module: nn.Module) -> None:
    """Replace, in place, each of SPAN's `Conv3XC` by the single convolution it stands for.

    spandrel's module folds its three convolutions and the shortcut again at every forward, through `.data`: slow, in
    half precision less exact, and impossible to trace. For evaluation only: training needs the parts.
    """
    for parent in list(module.modules()):
        beat(0)
        for name, child in list(parent.named_children()):
            folded, fold = getattr(child, "eval_conv", None), getattr(child, "update_params", None)
            if isinstance(folded, nn.Conv2d) and callable(fold):
                fold()
                setattr(parent, name, nn.Sequential(folded, nn.LeakyReLU(_SPAN_SLOPE)) if child.has_relu else folded)


def narrow_fused(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep the weights of "fused" modules in `dtype`, the one they compute in under autocast: the same numbers, without
    a cast in every forward."""
    for module in model.modules():
        if isinstance(module, DenseGroup | FusedConvolution):
            module.to(dtype)


def can_fuse(model: nn.Module) -> bool:
    """Whether "fused" kernels would take over anything."""
    return any(True for _ in dense_groups(model)) or any(True for _ in fusible_pairs(model))


def _use_winograd(parent: nn.Module, in_order: bool, products: torch.dtype) -> int:
    """Dense blocks as wholes, other convolutions one by one, together with the activation after them where the
    children are computed in the order in which they are kept."""
    count = 0
    children = list(parent.named_children())
    for (name, child), (after, activation) in zip(children, [*children[1:], ("", None)], strict=False):
        beat(0)
        parts = _dense_parts(child)
        if parts:
            setattr(parent, name, WinogradDenseBlock(parts, DENSE_SCALE, products))
            count += 1
        elif type(parent) is SPAN and (convolutions := _span_parts(child)) is not None:
            setattr(parent, name, WinogradSpanBlock(convolutions, name == _SPAN_READ, products))
            count += 1
        elif transformer_block.ready() and transformer_block.suits(child):
            block = transformer_block.fused(child, products)
            setattr(parent, name, block)
            count += 1 + _use_winograd(block, False, products)
        elif (block := rearranged(child)) is not None:
            setattr(parent, name, block)
            count += _use_winograd(block, False, products)
        elif products == torch.bfloat16 and linear.suits(child):
            gelu = is_gelu(activation) and (in_order or (name, after) == _MLP)
            kind = PackedPointwise if isinstance(child, nn.Conv2d) else PackedLinear
            setattr(parent, name, kind(child, gelu))
            if gelu:
                setattr(parent, after, nn.Identity())
            count += 1
        elif suits(child):
            fused = in_order and follows(activation)
            exact = torch.float32 if in_order and _makes_picture(child, activation) else products
            setattr(parent, name, WinogradConvolution(child, activation if fused else None, exact))
            if fused:
                setattr(parent, after, nn.Identity())
            count += 1
        else:
            chain = _is_in_order(child) or (isinstance(parent, Compact) and name == "body")
            count += _use_winograd(child, chain, products)
    if in_order:
        _join(parent)
    return count


def _is_in_order(module: nn.Module) -> bool:
    """Whether its children are computed one after the other, as they are kept."""
    return type(module).forward is nn.Sequential.forward


def _makes_picture(convolution: nn.Conv2d, after: nn.Module | None) -> bool:
    """Whether what it computes is a picture once its channels are shuffled into pixels."""
    return isinstance(after, nn.PixelShuffle) and convolution.out_channels <= PICTURE * after.upscale_factor**2


def _join(parent: nn.Module) -> None:
    """Make one of the convolutions that come one after the other and give a picture as large as they take."""
    row: list[tuple[str, WinogradConvolution]] = []
    for name, child in [*parent.named_children(), ("", None)]:
        if isinstance(child, WinogradConvolution) and not child.lost:
            row.append((name, child))
        elif not isinstance(child, nn.Identity):
            if len(row) > 1:
                for joined, _ in row:
                    setattr(parent, joined, nn.Identity())
                setattr(parent, row[0][0], WinogradChain([step for _, step in row]))
            row = []


def _dense_parts(block: nn.Module) -> list[tuple[nn.Conv2d, nn.Module | None]] | None:
    """The convolutions of a dense block, with the activations that follow; None where it is none, or does not suit."""
    if not is_dense_block(block):
        return None
    parts = [[*getattr(block, name), None][:2] for name in DENSE_CONVOLUTIONS]
    taken = all(suits(convolution) and aligned(convolution) for convolution, _ in parts)
    return [(convolution, after) for convolution, after in parts] if taken else None


def _span_parts(block: nn.Module) -> list[nn.Conv2d] | None:
    """The convolutions of SPAN's block, which were folded; None where it is none, or does not suit."""
    if type(block).__name__ != "SPAB" or type(block).__module__ != SPAN.__module__:
        return None
    parts: Any = block
    convolutions = [parts.c1_r, parts.c2_r, parts.c3_r]
    channels = {some for one in convolutions if suits(one) for some in (one.in_channels, one.out_channels)}
    activation = parts.act1
    suit = all(map(suits, convolutions)) and len(channels) == 1 and not any(map(has_hooks, (block, activation)))
    return convolutions if suit and type(activation) is nn.SiLU and activation.inplace else None
