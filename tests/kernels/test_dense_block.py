"""ESRGAN without concatenations, Compact in fused steps: the same pictures, as modules like any other."""

from __future__ import annotations

import copy

import pytest
import torch
import zoo
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN, ESRGANArch
from torch import Tensor, nn

from cudaspeed.kernels.convolution import plain_convolution
from cudaspeed.kernels.dense_block import DenseGroup, rewrite_dense_groups
from cudaspeed.kernels.fused_convolution import FusedConvolution, fuse_chains
from cudaspeed.kernels.numerics import OF_A_MODEL, compare
from cudaspeed.kernels.rewrite import can_fuse
from cudaspeed.memory import measure_cost
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.info import model_info
from cudaspeed.models.runner import ModelRunner


def network(**changes) -> nn.Module:
    torch.manual_seed(0)
    return ESRGAN(**{"in_nc": 3, "out_nc": 3, "num_filters": 16, "num_blocks": 2, **changes}).eval()


def group() -> nn.Module:
    """A plain RRDB of 16 features."""
    return next(module for module in network().modules() if type(module).__name__ == "RRDB")


def compact(**changes) -> nn.Module:
    torch.manual_seed(0)
    plain = Compact(**{"num_feat": 16, "num_conv": 3, "upscale": 2, **changes}).eval()
    for module in plain.modules():
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.5, 1.5)
    return plain


