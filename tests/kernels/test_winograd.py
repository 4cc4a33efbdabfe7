"""Our convolutions on a CPU give what torch's give, and take over no more than they can."""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import zoo
from spandrel import ImageModelDescriptor
from spandrel.architectures.ESRGAN import ESRGAN
from spandrel.architectures.SPAN import SPAN
from torch import Tensor, nn

from cudaspeed.kernels import packing, winograd
from cudaspeed.kernels.interface import Curve
from cudaspeed.kernels.rewrite import fold_convolutions, rewrite
from cudaspeed.kernels.winograd import suits
from cudaspeed.kernels.winograd_modules import (
    WinogradChain,
    WinogradConvolution,
    WinogradDenseBlock,
    WinogradSpanBlock,
)
from cudaspeed.kernels.workspace import shared_workspace
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.runner import ModelRunner

PLAIN = ExecutionMode("fp32", autocast=False, channels_last=True)
OURS = ExecutionMode("fp32", autocast=False, channels_last=True, kernels="winograd")


@pytest.fixture(autouse=True)
def kernels(tmp_path: Path) -> None:
    if not winograd.prepare(tmp_path / "compiled"):
        pytest.skip("the kernels cannot be built here: not Linux, or no C++ compiler")


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) - 0.5


def convolution(channels: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(channels, outputs, 3, padding=1, bias=bias).requires_grad_(False)


def assert_same(ours: Tensor, plain: Tensor) -> None:
    assert ours.shape == plain.shape
    assert float((ours - plain).abs().max()) <= 2e-5 * float(plain.abs().max())


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 3, 5), (1, 4, 4), (2, 6, 9), (3, 17, 8), (1, 2, 203), (1, 130, 33)])
@pytest.mark.parametrize("channels", [(8, 8), (64, 32), (24, 40), (48, 48), (32, 64), (3, 64), (64, 12), (1, 1)])
def test_it_is_the_plain_convolution(size: tuple[int, int, int], channels: tuple[int, int]) -> None:
    plain = convolution(*channels)
    x = noise(size[0], channels[0], *size[1:])
    assert_same(WinogradConvolution(plain)(x), plain(x))


@pytest.mark.parametrize("size", [(1, 3, 3), (2, 7, 12), (1, 34, 66)])
def test_without_padding_too(size: tuple[int, int, int]) -> None:
    plain = nn.Conv2d(8, 16, 3).requires_grad_(False)
    x = noise(size[0], 8, *size[1:])
    assert_same(WinogradConvolution(plain)(x), plain(x))


def test_a_picture_too_small_for_it_is_an_error() -> None:
    with pytest.raises((RuntimeError, ValueError)):
        WinogradConvolution(nn.Conv2d(8, 8, 3).requires_grad_(False))(noise(1, 8, 5, 2))


@pytest.mark.parametrize(
    "activation",
    [nn.PReLU(), nn.PReLU(16), nn.LeakyReLU(0.2), nn.LeakyReLU(1.5), nn.ReLU(), nn.SiLU(), nn.GELU(), None],
    ids=str,
)
@pytest.mark.parametrize("bias", [True, False])
def test_the_activation_is_that_of_the_model(activation: nn.Module | None, bias: bool) -> None:
    if isinstance(activation, nn.PReLU):
        activation.weight.data.uniform_(-0.5, 1.5, generator=torch.Generator().manual_seed(1))
    plain, x = convolution(8, 16, bias), noise(2, 8, 11, 13)
    truth = plain(x) if activation is None else activation(plain(x))
    assert_same(WinogradConvolution(plain, activation)(x), truth.detach())


def test_whichever_way_the_picture_lies_in_memory() -> None:
    plain = convolution(16, 16)
    ours = WinogradConvolution(plain)
    x = noise(2, 16, 20, 24)
    for view in (x, x.to(memory_format=torch.channels_last), x.transpose(2, 3), noise(2, 16, 30, 40)[:, :, 3:9, 5:16]):
        assert_same(ours(view), plain(view))


