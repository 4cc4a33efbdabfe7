"""A model's modules replaced, in our copy, by faster ones that compute the same."""

from __future__ import annotations

from spandrel.architectures.Compact import Compact
from torch import nn

from .contracts import Kernels
from .winograd import WinogradChain, WinogradConvolution, WinogradDenseBlock, slope_of, suits

_DENSE_BLOCK = "ResidualDenseBlock_5C"  # spandrel's, of ESRGAN and its kin
_DENSE_SCALE = 0.2  # by which it multiplies what it adds to its input


def rewrite(model: nn.Module, kernels: Kernels) -> int:
    """Replace in place what `kernels` take over, and return how many modules that were.

    For "winograd", `winograd.prepare` must have been asked, and the model must be in float32 on the CPU.
    """
    return 0 if kernels == "plain" else _use_winograd(model, type(model) is nn.Sequential)


def _use_winograd(parent: nn.Module, in_order: bool) -> int:
    """Dense blocks as wholes, other convolutions one by one, together with the activation after them where the
    children are computed in the order in which they are kept."""
    count = 0
    children = list(parent.named_children())
    for (name, child), (after, activation) in zip(children, [*children[1:], ("", None)], strict=False):
        parts = _dense_parts(child)
        if parts:
            setattr(parent, name, WinogradDenseBlock(parts, _DENSE_SCALE))
            count += 1
        elif suits(child):
            fused = in_order and activation is not None and slope_of(activation, child.out_channels) is not None
            setattr(parent, name, WinogradConvolution(child, activation if fused else None))
            if fused:
                setattr(parent, after, nn.Identity())
            count += 1
        else:
            chain = type(child) is nn.Sequential or (isinstance(parent, Compact) and name == "body")
            count += _use_winograd(child, chain)
    if in_order:
        _join(parent)
    return count


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
    """The five convolutions of a dense block, with the activations that follow; None where it is none, or another."""
    if type(block).__name__ != _DENSE_BLOCK or getattr(block, "conv1x1", None) is not None:
        return None
    parts = []
    for number in range(1, 6):
        step = getattr(block, f"conv{number}", None)
        convolution, *after = step if isinstance(step, nn.Sequential) else [step]
        if not suits(convolution) or convolution.padding != (1, 1) or len(after) > 1:
            return None
        if after and slope_of(after[0], convolution.out_channels) is None:
            return None
        parts.append((convolution, after[0] if after else None))
    return parts