def picture(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("shape", [(1, 16, 12, 12), (2, 16, 7, 5), (1, 16, 1, 1), (3, 16, 1, 9), (1, 16, 80, 64)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_group_without_concatenations_gives_what_the_plain_one_gives(shape, layout) -> None:
    plain = group()
    x = picture(*shape).contiguous(memory_format=layout)
    before = x.clone()
    result = DenseGroup(plain)(x)
    torch.testing.assert_close(result, plain(x), atol=1e-5, rtol=1e-5)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, before)


def test_results_stay_when_the_next_picture_comes() -> None:
    ours = DenseGroup(group())
    first = ours(picture(1, 16, 9, 9))
    held = first.clone()
    ours(-picture(1, 16, 9, 9))
    assert torch.equal(first, held)


@pytest.mark.parametrize("activation", ["leakyrelu", "relu"])
@pytest.mark.parametrize("scale", [1, 4])
def test_a_rewritten_network_gives_the_same_picture(scale: int, activation: str) -> None:
    plain = network(scale=scale, act=activation)
    ours = copy.deepcopy(plain)
    assert rewrite_dense_groups(ours) == 2
    assert fuse_chains(ours) == (1 if scale == 1 else 3)  # after each upsampling, and the last but one
    torch.testing.assert_close(ours(picture(2, 3, 11, 13)), plain(picture(2, 3, 11, 13)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("other", [network(plus=True), network(act="prelu")], ids=["further paths", "other activation"])
def test_what_is_not_the_plain_dense_block_is_left_as_it_is(other: nn.Module) -> None:
    names = [type(module).__name__ for module in other.modules()]
    assert rewrite_dense_groups(other) == 0
    assert [type(module).__name__ for module in other.modules()] == names


def test_its_parameters_are_the_plain_ones() -> None:
    plain = group()
    ours = DenseGroup(plain)
    assert {id(p) for p in ours.parameters()} == {id(p) for p in plain.parameters()}
    assert len(ours.state_dict()) == len(plain.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_it_can_be_copied_and_moved_to_another_type_and_layout(dtype: torch.dtype) -> None:
    plain = group()
    ours = copy.deepcopy(DenseGroup(plain)).to(dtype=dtype, memory_format=torch.channels_last)
    x = picture(1, 16, 9, 9)
    ours(x.to(dtype))
    for parameter in plain.parameters():
        parameter.zero_()
    result = ours(x.to(dtype))
    assert result.dtype == dtype
    assert not torch.equal(result, x.to(dtype) * 1.2), "the copy has weights of its own"


def test_weights_that_were_replaced_are_seen_at_once() -> None:
    """As hosts do that keep weights on the CPU and bring them when they are wanted."""
    plain = group()
    ours = DenseGroup(plain)
    x = picture(1, 16, 9, 9)
    ours(x)
    for parameter in plain.parameters():
        parameter.data = 2 * parameter.data
    torch.testing.assert_close(ours(x), plain(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_under_autocast_it_computes_in_that_type_and_gives_the_plain_ones(given: torch.dtype) -> None:
    plain = group()
    x = picture(1, 16, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        truth, result = plain(x.to(given)), DenseGroup(plain)(x.to(given))
    assert result.dtype == truth.dtype
    assert not torch.allclose(result.float(), plain(x), atol=1e-6), "it was bfloat16"
    torch.testing.assert_close(result.float(), plain(x), atol=2e-2, rtol=2e-2)


def test_its_memory_can_be_estimated_and_is_no_more_than_the_plain_ones() -> None:
    descriptor = ESRGANArch().load(network(num_filters=64, scale=4).state_dict())
    info = model_info(descriptor)

    def per_pixel() -> float:
        return measure_cost(descriptor.model, descriptor._call_fn, info, torch.float32).per_pixel

    plain = per_pixel()
    assert rewrite_dense_groups(descriptor.model) == 2
    assert 0.9 * plain < per_pixel() <= plain


@pytest.mark.parametrize("activation", ["prelu", "leakyrelu", "relu"])
def test_a_fused_compact_gives_the_same_picture(activation: str) -> None:
    plain = compact(act_type=activation)
    ours = copy.deepcopy(plain)
    assert fuse_chains(ours) == 3  # the first convolution is from three colours
    for x in (picture(2, 3, 9, 11), picture(1, 3, 70, 64)):
        torch.testing.assert_close(ours(x), plain(x), atol=1e-5, rtol=1e-5)


def test_one_slope_for_all_channels_is_a_prelu_too() -> None:
    chain = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.PReLU(init=-0.7)).eval()
    x = picture(1, 16, 9, 9)
    truth = chain(x)

    def convolve(source, target, weight, bias, slope) -> None:
        assert slope.shape == (8,)
        assert slope.is_contiguous(), "a kernel reads it as it lies"
        plain_convolution(source, target, weight, bias, slope)

    assert fuse_chains(chain, convolve) == 1
    torch.testing.assert_close(chain(x), truth)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(16, 16, 1),
        nn.Conv2d(16, 16, 5, padding=2),
        nn.Conv2d(16, 16, 3),
        nn.Conv2d(16, 16, 3, padding=1, stride=2),
        nn.Conv2d(16, 16, 3, padding=1, groups=4),
        nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(16, 16, 3, padding=2, dilation=2),
        nn.Linear(16, 16),
    ],
    ids=str,
)
def test_other_layers_are_left_alone(convolution: nn.Module) -> None:
    assert fuse_chains(nn.Sequential(convolution, nn.ReLU())) == 0
    assert fuse_chains(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.GELU())) == 0


def test_modules_that_do_not_run_in_a_row_are_left_alone() -> None:
    other = nn.ModuleList([nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()])
    assert fuse_chains(nn.ModuleList([other])) == 0


def test_a_module_that_appears_twice_in_a_chain_stays_where_it_is() -> None:
    repeated = nn.Conv2d(16, 16, 3, padding=1)
    chain = nn.Sequential(repeated, nn.Conv2d(16, 16, 3, padding=1), repeated, nn.ReLU()).eval()
    x = picture(1, 16, 9, 9)
    truth = chain(x)
    assert fuse_chains(chain) == 1
    torch.testing.assert_close(chain(x), truth, atol=1e-5, rtol=1e-5)


def test_a_fused_step_keeps_the_activations_parameters() -> None:
    convolution, activation = nn.Conv2d(16, 16, 3, padding=1), nn.PReLU(16)
    names = dict(FusedConvolution(convolution, activation).named_parameters())
    assert {id(p) for p in names.values()} == {id(p) for p in (*convolution.parameters(), *activation.parameters())}


@pytest.mark.parametrize("model", [zoo.compact(2, features=16), zoo.esrgan()], ids=["Compact", "ESRGAN"])
@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_working_copy_with_fused_kernels_gives_the_same(model, precision: str, autocast: bool) -> None:
    autocast = autocast and precision != "fp32"
    plain = ModelRunner(model, ExecutionMode(precision, autocast, channels_last=True))
    fused = ModelRunner(model, ExecutionMode(precision, autocast, channels_last=True, kernels="fused"))
    assert can_fuse(model.model)
    assert any(isinstance(module, DenseGroup | FusedConvolution) for module in fused.module.modules())
    x = torch.rand(2, 3, 20, 28, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert compare(fused.forward(x), plain.forward(x), OF_A_MODEL[precision]) is None
