"""Our copy of a model: what runs it, where."""

from __future__ import annotations

import pytest
import torch
import zoo
from torch import nn

from cudaspeed.models.cuda_graphs import CudaGraphExecutor
from cudaspeed.models.execution import EagerExecutor, ExecutionMode
from cudaspeed.models.runner import ModelRunner, _copy

MODE = ExecutionMode("fp32", autocast=False, channels_last=True)


def test_graphs_are_for_cuda_alone_whatever_the_copy_ran_on_before() -> None:
    """A graph recorded on a CPU would be empty, and repeat its first picture for ever."""
    for devices in (["cuda:0", "cpu"], ["cpu", "cuda:0"]):
        runner = ModelRunner(zoo.compact(), MODE)
        kinds = {name: type(runner.executor(torch.device(name))) for name in devices}
        assert kinds == {"cpu": EagerExecutor, "cuda:0": CudaGraphExecutor}
        assert runner.executor(torch.device("cpu")) is runner.executor(torch.device("cpu"))


class Own(nn.Parameter):
    """A type of its own, as a host may have."""


class Odd(nn.Module):
    """Tied weights, views of one memory, a part and tensor in two places, a tensor that is no buffer."""

    view: torch.Tensor
    spread: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.second.weight = self.first.weight
        self.again = self.first
        table = torch.rand(8, 8)
        self.register_buffer("view", table[2:, ::2])
        self.register_buffer("spread", table[:1].expand(4, 8))
        self.register_buffer("none", None)
        self.own = Own(torch.rand(3))
        self.beside = table
        self.hidden = {"table": table}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_copy_shares_nothing_with_the_callers_model(inference: bool, channels_last: bool) -> None:
    with torch.inference_mode(inference):
        module = Odd()
    ours = _copy(module, ExecutionMode("fp32", autocast=False, channels_last=channels_last))
    assert isinstance(ours, Odd)
    theirs = {tensor.untyped_storage().data_ptr() for tensor in (*module.state_dict().values(), module.beside)}
    mine = [*ours.parameters(), *ours.buffers()]
    assert not theirs & {tensor.untyped_storage().data_ptr() for tensor in (*mine, ours.beside, ours.hidden["table"])}
    assert ours.first.weight is ours.second.weight
    assert ours.again is ours.first
    assert ours.beside is ours.hidden["table"]
    assert type(ours.own) is Own
    assert not any(tensor.is_inference() or tensor.requires_grad for tensor in mine)
    for name, value in module.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)
    assert module.first.weight.requires_grad
    assert module.training


def test_a_copy_has_hooks_and_empty_containers_of_its_own() -> None:
    module = Odd()
    seen: list[int] = []
    module.first.register_forward_hook(lambda *_: seen.append(1))
    ours = _copy(module, ExecutionMode("fp32", autocast=False, channels_last=False))
    assert isinstance(ours, Odd)
    ours.first(torch.rand(1, 8, 4, 4))
    assert seen == [1]
    ours.second.register_forward_hook(lambda *_: seen.append(2))
    ours.register_buffer("more", torch.rand(1))
    module.second(torch.rand(1, 8, 4, 4))
    assert seen == [1]
    assert "more" not in dict(module.named_buffers())
