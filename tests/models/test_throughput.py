"""Tiles and batches are of the size at which a pixel was measured to be cheapest, where that clearly pays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import zoo
from clocks import new_sessions
from studies import found_by
from torch import Tensor

from cudaspeed.api.model_info import ModelInfo
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.report import UpscaleResult
from cudaspeed.backends.shapes import TileShapes
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.memory import MemoryCost
from cudaspeed.models import throughput
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.precision import usual_mode
from cudaspeed.models.study import Ask
from cudaspeed.models.throughput import UNKNOWN_THROUGHPUT, Throughput
from cudaspeed.pipeline import known_model
from cudaspeed.pipeline.modes import place_of
from cudaspeed.pipeline.scheduler import Budget, Limits, Schedule, Scheduler
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.upscale_engine import upscale

CPU = torch.device("cpu")
PLAIN = ExecutionMode("fp32", autocast=False, channels_last=True)
ROOM = 64 << 30
BY_SIDE = {64: 4.0, 128: 2.0, 256: 2.0, 512: 6.0}
KNOWN = Throughput(tuple((side * side, seconds) for side, seconds in BY_SIDE.items()))


def info(**more: Any) -> ModelInfo:
    return ModelInfo(**{"name": "toy", "scale": 2, "in_channels": 3, "out_channels": 3, "receptive_field": 4} | more)


def scheduler(
    size: tuple[int, int], known: Throughput, pictures: int = 1, model: ModelInfo | None = None, **options: Any
) -> Scheduler:
    model = model or info(convolutional=True)
    return Scheduler(size, pictures, model, UpscaleOptions(**options), Budget(MemoryCost(0, 100.0), ROOM, CPU), known)


def schedule(*arguments: Any, compiled: dict[TileShapes, float] | None = None, **options: Any) -> Schedule:
    return scheduler(*arguments, **options).schedule(compiled or {}, Limits())


# --- what is known ----------------------------------------------------------------------------------------------------


def test_a_pixels_cost_is_told_by_that_of_the_best_size() -> None:
    assert [KNOWN.relative(side * side) for side in (128, 256, 512, 4000)] == pytest.approx([1, 1, 3, 3])
    assert KNOWN.relative(2 * 256 * 256) == pytest.approx(2), "halfway, by doublings, between 2 and 6 seconds"
    assert KNOWN.relative(32 * 32) > KNOWN.relative(64 * 64) == 2
    assert UNKNOWN_THROUGHPUT.relative(1) == UNKNOWN_THROUGHPUT.relative(1 << 30) == 1


def test_a_batch_is_as_small_as_it_can_be_and_still_as_good_as_any() -> None:
    assert KNOWN.best_count(64 * 64, 1000) == 4
    assert KNOWN.best_count(64 * 64, 2) == 2
    assert KNOWN.best_count(128 * 128, 1000) == KNOWN.best_count(512 * 512, 1000) == 1


@pytest.mark.parametrize(
    ("seconds", "settled"),
    [
        ([], False),
        ([3.0], False),
        ([3.0, 2.0], False),
        ([3.0, 2.99], True),
        ([3.0, 2.0, 2.5], True),
        ([3.0, 2.0, 6.4, 6.0], True),
    ],
)
def test_the_best_size_is_known_where_larger_ones_no_longer_gain(seconds: list[float], settled: bool) -> None:
    assert Throughput(tuple((4**k, value) for k, value in enumerate(seconds, 6))).settled == settled


# --- measuring --------------------------------------------------------------------------------------------------------


class Clock:
    """Forwards take so many seconds a megapixel, by their side."""

    def __init__(self, by_side: dict[int, float]) -> None:
        self.sides: list[int] = []
        self.by_side = by_side

    def __call__(self, ask: Ask) -> float:
        height, width = ask.picture.shape[2:]
        assert height == width
        self.sides.append(width)
        return self.by_side[width] * width * width / 1e6

    @property
    def pixels(self) -> int:
        return sum(side * side for side in self.sides)


def measure(
    clock: Callable[[Ask], float],
    known: Throughput = UNKNOWN_THROUGHPUT,
    allowed: float = 1e9,
    most: int = 1 << 20,
    forward: Callable[[Tensor], Tensor] = lambda x: x,
    **more: Any,
) -> Throughput:
    wanted = throughput.study(PLAIN, info(**more), "here", known, most, int(allowed))
    if wanted is None:
        return known
    found = found_by(wanted, lambda mode, picture: forward(picture), clock)
    return Throughput(tuple(found["throughputs"]["here"]))


def test_it_is_measured_at_all_sizes_there_is_work_for() -> None:
    assert measure(Clock(BY_SIDE), most=512 * 512) == KNOWN
    assert measure(Clock(BY_SIDE), most=256 * 256).points == KNOWN.points[:3]


@pytest.mark.parametrize("allowed", [1e4, 3e4, 1e5, 3e5, 1e6, 3e6])
@pytest.mark.parametrize("seconds", [0.01, 1.0, 100.0])
def test_it_takes_no_more_than_it_is_allowed(allowed: float, seconds: float) -> None:
    clock = Clock(dict.fromkeys((*BY_SIDE, 1024), seconds))
    measure(clock, allowed=allowed)
    assert clock.pixels <= allowed


def test_nothing_is_measured_for_what_one_size_would_tell() -> None:
    clock = Clock({64: 0.001, 128: 0.001})
    least = 2 * (64 * 64 + 128 * 128)
    assert measure(clock, allowed=least - 1) == UNKNOWN_THROUGHPUT
    assert not clock.sides
    measure(clock, allowed=least)
    assert set(clock.sides) == {64, 128}


def test_the_sizes_suit_the_model() -> None:
    clock = Clock({72: 1.0, 132: 1.0, 264: 1.0})
    measure(clock, most=300 * 300, alignment=12, minimum=70)
    assert sorted(set(clock.sides)) == [72, 132, 264]


def test_more_is_measured_when_there_is_more_work_and_nothing_twice() -> None:
    clock = Clock(BY_SIDE)
    first = measure(clock, allowed=3e4 + 2e4, most=512 * 512)
    assert [pixels for pixels, _ in first.points] == [64 * 64, 128 * 128]
    clock.sides.clear()
    assert measure(clock, first, allowed=5e4, most=512 * 512) == first
    assert not clock.sides, "it is known"
    assert measure(clock, first, most=512 * 512) == KNOWN
    assert set(clock.sides) == {256, 512}
    clock.sides.clear()
    assert measure(clock, KNOWN) == KNOWN, "larger ones no longer gain"
    assert not clock.sides


def test_times_that_are_far_apart_tell_nothing_and_cost_no_more() -> None:
    asked: list[int] = []

    def falling(ask: Ask) -> float:
        asked.append(ask.picture.shape[3])
        return 0.4 * 0.5 ** len(asked)

    assert measure(falling) == UNKNOWN_THROUGHPUT
    assert len(asked) == 2 * len(set(asked)), "no size is asked for again"


@pytest.mark.parametrize("seconds", [0.0, 1e-9])
def test_a_clock_that_stands_still_tells_nothing_of_sizes(seconds: float) -> None:
    assert len(measure(lambda ask: seconds).points) == (0 if seconds == 0 else 5)


@pytest.mark.parametrize("error", [RuntimeError("not this size"), ValueError("not this one")])
def test_a_size_that_fails_costs_no_picture(error: Exception) -> None:
    def forward(x: Tensor) -> Tensor:
        if x.shape[3] > 128:
            raise error
        return x

    assert measure(Clock(BY_SIDE | {1024: 1.0}), forward=forward).points == KNOWN.points[:2]


# --- what comes of it -------------------------------------------------------------------------------------------------


def test_tiles_are_of_the_size_that_is_cheapest() -> None:
    assert schedule((600, 800), UNKNOWN_THROUGHPUT).plan.count == 1
    plan = schedule((600, 800), KNOWN).plan
    assert plan.count > 1
    assert 128 * 128 <= plan.tile_pixels <= 300 * 300


def test_the_whole_picture_stays_whole_where_tiles_are_hardly_cheaper() -> None:
    nearly = Throughput(((64 * 64, 1.0), (256 * 256, 1.0), (1024 * 1024, 1.1)))
    assert schedule((600, 800), nearly).plan.count == 1


def test_what_is_still_getting_cheaper_says_nothing_of_larger_tiles() -> None:
    assert schedule((600, 800), Throughput(((64 * 64, 4.0), (128 * 128, 2.0)))).plan.count == 1


def test_a_model_that_had_better_see_the_whole_picture_does() -> None:
    assert schedule((600, 800), KNOWN, model=info(global_context=True)).plan.count == 1


@pytest.mark.parametrize("options", [{"tile": 160}, {"level": "memory"}, {"tile": 200, "overlap": 40}])
def test_the_users_limits_hold(options: dict[str, Any]) -> None:
    free, paced = (
        schedule((600, 800), UNKNOWN_THROUGHPUT, **options).plan,
        schedule((600, 800), KNOWN, **options).plan,
    )
    assert paced.tile_pixels <= free.tile_pixels
    assert min(paced.rows.overlap, paced.columns.overlap) >= options.get("overlap", 0)


@pytest.mark.parametrize("cost", [0.3, 0.5, 1.5])
def test_a_compiled_forward_is_taken_where_it_is_cheaper_than_the_best_tiles(cost: float) -> None:
    whole, known = {TileShapes.one(600, 800): cost}, scheduler((600, 800), KNOWN)
    eager = known.schedule({}, Limits())
    assert known.improves(eager, whole, Limits()) == (cost < 1)
    changed = known.schedule(whole, Limits())
    assert (changed.plan.count == 1) == (cost < 1)
    assert not known.improves(changed, whole, Limits()), "it stays so"
    if cost > 1:
        assert changed == eager


def test_when_memory_ran_out_nothing_grows_again() -> None:
    limits, known = Limits(), scheduler((600, 800), KNOWN, pictures=16)
    before = known.schedule({}, limits)
    for _ in range(40):
        limits = limits.after_out_of_memory(before)
        smaller = known.schedule({}, limits)
        if smaller.pixels == before.pixels:
            assert smaller.batch == 1
            return
        assert smaller.pixels < before.pixels
        before = smaller
    pytest.fail("there is a smallest tile")


def test_limits_hold_in_whatever_mode() -> None:
    """What ran out of memory in half precision does so in single, too."""
    limits = Limits().after_out_of_memory(scheduler((600, 800), UNKNOWN_THROUGHPUT).schedule({}, Limits()))
    cheap = Budget(MemoryCost(0, 1.0), ROOM, CPU)
    other = Scheduler((600, 800), 1, info(convolutional=True), UpscaleOptions(), cheap)
    assert other.schedule({}, limits).pixels <= 600 * 800 // 2


def test_frames_are_batched_as_measured() -> None:
    assert schedule((64, 64), KNOWN, pictures=16).batch == 4
    assert schedule((64, 64), KNOWN, pictures=16, level="memory").batch == 1
    assert schedule((128, 128), KNOWN, pictures=16).batch == 1


# --- end to end -------------------------------------------------------------------------------------------------------


MODEL = zoo.compact(2)


def run(sessions: SessionCache, frames: int = 1) -> UpscaleResult:
    picture = zoo.photograph(256, 320, frames=frames)
    return upscale(picture, MODEL, UpscaleOptions(compile=False), StandaloneContext("cpu"), sessions)


def test_what_is_known_decides_and_the_picture_is_the_same(monkeypatch, tmp_path, plain_kernels) -> None:
    context, sessions = StandaloneContext("cpu"), new_sessions()
    points = tuple((side * side, seconds) for side, seconds in {64: 9.0, 128: 9.0, 256: 27.0}.items())
    mode = usual_mode("fp32", False, MODEL)
    sessions.profile(MODEL, context).keep(throughputs={place_of(mode, context.device): points})
    monkeypatch.setattr(known_model, "known_throughput", lambda *_: Throughput(points))
    first = run(new_sessions(), frames=16)
    assert first.report.tiles > 16
    again = run(new_sessions(), frames=16)
    assert (again.report.tiles, again.report.tile) == (first.report.tiles, first.report.tile)
    assert torch.equal(again.image, first.image)
    monkeypatch.setattr(known_model, "known_throughput", lambda *_: UNKNOWN_THROUGHPUT)
    monkeypatch.setenv("CUDASPEED_CACHE_DIR", str(tmp_path / "another"))
    whole = run(new_sessions())
    assert whole.report.tiles == 1
    assert float((again.image[:1] - whole.image).abs().max()) <= 2 / 255


def test_what_was_measured_beside_busy_processes_is_not_believed_beyond_reason() -> None:
    known = Throughput(((4096, 1.0), (16384, 1.05), (65536, 1.1), (262144, 1.2)))
    busy = Throughput(((16384, 20.5), (65536, 6.5), (262144, 3.5))).held_to(known)
    assert [round(seconds, 2) for _, seconds in busy.points] == [1.16, 1.21, 1.09]
    assert busy.relative(4096) < 1.4 * min(busy.relative(pixels) for pixels, _ in known.points), "no tiny tiles for it"
    calm = Throughput(((16384, 2.0), (65536, 2.2), (262144, 2.8))).held_to(known)
    assert [round(seconds, 2) for _, seconds in calm.points] == [1.0, 1.1, 1.32]
