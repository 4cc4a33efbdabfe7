"""Models to measure with, at the sizes people use: random weights of a fixed seed, the bundled model, or a file's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from spandrel import ImageModelDescriptor
from spandrel.architectures.Compact import Compact, CompactArch
from spandrel.architectures.DAT import DAT, DATArch
from spandrel.architectures.DCTLSA import DCTLSA, DCTLSAArch
from spandrel.architectures.ESRGAN import ESRGAN, ESRGANArch
from spandrel.architectures.HAT import HAT, HATArch
from spandrel.architectures.RealCUGAN import RealCUGANArch, UpCunet2x
from spandrel.architectures.SPAN import SPAN, SPANArch
from spandrel.architectures.SwinIR import SwinIR, SwinIRArch

from cudaspeed.weights import DEFAULT_MODEL, load_model, resolve_model


def _compact() -> ImageModelDescriptor:
    """realesr-general-x4v3 has 32 convolutions, realesr-animevideov3 these 16."""
    network = Compact(num_in_ch=3, num_out_ch=3, num_feat=64, num_conv=16, upscale=4)
    return CompactArch().load(network.state_dict())


def _esrgan() -> ImageModelDescriptor:
    """RealESRGAN_x4plus and most of what OpenModelDB holds."""
    return ESRGANArch().load(ESRGAN(in_nc=3, out_nc=3, num_filters=64, num_blocks=23, scale=4).state_dict())


def _span() -> ImageModelDescriptor:
    return SPANArch().load(SPAN(num_in_ch=3, num_out_ch=3, feature_channels=48, upscale=4).state_dict())


def _swinir() -> ImageModelDescriptor:
    """SwinIR's light model."""
    network = SwinIR(
        img_size=64, window_size=8, depths=[6] * 4, embed_dim=60, num_heads=[6] * 4, mlp_ratio=2, upscale=4,
        upsampler="pixelshuffledirect",
    )  # fmt: skip
    return SwinIRArch().load(network.state_dict())


def _hat() -> ImageModelDescriptor:
    """HAT-S, shortened: two of its six groups, so that a CPU gets through it. Its compile is shorter accordingly."""
    network = HAT(
        img_size=64, window_size=16, depths=[6] * 2, embed_dim=144, num_heads=[6] * 2, compress_ratio=24,
        squeeze_factor=24, mlp_ratio=2, upscale=4, upsampler="pixelshuffle",
    )  # fmt: skip
    return HATArch().load(network.state_dict())


def _dat() -> ImageModelDescriptor:
    """DAT-light, shortened: a group of 6 blocks, not of 18."""
    network = DAT(
        img_size=64, split_size=[8, 32], depth=[6], embed_dim=60, num_heads=[6], expansion_factor=2, upscale=4,
        upsampler="pixelshuffledirect", resi_connection="3conv",
    )  # fmt: skip
    return DATArch().load(network.state_dict())


def _dctlsa() -> ImageModelDescriptor:
    return DCTLSAArch().load(DCTLSA(upscale=4).state_dict())


def _realcugan() -> ImageModelDescriptor:
    return RealCUGANArch().load(UpCunet2x().state_dict())


def _bundled() -> ImageModelDescriptor:
    return load_model(resolve_model(DEFAULT_MODEL))


_BUILDERS: dict[str, Callable[[], ImageModelDescriptor]] = {
    "compact": _compact,
    "esrgan": _esrgan,
    "span": _span,
    "swinir": _swinir,
    "hat": _hat,
    "dat": _dat,
    "dctlsa": _dctlsa,
    "realcugan": _realcugan,
    "bundled": _bundled,
}
NAMES = tuple(_BUILDERS)


def build(name: str) -> ImageModelDescriptor:
    """The model of one of `NAMES`, or what the command line takes for one (a file's path). The same in every process.

    Raises `BadModelError` where there is no such model.
    """
    torch.manual_seed(0)
    return _BUILDERS[name]().eval() if name in _BUILDERS else load_model(resolve_model(name))
