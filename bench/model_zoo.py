"""Models to measure with, at the sizes people use: random weights of a fixed seed, the bundled model, or a file's."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from spandrel import ImageModelDescriptor
from spandrel.architectures.Compact import Compact, CompactArch
from spandrel.architectures.DAT import DAT, DATArch
from spandrel.architectures.DCTLSA import DCTLSA, DCTLSAArch
from spandrel.architectures.ESRGAN import ESRGAN, ESRGANArch
from spandrel.architectures.HAT import HAT, HATArch
from spandrel.architectures.OmniSR import OmniSR, OmniSRArch
from spandrel.architectures.PLKSR import PLKSRArch, RealPLKSR
from spandrel.architectures.RealCUGAN import RealCUGANArch, UpCunet2x
from spandrel.architectures.SAFMN import SAFMN, SAFMNArch
from spandrel.architectures.SPAN import SPAN, SPANArch
from spandrel.architectures.SwinIR import SwinIR, SwinIRArch
from torch import Tensor, nn

from cudaspeed.api.upstream import architecture_call
from cudaspeed.models.loader import DEFAULT_MODEL, load_model, resolve_model

_FIT_SIDE = 64  # of the pieces that a last layer is fitted to, in pixels; a multiple of every attention window
_RIDGE = 1e-2  # of the features' mean square: keeps the fitted weights small, and half precision close to fp32


def _compact(scale: int) -> ImageModelDescriptor:
    """realesr-general-x4v3 has 32 convolutions, realesr-animevideov3 these 16."""
    network = Compact(num_in_ch=3, num_out_ch=3, num_feat=64, num_conv=16, upscale=scale)
    return CompactArch().load(network.state_dict())


def _esrgan(blocks: int = 23, shuffle: int = 1) -> ImageModelDescriptor:
    """RealESRGAN_x4plus and most of what OpenModelDB holds; RealESRGAN_x2plus shuffles 2x2 pixels into channels
    first. With two blocks it is shortened, and holds no less at once."""
    network = ESRGAN(in_nc=3 * shuffle**2, out_nc=3, num_filters=64, num_blocks=blocks, scale=4)
    return ESRGANArch().load(network.state_dict())


def _span() -> ImageModelDescriptor:
    return SPANArch().load(SPAN(num_in_ch=3, num_out_ch=3, feature_channels=48, upscale=4).state_dict())


def _swinir(embed_dim: int, groups: int, upsampler: str) -> ImageModelDescriptor:
    """SwinIR's light model, or its classical one, "M"."""
    network = SwinIR(
        img_size=64, window_size=8, depths=[6] * groups, embed_dim=embed_dim, num_heads=[6] * groups, mlp_ratio=2,
        upscale=4, upsampler=upsampler,
    )  # fmt: skip
    return SwinIRArch().load(network.state_dict())


def _hat(groups: int) -> ImageModelDescriptor:
    """HAT-S has six groups; with two a CPU gets through it, and its compile is shorter accordingly."""
    network = HAT(
        img_size=64, window_size=16, depths=[6] * groups, embed_dim=144, num_heads=[6] * groups, compress_ratio=24,
        squeeze_factor=24, mlp_ratio=2, upscale=4, upsampler="pixelshuffle",
    )  # fmt: skip
    return HATArch().load(network.state_dict())


def _dat(depth: int) -> ImageModelDescriptor:
    """DAT-light has a group of 18 blocks; with six it is shortened, for CPUs."""
    network = DAT(
        img_size=64, split_size=[8, 32], depth=[depth], embed_dim=60, num_heads=[6], expansion_factor=2, upscale=4,
        upsampler="pixelshuffledirect", resi_connection="3conv",
    )  # fmt: skip
    return DATArch().load(network.state_dict())


def _dctlsa() -> ImageModelDescriptor:
    return DCTLSAArch().load(DCTLSA(upscale=4).state_dict())


def _realcugan() -> ImageModelDescriptor:
    return RealCUGANArch().load(UpCunet2x().state_dict())


def _plksr(blocks: int) -> ImageModelDescriptor:
    """RealPLKSR has 28 blocks; with six it is shortened, for CPUs."""
    return PLKSRArch().load(RealPLKSR(upscaling_factor=4, n_blocks=blocks).state_dict())


def _omnisr() -> ImageModelDescriptor:
    """With one group of the published five it is shortened, for CPUs."""
    return OmniSRArch().load(OmniSR(up_scale=4).state_dict())


