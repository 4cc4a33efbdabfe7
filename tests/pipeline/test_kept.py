"""What is kept of a model from one run to the next is found anew where anything that decides it has changed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import zoo
from clocks import new_sessions
from lagging import LaggingDevice

from cudaspeed.api.context import Switches
from cudaspeed.api.model_info import ModelInfo
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.backends.shapes import TileShapes
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.memory import MemoryCost, affordable_pixels, free_for
from cudaspeed.models.precision import usual_mode
from cudaspeed.models.throughput import UNKNOWN_THROUGHPUT, Throughput
from cudaspeed.pipeline import layer_knowledge, schedule_maker, session, session_cache
from cudaspeed.pipeline.modes import ModeChooser, place_of
from cudaspeed.pipeline.scheduler import Budget, Limits, Scheduler, enough_pixels
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.upscale_engine import upscale

CPU = torch.device("cpu")
OPTIONS = UpscaleOptions(precision="fp32", compile=False)


class Counted:
    """Counts the calls of a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.count, self._function = 0, function

    def __get__(self, owner: object, _: type) -> Callable[..., Any]:
        return lambda *arguments, **more: self(owner, *arguments, **more)

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        self.count += 1
        return self._function(*arguments, **more)


class Runs:
    """Runs of one model in one process; the bytes that are `free` on the device, of which `asked` counts."""

    def __init__(self, options: UpscaleOptions = OPTIONS) -> None:
        self.model, self.sessions, self.options = zoo.toy(2), new_sessions(), options
        self.context, self.free = StandaloneContext("cpu"), 64 << 30
        self.context.free_bytes = lambda: self.free

    def report(self, size: tuple[int, int] = (48, 64), **changed: Any):
        options = UpscaleOptions(**{"precision": "fp32", "compile": False} | changed) if changed else self.options
        return upscale(zoo.photograph(*size), self.model, options, self.context, self.sessions).report


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counted = Counted(schedule_maker.Scheduler)
    monkeypatch.setattr(schedule_maker, "Scheduler", counted)
    return counted


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counted = Counted(ModeChooser._choose)
    monkeypatch.setattr(ModeChooser, "_choose", counted)
    return counted


def test_a_run_like_the_one_before_chooses_and_plans_nothing(planned: Counted, chosen: Counted) -> None:
    runs = Runs()
    for _ in range(2):  # of the second one the profile knows what the first one chose
        runs.report()
    before = planned.count, chosen.count
    for free in (64 << 30, 60 << 30, 70 << 30):  # more than enough
        runs.free = free
        assert runs.report().tiles == 1
    assert (planned.count, chosen.count) == before


def test_memory_that_gets_short_is_noticed_and_memory_that_comes_back() -> None:
    runs = Runs(OPTIONS)
    tiles = []
    for free in (64 << 30, 3 << 20, 64 << 30, 3 << 20):
        runs.free = free
        tiles.append(runs.report((300, 320)).tiles)
    assert tiles[0] == tiles[2] == 1 < tiles[1] == tiles[3]


def test_another_size_and_other_options_are_another_plan() -> None:
    runs = Runs()
    told = [runs.report((40, 48)), runs.report((80, 96)), runs.report((80, 96), tile=32), runs.report((40, 48))]
    assert [report.tiles > 1 for report in told] == [False, False, True, False]
    assert [report.output_size for report in told] == [(80, 96), (160, 192), (160, 192), (80, 96)]


def test_a_mode_that_failed_meanwhile_is_not_chosen_again(chosen: Counted) -> None:
    runs = Runs(UpscaleOptions(precision="bf16", compile=False, autocast=False))
    assert [runs.report().precision for _ in range(2)] == ["bf16", "bf16"]
    place = place_of(usual_mode("bf16", False, runs.model), CPU)
    runs.sessions.profile(runs.model, runs.context).keep(raised={place: "gave faulty tiles"})
    assert [runs.report().precision for _ in range(2)] == ["fp32", "fp32"]


def test_weights_written_in_place_are_computed_with() -> None:
    runs = Runs()
    picture = zoo.photograph(40, 48)

    def image() -> torch.Tensor:
        return upscale(picture, runs.model, OPTIONS, runs.context, runs.sessions).image

    before = image()
    assert torch.equal(image(), before)
    with torch.no_grad():
        for weight in runs.model.model.parameters():
            weight.mul_(0.5)
    assert not torch.equal(image(), before)


def test_what_follows_from_weights_is_forgotten_with_them() -> None:
    model, sessions, found = zoo.compact(), SessionCache(), iter(range(9))

    def ask(depends_on: object) -> int:
        return sessions.record(model).while_the_same("answer", depends_on, lambda: next(found))

    assert [ask((1, "a")), ask((1, "a")), ask((2, "a")), ask((1, "a"))] == [0, 0, 1, 2]
    with torch.no_grad():
        next(iter(model.model.parameters())).add_(1)
    assert ask((1, "a")) == 3


class Meanwhile:
    """What an answer depends on; while it is compared, another thread gets on."""

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        self._name, self._work = name, work

    def __eq__(self, other: object) -> bool:
        self._work()
        return isinstance(other, Meanwhile) and self._name == other._name

    def __hash__(self) -> int:
        return hash(self._name)


