"""Every network of which our kernels need no trial gives with them what it gives with torch's operations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import zoo
from spandrel import ImageModelDescriptor
from spandrel.architectures.RealCUGAN import RealCUGANArch, UpCunet2x_fast, UpCunet3x, UpCunet4x
from torch import Tensor

from bench.photograph import EXAMPLE
from bench.seams import random_model, read
from cudaspeed.api.model_info import Kernels
from cudaspeed.kernels import attention_fusion, transformer_block, window_attention, winograd, winograd_modules
from cudaspeed.kernels.numerics import OF_A_MODEL, compare
from cudaspeed.models import known_kernels
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.info import model_info
from cudaspeed.models.known_kernels import verified
from cudaspeed.models.runner import ModelRunner
from cudaspeed.tiling.plan import round_up

NETWORKS = [
    (kernels, architecture, network)
    for kernels, architectures in known_kernels._VERIFIED.items()
    for architecture, networks in architectures.items()
    for network in networks
]
SIZES = ((45, 71), (34, 29))  # odd or even, and not square


def _realcugan(network: Callable[[], torch.nn.Module]) -> ImageModelDescriptor:
    torch.manual_seed(0)
    return RealCUGANArch().load(network().state_dict()).eval()


OTHERS = {
    "UpCunet2x_fast": lambda: _realcugan(UpCunet2x_fast),
    "UpCunet3x": lambda: _realcugan(UpCunet3x),
    "UpCunet4x": lambda: _realcugan(UpCunet4x),
}


def build(architecture: str, network: str) -> ImageModelDescriptor:
    if network in OTHERS:
        return OTHERS[network]()
    side = 128 if architecture == "Uformer" else 64
    name = network if architecture == "PLKSR" else architecture
    return random_model(name, read(EXAMPLE, 128)[..., :side, :side])


@pytest.fixture(autouse=True)
def built(tmp_path: Path) -> None:
    if not all(kernels.prepare(tmp_path / "compiled") for kernels in (winograd, window_attention, transformer_block)):
        pytest.skip("the kernels cannot be built here: not Linux, or no C++ compiler")


@pytest.mark.parametrize(("kernels", "architecture", "network"), NETWORKS, ids=str)
def test_it_gives_what_plain_gives(
    kernels: Kernels, architecture: str, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(architecture, network)
    assert type(model.model).__name__ == network
    assert verified(model, kernels)
    attended, attend = [], attention_fusion.attend
    monkeypatch.setattr(attention_fusion, "attend", lambda *given: attended.append(given) or attend(*given))
    ours = ModelRunner(model, ExecutionMode("fp32", False, channels_last=kernels == "winograd", kernels=kernels))
    plain = ModelRunner(model, ExecutionMode("fp32", False, channels_last=False))
    with torch.inference_mode():
        for size in SIZES[: 1 if model_info(model).square else None]:
            x = picture(model, size)
            truth = plain.forward(x)
            assert not attended
            assert compare(ours.forward(x), truth, OF_A_MODEL["fp32"]) is None
            told = [len(attended), sum(type(m).__module__ == winograd_modules.__name__ for m in ours.module.modules())]
            assert told[kernels == "winograd"], "it has nothing for them to do"
            attended.clear()


def picture(model: ImageModelDescriptor, size: tuple[int, int]) -> Tensor:
    info = model_info(model)
    height, width = (round_up(max(side, info.minimum), info.multiple_of) for side in size)
    height = width if info.square else height
    return zoo.photograph(height, width, channels=info.in_channels).permute(0, 3, 1, 2)


def test_networks_that_fail_or_are_unknown_are_not_named() -> None:
    """IPT's views want another memory layout; toys only use a name."""
    assert not verified(build("IPT", "IPT"), "winograd")
    assert not verified(zoo.toy(), "winograd")
    assert not verified(zoo.toy_attention(), "attention")
    assert not verified(zoo.compact(), "attention")
    assert not verified(zoo.compact(), "fused")
    assert verified(zoo.toy(), "plain")
