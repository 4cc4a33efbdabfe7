"""Our copy of a model: what runs it, where."""

from __future__ import annotations

import weakref
from dataclasses import replace

import psutil
import pytest
import torch
import zoo
from spandrel import ImageModelDescriptor
from torch import nn

from cudaspeed.memory import bytes_for_copies
from cudaspeed.models.cuda_graphs import CudaGraphExecutor
from cudaspeed.models.execution import EagerExecutor, ExecutionMode
from cudaspeed.models.runner import ModelRunner, RunnerCache, _copy

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


def copies(count: int, limit: int) -> tuple[RunnerCache, list[ImageModelDescriptor], list[weakref.ref[nn.Module]]]:
    """A cache within `limit` copies of one size, so many models, and our copies of them, made in turn."""
    models = [zoo.compact() for _ in range(count)]
    size = ModelRunner(models[0], MODE).bytes
    cache = RunnerCache(lambda device: limit * size)
    return cache, models, [weakref.ref(cache.get(model, MODE).module) for model in models]


def alive(copies: list[weakref.ref[nn.Module]]) -> list[int]:
    return [k for k, copy in enumerate(copies) if copy() is not None]


def test_the_copies_that_were_used_the_longest_ago_go_where_all_take_too_much() -> None:
    cache, models, ours = copies(4, limit=3)
    assert alive(ours) == [1, 2, 3]
    assert cache.find(models[1], MODE) is not None  # used again
    new = weakref.ref(cache.get(models[0], MODE).module)
    assert alive(ours) == [1, 3], "not the one that was used last"
    assert new() is not None


def test_the_newest_copy_stays_however_large_it_is() -> None:
    cache, models, ours = copies(3, limit=0)
    assert alive(ours) == [2]
    assert cache.find(models[2], MODE) is not None


def test_the_newest_copy_counts_where_it_will_compute() -> None:
    card, models = torch.device("meta", 0), [zoo.compact() for _ in range(3)]
    cache = RunnerCache(lambda device: ModelRunner(models[0], MODE).bytes)
    for model in models:
        cache.get(model, MODE, torch.device("meta")).module.to(card)  # made in main memory, and brought there
    assert [cache.find(model, MODE) is not None for model in models] == [False, False, True]


def test_where_a_large_copy_goes_an_older_small_one_may_stay() -> None:
    small, large, _ = models = [zoo.compact(features=width) for width in (8, 64, 32)]
    limit = sum(ModelRunner(model, MODE).bytes for model in (small, large))
    cache = RunnerCache(lambda device: limit)
    for model in models:
        cache.get(model, MODE)
    assert [cache.find(model, MODE) is not None for model in models] == [True, False, True]


def test_what_a_host_takes_away_is_no_longer_kept_and_is_made_anew() -> None:
    cache, models, ours = copies(2, limit=9)
    runner = cache.get(models[0], MODE)
    runner.release()
    assert cache.find(models[0], MODE) is runner, "only what was beside the weights"
    runner.release(weights=True)
    assert alive(ours) == [0, 1], "a run that has it goes on"
    del runner
    assert alive(ours) == [1]
    assert cache.get(models[0], MODE).versions


def test_a_copy_that_is_taken_away_after_another_took_its_place_takes_that_one_not_along() -> None:
    cache, model = RunnerCache(), zoo.compact()
    old = cache.get(model, MODE)
    new = cache.get(model, replace(MODE, precision="bf16"))
    old.release(weights=True)
    assert cache.find(model, new.mode) is new


def test_a_quarter_of_the_memory_is_for_copies_and_less_where_less_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cudaspeed.memory.memory_bytes_left", lambda: None)
    assert bytes_for_copies(torch.device("cpu")) == psutil.virtual_memory().total // 4
    monkeypatch.setattr("cudaspeed.memory.memory_bytes_left", lambda: 4 << 20)
    assert bytes_for_copies(torch.device("cpu")) == 1 << 20
