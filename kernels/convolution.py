"""3x3 convolutions together with what follows them, on tensors whose pixels hold all their channels side by side.

In that order (NHWC, torch's `channels_last`) a convolution may read the first channels of a wide tensor and write some
of its others, and what follows it (activation, residual) needs no pass over memory of its own. The Triton kernel
(triton_convolution.py) does all of that in one; here is the plain way, which it is measured against and falls back to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp.autocast_mode import is_autocast_available

from ..api.upstream import has_hooks


class Residual(NamedTuple):
    """`result * scale + tensor`: what becomes of a result [N, C, h, w]; `tensor` has its shape."""

    scale: float
    tensor: Tensor


class Convolution(Protocol):
    """Convolves `source` [N, C, h, w] by `weight` [C', C, 3, 3], multiplies negative values by `slope` and lets the
    `residuals` follow in their order; the result goes into `target` [N, C', h, w].

    Zeros lie around the picture. `bias` is [C']; `slope` one number (1: no activation) or one per channel, [C'].
    Source, target and residuals may be channel slices of one tensor, but none may overlap the target. Weight and bias
    have the source's type; bias and slopes are contiguous.
    """

    def __call__(
        self,
        source: Tensor,
        target: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        slope: float | Tensor = 1.0,
        residuals: Sequence[Residual] = (),
    ) -> None: ...


def plain_convolution(
    source: Tensor,
    target: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slope: float | Tensor = 1.0,
    residuals: Sequence[Residual] = (),
) -> None:
    """The `Convolution` of torch's own operations, on every device; the last of them writes into `target`."""
    result = F.conv2d(source, weight, bias, padding=1)
    if isinstance(slope, Tensor):
        result = F.prelu(result, slope.to(result.dtype))
    elif slope != 1 and not residuals:
        torch.ops.aten.leaky_relu.out(result, slope, out=target)
        return
    elif slope != 1:
        result = F.leaky_relu(result, slope, inplace=True)
    for scale, tensor in residuals[:-1]:
        result = torch.add(tensor, result, alpha=scale)
    if residuals:
        torch.add(residuals[-1].tensor, result, alpha=residuals[-1].scale, out=target)
    else:
        target.copy_(result)


def simple_convolution(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether `module` is a convolution that a `Convolution` can stand in for: 3x3, step 1, zeros around, one group."""
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (3, 3)
        and module.stride == module.dilation == module.padding == (1, 1)
        and module.padding_mode == "zeros"
        and module.groups == 1
    )


def activation_slope(module: nn.Module) -> float | Tensor | None:
    """What an activation multiplies negative values by, a PReLU's [C] or [1]; None where it does something else."""
    if isinstance(module, nn.PReLU):
        return module.weight
    if isinstance(module, nn.LeakyReLU):
        return float(module.negative_slope)
    return 0.0 if type(module) is nn.ReLU else None


def is_gelu(module: nn.Module | None) -> bool:
    """Whether it is GELU itself, not what comes near it."""
    return type(module) is nn.GELU and module.approximate == "none" and not has_hooks(module)


def computing_type(weight: Tensor) -> torch.dtype:
    """What a convolution with `weight` computes in here: autocast's type where that is on, else the weight's."""
    kind = weight.device.type
    automatic = is_autocast_available(kind) and torch.is_autocast_enabled(kind)  # not on "meta"
    return torch.get_autocast_dtype(kind) if automatic else weight.dtype


def parameters_of(convolution: nn.Conv2d, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Weight and bias in `dtype`, in the order in which kernels read them; mostly they are so already."""
    bias = convolution.bias
    weight = convolution.weight.to(dtype, memory_format=torch.channels_last)
    return weight, None if bias is None else bias.to(dtype)