def test_a_run_on_another_thread_that_asks_otherwise_gets_its_own_answer() -> None:
    model, sessions, others = zoo.compact(), SessionCache(), iter(["other"])

    def ask(name: str) -> str:
        meanwhile = Meanwhile(name, lambda: [ask(other) for other in others])
        return sessions.record(model).while_the_same("answer", meanwhile, lambda: name)

    assert [ask("one"), ask("one")] == ["one", "one"]


def test_what_was_being_found_of_weights_that_changed_meanwhile_is_not_taken_for_the_new_ones() -> None:
    model, sessions = zoo.compact(), SessionCache()
    weight = next(iter(model.model.parameters()))

    def change_and_meet() -> str:
        with torch.no_grad():
            weight.add_(1)
        sessions.record(model)  # a run on another thread
        return "of the old ones"

    record = sessions.record(model)
    assert record.once("fact", change_and_meet) == "of the old ones"
    assert record.while_the_same("answer", 1, change_and_meet) == "of the old ones"
    now = sessions.record(model)
    assert now.while_the_same("answer", 1, lambda: "new") == now.once("fact", lambda: "new") == "new"


def test_a_scheduler_that_two_threads_have_answers_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    info = ModelInfo(name="toy", scale=2, in_channels=3, out_channels=3, receptive_field=4)
    made = Scheduler((200, 200), 1, info, UpscaleOptions(), Budget(MemoryCost(0, 1000.0), 1 << 40, CPU))
    limits = Limits(max_pixels=100 * 100)
    whole = made.schedule({}, Limits())
    asking = iter([True])

    def compare(one: Limits, other: object) -> bool:
        if next(asking, False):
            made.schedule({}, limits)  # a run on another thread
        return isinstance(other, Limits) and one.max_pixels == other.max_pixels

    monkeypatch.setattr(Limits, "__eq__", compare)
    assert made.schedule({}, Limits()).pixels == whole.pixels


def test_times_of_layers_are_those_of_the_kernels_that_are_loaded_by_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run asks for them before it has loaded any; what was timed with others is not read."""
    sessions, context, loaded = SessionCache(), StandaloneContext("cpu"), [""]
    for module in (layer_knowledge, session_cache):
        monkeypatch.setattr(module, "code_of", lambda name: loaded[0])
    before = sessions.layers(context)
    assert sessions.layers(context) is before
    loaded[0] = "0123"
    after = sessions.layers(context)
    assert after is sessions.layers(context)
    assert after._store._file != before._store._file


def test_a_device_that_may_no_longer_copy_by_itself_is_planned_for_anew(
    planned: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "stream_device", lambda _: LaggingDevice())
    monkeypatch.setattr(schedule_maker, "free_for", lambda *_: 1 << 62)  # all that is free counts
    runs = Runs()
    for _ in range(2):
        runs.report()
    before = planned.count
    runs.context.switches = Switches(pinned_memory=False)
    runs.report()
    assert planned.count > before


def test_a_scheduler_that_is_asked_otherwise_answers_otherwise() -> None:
    info = ModelInfo(name="toy", scale=2, in_channels=3, out_channels=3, receptive_field=4)
    made = Scheduler((200, 200), 1, info, UpscaleOptions(), Budget(MemoryCost(0, 1000.0), 1 << 40, CPU))
    compiled, limits = {TileShapes(1, (96, 96), (96, 96), 1): 0.1}, Limits(max_pixels=100 * 100)
    asked = [({}, Limits()), ({}, limits), (compiled, Limits()), ({}, Limits())]
    whole, small, fixed, again = (made.schedule(*one) for one in asked)
    assert whole.plan.count == 1
    assert small.pixels <= 100 * 100
    assert fixed.tile == (96, 96)
    assert again == whole


@pytest.mark.parametrize("seed", range(40))
def test_more_memory_than_enough_changes_no_schedule(seed: int) -> None:
    chance = random.Random(seed)
    known = {
        "multiple_of": (multiple := chance.choice([1, 2, 4, 8])),
        "alignment": multiple * chance.choice([1, 2, 3]),
        "minimum": chance.choice([1, 16, 70]),
        "receptive_field": chance.choice([None, 1, 7, 40, 90]),
        "convolutional": chance.random() < 0.5,
        "global_context": chance.random() < 0.2,
    }
    info = ModelInfo(name="toy", scale=2, in_channels=3, out_channels=3, **known)
    options = UpscaleOptions(level=chance.choice(["speed", "balanced", "memory"]))
    seconds = [*(chance.uniform(1, 9) for _ in range(4)), 99.0]
    points = tuple((side * side, some) for side, some in zip((64, 128, 256, 512, 1024), seconds, strict=True))
    throughput = chance.choice([UNKNOWN_THROUGHPUT, Throughput(points)])
    size, pictures = (chance.randint(1, 1500), chance.randint(1, 1500)), chance.choice([1, 2, 3, 8])
    cost = MemoryCost(1 << 20, chance.uniform(100, 5000))
    most = enough_pixels(size, pictures, info, options)
    assert most is not None
    enough = free_for(cost, most, options.level, CPU)
    assert affordable_pixels(cost, enough, options.level, CPU) >= most - 1
    some, plenty = (
        Scheduler(size, pictures, info, options, Budget(cost, free, CPU), throughput) for free in (enough, 1 << 50)
    )
    assert not some.bound_by_memory
    for limits in (Limits(), Limits(one_by_one=True), Limits(max_pixels=300 * 300)):
        assert some.schedule({}, limits) == plenty.schedule({}, limits)
