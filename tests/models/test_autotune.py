"""Which way to compute a model is known on a CPU, measured once elsewhere, computes the same, and is left where it gave
faulty tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import zoo
from clocks import new_sessions
from studies import found_by, of_a_model
from torch import Tensor

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.report import UpscaleResult
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.kernels import winograd
from cudaspeed.models.autotune import by_our_kernels, study, to_be_measured
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.runner import ModelRunner
from cudaspeed.models.study import Ask
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


def unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    """No architecture is known to be computed right by our kernels: each model is tried."""
    monkeypatch.setattr(modes, "verified", lambda model, kernels: False)


def after_every_convolution(monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], object]) -> None:
    """Let our kernels do something to their results [N, h, w, C]."""
    right = winograd.Kernels.convolve

    def changed(self: winograd.Kernels, x: Tensor, packed: winograd.Packed, y: Tensor, *more: object) -> None:
        right(self, x, packed, y, *more)
        change(y)

    monkeypatch.setattr(winograd.Kernels, "convolve", changed)


def run(model, sessions: SessionCache | None = None, image: Tensor = IMAGE, **options) -> UpscaleResult:
    return upscale(image, model, UpscaleOptions(**options), StandaloneContext("cpu"), sessions or new_sessions())


# --- measured on the model -------------------------------------------------------------------------------------------


def fastest(model, seconds: float, disturbed: Callable[[int], float] = lambda turn: 1.0) -> str:
    """Of two ways: the usual takes a second, ours so many, times what disturbs the forwards of a turn."""
    asked: list[Ask] = []

    def taken(ask: Ask) -> float:
        asked.append(ask)
        return (seconds if ask.mode == OURS else 1.0) * disturbed((len(asked) - 1) // 2)

    found = found_by(study(model, PLAIN, [OURS], "here"), of_a_model(model), taken)
    assert len(asked) <= 8, "whatever the machine does"
    return found["fastest"]["here"]


@pytest.mark.parametrize(("seconds", "chosen"), [(0.5, OURS), (0.9, OURS), (0.97, PLAIN), (1.5, PLAIN)])
@pytest.mark.parametrize("busy", [False, True])
def test_what_is_clearly_faster_is_taken(seconds: float, chosen: ExecutionMode, busy: bool, model, context) -> None:
    """Also on a machine that does other things most of the time."""
    assert fastest(model, seconds, lambda turn: 9.0 - turn if busy and turn < 3 else 1.0) == str(chosen)


def test_what_computes_something_else_is_not(model, context, monkeypatch, caplog) -> None:
    after_every_convolution(monkeypatch, lambda y: y.add_(0.1))
    with caplog.at_level("DEBUG", "cudaspeed"):
        assert fastest(model, 0.1) == str(PLAIN)
    assert "not in fp32 winograd" in caplog.text


def test_what_fails_is_not(model, context, monkeypatch) -> None:
    def fail(y: Tensor) -> None:
        raise IndexError("something of the model's is gone")

    after_every_convolution(monkeypatch, fail)
    assert fastest(model, 0.1) == str(PLAIN)


def test_there_is_no_other_way_where_it_would_be_less_precise_or_is_none(model, context, monkeypatch) -> None:
    half, folder = ExecutionMode("bf16", autocast=True, channels_last=True), context.cache_folder
    assert by_our_kernels(model.model, PLAIN, folder) == [OURS]
    monkeypatch.setattr(winograd, "multiplies_bfloat16", lambda: True)
    products = replace(OURS, precision="bf16")
    assert by_our_kernels(model.model, half, folder) == [products]
    monkeypatch.setattr(winograd, "multiplies_bfloat16", lambda: False)
    assert by_our_kernels(model.model, half, folder) == [], "they would multiply float32"
    attention, half_attention = replace(PLAIN, kernels="attention"), replace(half, kernels="attention")
    assert by_our_kernels(zoo.swinir().model, PLAIN, folder) == [OURS], "its convolutions and its attention"
    assert by_our_kernels(zoo.swinir().model, half, folder) == [half_attention]
    monkeypatch.setattr(winograd, "prepare", lambda folder, patience=0.0: False)
    assert by_our_kernels(zoo.swinir().model, PLAIN, folder) == [attention]
    cuda = torch.device("cuda")
    assert to_be_measured(zoo.swinir().model, half, cuda) == [half_attention]
    assert replace(half, channels_last=False) in to_be_measured(model.model, half, cuda)
    assert {mode.precision for mode in to_be_measured(model.model, half, cuda)} == {"bf16"}


# --- on a CPU --------------------------------------------------------------------------------------------------------


def test_what_our_kernels_compute_wrong_is_tried_once_and_left(model, context, monkeypatch) -> None:
    """A run that bears a try makes it; none is harmed by it, and none makes it again."""
    unverified(monkeypatch)
    tried: list[int] = []
    after_every_convolution(monkeypatch, lambda y: tried.append(1) or y.add_(0.1))
    large = zoo.photograph(256, 448)
    truth = run(zoo.compact(2, features=16), image=large, precision="fp32", reproducible=True).image
    first, again = (run(model, image=large, precision="fp32", compile=False) for _ in range(2))
    assert tried
    assert [result.report.kernels for result in (first, again)] == ["plain"] * 2
    assert float((first.image - truth).abs().max()) <= 2e-5
    assert torch.equal(first.image, again.image)
    tried.clear()
    assert run(model, image=large, precision="fp32", compile=False).report.kernels == "plain"
    assert not tried


def test_too_little_memory_to_compare_costs_the_choice_and_not_the_picture(model, context, monkeypatch) -> None:
    def fail(y: Tensor) -> None:
        raise torch.OutOfMemoryError("out of memory")

    unverified(monkeypatch)
    large, kept = zoo.photograph(256, 448), new_sessions()
    with monkeypatch.context() as patch:
        after_every_convolution(patch, fail)
        assert run(model, kept, large, precision="fp32", compile=False).report.kernels == "plain"
    assert run(model, kept, large, precision="fp32", compile=False).report.kernels == "winograd", "when there is room"


def test_the_picture_is_the_same_and_the_report_says_how_it_was_computed(model, context, monkeypatch) -> None:
    results = {}
    for kernels in ("winograd", "plain"):
        with monkeypatch.context() as patch:
            if kernels == "plain":
                patch.setattr(winograd, "prepare", lambda folder, patience=0.0: False)
            result = run(zoo.compact(2, features=16), precision="fp32", compile=False)
        ProfileStore(profiles_folder(context.cache_folder)).clear()
        assert result.report.kernels == kernels
        results[kernels] = result.image
    assert float((results["winograd"] - results["plain"]).abs().max()) <= 2e-5


def test_it_takes_no_forward_to_know_and_the_next_session_knows_it_too(model, context, monkeypatch) -> None:
    """Where the architecture is known to be computed right: the first picture is already computed so."""
    forwards: list[int] = []
    made = ModelRunner.__init__

    def counted(self: ModelRunner, *told: object) -> None:
        made(self, *told)
        right = self.forward
        self.forward = lambda x: forwards.append(1) or right(x)

    monkeypatch.setattr(ModelRunner, "__init__", counted)
    for some in (model, model, zoo.compact(2, features=16)):
        assert run(some, precision="fp32").report.kernels == "winograd"
    assert len(forwards) == 3, "the pictures themselves"


def test_tiles_that_our_kernels_spoil_are_mended_and_later_sessions_do_without(model, context, monkeypatch) -> None:
    truth = run(model, precision="fp32").image
    after_every_convolution(monkeypatch, lambda y: y[:, 5:8, 5:8].fill_(torch.nan))
    result = run(model, precision="fp32", tile=32)
    assert {(repair.before, repair.after) for repair in result.report.health.repairs} == {("fp32 winograd", "fp32")}
    assert result.report.health.given_up == "fp32 winograd"
    assert float((result.image - truth).abs().max()) <= 2 / 255
    assert run(model, precision="fp32", tile=32).report.kernels == "plain"
    assert not run(model, precision="fp32").report.health.repairs
