"""The spatial-frequency block (SFB) of SwinFIR (Zhang et al., arXiv 2208.11247): [N, C, h, w] to the same.

One branch is two 3x3 convolutions with a residual; the other mixes the channels of the picture's Fourier transform, by
which each value of the result depends on all of the picture. A 1x1 convolution makes one of both. The names of the
attributes are the published keys'.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_SLOPE = 0.2  # of all its leaky ReLUs


class FourierUnit(nn.Module):
    """A 1x1 convolution over the real and the imaginary parts of the spectrum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_layer = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.relu = nn.LeakyReLU(_SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        # In float32 whatever the rest is in: torch transforms nothing of 16 bits on CPUs, and on GPUs only fp16 whose
        # sides are powers of two.
        spectrum = torch.fft.rfft2(x.float(), norm="ortho")
        # channels: real of the first, imaginary of the first, real of the second, ...
        parts = torch.stack((spectrum.real, spectrum.imag), dim=2).flatten(1, 2)
        mixed = self.relu(self.conv_layer(parts.to(x.dtype))).float()
        mixed = torch.complex(mixed[:, 0::2].contiguous(), mixed[:, 1::2].contiguous())
        return torch.fft.irfft2(mixed, s=x.shape[-2:], norm="ortho").to(x.dtype)


class FrequencyBranch(nn.Module):
    """The Fourier unit on half of the channels, with a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Sequential(nn.Conv2d(channels, half, 1), nn.LeakyReLU(_SLOPE))
        self.fu = FourierUnit(half)
        self.conv2 = nn.Conv2d(half, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.conv2(x + self.fu(x))


class SpatialBranch(nn.Module):
    """Two convolutions, `hidden` channels between them, with a residual."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, padding=1),
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(hidden, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + x


class SFB(nn.Module):
    """Both branches and what makes one of them; `hidden`: of the spatial one, as many as `channels` if not given."""

    def __init__(self, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        self.S = SpatialBranch(channels, hidden or channels)
        self.F = FrequencyBranch(channels)
        self.fusion = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fusion(torch.cat((self.S(x), self.F(x)), dim=1))
