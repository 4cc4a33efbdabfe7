"""Tiles and batches are of the size at which a pixel was measured to be cheapest, where that clearly pays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import zoo
from clocks import new_sessions
from torch import Tensor

from cudaspeed.api.model_info import ModelInfo
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.report import UpscaleResult
from cudaspeed.compiling.shapes import TileShapes
from cudaspeed.host import StandaloneContext
from cudaspeed.memory import MemoryCost
from cudaspeed.models import throughput
from cudaspeed.models.throughput import UNKNOWN_THROUGHPUT, Throughput, ThroughputProbe
from cudaspeed.pipeline.scheduler import Budget, Limits, Schedule, Scheduler
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.upscale_engine import upscale

CPU = torch.device("cpu")
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

    def __init__(self, monkeypatch: pytest.MonkeyPatch, by_side: dict[int, float]) -> None:
        self.sides: list[int] = []
        self.spent = 0.0
        self.by_side = by_side
        monkeypatch.setattr(throughput, "seconds_of_forward", self._seconds)

    def _seconds(self, forward: Callable[[Tensor], Tensor], x: Tensor, clock: Any) -> float:
        height, width = x.shape[2:]
        assert height == width
        forward(x)
        self.sides.append(width)
        seconds = self.by_side[width] * width * width / 1e6
        self.spent += seconds
        return seconds


def measure(
    known: Throughput = UNKNOWN_THROUGHPUT,
    ahead: float = 1e9,
    most: int = 1 << 20,
    forward: Callable[[Tensor], Tensor] = lambda x: x,
    **more: Any,
) -> Throughput:
    return ThroughputProbe(forward, info(**more), StandaloneContext("cpu")).measure(known, int(ahead), most)


def test_it_is_measured_at_all_sizes_there_is_work_for(monkeypatch) -> None:
    Clock(monkeypatch, BY_SIDE)
    assert measure(most=512 * 512) == KNOWN
    assert measure(most=256 * 256).points == KNOWN.points[:3]


@pytest.mark.parametrize("ahead", [1e5, 3e5, 1e6, 3e6, 1e7])
@pytest.mark.parametrize("seconds", [0.01, 1.0, 100.0])
def test_it_takes_no_more_than_its_share_of_the_work_ahead(monkeypatch, ahead: float, seconds: float) -> None:
    clock = Clock(monkeypatch, dict.fromkeys(BY_SIDE, seconds) | {1024: seconds})
    measure(ahead=ahead)
    assert clock.spent <= seconds * ahead / 1e6 / 6


def test_nothing_is_measured_for_little_work(monkeypatch) -> None:
    clock = Clock(monkeypatch, {64: 0.001})
    assert measure(ahead=12 * 64 * 64 - 1) == UNKNOWN_THROUGHPUT
    assert not clock.sides
    measure(ahead=1e6)
    assert set(clock.sides) == {64}, "by then it is clear that all of it takes a millisecond"


def test_the_sizes_suit_the_model(monkeypatch) -> None:
    clock = Clock(monkeypatch, {72: 1.0, 132: 1.0, 264: 1.0})
    measure(most=300 * 300, alignment=12, minimum=70)
    assert sorted(set(clock.sides)) == [72, 132, 264]


def test_more_is_measured_when_there_is_time_for_it_and_then_all_of_it_in_one_go(monkeypatch) -> None:
    clock = Clock(monkeypatch, BY_SIDE)
    first = measure(ahead=2e6, most=512 * 512)
    assert 1 < len(first.points) < 4
    clock.sides.clear()
    assert measure(first, ahead=2e6, most=512 * 512) == first
    assert not clock.sides, "it is known"
    assert measure(first, ahead=1e9, most=512 * 512) == KNOWN
    assert set(clock.sides) == {64, 128, 256, 512}


@pytest.mark.parametrize("ahead", [1e5, 2e5, 4e5, 6e5, 1e6, 2e6, 3e6, 5e6])
def test_what_is_known_is_not_measured_again_by_runs_of_the_same_size(monkeypatch, ahead: float) -> None:
    clock = Clock(monkeypatch, BY_SIDE | {1024: 6.0})
    known = measure(measure(ahead=ahead), ahead=ahead)
    clock.sides.clear()
    assert measure(known, ahead=ahead) == known
    assert not clock.sides


def test_a_machine_too_busy_to_tell_is_asked_no_further(monkeypatch) -> None:
    times = [0.4 * 0.8**k for k in range(30)]
    asked = iter(times)
    monkeypatch.setattr(throughput, "seconds_of_forward", lambda *_: next(asked))
    assert measure() == UNKNOWN_THROUGHPUT
    assert next(asked) in times[2:10]


@pytest.mark.parametrize("error", [RuntimeError("not this size"), MemoryError("out of memory")])
def test_a_size_that_fails_costs_no_picture(monkeypatch, error: Exception) -> None:
    def forward(x: Tensor) -> Tensor:
        if x.shape[3] > 128:
            raise error
        return x

    Clock(monkeypatch, BY_SIDE)
    assert measure(forward=forward).points == KNOWN.points[:2]


class HostStoppedError(Exception):
    """As older ComfyUIs': an Exception, and raised once."""


def test_an_interrupt_is_none(monkeypatch) -> None:
    class Host(StandaloneContext):
        asked = 0

        def raise_if_interrupted(self) -> None:
            self.asked += 1
            if self.asked == 2:
                raise HostStoppedError

    Clock(monkeypatch, BY_SIDE)
    with pytest.raises(HostStoppedError):
        ThroughputProbe(lambda x: x, info(), Host("cpu")).measure(UNKNOWN_THROUGHPUT, 1 << 30, 1 << 20)


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


def test_it_is_measured_once_and_remembered_and_the_picture_is_the_same(monkeypatch, tmp_path, plain_kernels) -> None:
    clock = Clock(monkeypatch, {64: 9.0, 128: 9.0, 256: 27.0})
    first = run(new_sessions(), frames=16)
    assert clock.sides
    assert first.report.tiles > 16
    clock.sides.clear()
    again = run(new_sessions(), frames=16)
    assert not clock.sides, "the profile has it"
    assert (again.report.tiles, again.report.tile) == (first.report.tiles, first.report.tile)
    monkeypatch.setenv("CUDASPEED_CACHE_DIR", str(tmp_path / "another"))
    whole = run(new_sessions())
    assert whole.report.tiles == 1
    assert float((again.image[:1] - whole.image).abs().max()) <= 2 / 255


def test_what_runs_see_themselves_counts_for_the_next_ones(monkeypatch, plain_kernels) -> None:
    """The first picture's own time is dear, and is known only after it."""
    Clock(monkeypatch, {64: 1e-3})
    monkeypatch.setattr("cudaspeed.pipeline.session.reproduced", lambda *_: True)  # however busy this machine is
    sessions = SessionCache()
    assert run(sessions).report.tiles == 1
    rates = sessions.record(MODEL).rates
    assert [list(seen) for seen in rates.values()] == [[throughput.size_class(256 * 320)]]
    assert run(sessions).report.tiles > 1
