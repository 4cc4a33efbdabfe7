"""SPAN runs with its convolutions folded once: the same picture, and a model that can be traced."""

from __future__ import annotations

import torch
from torch import nn
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
