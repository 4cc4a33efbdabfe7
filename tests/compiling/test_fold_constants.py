"""SPAN runs with its convolutions folded once: the same picture, and a model that can be traced."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx, nn
from zoo import span

from cudaspeed.compiling.fold_constants import fold_constants
from cudaspeed.kernels.rewrite import fold_convolutions
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.runner import ModelRunner


def test_folded_span_gives_the_same_picture_and_folds_no_more() -> None:
    descriptor = span()
    x = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        truth = descriptor.model(x)
        fold_convolutions(descriptor.model)
        for module in descriptor.model.modules():
            assert not hasattr(module, "update_params")
        torch.testing.assert_close(descriptor.model(x), truth, atol=1e-5, rtol=1e-4)


def test_the_callers_model_keeps_its_parts() -> None:
    descriptor = span()
    names = [name for name, _ in descriptor.model.named_modules()]
    ModelRunner(descriptor, ExecutionMode("fp32", autocast=False, channels_last=True))
    assert [name for name, _ in descriptor.model.named_modules()] == names


def test_a_folded_model_can_be_traced() -> None:
    runner = ModelRunner(span(), ExecutionMode("fp32", autocast=False, channels_last=False))
    x = torch.rand(1, 3, 24, 24)
    with torch.no_grad():
        exported = torch.export.export(runner.module, (x,), strict=False)
        torch.testing.assert_close(exported.module()(x), runner.forward(x))


def masked_by_size(x: torch.Tensor) -> torch.Tensor:
    """With a mask made as window models make theirs: from the size alone, piece by piece."""
    mask = torch.zeros(x.shape[2], x.shape[3])
    for number, rows in enumerate([slice(0, -4), slice(-4, None)]):
        mask[rows] = number
    return x * mask + torch.arange(x.shape[3])


class Whole(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return masked_by_size(x) + masked_by_size(2 * x)


def test_what_depends_on_the_size_alone_is_computed_once_and_kept_once() -> None:
    x = torch.rand(1, 3, 16, 16)
    traced = torch.export.export(Whole(), (x,), strict=False).run_decompositions({}).module()
    fold_constants(traced)
    torch.testing.assert_close(traced(x), masked_by_size(x) + masked_by_size(2 * x))
    called = {str(node.target) for node in traced.graph.nodes if node.op == "call_function"}
    assert called == {"aten.mul.Tensor", "aten.add.Tensor"}, "nothing is left of the mask's making"
    assert len([name for name, _ in traced.named_buffers() if name.startswith("_folded")]) == 2, "a mask and a ramp"


def test_large_constants_are_still_computed() -> None:
    class Large(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            ramp = torch.arange(2000.0)
            return x + (ramp[:, None] * ramp[None]).sum()

    x = torch.rand(1)
    traced = torch.export.export(Large(), (x,), strict=False).run_decompositions({}).module()
    fold_constants(traced)
    torch.testing.assert_close(traced(x), Large()(x))
    assert all(buffer.nbytes < 1e7 for buffer in traced.buffers())


def folded(module: nn.Module, x: torch.Tensor) -> fx.GraphModule:
    traced = torch.export.export(module, (x,), strict=False).run_decompositions({}).module()
    fold_constants(traced)
    return traced


class Noisy(nn.Module):
    """Adds noise whose size is a constant, and which does not depend on the input."""

    def __init__(self, noise: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.noise(torch.arange(64.0).clamp(max=0.5)) + torch.arange(64.0).square()


@pytest.mark.parametrize(
    "noise",
    [
        lambda size: torch.rand(64) * size,
        lambda size: size * torch.randn_like(size),
        lambda size: torch.randint(2, 1000, (64,)).float(),
        lambda size: torch.bernoulli(size),
        lambda size: torch.normal(size),
        lambda size: nn.functional.dropout(size, training=True),
        lambda size: torch.randperm(64) * size,
    ],
    ids=["rand", "randn_like", "randint", "bernoulli", "normal", "dropout", "randperm"],
)
def test_what_is_random_stays_random(noise: Callable[[torch.Tensor], torch.Tensor]) -> None:
    traced = folded(Noisy(noise), torch.zeros(64))
    assert not torch.equal(traced(torch.zeros(64)), traced(torch.zeros(64)))
    assert "aten.square.default" not in {str(node.target) for node in traced.graph.nodes}, "the rest is folded"
    assert [name for name, _ in traced.named_buffers() if name.startswith("_folded")]


class Counting(nn.Module):
    """Remembers how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        return x + 2 * self.count


def test_what_is_changed_in_place_is_neither_folded_nor_changed_meanwhile() -> None:
    traced = folded(Counting(), torch.zeros(1))
    assert [float(traced(torch.zeros(1))) for _ in range(3)] == [2, 4, 6]


def test_a_view_of_what_is_changed_in_place_is_not_folded_either() -> None:
    """As in a graph that was not made functional."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    ones = graph.call_function(torch.ops.aten.ones.default, ([2, 2],))
    row = graph.call_function(torch.ops.aten.select.int, (ones, 0, 0))
    graph.call_function(torch.ops.aten.add_.Tensor, (row, 1))
    graph.output(graph.call_function(torch.ops.aten.mul.Tensor, (ones, x)))
    traced = fx.GraphModule(nn.Module(), graph)
    fold_constants(traced)
    for _ in range(2):
        assert traced(torch.ones(2, 2)).tolist() == [[2, 2], [1, 1]]
