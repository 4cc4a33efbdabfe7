"""What forwards were seen to take decides what later runs reckon with, and nothing that cannot be trusted does."""

from __future__ import annotations

import json
import logging
import mmap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import psutil
import pytest
import torch
import zoo
from clocks import Ticking
from hearing import NoTicker
from torch import Tensor

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.report import UpscaleReport
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.pipeline import feedback, memory_counters, session_cache
from cudaspeed.pipeline.feedback import Estimated, Feedback, Seen
from cudaspeed.pipeline.memory_counters import AllocatorPeak, resident_bytes
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.storage.profiles import profiles_folder
from cudaspeed.upscale_engine import upscale

CPU, MB = torch.device("cpu"), 1 << 20
FP32 = Estimated(ExecutionMode("fp32", autocast=False, channels_last=False), rough=False)
FP16 = Estimated(ExecutionMode("fp16", autocast=False, channels_last=False), rough=False)
EXPECTED = 100 * MB
CONSTANT, CONSTANT_OF_BOUNDS = 1.5, 1.15  # on a CPU, while nothing was seen
MARGIN = 1.05  # there, over what was seen


class Machine:
    """A process that holds `held` bytes, of which its C library keeps `kept` for who asks next, and a sampler that only
    tests let tick."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held, self.kept, self.sampler = 1000 * MB, 0, NoTicker()
        self.asked = self.trims = 0
        self.ever = 3000 * MB
        monkeypatch.setattr(feedback, "most_resident_bytes", lambda: self.ever)
        monkeypatch.setattr(feedback, "resident_bytes", self._told)
        for module in (feedback, session_cache):
            monkeypatch.setattr(module, "trim_all", self._trim)
        monkeypatch.setattr("cudaspeed.pipeline.learned_peaks.Feedback", partial(Feedback, sampler=self.sampler))

    def forward(self, takes: int, samples: int = 5) -> None:
        """A forward that takes so much in its middle."""
        grows = max(0, takes - self.kept)
        for k in range(samples):
            self.held += grows * (k == samples // 2)
            self.sampler.tick()
            self.held -= grows * (k == samples // 2)

    def _trim(self) -> None:
        self.held, self.kept = self.held - self.kept, 0
        self.trims += 1

    def _told(self) -> int:
        self.asked += 1
        return self.held


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def seen_by_a_run(machine: Machine, *takes: int, samples: int = 5, seconds: float = 2.0, **more: Any) -> Seen | None:
    """What a run learns of forwards that take so much."""
    with Feedback(CPU, more.get("met", {}), machine.sampler) as run:
        run.start(more.get("foreseen"))
        for taken in takes:
            if run.wants(FP32):
                with run.watching(FP32, more.get("expected", EXPECTED)):
                    more.get("meanwhile", lambda: None)()
                    machine.forward(taken, samples)
        return run.seen(seconds).get(FP32)


def of_a_run(machine: Machine, *takes: int, **more: Any) -> float | None:
    """The ratio that a run learns."""
    seen = seen_by_a_run(machine, *takes, **more)
    return seen.ratio if seen else None


def test_the_peak_within_a_forward_counts_over_what_was_held_before(machine: Machine) -> None:
    assert of_a_run(machine, 130 * MB) == pytest.approx(1.3)
    machine.held += 500 * MB
    assert of_a_run(machine, 130 * MB) == pytest.approx(1.3)
    assert not machine.sampler.ticks


@pytest.mark.parametrize(
    "doubt",
    [
        {"samples": 2},
        {"seconds": 0.4},
        {"foreseen": 0.3},
        {"expected": 20 * MB},
        {"expected": 10_000 * MB},
        {"expected": 30 * MB, "takes": 900 * MB},
    ],
    ids=["few samples", "short", "foreseen to be short", "little", "hardly grown", "grown as no forward does"],
)
def test_what_cannot_be_trusted_is_no_answer(machine: Machine, doubt: dict[str, Any]) -> None:
    assert of_a_run(machine, doubt.pop("takes", 130 * MB), **doubt) is None


def test_a_run_that_is_foreseen_to_be_short_is_not_sampled(machine: Machine) -> None:
    of_a_run(machine, 130 * MB, foreseen=0.3)
    assert machine.asked == 0


def test_freed_memory_hides_no_part_of_a_forward_for_which_there_must_be_new_pages_anyway(machine: Machine) -> None:
    met: dict[Estimated, int] = {}
    for expected in (EXPECTED, 2 * EXPECTED):
        machine.held, machine.kept = 1000 * MB, 50 * MB
        seen = seen_by_a_run(machine, 13 * expected // 10, expected=expected, met=met)
        assert seen == Seen(expected, pytest.approx(1.3), exact=True)


def test_nothing_is_given_back_for_forwards_that_find_their_pages_there(machine: Machine) -> None:
    met: dict[Estimated, int] = {}
    of_a_run(machine, 130 * MB, met=met)
    trims = machine.trims
    for _ in range(30):
        machine.held, machine.kept = 1050 * MB, 50 * MB
        seen = seen_by_a_run(machine, 130 * MB, met=met)
        assert seen == Seen(EXPECTED, pytest.approx(0.8), exact=False), "at least"
    assert machine.trims == trims


def test_another_run_beside_it_at_any_moment_is_no_answer(machine: Machine) -> None:
    with ThreadPoolExecutor(1) as elsewhere:
        other = Feedback(CPU, {}, machine.sampler)
        elsewhere.submit(other.__enter__).result()
        assert of_a_run(machine, 130 * MB) is None
        elsewhere.submit(other.__exit__).result()

        def come_and_go() -> None:
            with Feedback(CPU, {}, machine.sampler):
                pass

        assert of_a_run(machine, 130 * MB, meanwhile=lambda: elsewhere.submit(come_and_go).result()) is None
    assert of_a_run(machine, 130 * MB) == pytest.approx(1.3), "they are gone"


def test_a_pass_of_the_same_run_is_no_other_one(machine: Machine) -> None:
    with Feedback(CPU, {}, machine.sampler):
        assert of_a_run(machine, 130 * MB) == pytest.approx(1.3)
        assert of_a_run(machine, 130 * MB) == pytest.approx(1.3)


def test_a_peak_that_no_sample_met_counts_where_the_process_never_held_as_much(machine: Machine) -> None:
    machine.held = 2990 * MB
    assert of_a_run(machine, 0, meanwhile=lambda: setattr(machine, "ever", 3120 * MB)) == pytest.approx(1.3)
    assert of_a_run(machine, 110 * MB) == pytest.approx(1.1), "that was before"


def test_only_the_first_forwards_are_watched(machine: Machine) -> None:
    assert of_a_run(machine, 130 * MB, 90 * MB) == pytest.approx(1.3)
    asked = machine.asked
    assert of_a_run(machine, 130 * MB, *[90 * MB] * 100) == pytest.approx(1.3)
    assert machine.asked == 2 * asked
    assert of_a_run(machine, *[130 * MB] * 100, samples=1) is None
    assert machine.asked < 4 * asked, "those that are over too quickly are given up soon"


def test_an_error_in_a_forward_is_no_answer_and_ends_the_sampling(machine: Machine) -> None:
    def fails() -> None:
        machine.forward(130 * MB)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        of_a_run(machine, 0, meanwhile=fails)
    assert not machine.sampler.ticks


def test_modes_are_told_apart(machine: Machine) -> None:
    with Feedback(CPU, {}, machine.sampler) as run:
        run.start(None)
        for kind, takes in ((FP32, 130 * MB), (FP16, 60 * MB)):
            with run.watching(kind, EXPECTED):
                machine.forward(takes)
        ratios = {kind: seen.ratio for kind, seen in run.seen(1.0).items()}
        assert ratios == {FP32: pytest.approx(1.3), FP16: pytest.approx(0.6)}


def test_what_is_recorded_as_a_cuda_graph_is_one_kind_with_the_eager_forwards_before_it() -> None:
    recorded, compiled = (replace(FP16.mode, backend=backend) for backend in ("CUDA graph", "compiled"))
    assert Estimated.of(recorded, rough=False) == Estimated.of(FP16.mode, rough=False) == FP16
    assert Estimated.of(compiled, rough=False) != FP16


# on devices with an allocator of torch's


class Allocator:
    """As `torch.cuda`, whose counters it has."""

    def __init__(self) -> None:
        self.now, self.most = 300 * MB, 500 * MB

    def memory_allocated(self, device: torch.device) -> int:
        return self.now

    def max_memory_allocated(self, device: torch.device) -> int:
        return self.most

    def forward(self, takes: int) -> None:
        self.most = max(self.most, self.now + takes)


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> Allocator:
    allocator = Allocator()
    monkeypatch.setattr(torch, "cuda", allocator)
    return allocator


def of_a_card(allocator: Allocator, takes: int, frames: int = 0, kinds: tuple[Estimated, ...] = (FP16,)) -> list[float]:
    """What a run learns of some forwards of each kind that take so much beside `frames` that come to lie there."""
    with Feedback(torch.device("cuda"), {}) as run:
        run.start(None)
        for kind in kinds:
            for _ in range(3):
                if run.wants(kind):
                    with run.watching(kind, EXPECTED):
                        allocator.forward(takes)
                allocator.now += frames
        return [run.seen(1.0)[kind].ratio for kind in kinds if kind in run.seen(1.0)]


def test_an_allocator_tells_what_became_more_and_nothing_is_reset(allocator: Allocator) -> None:
    assert of_a_card(allocator, 200 * MB) == [], "there was as much before"
    assert of_a_card(allocator, 220 * MB) == [pytest.approx(2.2)]


def test_frames_beside_the_forwards_on_a_card_are_not_taken_for_a_part_of_them(allocator: Allocator) -> None:
    assert of_a_card(allocator, 150 * MB, frames=400 * MB) == [pytest.approx(1.5)]


def test_of_several_modes_on_a_card_each_has_its_own(allocator: Allocator) -> None:
    assert of_a_card(allocator, 150 * MB, 400 * MB, (FP16, FP32)) == [pytest.approx(1.5)] * 2


def test_a_device_without_counters_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    memory_counters._tell_unmeasured.cache_clear()
    with caplog.at_level(logging.WARNING, logger="cudaspeed"):
        assert [AllocatorPeak(torch.device("mps")).grown() for _ in range(3)] == [None] * 3
    (record,) = caplog.records
    assert "mps" in record.getMessage()
    assert "estimated, not measured" in record.getMessage()


@pytest.mark.parametrize(
    "error",
    [psutil.AccessDenied(1), OSError("no /proc"), RuntimeError("no btime in /proc/stat"), KeyError("rss"), None],
)
def test_a_system_that_does_not_tell_is_said_once(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: psutil.Process) -> None:
        if error is not None:
            raise error

    memory_counters._tell_unmeasured.cache_clear()
    monkeypatch.setattr(psutil.Process, "memory_info", refuse)
    with caplog.at_level(logging.WARNING, logger="cudaspeed"):
        assert [resident_bytes() for _ in range(3)] == [None] * 3
    (record,) = caplog.records
    assert "estimated, not measured" in record.getMessage()


def test_the_system_tells_what_this_process_holds() -> None:
    def grown() -> int:
        before = resident_bytes()
        with mmap.mmap(-1, 64 * MB) as block:  # of the system's, not what was freed before
            for _ in range(64):
                block.write(b"1" * MB)
            after = resident_bytes()
        assert before is not None
        assert after is not None
        return after - before

    # threads that other tests left take and give memory, too, now and then
    assert any(0.8 * 64 * MB < grown() < 1.5 * 64 * MB for _ in range(5))


# in runs


class Runs:
    """Runs of a toy whose forwards make the process grow by `takes` bytes, each of which lasts long."""

    def __init__(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(feedback, "_LEAST_BYTES", 0)
        self._machine, self.takes = machine, 0
        self.model = zoo.toy(change=lambda x: self._change(x))  # a function, which is not copied
        self.begun: list[SessionCache] = []
        self.sessions = self.new_sessions()
        self.expected = round(self().memory.forward / CONSTANT)

    def new_sessions(self) -> SessionCache:
        self.begun.append(SessionCache(clock=Ticking(lambda: 1000.0)))
        return self.begun[-1]

    def __call__(self, **options: Any) -> UpscaleReport:
        asked = UpscaleOptions(**{"compile": False, "precision": "fp32", **options})
        return upscale(zoo.photograph(40, 40), self.model, asked, StandaloneContext("cpu"), self.sessions).report

    def _change(self, x: Tensor) -> Tensor:
        if not x.is_meta:
            self._machine.forward(self.takes)
        return x


@pytest.fixture
def runs(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    yield (runs := Runs(machine, monkeypatch))
    for sessions in runs.begun:
        sessions.finish_learning()  # no thread is left


def test_the_next_run_reckons_with_what_was_seen_and_so_does_the_next_process(runs: Runs) -> None:
    runs.takes = round(2 * runs.expected)
    seen = runs()
    assert seen.memory.forward == pytest.approx(CONSTANT * runs.expected, rel=0.01), "not before"
    told = runs()
    assert MARGIN * 2 * runs.expected <= told.memory.forward <= MARGIN * 2.25 * runs.expected
    assert told.profile != seen.profile
    assert runs().profile == told.profile
    runs.sessions = runs.new_sessions()
    again = runs()
    assert (again.memory.forward, again.profile) == (told.memory.forward, told.profile)


def test_it_rises_at_once_and_falls_slowly(runs: Runs) -> None:
    runs.takes = runs.expected
    runs()
    low = runs().memory.forward
    runs.takes = 2 * runs.expected
    runs()
    runs.sessions.flush()
    runs.takes = runs.expected
    high = []
    for _ in range(20):
        runs.sessions = runs.new_sessions()  # as in another process, whose first forward is seen in full
        high.append(runs().memory.forward)
        runs.sessions.flush()
    assert min(high) == max(high) > 1.8 * low
    assert runs().memory.forward == low


def test_what_is_seen_in_part_only_raises_and_never_lowers(runs: Runs, machine: Machine) -> None:
    runs.takes = 2 * runs.expected
    runs()
    machine.held, machine.kept = machine.held + 2 * runs.expected, 2 * runs.expected  # as its forwards left it
    first = runs().memory.forward
    for _ in range(25):
        assert runs().memory.forward == first
    runs.takes = 5 * runs.expected  # of which three are new
    runs()
    assert runs().memory.forward > 1.4 * first


def test_models_that_take_turns_leave_each_other_nothing(
    runs: Runs, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_cache, "_NOT_SHORT", 0.0)  # toys are
    other = Runs(machine, pytest.MonkeyPatch())
    other.sessions = runs.sessions
    trims = [0]
    for one in (runs, runs, other, other, runs, runs):
        one.takes = one.expected
        one()
        trims.append(machine.trims - sum(trims))
    _, again, another, another_again, back, back_again = trims[1:]
    assert (again, another_again, back_again) == (0, 0, 0), "the next run of the same model has use for it"
    assert back > 1, "before, and after"
    assert min(another, back) > 0


def test_how_many_pixels_a_forward_may_have_follows(runs: Runs) -> None:
    context, picture = StandaloneContext("cpu"), zoo.photograph(400, 400)
    # beside the frame and its result twice what 200x200 pixels are expected to take: half of it is for forwards
    context.free_bytes = lambda: 5 * picture.nbytes + 2 * 25 * runs.expected

    def tiles() -> int:
        asked = UpscaleOptions(compile=False, precision="fp32", overlap=8)
        return upscale(picture, runs.model, asked, context, runs.sessions).report.tiles

    runs.takes = round(0.5 * runs.expected)
    runs()
    few = tiles()
    runs.takes = round(3.5 * runs.expected)
    runs()
    assert tiles() > few


def test_one_wrong_peak_does_not_keep_tiles_small_for_ever(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.takes = round(3.5 * runs.expected)
    runs()
    monkeypatch.setattr(feedback, "_LEAST_BYTES", 1 << 40)  # from now on no forward is large enough to be seen
    context, picture = StandaloneContext("cpu"), zoo.photograph(200, 200)
    asked = UpscaleOptions(compile=False, precision="fp32", overlap=8)

    def report(free: int) -> UpscaleReport:
        context.free_bytes = lambda: free
        return upscale(picture, runs.model, asked, context, runs.sessions).report

    enough, little = 1 << 40, 5 * picture.nbytes + 25 * runs.expected
    many = report(little).tiles
    for _ in range(20):
        plenty = report(enough)
    assert plenty.memory.forward > 3 * 25 * runs.expected, "where it makes no difference it stays"
    by_revision: dict[str, set[int]] = {}
    for _ in range(22):
        told = report(little)
        by_revision.setdefault(told.profile, set()).add(told.tiles)
    assert told.tiles < many
    assert all(len(tiles) == 1 for tiles in by_revision.values()), "and what decides is told"


@pytest.mark.parametrize("how", ["reproducible", "damaged", "of another schema", "of another machine"])
def test_without_a_profile_of_this_machine_the_constants_stand(runs: Runs, how: str) -> None:
    runs.takes = 3 * runs.expected
    runs()
    folder = profiles_folder(StandaloneContext("cpu").cache_folder)
    (file,) = folder.glob("*.json")
    text = file.read_text("utf-8")
    if how == "damaged":
        file.write_text(text[: len(text) // 2], "utf-8")
    elif how == "of another schema":
        file.write_text(text.replace('"schema": 10', '"schema": 5'), "utf-8")
    elif how == "of another machine":
        told = json.loads(text)
        told["peaks"] = {place.replace("torch", "torch 0.1, not"): some for place, some in told["peaks"].items()}
        file.write_text(json.dumps(told), "utf-8")
    runs.sessions = runs.new_sessions()
    report = runs(reproducible=how == "reproducible")
    assert report.memory.forward == pytest.approx(CONSTANT * runs.expected, rel=0.01)


def test_what_a_reproducible_run_takes_is_not_kept(runs: Runs) -> None:
    runs.takes = 3 * runs.expected
    runs(reproducible=True)
    assert runs().memory.forward == pytest.approx(CONSTANT * runs.expected, rel=0.01)


def test_a_bound_by_widths_is_compared_with_itself_and_nothing_is_traced(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback, "_LEAST_BYTES", 0)
    monkeypatch.setattr("cudaspeed.pipeline.fallback.measure_cost", None)  # whoever traces, fails
    model, sessions = zoo.compact(), SessionCache(clock=Ticking(lambda: 1000.0))
    context, asked = StandaloneContext("cpu"), UpscaleOptions(compile=False, precision="fp32")

    def forward_bytes() -> int:
        return upscale(zoo.photograph(40, 40), model, asked, context, sessions).report.memory.forward

    bound = forward_bytes() / CONSTANT_OF_BOUNDS
    takes = round(0.4 * bound)
    monkeypatch.setattr(
        "cudaspeed.models.execution.EagerExecutor.__call__",
        lambda executor, tiles: machine.forward(takes) or executor._forward(tiles),
    )
    forward_bytes()
    assert MARGIN * 0.4 * bound <= forward_bytes() <= MARGIN * 0.45 * bound
    sessions.finish_learning()  # no thread is left


def test_runs_of_one_revision_have_the_same_bits_whatever_was_seen(runs: Runs) -> None:
    by_revision: dict[str, list[Tensor]] = {}
    context = StandaloneContext("cpu")
    for k in range(12):
        runs.takes = round((1 + 0.37 * (k % 5)) * runs.expected)
        context.free_bytes = lambda: 8 * runs.expected
        asked = UpscaleOptions(compile=False, precision="fp32")
        result = upscale(zoo.photograph(96, 80), runs.model, asked, context, runs.sessions)
        by_revision.setdefault(result.report.profile, []).append(result.image)
    assert len(by_revision) > 1
    for images in by_revision.values():
        assert all(torch.equal(images[0], image) for image in images)
