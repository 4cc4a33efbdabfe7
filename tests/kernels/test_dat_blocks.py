"""DAT's modules in channels-last memory make what spandrel's make, and no others are taken for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.photograph import EXAMPLE
from bench.seams import random_model, read
from cudaspeed.kernels import dat_blocks
from cudaspeed.kernels.dat_blocks import ChannelAttention, SpatialAttention, SpatialGate, rearranged
from cudaspeed.kernels.rewrite import rewrite

KINDS = (SpatialGate, SpatialAttention, ChannelAttention)


@pytest.fixture
def network() -> nn.Module:
    """With running means and variances of norms that are not 0 and 1, as trained ones have them."""
    model = random_model("DAT", read(EXAMPLE, 128)[..., :32, :32]).model
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            for running in (module.running_mean, module.running_var):
                assert running is not None
                running.uniform_(0.5, 1.5)
    return model.requires_grad_(False)


def seen(network: nn.Module, picture: Tensor) -> list[tuple[nn.Module, tuple[Any, ...], Tensor]]:
    """Those of its modules that are taken over, what they were given, and what they made of it."""
    found: list[tuple[nn.Module, tuple[Any, ...], Tensor]] = []
    modules = [module for module in network.modules() if rearranged(module) is not None]
    handles = [
        module.register_forward_hook(lambda module, given, result: found.append((module, given, result)))
        for module in modules
    ]
    with torch.inference_mode():
        network(picture)
    for handle in handles:
        handle.remove()
    assert len(found) == len(modules)
    return found


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (13, 70)], ids=str)
def test_each_gives_what_spandrels_gives(network: nn.Module, size: tuple[int, int]) -> None:
    """Also where windows reach beyond the picture, and where a shift brings its sides together."""
    picture = read(EXAMPLE, 128)[..., : size[0], : size[1]].repeat(2, 1, 1, 1)
    picture[1] = picture[1].flip(-1)
    kinds = set()
    for module, given, result in seen(network, picture):
        ours, kept = rearranged(module), given[0].clone()
        assert ours is not None
        kinds.add(type(ours))
        with torch.inference_mode():
            torch.testing.assert_close(ours(*given), result, rtol=1e-4, atol=1e-5 * float(result.abs().max()))
        assert torch.equal(given[0], kept)
    assert kinds == {*KINDS}


def test_some_of_what_it_was_tried_with_is_shifted(network: nn.Module) -> None:
    found = [ours for ours in map(rearranged, network.modules()) if isinstance(ours, SpatialAttention)]
    assert {ours._shifts[0] == (0, 0) for ours in found} == {True, False}


def test_a_whole_network_gives_the_same_by_them(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = read(EXAMPLE, 128)[..., :48, :64]
    with torch.inference_mode():
        truth = network(picture)
        rewrite(network, "winograd")
        assert all(any(isinstance(module, kind) for module in network.modules()) for kind in KINDS)
        torch.testing.assert_close(network(picture), truth, rtol=1e-4, atol=1e-4 * float(truth.abs().max()))


def test_others_are_left_alone(network: nn.Module) -> None:
    for name in ("RGT", "HAT", "FDAT"):
        model = random_model(name, read(EXAMPLE, 128)[..., :64, :64]).model
        assert all(rearranged(module) is None for module in model.modules())
    gate = next(module for module in network.modules() if rearranged(module) is not None)
    gate.register_forward_hook(lambda *_: None)
    assert rearranged(gate) is None
    assert rearranged(nn.Linear(3, 3)) is None
    assert {*dat_blocks._KINDS.values()} == {*KINDS}