def _safmn() -> ImageModelDescriptor:
    return SAFMNArch().load(SAFMN(dim=36, upscaling_factor=4).state_dict())


def _bundled() -> ImageModelDescriptor:
    return load_model(resolve_model(DEFAULT_MODEL))


# What `bench.compile` goes through when it is not told; small enough for a CPU.
_SHORT: dict[str, Callable[[], ImageModelDescriptor]] = {
    "compact": partial(_compact, 4),
    "esrgan": _esrgan,
    "span": _span,
    "swinir": partial(_swinir, 60, 4, "pixelshuffledirect"),
    "hat": partial(_hat, 2),
    "dat": partial(_dat, 6),
    "dctlsa": _dctlsa,
    "realcugan": _realcugan,
    "bundled": _bundled,
}
_OTHERS: dict[str, Callable[[], ImageModelDescriptor]] = {
    "compact-x2": partial(_compact, 2),
    "esrgan-x2plus": partial(_esrgan, shuffle=2),
    "esrgan-short": partial(_esrgan, blocks=2),
    "swinir-m": partial(_swinir, 180, 6, "pixelshuffle"),
    "hat-s": partial(_hat, 6),
    "dat-light": partial(_dat, 18),
    "plksr": partial(_plksr, 6),
    "omnisr": _omnisr,
    "safmn": _safmn,
}
_BUILDERS = {**_SHORT, **_OTHERS}
NAMES = tuple(_SHORT)
ARCHITECTURES = (*NAMES, "plksr", "omnisr", "safmn")
"""A model of each of twelve architectures, small enough for a CPU."""
PEERS = ("compact-x2", "compact", "span", "esrgan", "esrgan-x2plus", "swinir-m", "hat-s", "dat-light")


def build(name: str) -> ImageModelDescriptor:
    """The model of one of the names above, or what the command line takes for one (a file's path). The same in every
    process.

    Raises `BadModelError` where there is no such model.
    """
    torch.manual_seed(0)
    return _BUILDERS[name]().eval() if name in _BUILDERS else load_model(resolve_model(name))


def build_fitted(name: str, picture: Tensor) -> ImageModelDescriptor:
    """As `build`, but what it makes of a photograph is one, as from a trained model: a random network's output is grey
    noise, for which no PSNR means anything and which our look at the output takes for faulty.

    Its last convolution is fitted to pieces of `picture` [1, 3, h, w] 0..1 enlarged (ridge regression on what comes
    into that layer), where the picture lies; the model comes back on the CPU. Models that are trained stay as they are.
    """
    model = build(name)
    if name in _BUILDERS and name != "bundled":
        side, height, width = _FIT_SIDE, *picture.shape[2:]
        corners = {(y, x) for y in (0, max(0, height - side)) for x in (0, max(0, width - side))}
        pieces = [picture[..., y : y + side, x : x + side] for y, x in sorted(corners)]
        _fit_last_layer(model.to(picture.device), torch.cat(pieces))
    return model.cpu()


class _Call(NamedTuple):
    layer: nn.Conv2d
    given: Tensor
    made: Tensor


@torch.no_grad()
def _fit_last_layer(model: ImageModelDescriptor, picture: Tensor) -> None:
    """What follows the layer is taken for a pixel shuffle, and something added that does not depend on it."""
    calls: list[_Call] = []

    def remember(layer: nn.Module, given: Any, made: Tensor) -> None:
        calls[:] = [_Call(layer, given[0], made)]  # type: ignore[arg-type]  # hooked on convolutions only

    hooks = [layer.register_forward_hook(remember) for layer in model.model.modules() if isinstance(layer, nn.Conv2d)]
    output = architecture_call(model)(model.model, picture)
    for hook in hooks:
        hook.remove()
    (layer, given, made), channels = calls[0], output.shape[1]
    factor = math.isqrt(made.shape[1] // channels)
    target = F.interpolate(picture, scale_factor=model.scale, mode="bicubic").clamp(0, 1)
    wanted = F.pixel_unshuffle(target - output, factor) + made

    columns = F.unfold(given, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    columns = columns.transpose(0, 1).flatten(1).cpu().double()
    columns = torch.cat([columns, torch.ones_like(columns[:1])])
    square = columns @ columns.T
    square.diagonal().add_(_RIDGE * square.diagonal().mean())
    solved = torch.linalg.solve(square, columns @ wanted.transpose(0, 1).flatten(1).cpu().double().T).T
    layer.weight.copy_(solved[:, :-1].reshape(layer.weight.shape))
    assert layer.bias is not None
    layer.bias.copy_(solved[:, -1])
