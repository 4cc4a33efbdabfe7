"""What a run hears of a forward: every block of whatever architecture, from its own thread, with the same bits."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import zoo
from spandrel import ImageModelDescriptor
from torch import nn

from cudaspeed.api.upstream import has_hooks
from cudaspeed.kernels import window_attention, winograd
from cudaspeed.kernels.heartbeat import heard_by
from cudaspeed.kernels.winograd_modules import WinogradChain, WinogradDenseBlock, WinogradSpanBlock
from cudaspeed.models.blocks import blocks_of, count_beats, listening
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.runner import ModelRunner

MODES = [
    ExecutionMode("fp32", autocast=False, channels_last=True),
    ExecutionMode("fp32", autocast=False, channels_last=True, kernels="winograd"),
    ExecutionMode("bf16", autocast=True, channels_last=True),
]
MODELS = [zoo.compact, zoo.esrgan, zoo.swinir, zoo.span, zoo.rcan_unshuffle, zoo.realcugan, zoo.fdat]


@pytest.fixture(autouse=True)
def kernels(tmp_path: Path) -> None:
    folder = tmp_path / "compiled"
    if not (winograd.prepare(folder) and window_attention.prepare(folder)):
        pytest.skip("the kernels cannot be built here: not Linux, or no C++ compiler")


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("make", MODELS)
def test_every_block_is_heard_and_the_bits_are_the_same(
    make: Callable[[], ImageModelDescriptor], mode: ExecutionMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = ModelRunner(make(), mode)
    x = zoo.photograph(48, 64).permute(0, 3, 1, 2)
    heard: list[int] = []
    found = blocks_of(runner.module, 500)
    with torch.inference_mode():
        truth = runner.forward(x)
        monkeypatch.setattr(winograd, "_MOST_WORK", 1 << 16)  # so that all is cut into pieces
        monkeypatch.setattr(window_attention, "_MOST_WORK", 1 << 16)
        with listening(found, heard.append):
            result = runner.forward(x)
        assert torch.equal(result, truth)
        told = len(heard)
        runner.forward(x)
    assert len(heard) == told, "afterwards nobody listens"
    assert not any(map(has_hooks, runner.module.modules()))
    assert 0.4 * count_beats(found) <= sum(heard) <= 2.5 * count_beats(found)


@pytest.mark.parametrize("make", [zoo.compact, zoo.esrgan, zoo.span])
def test_chains_and_dense_blocks_of_ours_are_heard_step_by_step(make: Callable[[], ImageModelDescriptor]) -> None:
    runner = ModelRunner(make(), MODES[1])
    ours = (WinogradChain, WinogradDenseBlock, WinogradSpanBlock)
    steps = sum(len(module.steps) for module in runner.module.modules() if isinstance(module, ours))
    heard: list[int] = []
    with torch.inference_mode(), heard_by(heard.append):
        runner.forward(zoo.photograph(16, 16).permute(0, 3, 1, 2))
    assert heard.count(1) == steps > 0


def test_one_thread_does_not_hear_another_that_computes_by_the_same_module() -> None:
    runner = ModelRunner(zoo.compact(), MODES[0])
    x = zoo.photograph(16, 16).permute(0, 3, 1, 2)
    mine: list[int] = []
    other = threading.Thread(target=lambda: runner.forward(x))
    with listening(blocks_of(runner.module, 500), mine.append):
        other.start()
        other.join()
        assert not mine
        with heard_by(None):
            runner.forward(x)
        assert not mine, "nor what is recorded, or compared with"


def test_what_the_listener_raises_keeps_the_block_from_being_computed_and_leaves_no_hook() -> None:
    runner = ModelRunner(zoo.compact(convs=6), MODES[0])
    computed: list[nn.Module] = []
    for block in runner.module.modules():
        if isinstance(block, nn.Conv2d):
            block.forward = lambda x, block=block: computed.append(block) or nn.Conv2d.forward(block, x)

    def stop(steps: int) -> None:
        if len(computed) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError), listening(blocks_of(runner.module, 500), stop):
        runner.forward(zoo.photograph(16, 16).permute(0, 3, 1, 2))
    assert len(computed) == 3
    assert not any(map(has_hooks, runner.module.modules()))


def test_a_module_can_be_copied_meanwhile() -> None:
    runner, lock = ModelRunner(zoo.compact(), MODES[0]), threading.Lock()  # which cannot be

    class Holder:
        held = lock

        def listen(self, steps: int) -> None:
            raise AssertionError("a copy is nobody's to hear")

    with listening(blocks_of(runner.module, 500), Holder().listen):
        copied = copy.deepcopy(runner.module)
        with heard_by(None):
            copied(zoo.photograph(16, 16).permute(0, 3, 1, 2))


def test_a_model_of_many_blocks_is_listened_to_at_a_depth_that_costs_little() -> None:
    groups = [nn.Sequential(*(nn.Identity() for _ in range(10))) for _ in range(6)]
    found = blocks_of(nn.Sequential(nn.ModuleList(groups), nn.Identity()), 20)
    assert [block for block in found if block in groups] == groups
    assert len(found) <= 20
