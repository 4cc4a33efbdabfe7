"""Our linear layers on a CPU give what torch's give of rounded numbers, and take over no more than they can."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cudaspeed.kernels import linear
from cudaspeed.kernels.convolution import is_gelu
from cudaspeed.kernels.linear import PackedLinear, PackedPointwise, suits

SIZES = [(1, 1, 1), (7, 5, 3), (12, 60, 180), (49, 61, 17), (100, 8, 40), (3, 180, 24), (500, 64, 48)]


@pytest.fixture(autouse=True)
def kernels(tmp_path: Path) -> None:
    if not linear.prepare(tmp_path / "compiled"):
        pytest.skip("the kernels cannot be built here: not Linux, or no C++ compiler")


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) - 0.5


def layer(channels: int, outputs: int, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(channels, outputs, bias).requires_grad_(False)


def rounded(tensor: Tensor) -> Tensor:
    return tensor.bfloat16().float()


def assert_of_rounded(ours: Tensor, plain: nn.Linear, x: Tensor, gelu: bool = False) -> None:
    """Products of rounded numbers, summed up in float32."""
    truth = F.linear(rounded(x), rounded(plain.weight), plain.bias)
    truth = F.gelu(truth) if gelu else truth
    assert ours.shape == truth.shape
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, truth, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_plain_layer_of_rounded_numbers(size: tuple[int, int, int], bias: bool, gelu: bool) -> None:
    count, channels, outputs = size
    plain, x = layer(channels, outputs, bias), noise(count, channels) * 8
    assert_of_rounded(PackedLinear(plain, gelu)(x), plain, x, gelu)


def test_whichever_way_the_rows_lie_in_memory() -> None:
    plain = layer(12, 20)
    ours = PackedLinear(plain)
    for x in (noise(2, 5, 7, 12), noise(12, 9).mT, noise(4, 30, 24)[:, 3:20, 6:18], noise(12)):
        kept = x.clone()
        assert_of_rounded(ours(x), plain, x)
        assert torch.equal(x, kept)
    assert ours(noise(0, 12)).shape == (0, 20)


def test_a_convolution_of_single_pixels_is_one() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(24, 12, 1).requires_grad_(False)
    assert suits(plain)
    for x in (noise(2, 24, 9, 13), noise(2, 24, 9, 13).to(memory_format=torch.channels_last)):
        y = PackedPointwise(plain)(x)
        torch.testing.assert_close(y, F.conv2d(rounded(x), rounded(plain.weight), plain.bias), rtol=1e-5, atol=2e-6)
        assert y.is_contiguous(memory_format=torch.channels_last)


def test_gelu_far_from_zero_and_what_is_no_number() -> None:
    identity = layer(4, 4)
    identity.weight.copy_(torch.eye(4))
    identity.bias.zero_()
    x = rounded(torch.tensor([[0.0, -0.0, 100.0, -100.0], [1e30, -1e30, 1e-30, -1e-30], [5.0, -5.0, 0.5, torch.nan]]))
    found, truth = PackedLinear(identity, gelu=True)(x), F.gelu(x)
    torch.testing.assert_close(found[:2], truth[:2], rtol=1e-5, atol=2e-6)
    assert bool(torch.isnan(found[2]).all()), "as the plain layer gives, which adds all channels up"


def test_as_many_threads_as_torch_may_use_give_the_same() -> None:
    ours, x, before, results = PackedLinear(layer(64, 64)), noise(5001, 64), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(ours(x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_what_computes_something_else_is_left_alone() -> None:
    class Own(nn.Linear):
        pass

    hooked = nn.Linear(8, 8)
    hooked.register_forward_hook(lambda *_: None)
    others = [hooked, Own(8, 8), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1, stride=2), nn.Conv2d(8, 8, 1, padding=1)]
    assert not any(map(suits, [*others, nn.Conv2d(8, 8, 1, groups=2), nn.Identity()]))
    assert is_gelu(nn.GELU())
    assert not is_gelu(nn.GELU(approximate="tanh"))
    assert not is_gelu(nn.ReLU())
    assert not is_gelu(None)


WRONG = {
    "x is half": ("x is of torch.float16", {"x": torch.zeros(5, 8, dtype=torch.float16)}),
    "x has other channels": ("weights has shape", {"x": torch.zeros(5, 12)}),
    "x has gaps": ("x is not dense", {"x": torch.zeros(5, 16)[:, ::2]}),
    "y has more rows": ("y has shape", {"y": torch.zeros(6, 16)}),
    "y has gaps": ("y is not dense", {"y": torch.zeros(5, 32)[:, ::2]}),
    "bias is short": ("bias has shape", {"bias": torch.zeros(3)}),
    "weights are float": ("weights is of torch.float32", {"weights": torch.zeros(8 * 16)}),
}


@pytest.mark.parametrize("which", WRONG)
def test_operands_whose_memory_it_would_misread_are_refused(which: str) -> None:
    said, wrong = WRONG[which]
    weights, bias = linear._kernels().pack(noise(16, 8), None)
    operands = {"x": noise(5, 8), "weights": weights, "bias": bias, "y": torch.zeros(5, 16), **wrong}
    with pytest.raises(ValueError, match=said):
        linear._kernels().apply(**operands, gelu=False)


@pytest.mark.parametrize("flags", [("-DAS_IF_AVX512", "-mno-avx512bf16"), ("-mno-avx512bf16",)], ids=" ".join)
def test_processors_with_other_registers_or_without_bfloat16_give_the_same(
    flags: tuple[str, ...], tmp_path: Path
) -> None:
    if not shutil.which("g++"):
        pytest.skip("no g++ to build it with")
    source, library = Path(linear.__file__).with_name("csrc") / "linear.cpp", tmp_path / "linear.so"
    usual = ("-O1", "-march=native", "-std=c++17", "-fPIC", "-fopenmp", "-shared", "-Wno-psabi")
    subprocess.run(["g++", *usual, *flags, "-o", str(library), str(source)], check=True)
    kernels = linear.Kernels(ctypes.CDLL(str(library)))
    for count, channels, outputs in SIZES:
        plain, x, y = layer(channels, outputs), noise(count, channels), torch.empty(count, outputs)
        kernels.apply(x, *kernels.pack(plain.weight, plain.bias), y, True)
        assert_of_rounded(y, plain, x, gelu=True)
