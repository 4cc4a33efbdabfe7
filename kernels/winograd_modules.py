"""Convolutions by Winograd's method as modules that stand in for a model's: by themselves, in a row, as blocks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from .heartbeat import beat
from .interface import Curve
from .winograd import EDGES, Packed, channels_last, loaded
from .workspace import workspace

PICTURE = 4  # channels that a picture has, at most


class WinogradConvolution(nn.Module):
    """A convolution with the activation that follows it: x [N, C, h, w] float32 -> [N, O, h, w], channels last.

    Two pixels less each way where the convolution has no padding. One that makes a picture multiplies float32 whatever
    `products` are: no later layer would smooth what rounding does there (HAT: 65 dB from fp32 instead of 53).
    """

    weights: Tensor
    bias: Tensor
    slope: Tensor | None

    def __init__(
        self, convolution: nn.Conv2d, activation: nn.Module | None = None, products: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        if convolution.out_channels <= PICTURE:
            products = torch.float32
        packed = loaded().pack(convolution, activation, products)
        for name in ("weights", "bias", "slope"):
            self.register_buffer(name, getattr(packed, name))
        self._curve = packed.curve
        self.outputs = convolution.out_channels
        self.lost = 2 - 2 * EDGES[convolution.padding]

    @property
    def packed(self) -> Packed:
        """What the kernels take."""
        return Packed(self.weights, self.bias, self.slope, self._curve)

    def forward(self, x: Tensor) -> Tensor:
        x, packed = channels_last(x), self.packed
        count, height, width, _ = x.shape
        y = x.new_empty(count, height - self.lost, width - self.lost, packed.outputs)
        loaded().convolve(x, packed, y)
        return y.permute(0, 3, 1, 2)[:, : self.outputs]


class WinogradChain(nn.Module):
    """Convolutions in a row, each of the last one's result: x [N, C, h, w] float32 -> [N, O, h, w], channels last.

    What lies between is written to and fro between two buffers, which are gone by the time that what comes after takes
    memory.
    """

    def __init__(self, steps: list[WinogradConvolution]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self._outputs = steps[-1].outputs

    def forward(self, x: Tensor) -> Tensor:
        x = channels_last(x)
        *before, last = _packed(self.steps)
        pixels = x.shape[:3]
        most = pixels.numel() * max(step.outputs for step in before)
        buffers = [x.new_empty(most) for _ in range(2)]
        for packed, buffer in zip(before, itertools.cycle(buffers), strict=False):
            outputs = packed.outputs
            y = buffer[: pixels.numel() * outputs].view(*pixels, outputs)
            loaded().convolve(x, packed, y)
            beat()
            x = y
        y = x.new_empty(*pixels, last.outputs)
        loaded().convolve(x, last, y)
        beat()
        return y.permute(0, 3, 1, 2)[:, : self._outputs]


class WinogradDenseBlock(nn.Module):
    """The dense block of ESRGAN's RRDB (Wang et al., 2018, arXiv 1809.00219): x [N, C, h, w] float32 -> the same.

    Five convolutions, each of all that came before: here they read the first channels of one buffer and write the next
    ones, so that nothing is concatenated. The last is scaled and added to x.
    """

    def __init__(
        self,
        convolutions: list[tuple[nn.Conv2d, nn.Module | None]],
        scale: float,
        products: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self._scale = scale
        self.steps = nn.ModuleList(WinogradConvolution(*pair, products) for pair in convolutions)
        self._width = convolutions[-1][0].in_channels

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        known = x.shape[3]
        buffer = workspace(*x.shape[:3], self._width)
        buffer[..., :known] = x
        *grow, last = _packed(self.steps)
        for packed in grow:
            more = packed.outputs
            loaded().convolve(buffer[..., :known], packed, buffer[..., known : known + more])
            beat()
            known += more
        y = x.new_empty(*x.shape[:3], last.outputs)
        loaded().convolve(buffer, last, y, self._scale, buffer[..., : y.shape[3]])
        beat()
        return y.permute(0, 3, 1, 2)


class WinogradSpanBlock(nn.Module):
    """SPAN's block (Wan et al., 2023, arXiv 2311.12770): x [N, C, h, w] float32 -> the same; what its first convolution
    made, where that `is_read`; and None, for the attention, which nothing reads.

    Three convolutions, with SiLU after two of them and the attention after the last, each in one pass over memory.
    """

    def __init__(self, convolutions: list[nn.Conv2d], is_read: bool, products: torch.dtype = torch.float32) -> None:
        super().__init__()
        activations = (nn.SiLU(), nn.SiLU(), None)
        pairs = zip(convolutions, activations, strict=True)
        self.steps = nn.ModuleList(WinogradConvolution(*pair, products) for pair in pairs)
        self._is_read, self._outputs = is_read, convolutions[-1].out_channels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x = channels_last(x)
        first, second, last = _packed(self.steps)
        between = workspace(2, *x.shape)
        begun = x.new_empty(x.shape) if self._is_read else between[1]
        y = x.new_empty(x.shape)
        kernels = loaded()
        kernels.convolve(x, first, begun)
        beat()
        kernels.convolve(begun, second, between[0])
        beat()
        kernels.convolve(between[0], last._replace(curve=Curve.GATE), y, 1.0, x)
        beat()
        return self._as_given(y), self._as_given(begun) if self._is_read else None, None

    def _as_given(self, y: Tensor) -> Tensor:
        return y.permute(0, 3, 1, 2)[:, : self._outputs]


def transformed_bytes(module: nn.Module) -> int:
    """Bytes of the weights in `module` that are kept as the kernels take them: four times those of the convolutions,
    36 numbers for 9 (and channels in multiples of 8)."""
    return sum(part.weights.nbytes for part in module.modules() if isinstance(part, WinogradConvolution))


def _packed(steps: nn.ModuleList) -> list[Packed]:
    """What the kernels take of each of these `WinogradConvolution`s."""
    return [step.packed for step in cast("Iterable[WinogradConvolution]", steps)]