def test_it_neither_writes_into_its_input_nor_beyond_its_output() -> None:
    ours = WinogradConvolution(convolution(8, 8))
    x = noise(1, 8, 10, 10)
    kept = x.clone()
    first = ours(x)
    assert torch.equal(x, kept)
    assert torch.equal(ours(x), first), "the same picture, the same bits"
    room = torch.full((1, 12, 12, 24), 7.0)
    packed = winograd.Packed(ours.weights, ours.bias, None, Curve.STRAIGHT)
    winograd.loaded().convolve(x.permute(0, 2, 3, 1).contiguous(), packed, room[:, 1:11, 1:11, 8:16])
    torch.testing.assert_close(room[:, 1:11, 1:11, 8:16], first.permute(0, 2, 3, 1))
    room[:, 1:11, 1:11, 8:16] = 7.0
    assert bool((room == 7.0).all())


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 6, 9), (1, 34, 67)])
@pytest.mark.parametrize("channels", [(8, 8), (64, 32), (24, 40), (48, 48), (3, 64), (64, 12)])
def test_products_of_bfloat16s_differ_by_their_rounding(size: tuple[int, ...], channels: tuple[int, int]) -> None:
    """By eight bits of the largest number at the most; all else is float32."""
    plain, activation = convolution(*channels), nn.LeakyReLU(0.2)
    x = noise(size[0], channels[0], *size[1:])
    ours, truth = WinogradConvolution(plain, activation, torch.bfloat16)(x), activation(plain(x))
    assert ours.dtype == torch.float32
    error = (ours - truth).abs()
    assert 0 < float(error.max()) <= 4e-2 * float(truth.abs().max())
    assert float(error.square().mean().sqrt()) <= 2e-2 * float(truth.square().mean().sqrt())


def test_what_makes_a_picture_multiplies_floats_whatever_is_asked_for() -> None:
    """What rounding does there, no later layer would smooth."""
    plain, x = convolution(64, 3), noise(1, 64, 20, 20)
    assert_same(WinogradConvolution(plain, None, torch.bfloat16)(x), plain(x))


@pytest.mark.parametrize("features", [48, 20], ids=["in registers of eight", "in no registers"])
def test_spans_blocks_are_computed_with_what_follows_each_convolution(features: int) -> None:
    torch.manual_seed(0)
    network = SPAN(num_in_ch=3, num_out_ch=3, feature_channels=features, upscale=2).eval().requires_grad_(False)
    for weight in network.parameters():
        weight.mul_(1.4)  # so that what the attention lets through counts beside what goes past the blocks
    fold_convolutions(network)
    x = noise(2, 3, 21, 30)
    plain = network(x)
    assert rewrite(network, "winograd") > 6
    assert sum(isinstance(module, WinogradSpanBlock) for module in network.modules()) == 6
    assert_same(network(x), plain)
    with shared_workspace():  # from one block to the next
        assert_same(network(x), plain)
    kept = network.conv_1(x)
    before = kept.clone()
    network.block_1(kept)
    assert torch.equal(kept, before), "what a block is given is read again later"


@pytest.mark.parametrize("value", [88.0, -88.0, 3e38, -3e38, math.inf, -math.inf, math.nan])
def test_curves_of_what_no_model_makes_on_purpose_are_torchs(value: float) -> None:
    """What is broken is to look so: it is found and computed again."""
    plain = convolution(8, 8)
    plain.weight.zero_()
    plain.bias.fill_(value)  # type: ignore[union-attr]
    for activation in (nn.SiLU(), nn.GELU()):
        ours = WinogradConvolution(plain, activation)(noise(1, 8, 4, 4))
        torch.testing.assert_close(ours, activation(torch.full_like(ours, value)), equal_nan=True)


def test_so_does_what_makes_one_by_shuffling_channels() -> None:
    def error(*after: nn.Module) -> float:
        network, x = nn.Sequential(convolution(16, 12), *after), noise(1, 16, 20, 20)
        plain = network(x)
        rewrite(network, "winograd", torch.bfloat16)
        return float((network(x) - plain).abs().max() / plain.abs().max())

    assert error(nn.PixelShuffle(2)) < 1e-5 < 1e-4 < error(nn.Identity())


