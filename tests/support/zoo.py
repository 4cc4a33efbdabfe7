"""Small models with random weights, built through spandrel's architectures, for shapes and behaviour."""

from __future__ import annotations

from collections.abc import Callable

import torch
from spandrel import ImageModelDescriptor, SizeRequirements
from spandrel.architectures.Compact import Compact, CompactArch
from spandrel.architectures.DnCNN import DnCNN, DnCNNArch
from spandrel.architectures.ESRGAN import ESRGAN, ESRGANArch
from spandrel.architectures.FDAT import FDAT, FDATArch
from spandrel.architectures.RCAN import RCAN, RCANArch
from spandrel.architectures.RealCUGAN import RealCUGANArch, UpCunet2x
from spandrel.architectures.SPAN import SPAN, SPANArch
from spandrel.architectures.SwinIR import SwinIR, SwinIRArch
from torch import Tensor, nn


def compact(scale: int = 2, channels: int = 3, features: int = 8, convs: int = 3) -> ImageModelDescriptor:
    torch.manual_seed(0)
    network = Compact(num_in_ch=channels, num_out_ch=channels, num_feat=features, num_conv=convs, upscale=scale)
    return CompactArch().load(network.state_dict()).eval()


def esrgan(scale: int = 4) -> ImageModelDescriptor:
    torch.manual_seed(0)
    return ESRGANArch().load(ESRGAN(in_nc=3, out_nc=3, num_filters=8, num_blocks=1, scale=scale).state_dict()).eval()


def deep() -> ImageModelDescriptor:
    """An ESRGAN whose weights are spread over many blocks."""
    torch.manual_seed(0)
    return ESRGANArch().load(ESRGAN(in_nc=3, out_nc=3, num_filters=16, num_blocks=6, scale=2).state_dict()).eval()


def swinir() -> ImageModelDescriptor:
    torch.manual_seed(0)
    network = SwinIR(
        img_size=16, window_size=8, depths=[2], embed_dim=12, num_heads=[2], upscale=2, upsampler="pixelshuffle"
    )
    return SwinIRArch().load(network.state_dict()).eval()


def span() -> ImageModelDescriptor:
    torch.manual_seed(0)
    return SPANArch().load(SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2).state_dict()).eval()


def rcan_unshuffle() -> ImageModelDescriptor:
    torch.manual_seed(0)
    network = RCAN(n_resgroups=1, n_resblocks=1, n_feats=8, reduction=4, scale=2, unshuffle_mod=True)
    return RCANArch().load(network.state_dict()).eval()


def fdat() -> ImageModelDescriptor:
    torch.manual_seed(0)
    return FDATArch().load(FDAT(embed_dim=12, scale=2, depth_per_group=1, num_groups=1).state_dict()).eval()


def realcugan() -> ImageModelDescriptor:
    torch.manual_seed(0)
    return RealCUGANArch().load(UpCunet2x().state_dict()).eval()


def grey_denoiser() -> ImageModelDescriptor:
    torch.manual_seed(0)
    return DnCNNArch().load(DnCNN(in_nc=1, out_nc=1, nc=8, nb=4).state_dict()).eval()


class Toy(nn.Module):
    """Nearest-neighbour upscaling by `scale`, then `change(picture)`: a model whose every output value is known."""

    def __init__(self, scale: int, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.scale, self.change = scale, change
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.change(nn.functional.interpolate(x * self.weight, scale_factor=self.scale))


def toy(
    scale: int = 2,
    change: Callable[[Tensor], Tensor] = lambda x: x,
    channels: int = 3,
    half: bool = True,
    size: SizeRequirements | None = None,
) -> ImageModelDescriptor:
    network = Toy(scale, change)
    return ImageModelDescriptor(
        network,
        network.state_dict(),
        architecture=CompactArch(),
        purpose="Restoration" if scale == 1 else "SR",
        tags=["toy"],
        supports_half=half,
        supports_bfloat16=half,
        scale=scale,
        input_channels=channels,
        output_channels=channels,
        size_requirements=size,
    ).eval()


def toy_attention() -> ImageModelDescriptor:
    """A toy that looks like an attention model: a linear layer, and windows of 8 pixels."""
    descriptor = toy()
    torch.manual_seed(0)
    descriptor.model.layer, descriptor.model.window_size = nn.Linear(1, 1), 8
    return descriptor


def photograph(height: int, width: int, channels: int = 3, frames: int = 1) -> Tensor:
    """Something like a photograph, [frames, height, width, channels] 0..1: shades, edges, grain."""
    generator = torch.Generator().manual_seed(height * 10007 + width)
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 4, width), indexing="ij")
    planes = []
    for c in range(frames * channels):
        shade = 0.5 + 0.3 * torch.sin(x * (1 + c % 3) + y + c)
        edges = 0.15 * ((3 * x + c).floor() + (2 * y).floor()).remainder(2)
        planes.append(shade + edges + 0.05 * torch.rand(height, width, generator=generator))
    return torch.stack(planes, -1).reshape(height, width, frames, channels).permute(2, 0, 1, 3).clamp(0, 1).contiguous()
