"""Weights in units: what moves together, what stays, and how it lies in memory."""

from __future__ import annotations

import pytest
import torch
import zoo
from torch import nn

from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.runner import ModelRunner
from cudaspeed.models.weight_units import Packing, can_be_cut, cut, device_bytes, what_stays
from cudaspeed.models.weight_use import use_of_weights, weights_of

FP32 = ExecutionMode("fp32", False, False)


@pytest.mark.parametrize("most", [0, 10_000, 1 << 40])
@pytest.mark.parametrize("make", [zoo.deep, zoo.swinir, zoo.realcugan, zoo.fdat], ids=lambda make: make.__name__)
def test_every_weight_is_in_one_place(make, most: int) -> None:
    runner = ModelRunner(make(), FP32)
    before = [id(tensor) for tensor in weights_of(runner.module)]
    found = cut(runner.module, use_of_weights(runner.module, runner.forward, runner.info), most)
    assert [id(tensor) for tensor in weights_of(runner.module)] == before, "a look at it leaves it as it is"
    placed = [id(tensor) for tensors in (found.rest, *(unit.tensors for unit in found.units)) for tensor in tensors]
    assert sorted(placed) == sorted(before)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in runner.module.modules())
    assert {type(part._parameters) for part in runner.module.modules()} == {dict}
    assert set(found.order) <= set(range(len(found.units)))


def test_units_are_as_large_as_they_may_be() -> None:
    runner = ModelRunner(zoo.deep(), FP32)
    use = use_of_weights(runner.module, runner.forward, runner.info)
    sizes = {most: len(cut(runner.module, use, most).units) for most in (0, runner.bytes // 4, runner.bytes)}
    assert sizes[0] > sizes[runner.bytes // 4] > sizes[runner.bytes] == 1


@pytest.mark.parametrize(
    ("sizes", "limit", "stay"),
    [
        ([100] * 6, 0, set()),
        ([100] * 6, 299, set()),
        ([100] * 6, 300, {0}),
        ([100] * 6, 500, {0, 2, 4}),
        ([100] * 6, 600, {0, 1, 2, 3, 4, 5}),
        ([100, 1000, 100], 0, {1}),  # two places for it would take more than it does
        ([100, 1000, 100, 300], 0, {1, 3}),
        ([], 0, set()),
    ],
)
def test_what_stays(sizes: list[int], limit: int, stay: set[int]) -> None:
    assert what_stays(sizes, 0, limit) == what_stays(sizes, 50, limit + 50 if limit else 0) == stay
    if limit:
        assert not stay or device_bytes(sizes, stay) <= limit


def test_packed_tensors_have_their_values_and_strides() -> None:
    tensors = [
        torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        torch.tensor(3, dtype=torch.int64),
        torch.rand(3, 1).expand(3, 7),
        torch.empty(0, 4, dtype=torch.float16),
        torch.rand(7, 6)[1:, ::2].bfloat16(),
        torch.tensor([True, False]),
    ]
    packing = Packing.of(tensors)
    memory = torch.full((packing.bytes,), 0xFF, dtype=torch.uint8)
    packing.write(memory, tensors)
    for view, tensor in zip(packing.views(memory), tensors, strict=True):
        assert (view.dtype, view.stride()) == (tensor.dtype, tensor.stride())
        assert torch.equal(view, tensor)


def test_models_with_tensors_of_a_kind_of_their_own_are_not_cut() -> None:
    class Own(torch.Tensor):
        pass

    module = nn.Module()
    module.register_buffer("own", torch.rand(3).as_subclass(Own))
    assert not can_be_cut(module)
    assert can_be_cut(nn.Linear(2, 2))