def test_as_many_threads_as_torch_may_use_give_the_same() -> None:
    ours, x, before = WinogradConvolution(convolution(8, 8)), noise(1, 8, 65, 70), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(ours(x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_nan_reaches_no_further_than_its_tiles() -> None:
    """So that the look at a tile's output finds it, and no other tile is spoilt."""
    x = noise(1, 8, 32, 32)
    x[0, 0, 3, 3] = torch.nan
    for products in (torch.float32, torch.bfloat16):
        result = WinogradConvolution(convolution(8, 8), products=products)(x)
        assert not bool(torch.isfinite(result[:, :, 2:5, 2:5]).all())
        assert bool(torch.isfinite(result[:, :, 9:, 9:]).all())


@pytest.mark.parametrize("channels", [(16, 16), (64, 48), (192, 64), (80, 112), (24, 40), (3, 64), (64, 3)])
def test_registers_of_sixteen_floats_give_the_same(channels: tuple[int, int], wide: winograd.Kernels) -> None:
    """As processors with AVX-512 have them, in code that runs on others."""
    plain, activation = convolution(*channels), nn.LeakyReLU(0.2)
    packed = wide.pack(plain, activation)
    for count, height, width in [(1, 1, 1), (1, 3, 5), (2, 17, 33), (1, 70, 64)]:
        x = noise(count, channels[0], height, width)
        y = torch.empty(count, height, width, len(packed.bias))
        wide.convolve(winograd.channels_last(x), packed, y)
        truth = activation(plain(x))
        assert_same(y.permute(0, 3, 1, 2)[:, : channels[1]], truth)
        wide.convolve(winograd.channels_last(x), wide.pack(plain, activation, torch.bfloat16), y)
        error = (y.permute(0, 3, 1, 2)[:, : channels[1]] - truth).abs().max()
        assert float(error) <= 4e-2 * float(truth.abs().max())


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> winograd.Kernels:
    if not shutil.which("g++"):
        pytest.skip("no g++ to build it with")
    source = Path(winograd.__file__).with_name("csrc") / "winograd.cpp"
    library = tmp_path_factory.mktemp("wide") / "winograd.so"
    flags = ("-O1", "-march=native", "-std=c++17", "-fPIC", "-fopenmp", "-shared", "-DAS_IF_AVX512", "-Wno-psabi")
    flags = (*flags, "-mno-avx512bf16")  # by way of floats, as most do
    subprocess.run(["g++", *flags, "-o", str(library), str(source)], check=True)
    kernels = winograd.Kernels(ctypes.CDLL(str(library)))
    assert kernels._widest == 16
    return kernels


def wrong_operands() -> dict[str, tuple[str, dict[str, Tensor]]]:
    """What the error says, and what is given instead of the right operands."""
    dense = torch.zeros(1, 10, 10, 16)
    return {
        "x is float64": ("x is of torch.float64", {"x": torch.zeros(1, 10, 10, 8, dtype=torch.float64)}),
        "x has no dense channels": ("x's last dimension is not dense", {"x": dense[..., ::2]}),
        "x has no values": ("x lies on meta", {"x": torch.zeros(1, 10, 10, 8, device="meta")}),
        "x has odd channels": ("7 to 8 channels", {"x": torch.zeros(1, 10, 10, 7)}),
        "x has other channels than the weights": ("weights has shape", {"x": dense}),
        "x is no batch": ("must be", {"x": torch.zeros(10, 10, 8)}),
        "y is half": ("y is of torch.float16", {"y": torch.zeros(1, 10, 10, 8, dtype=torch.float16)}),
        "y has no dense channels": ("y's last dimension is not dense", {"y": dense[..., ::2]}),
        "y is too large": ("y has shape", {"y": torch.zeros(1, 12, 12, 8)}),
        "y is smaller one way only": ("y has shape", {"y": torch.zeros(1, 8, 10, 8)}),
        "y has more pictures": ("y has shape", {"y": torch.zeros(2, 10, 10, 8)}),
        "added has another shape": ("added has shape", {"added": torch.zeros(1, 10, 9, 8)}),
        "added is float64": ("added is of torch.float64", {"added": torch.zeros(1, 10, 10, 8, dtype=torch.float64)}),
        "bias is too short": ("bias has shape", {"bias": torch.zeros(1)}),
        "slope is half": ("slope is of torch.float16", {"slope": torch.zeros(8, dtype=torch.float16)}),
        "weights have gaps": ("weights are not dense", {"weights": torch.zeros(36, 128)[:, :64]}),
    }


@pytest.mark.parametrize("which", wrong_operands())
def test_operands_whose_memory_it_would_misread_are_refused(which: str) -> None:
    said, wrong = wrong_operands()[which]
    packed = winograd.loaded().pack(convolution(8, 8))
    packed = packed._replace(**{name: value for name, value in wrong.items() if name in packed._fields})
    x, y = wrong.get("x", torch.zeros(1, 10, 10, 8)), wrong.get("y", torch.zeros(1, 10, 10, 8))
    with pytest.raises(ValueError, match=said):
        winograd.loaded().convolve(x, packed, y, added=wrong.get("added"))


def changed(change: Callable[[nn.Conv2d], object]) -> nn.Conv2d:
    module = convolution(8, 8)
    change(module)
    return module


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(8, 8, 3, padding=2),
        nn.Conv2d(8, 8, 3, padding=1, stride=2),
        nn.Conv2d(8, 8, 3, padding=1, dilation=2),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(8, 8, 5, padding=2),
        nn.ConvTranspose2d(8, 8, 3, padding=1),
        changed(lambda module: module.register_forward_hook(lambda *_: None)),
        nn.utils.parametrizations.weight_norm(convolution(8, 8)),
    ],
    ids=str,
)
def test_what_is_another_kind_of_convolution_is_left_to_torch(module: nn.Module) -> None:
    assert suits(convolution(8, 8))
    assert not suits(module)


