"""The way to compute a model on a CPU is the one that its layers are fastest in, where that is clearly faster."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import zoo

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.kernels.layer_times import LayerTimes, Timing
from cudaspeed.kernels.layers import LayerKind
from cudaspeed.models import precision
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.pipeline import layer_knowledge, learner
from cudaspeed.pipeline.layer_knowledge import LayerKnowledge, by_seconds
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.upscale_engine import upscale

KIND = LayerKind("conv3x3", (64, 64))
WINDOWS = LayerKind("attention", (64, 64, 10, 6))
PLAIN, OURS = ExecutionMode("fp32", False, True), ExecutionMode("fp32", False, True, "winograd")
HALF = ExecutionMode("bf16", True, True)
LATER = Timing(KIND, "plain", 1.0)


@pytest.mark.parametrize(
    ("ours", "half", "fastest"),
    [(0.5, 0.7, OURS), (0.7, 0.5, HALF), (0.95, 0.97, PLAIN), (1.2, 1.4, PLAIN)],
)
def test_what_is_clearly_faster_than_torch_is_taken(
    ours: float, half: float, fastest: ExecutionMode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {
        (KIND, "plain channels last"): 1.0,
        (KIND, "winograd"): ours,
        (KIND, "bf16 channels last"): half,
    }
    monkeypatch.setattr(layer_knowledge, "shipped_times", lambda: LayerTimes(times))
    knowledge = LayerKnowledge(tmp_path, lambda: 0.0)
    assert by_seconds([HALF, OURS, PLAIN], knowledge, {KIND: 1.0})[0] == fastest
    assert knowledge.study({KIND: 1.0}, [HALF, OURS, PLAIN]) is None


@pytest.mark.parametrize(("ours", "others", "fastest"), [(0.8, (), PLAIN), (0.8, (WINDOWS,), OURS), (0.7, (), OURS)])
def test_what_lies_between_a_models_layers_is_expected_to_cost_more_by_our_kernels(
    ours: float, others: tuple[LayerKind, ...], fastest: ExecutionMode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they compute attention too, less lies between them."""
    times = {(KIND, "plain channels last"): 1.0, (KIND, "winograd"): ours}
    times |= {(WINDOWS, "plain"): 0.01, (WINDOWS, "attention"): 0.01}
    monkeypatch.setattr(layer_knowledge, "shipped_times", lambda: LayerTimes(times))
    kinds = dict.fromkeys((KIND, *others), 1.0)
    assert by_seconds([OURS, PLAIN], LayerKnowledge(tmp_path, lambda: 0.0), kinds)[0] == fastest


def test_what_is_not_known_is_timed_once_and_known_to_the_next_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_knowledge, "shipped_times", LayerTimes)
    ticks = iter(range(1, 1000))
    knowledge = LayerKnowledge(tmp_path / "compiled", lambda: float(next(ticks)))
    assert by_seconds([HALF, PLAIN], knowledge, {KIND: 1.0}) == [HALF, PLAIN], "as they are"
    study = knowledge.study({KIND: 1.0}, [HALF, PLAIN])
    assert study is not None
    assert all(step.pixels == 0 for step in study.steps)
    assert knowledge.study({KIND: 1.0}, [HALF, PLAIN]) is None
    assert LayerKnowledge(tmp_path / "compiled", lambda: 0.0).seconds({KIND: 1.0}, PLAIN) is not None


def test_a_queue_without_pauses_finds_out_what_its_layers_take_and_that_half_precision_is_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And no run is decided by what its own clock told."""
    monkeypatch.setattr(precision, "fast_precisions", lambda device: ("bf16",))
    monkeypatch.setattr("cudaspeed.kernels.winograd.multiplies_bfloat16", lambda: False)
    monkeypatch.setattr(layer_knowledge, "shipped_times", LayerTimes)
    monkeypatch.setattr(layer_knowledge, "_SECONDS", 1e-6)
    monkeypatch.setattr(layer_knowledge, "_CLEARLY", math.inf)  # whatever was timed, bf16 is taken
    monkeypatch.setattr(learner, "has_own_limits", lambda: True)  # nothing is found out between runs
    ticks = itertools.count()
    model, sessions, context = zoo.compact(), SessionCache(lambda: float(next(ticks))), StandaloneContext("cpu")
    options, known, precisions = UpscaleOptions(compile=False), [], []
    for _ in range(6):
        known.append(bool(sessions.layers(context).times.seconds))
        precisions.append(upscale(zoo.photograph(160, 160), model, options, context, sessions).report.precision)
    assert (known[0], known[-1]) == (False, True)
    assert precisions == ["bf16" if before else "fp32" for before in known]


@pytest.mark.parametrize("error", [RuntimeError("could not create a primitive"), MemoryError()])
def test_layers_that_cannot_be_timed_cost_no_picture(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*told: object) -> Iterator[Timing]:
        tried.append(told)
        yield LATER
        raise error

    monkeypatch.setattr(precision, "fast_precisions", lambda device: ("bf16",))
    monkeypatch.setattr(layer_knowledge, "shipped_times", LayerTimes)
    monkeypatch.setattr(layer_knowledge, "_SECONDS", 1e-6)
    monkeypatch.setattr(layer_knowledge, "timings", fail)
    monkeypatch.setattr(learner, "has_own_limits", lambda: True)
    tried: list[object] = []
    ticks = itertools.count()
    model, sessions, context = zoo.compact(), SessionCache(lambda: float(next(ticks))), StandaloneContext("cpu")
    for _ in range(4):
        result = upscale(zoo.photograph(80, 80), model, UpscaleOptions(compile=False), context, sessions)
        assert result.report.precision == "fp32"
    assert tried
    assert len(tried) == 1 or isinstance(error, MemoryError), "memory may be there the next time"
