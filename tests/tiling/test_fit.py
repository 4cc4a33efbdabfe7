"""Which size comes of what is asked for, and how often the model runs for it."""

from __future__ import annotations

import itertools

import pytest

from cudaspeed.api.resize import Fit, Resize
from cudaspeed.tiling.fit import Pass, Sampling, plan_passes, result_size

SIZE = 240, 320


@pytest.mark.parametrize(
    ("size", "resize", "result"),
    [
        (SIZE, Resize(), (960, 1280)),
        (SIZE, Resize(scale_by=2), (480, 640)),
        (SIZE, Resize(scale_by=0.05), (12, 16)),
        ((101, 103), Resize(scale_by=0.5), (51, 52)),
        ((1, 3), Resize(scale_by=0.05), (1, 1)),
        (SIZE, Resize(width=1000), (750, 1000)),
        (SIZE, Resize(height=1000), (1000, 1333)),
        ((1, 4000), Resize(width=7), (1, 7)),
        (SIZE, Resize(width=1000, height=300), (300, 1000)),
        (SIZE, Resize(width=1000, height=300, fit="crop"), (300, 1000)),
        (SIZE, Resize(width=1000, height=300, fit="pad"), (300, 1000)),
        (SIZE, Resize(width=1000, height=300, fit="inside"), (300, 400)),
        (SIZE, Resize(width=300, height=1000, fit="inside"), (225, 300)),
        ((1, 4000), Resize(width=70, height=70, fit="inside"), (1, 70)),
    ],
)
def test_the_size_that_comes_of_it(size: tuple[int, int], resize: Resize, result: tuple[int, int]) -> None:
    assert result_size(size, 4, resize) == result


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad", "inside"])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_any_target_is_met(scale: int, fit: Fit) -> None:
    for size, target in itertools.product([(7, 5), (64, 48), (1, 90)], [(1, 1), (50, 77), (333, 20), (1000, 999)]):
        resize = Resize(width=target[1], height=target[0], fit=fit)
        passes = plan_passes(size, scale, resize)
        if fit != "inside":
            assert passes[-1].result == target
        assert all(side <= most for side, most in zip(passes[-1].result, target, strict=True))
        assert passes[0].size == size
        for one, following in itertools.pairwise(passes):
            assert following.size == one.result
        for planned in passes:
            made = tuple(side * scale for side in planned.size)
            assert planned.result == (planned.resampling.size if planned.resampling else made)
            assert planned.resampling is None or planned.resampling.given == made


@pytest.mark.parametrize(
    ("scale", "factor", "sizes"),
    [
        (2, 2, [200]),
        (2, 1.5, [200]),
        (2, 2.5, [200]),  # a quarter more is a filter's
        (2, 3, [200, 300]),
        (2, 4, [200, 400]),
        (2, 5, [200, 400]),
        (2, 6, [200, 400, 600]),
        (2, 8, [200, 400, 800]),
        (4, 5, [400]),
        (4, 8, [400, 800]),
        (3, 8, [300, 800]),
        (8, 8, [800]),
        (1, 8, [100]),
    ],
)
def test_the_model_runs_as_often_as_one_would_let_it(scale: int, factor: float, sizes: list[int]) -> None:
    passes = plan_passes((100, 100), scale, Resize(scale_by=factor))
    assert len(passes) == len(sizes)
    assert passes[-1].result == (100 * factor, 100 * factor)
    if scale ** len(passes) >= factor and len(passes) > 1:
        assert passes[-1].size == (-(-100 * factor // scale),) * 2, "as few pixels as make the result"
        assert passes[-1].resampling is None or passes[-1].resampling.moves_only


def test_twice_the_model_is_the_model_twice() -> None:
    assert plan_passes((30, 41), 2, Resize(scale_by=4)) == (
        Pass((30, 41), (60, 82), None),
        Pass((60, 82), (120, 164), None),
    )
    assert plan_passes((30, 41), 2, Resize(scale_by=2)) == plan_passes((30, 41), 2, Resize())


def test_the_grid_before_the_last_run_is_that_of_the_result() -> None:
    """101 pixels of an x2 model: it is shown 51, half of what comes of the last one is cut off."""
    first, last = plan_passes((30, 30), 2, Resize(width=101, height=101))
    assert first.resampling is not None
    assert first.resampling.rows == Sampling(size=60, resized=50.5, start=0, length=51)
    assert last.resampling is not None
    assert last.resampling.rows == Sampling(size=102, resized=102, start=0, length=101)
    assert last.resampling.moves_only


def test_a_tileable_picture_is_shown_as_a_whole_period() -> None:
    first, last = plan_passes((30, 30), 2, Resize(width=101, height=101), "wrap_x")
    assert first.resampling is not None
    assert last.resampling is not None
    assert first.resampling.columns == Sampling(60, 51, 0, 51, wraps=True)
    assert last.resampling.columns == Sampling(102, 101, 0, 101, wraps=True)
    assert not first.resampling.rows.wraps


def test_only_what_is_kept_goes_through_the_last_run() -> None:
    first, last = plan_passes((100, 300), 2, Resize(width=400, height=400, fit="crop"))
    assert (first.size, last.size) == ((100, 300), (200, 200))
    assert first.resampling is not None
    assert first.resampling.columns == Sampling(600, 600, 200, 200)
    assert last == Pass((200, 200), (400, 400), None)


@pytest.mark.parametrize(
    ("height", "sizes"),
    [
        (64, [(64, 64), (64, 128), (32, 256)]),
        (128, [(64, 64), (128, 128), (64, 256)]),
        (90, [(64, 64), (90, 128), (45, 256)]),
        (512, [(64, 64), (128, 128), (256, 256)]),
    ],
)
def test_a_side_that_grows_less_is_made_smaller_before_the_last_run_only(
    height: int, sizes: list[tuple[int, int]]
) -> None:
    """And earlier no smaller than it is to be in the end."""
    passes = plan_passes((64, 64), 2, Resize(width=512, height=height))
    assert [planned.size for planned in passes] == sizes
    assert passes[-1].result == (height, 512)


def test_a_tileable_side_that_grows_less_keeps_its_period() -> None:
    first, *_ = plan_passes((64, 64), 2, Resize(width=512, height=64), "wrap")
    assert first.resampling is not None
    assert (first.resampling.rows.wraps, first.resampling.rows.total) == (True, 64)


def test_a_side_that_becomes_tiny_costs_nothing() -> None:
    passes = plan_passes((64, 64), 4, Resize(width=1_000_000, height=1))
    assert passes[-1].result == (1, 1_000_000)
    assert all(planned.size[0] * planned.size[1] <= 250_000 for planned in passes)


def test_a_crop_and_a_pad_lie_in_the_middle() -> None:
    (cropped,) = plan_passes(SIZE, 4, Resize(width=500, height=500, fit="crop"))
    (padded,) = plan_passes(SIZE, 4, Resize(width=500, height=500, fit="pad"))
    assert cropped.resampling is not None
    assert padded.resampling is not None
    assert cropped.resampling.rows == Sampling(960, 500, 0, 500)
    assert cropped.resampling.columns == Sampling(1280, 667, 83, 500)
    assert padded.resampling.rows == Sampling(960, 375, 0, 375, before=62, after=63)
    assert padded.resampling.columns == Sampling(1280, 500, 0, 500)
