"""The fastest way to compute a model is measured once, computes the same, and is left where it gave faulty tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import zoo
from clocks import new_sessions
from torch import Tensor

from cudaspeed.api.model_info import Forward
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.report import UpscaleResult
from cudaspeed.host import StandaloneContext
from cudaspeed.kernels import winograd
from cudaspeed.models import autotune
from cudaspeed.models.autotune import fastest, mode_candidates
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.runner import ModelRunner
from cudaspeed.pipeline import modes
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.storage.profiles import ProfileStore, profiles_folder
from cudaspeed.upscale_engine import upscale

PLAIN = ExecutionMode("fp32", autocast=False, channels_last=True)
OURS = ExecutionMode("fp32", autocast=False, channels_last=True, kernels="winograd")
IMAGE = zoo.photograph(40, 48)


@pytest.fixture
def model():
    return zoo.compact(2, features=16)


@pytest.fixture
def context(tmp_path: Path) -> StandaloneContext:
    if not winograd.prepare(tmp_path / "compiled"):
        pytest.skip("the kernels cannot be built here: not Linux, or no C++ compiler")
    return StandaloneContext("cpu")


def takes(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """Make computing with these kernels take so long."""

    def measured(ways: Sequence[autotune._Way], *_: object) -> list[list[float]]:
        return [[seconds[way.runner.mode.kernels]] * 2 for way in ways]

    monkeypatch.setattr(autotune, "_times", measured)


def after_every_convolution(monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], object]) -> None:
    """Let our kernels do something to their results [N, h, w, C]."""
    right = winograd.Kernels.convolve

    def changed(self: winograd.Kernels, x: Tensor, packed: winograd.Packed, y: Tensor, *more: object) -> None:
        right(self, x, packed, y, *more)
        change(y)

    monkeypatch.setattr(winograd.Kernels, "convolve", changed)


def run(model, sessions: SessionCache | None = None, **options) -> UpscaleResult:
    return upscale(IMAGE, model, UpscaleOptions(**options), StandaloneContext("cpu"), sessions or new_sessions())


@pytest.mark.parametrize(("seconds", "chosen"), [(0.5, OURS), (0.9, OURS), (0.97, PLAIN), (1.5, PLAIN)])
def test_what_is_clearly_faster_is_taken(seconds: float, chosen: ExecutionMode, model, context, monkeypatch) -> None:
    takes(monkeypatch, plain=1.0, winograd=seconds)
    assert fastest(model, PLAIN, [OURS], context).runner.mode == chosen


def test_what_computes_something_else_is_not(model, context, monkeypatch, caplog) -> None:
    after_every_convolution(monkeypatch, lambda y: y.add_(0.1))
    takes(monkeypatch, plain=1.0, winograd=0.1)
    assert fastest(model, PLAIN, [OURS], context).runner.mode == PLAIN
    assert "not in fp32 winograd" in caplog.text


def test_what_fails_is_not(model, context, monkeypatch) -> None:
    def fail(y: Tensor) -> None:
        raise IndexError("something of the model's is gone")

    after_every_convolution(monkeypatch, fail)
    takes(monkeypatch, plain=1.0, winograd=0.1)
    assert fastest(model, PLAIN, [OURS], context).runner.mode == PLAIN


def test_each_is_on_the_device_when_it_runs(model, context, monkeypatch) -> None:
    """A host short of memory has room for one at a time."""
    resident: list[ModelRunner] = []

    def make_resident(runner: ModelRunner, bytes_wanted: int) -> None:
        resident[:] = [runner]

    def timed(forward: Forward, picture: Tensor, clock: object) -> tuple[Tensor, float]:
        assert [runner.forward for runner in resident] == [forward]
        return forward(picture), 1.0

    context.make_resident = make_resident
    monkeypatch.setattr(autotune, "timed", timed)
    fastest(model, PLAIN, [OURS], context)


def test_too_little_memory_to_compare_costs_the_choice_and_not_the_picture(model, context, monkeypatch) -> None:
    def fail(y: Tensor) -> None:
        raise torch.OutOfMemoryError("out of memory")

    with monkeypatch.context() as patch:
        after_every_convolution(patch, fail)
        assert run(model, precision="fp32").report.kernels == "plain"
    takes(monkeypatch, plain=1.0, winograd=0.1)
    assert run(model, precision="fp32").report.kernels == "winograd", "it is compared when there is room"


def test_there_is_no_other_way_where_it_would_be_less_precise_or_is_none(model, context, monkeypatch) -> None:
    half = ExecutionMode("bf16", autocast=True, channels_last=True)
    assert mode_candidates(model.model, PLAIN, "fp32", context) == [OURS]
    assert mode_candidates(model.model, half, "auto", context) == [OURS], "float32 is precise enough for automatic"
    assert mode_candidates(model.model, half, "bf16", context) == [], "bf16 was asked for"
    attention, half_attention = replace(PLAIN, kernels="attention"), replace(half, kernels="attention")
    assert mode_candidates(zoo.swinir().model, PLAIN, "fp32", context) == [OURS], "its convolutions and its attention"
    assert mode_candidates(zoo.swinir().model, half, "bf16", context) == [half_attention]
    monkeypatch.setattr(winograd, "prepare", lambda folder: False)
    assert mode_candidates(zoo.swinir().model, PLAIN, "fp32", context) == [attention]


def test_the_picture_is_the_same_and_the_report_says_how_it_was_computed(model, context, monkeypatch) -> None:
    results = {}
    for kernels, seconds in (("winograd", 0.1), ("plain", 2.0)):
        takes(monkeypatch, plain=1.0, winograd=seconds)
        result = run(zoo.compact(2, features=16), precision="fp32")
        ProfileStore(profiles_folder(context.cache_folder)).clear()
        assert result.report.kernels == kernels
        results[kernels] = result.image
    assert float((results["winograd"] - results["plain"]).abs().max()) <= 2e-5


def test_it_is_measured_once_and_remembered_by_the_next_session(model, context, monkeypatch) -> None:
    takes(monkeypatch, plain=1.0, winograd=0.1)
    assert run(model, precision="fp32").report.kernels == "winograd"

    def again(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(modes, "fastest", again)
    assert run(model, precision="fp32").report.kernels == "winograd"
    assert run(zoo.compact(2, features=16), precision="fp32").report.kernels == "winograd"


def test_what_a_busy_machine_tells_is_not_kept_and_asked_for_thrice_at_most(model, context, monkeypatch) -> None:
    """Times of which the least was not seen twice say more of the machine than of the model."""
    asked: list[int] = []

    def measured(models: Sequence[ModelRunner], *_: object) -> list[list[float]]:
        asked.append(len(models))
        return [[1.0, 3.0, 2.0], [0.2, 0.9, 0.4]]

    monkeypatch.setattr(autotune, "_times", measured)
    kept = new_sessions()
    assert [run(model, kept).report.kernels for _ in range(5)] == ["winograd"] * 5
    assert asked == [2] * 3
    takes(monkeypatch, plain=1.0, winograd=1.0)
    assert run(model).report.kernels == "plain", "the next session finds out"


def test_a_busy_machine_is_asked_until_the_answer_is_clear(model, context, monkeypatch) -> None:
    disturbed = iter([180.0, 180.0, 9.0, 9.0, 5.0, 4.0, 2.0, 1.0, 1.0, 0.3, 1.05, 0.31])
    monkeypatch.setattr(autotune, "timed", lambda forward, x, clock: (forward(x), next(disturbed) / 20))
    best = fastest(model, PLAIN, [OURS], context)
    assert (best.runner.mode, best.sure) == (OURS, True)
    assert next(disturbed, None) is None


def test_long_times_that_are_far_apart_need_not_be_seen_twice(model, context, monkeypatch) -> None:
    """A large model should not be run a dozen times to see what is plain already."""
    taken = iter([4.0, 2.5, 5.0, 2.0])
    monkeypatch.setattr(autotune, "timed", lambda forward, x, clock: (forward(x), next(taken)))
    best = fastest(model, PLAIN, [OURS], context)
    assert (best.runner.mode, best.sure) == (OURS, True)
    assert next(taken, None) is None, "four forwards in all"


def test_tiles_that_our_kernels_spoil_are_mended_and_later_sessions_do_without(model, context, monkeypatch) -> None:
    takes(monkeypatch, plain=1.0, winograd=0.1)
    truth = run(model, precision="fp32").image
    after_every_convolution(monkeypatch, lambda y: y[:, 5:8, 5:8].fill_(torch.nan))
    result = run(model, precision="fp32", tile=32)
    assert {(repair.before, repair.after) for repair in result.report.health.repairs} == {("fp32 winograd", "fp32")}
    assert result.report.health.given_up == "fp32 winograd"
    assert float((result.image - truth).abs().max()) <= 2 / 255
    assert run(model, precision="fp32", tile=32).report.kernels == "plain"
    assert not run(model, precision="fp32").report.health.repairs