class Shared(nn.Module):
    """An activation that stands after a convolution and is computed before it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = convolution(8, 8)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(self.activation(x))


def test_an_activation_is_taken_along_only_where_it_is_known_to_come_next() -> None:
    for model in (nn.Sequential(convolution(8, 8), nn.ReLU(), convolution(8, 16)), Shared()):
        x, truth = noise(1, 8, 12, 12), None
        truth = model(x)
        assert rewrite(model, "winograd") == sum(isinstance(m, WinogradConvolution) for m in model.modules()) > 0
        assert_same(model(x), truth)


@pytest.mark.parametrize("convolutions", [2, 3, 6])
def test_convolutions_in_a_row_are_one(convolutions: int) -> None:
    row: list[nn.Module] = [convolution(3, 20), nn.PReLU(20), convolution(20, 13), nn.ReLU(), nn.Identity()]
    row += [convolution(13, 13) for _ in range(convolutions - 2)]
    model = nn.Sequential(*row, nn.Tanh(), nn.Conv2d(13, 16, 3)).requires_grad_(False)
    x = noise(2, 3, 10, 15)
    truth = model(x)
    rewrite(model, "winograd")
    assert sum(isinstance(module, WinogradChain) for module in model) == 1
    assert_same(model(x), truth)
    assert_same(model(x), truth)


def with_biases(descriptor: ImageModelDescriptor) -> ImageModelDescriptor:
    """With biases, and slopes of PReLU, that are not what they begin as."""
    generator = torch.Generator().manual_seed(2)
    for parameter in descriptor.model.parameters():
        if parameter.dim() == 1:
            parameter.data.add_(0.1 * torch.rand(parameter.shape, generator=generator))
    return descriptor


@pytest.mark.parametrize(
    "model",
    [zoo.compact(4, features=24), zoo.compact(2, features=16), zoo.esrgan(), zoo.span(), zoo.realcugan()],
    ids=["Compact x4", "Compact x2", "ESRGAN", "SPAN", "RealCUGAN"],
)
def test_a_whole_model_gives_the_same_picture(model: ImageModelDescriptor) -> None:
    model = with_biases(model)
    before = [type(module) for module in model.model.modules()]
    plain, ours = ModelRunner(model, PLAIN), ModelRunner(model, OURS)
    assert any(isinstance(m, WinogradConvolution | WinogradDenseBlock) for m in ours.module.modules())
    x = noise(2, 3, 24, 36) + 0.5
    with torch.inference_mode():
        truth, result = plain.forward(x), ours.forward(x)
    assert float((result - truth).abs().max()) <= 1e-4 * float(truth.abs().max())
    assert [type(module) for module in model.model.modules()] == before, "the caller's model is as it was"


def test_threads_do_not_write_into_each_others_workspace() -> None:
    runner = ModelRunner(with_biases(zoo.esrgan()), OURS)
    pictures = [noise(1, 3, 20 + 4 * k, 24) for k in range(6)]
    with torch.inference_mode():
        truths = [runner.forward(picture) for picture in pictures]

    def compute(k: int) -> bool:
        with torch.inference_mode():
            return all(torch.equal(runner.forward(pictures[k]), truths[k]) for _ in range(5))

    with ThreadPoolExecutor(len(pictures)) as pool:
        assert all(pool.map(compute, range(len(pictures))))


def test_a_dense_block_of_odd_widths_is_computed_layer_by_layer() -> None:
    """Its convolutions would have to read and write channels that the kernels cannot begin at."""
    torch.manual_seed(0)
    model = ESRGAN(num_filters=12, num_blocks=1).eval().requires_grad_(False)
    x = noise(1, 3, 12, 12)
    truth = model(x)
    rewrite(model, "winograd")
    assert not any(isinstance(module, WinogradDenseBlock) for module in model.modules())
    assert_same(model(x), truth)


def test_a_dense_block_with_more_paths_is_not_taken_for_a_plain_one() -> None:
    torch.manual_seed(0)
    model = ESRGAN(num_filters=8, num_blocks=1, plus=True).eval().requires_grad_(False)
    x = noise(1, 3, 12, 12)
    truth = model(x)
    rewrite(model, "winograd")
    assert not any(isinstance(module, WinogradDenseBlock) for module in model.modules())
    assert_same(model(x), truth)


@pytest.mark.parametrize(("outputs", "channels"), [(8, 8), (40, 24), (64, 192)])
def test_weights_are_transformed_to_the_last_bit_whatever_the_order_of_sums(
    monkeypatch: pytest.MonkeyPatch, outputs: int, channels: int
) -> None:
    """Pieces and threads are no part of the result, which is a polynomial's value in the points, within a rounding."""
    weight = noise(outputs, channels, 3, 3)
    found = winograd._transformed(weight, 8, torch.float32)
    points = (0.0, 0.75, -0.75, 1.5, -1.5)
    over = [math.prod(point - other for other in points if other != point) for point in points]
    rows = [[point**power / by for power in range(3)] for point, by in zip(points, over, strict=True)]
    transform = torch.tensor([*rows, [0, 0, 1]], dtype=torch.float64)
    exact = torch.einsum("ai,ocij,bj->abco", transform, weight.double(), transform).flatten(0, 1)
    exact = torch.cat([block.flatten(1) for block in exact.split(16, dim=2)], dim=1)
    assert found.is_contiguous()
    assert float(((found.double() - exact).abs() / exact.abs()).max()) < 1.01 * 2**-24
    monkeypatch.setattr(packing, "_BY_ONE_THREAD", 1 << 12)
    assert torch.equal(winograd._transformed(weight, 8, torch.float32), found)
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    try:
        assert torch.equal(winograd._transformed(weight, 8, torch.float32), found)
    finally:
        torch.set_num_threads(threads)
