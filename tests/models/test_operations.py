"""Operations counted by layers, beside those that torch counts in a forward."""

from __future__ import annotations

import pytest
import zoo
from spandrel import ImageModelDescriptor
from spandrel.architectures.HAT import HAT, HATArch
from spandrel.architectures.SAFMN import SAFMN, SAFMNArch

from bench.ceilings import flops_per_pixel
from cudaspeed.models.operations import operations_per_pixel


def _hat() -> ImageModelDescriptor:
    return HATArch().load(
        HAT(img_size=32, window_size=8, embed_dim=36, depths=(2,), num_heads=(6,), upscale=2, upsampler="pixelshuffle")
        .state_dict()
    )  # fmt: skip


def _safmn() -> ImageModelDescriptor:
    return SAFMNArch().load(SAFMN(dim=36, n_blocks=4, upscaling_factor=4).state_dict())


@pytest.mark.parametrize(
    "make",
    [lambda: zoo.compact(2), lambda: zoo.esrgan(2), zoo.span, zoo.swinir, _hat, _safmn],
    ids=["compact", "esrgan", "span", "swinir", "hat", "safmn"],
)
def test_it_is_what_torch_counts(make) -> None:
    """Of what comes with every pixel more: SPAN puts its layers together in each forward."""
    model = make()
    model.model.eval()
    side = 64
    small, large = (flops_per_pixel(model, size) * size**2 for size in (side, 2 * side))
    assert operations_per_pixel(model) == pytest.approx((large - small) / (3 * side**2), rel=0.02)


def test_what_was_not_compared_is_not_counted() -> None:
    assert operations_per_pixel(zoo.realcugan()) is None
    assert operations_per_pixel(zoo.toy()) is None
