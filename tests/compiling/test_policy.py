"""Whether a compile pays, from what compiles cost and saved before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import zoo

from cudaspeed.compiling.policy import BestTime, Expectation, breaks_even, compilable_shapes, expect, longest_side
from cudaspeed.models.info import model_info
from cudaspeed.storage.artifacts import Entry
from cudaspeed.tiling.plan import plan_tiles


def entry(architecture: str, device: str = "cpu", seconds: float = 0, rates: tuple[float, float] = (0, 0)) -> Entry:
    what = {"architecture": architecture, "device": device}
    return Entry("a" * 24, what, compile_seconds=seconds, eager_rate=rates[0], compiled_rate=rates[1])


@pytest.mark.parametrize("device", ["cpu", "cuda", "xpu"])
@pytest.mark.parametrize("convolutional", [True, False])
def test_knowing_nothing_a_compile_is_repaid_by_minutes_of_work_not_by_a_picture(
    device: str, convolutional: bool
) -> None:
    expected = expect([], "ESRGAN", device, convolutional)
    assert not breaks_even(60, expected)
    assert breaks_even(3600, expected)


def test_what_the_same_architecture_took_and_saved_is_expected_again() -> None:
    seen = [entry("ESRGAN", seconds=s, rates=r) for s, r in [(10, (1, 0.5)), (20, (1, 0.4)), (300, (1, 0.9))]]
    others = [entry("HAT", seconds=1, rates=(1, 0.1)), entry("ESRGAN", "cuda", 1, (1, 0.1))]
    expected = expect([*seen, *others], "ESRGAN", "cpu", True)
    assert expected.compile_seconds == 20
    assert expected.share_saved == pytest.approx(0.5)


def test_another_architecture_tells_how_long_compiling_takes_here_but_not_what_it_saves() -> None:
    nothing = expect([], "SPAN", "cpu", True)
    expected = expect([entry("HAT", seconds=400, rates=(1, 0.1))], "SPAN", "cpu", True)
    assert expected == Expectation(400, nothing.share_saved)


def test_compiled_code_that_was_slower_is_not_made_again() -> None:
    expected = expect([entry("SPAN", seconds=5, rates=(1.0, 1.3))], "SPAN", "cpu", True)
    assert not breaks_even(1e9, expected)


def test_the_best_stretch_of_work_counts_and_short_batches_go_together() -> None:
    best = BestTime()
    for _ in range(2000):
        best.add(0.001, 0.001)
    assert best.rate == pytest.approx(1.0)
    best.add(5.0, 1.0)  # the machine was busy
    assert best.rate == pytest.approx(1.0)
    few = BestTime()
    few.add(0.5, 1.0)
    assert few.rate == 0, "the first says nothing: it warms up"


def test_candidates_lie_on_the_models_grid_and_take_the_tile() -> None:
    any_size, one = compilable_shapes(model_info(zoo.realcugan()), (301, 500))
    assert any_size.step == model_info(zoo.realcugan()).alignment
    assert not any_size.fixed
    assert any_size.fit((4, 3, 304, 504))
    assert not any_size.fit((4, 3, 301, 504)), "off the grid"
    assert one.most == (301, 500), "off the grid is the whole picture, which may not be filled up"
    (only,) = compilable_shapes(model_info(zoo.swinir()), (301, 500))
    assert only.fixed
    assert only.fit(torch.Size([1, 3, 304, 504]))
    assert not only.fit((2, 3, 304, 504))


@pytest.mark.parametrize("make", [zoo.compact, zoo.swinir])
def test_an_engine_that_takes_one_size_is_given_one(make: Callable[[], Any]) -> None:
    (shapes,) = compilable_shapes(model_info(make()), (100, 76), one_size_only=True)
    assert shapes.fixed
    assert min(shapes.most) >= 76


def test_of_an_engine_that_takes_one_size_the_first_tile_is_a_whole_picture_and_later_ones_suit_others() -> None:
    info = model_info(zoo.swinir())
    first, *later = [longest_side(shapes, info, 32) for shapes in range(4)]
    assert first is None
    assert later == sorted(later, reverse=True)
    assert all(side and side % info.alignment == 0 for side in later)


@pytest.mark.parametrize("overlap", [8, 9, 16, 32, 57, 76, 128])
@pytest.mark.parametrize("make", [zoo.compact, zoo.swinir, zoo.realcugan])
def test_no_tile_that_is_compiled_for_is_too_small_for_the_model_or_its_overlap(
    make: Callable[[], Any], overlap: int
) -> None:
    info = model_info(make())
    for shapes in range(6):
        side = longest_side(shapes, info, overlap)
        assert side is None or plan_tiles(2000, 1800, info, max_side=side, overlap=overlap).count > 1
