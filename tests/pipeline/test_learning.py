"""What is found out about a model: within its budget, once, and without changing a picture behind the user's back,
whatever the clock says."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from clocks import LYING, new_sessions, still
from processors import fast_at_bf16
from spandrel import ImageModelDescriptor, SizeRequirements
from torch import Tensor

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.report import UpscaleReport, UpscaleResult
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.models import receptive_field, trial
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.precision import usual_mode
from cudaspeed.models.runner import ModelRunner
from cudaspeed.models.study import Answer, Ask, Study
from cudaspeed.pipeline import fallback, known_model, learner, modes
from cudaspeed.pipeline.learner import Learner
from cudaspeed.pipeline.modes import place_of
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.pipeline.studies import StudyRunner
from cudaspeed.storage.fingerprint import describe_environment
from cudaspeed.storage.profiles import Account, ProfileStore, profiles_folder
from cudaspeed.upscale_engine import finish_learning, tune, upscale

HALF = (torch.float16, torch.bfloat16)
LEARNER = "cudaspeed learner"
PROBES = ((8, 24), (16, 48))  # smaller than they are, so that small runs bear them
TRIAL = 2 * 24 * 25  # input pixels
FIELD = 40**2 + 24**2 + 80**2 + 48**2
BACKGROUND = (100, 100)  # pictures for which a trial is too much, and three of which repay it


@pytest.fixture(autouse=True)
def half_precision_and_nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU as a device that is fast at bf16, and no table that knows the models."""
    monkeypatch.setattr(receptive_field, "_PROBES", PROBES)
    monkeypatch.setattr(trial, "_SIDE", 24)
    fast_at_bf16(monkeypatch)
    monkeypatch.setattr(modes, "verified", lambda model, kernels: False)
    monkeypatch.setattr(known_model, "known_receptive_field", lambda model: None)


class Meter:
    """Input pixels of all forwards, by what they are for, and a clock by which each takes a microsecond a pixel, or
    another `pace`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.work = self.learning = self.before_the_picture = 0
        self.begun: Counter[str] = Counter()
        self.copies: list[weakref.ref[torch.nn.Module]] = []
        self._of_a_study = threading.local()
        self._now, self.pace = 0.0, 1e-6
        answer, first, made = StudyRunner._answer, StudyRunner.first, ModelRunner.__init__

        def answered(
            runner: StudyRunner, model: ImageModelDescriptor, ask: Ask, give_way: Callable[[], bool]
        ) -> Answer:
            self._of_a_study.now = True
            try:
                return answer(runner, model, ask, give_way)
            finally:
                self._of_a_study.now = False

        def begun(runner: StudyRunner, study: Study) -> Ask | None:
            ask = first(runner, study)
            self.begun[study.name] += ask is not None
            return ask

        def hooked(runner: ModelRunner, *told: Any) -> None:
            made(runner, *told)
            right = runner.forward
            self.copies.append(weakref.ref(runner.module))
            runner.forward = lambda x: self._count(x) or right(x)

        monkeypatch.setattr(StudyRunner, "_answer", answered)
        monkeypatch.setattr(StudyRunner, "first", begun)
        monkeypatch.setattr(ModelRunner, "__init__", hooked)

    def clock(self) -> float:
        return self._now

    def alive(self) -> int:
        gc.collect()
        return sum(copy() is not None for copy in self.copies)

    def _count(self, x: Tensor) -> None:
        pixels = x[:, 0].numel()
        self._now += self.pace * pixels
        if getattr(self._of_a_study, "now", False):
            self.learning += pixels
            self.before_the_picture += pixels * (threading.current_thread().name != LEARNER)
        else:
            self.work += pixels


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Meter:
    return Meter(monkeypatch)


def run(
    model: ImageModelDescriptor, sessions: SessionCache, size: tuple[int, int] = BACKGROUND, **options: Any
) -> UpscaleResult:
    context = options.pop("context", None) or StandaloneContext("cpu")
    image, options = options.pop("image", None), {"compile": False, "autocast": False, **options}
    image = zoo.photograph(*size) if image is None else image
    return upscale(image, model, UpscaleOptions(**options), context, sessions)


def account_on_disk(model: ImageModelDescriptor) -> Account:
    context = StandaloneContext("cpu")
    store = ProfileStore(profiles_folder(context.cache_folder))
    return store.of(model.model).account(describe_environment(context.device)["hardware"])


def place(model: ImageModelDescriptor, asked: Any) -> str:
    return place_of(usual_mode(asked, False, model), torch.device("cpu"))


def learners() -> int:
    return sum(thread.name == LEARNER for thread in threading.enumerate())


def looking_at_all(y: Tensor) -> Tensor:
    """A change whose result depends on the tiles."""
    return 0.9 * y + 0.1 * y.mean(dim=(2, 3), keepdim=True)


# --- the budget ------------------------------------------------------------------------------------------------------


Runs = list[tuple[tuple[int, int], dict[str, Any]]]
SMALL: Runs = [((60, 70), {}), ((130, 140), {}), ((90, 100), {"precision": "fp32"}), ((64, 64), {"tile": 48})]
LARGE: Runs = [*SMALL, ((350, 350), {"tile": 200}), ((330, 330), {"precision": "fp32", "tile": 180})]


def in_turn(model: ImageModelDescriptor, runs: Runs, meter: Meter, sessions: SessionCache) -> Iterator[UpscaleReport]:
    """The runs, and what comes after each, within the budget."""
    for size, options in runs:
        work, before = meter.work, meter.before_the_picture
        yield run(model, sessions, size, **options).report
        assert meter.before_the_picture - before <= 0.10 * (meter.work - work), "of any one run"
        sessions.finish_learning()
        assert meter.learning <= 0.05 * meter.work, "of all work, over all runs and sessions"


@pytest.mark.parametrize(
    ("make", "runs", "lie"),
    [
        *((lambda: zoo.toy(2, looking_at_all), LARGE, lie) for lie in (*LYING, "true")),
        *((zoo.compact, LARGE, lie) for lie in ("random", "true")),
        *((zoo.swinir, SMALL, lie) for lie in ("random", "true")),
        (zoo.toy, LARGE, "true"),
    ],
)
def test_the_budget_holds_over_runs_and_sessions_and_nothing_is_found_out_twice(
    make: Callable[[], ImageModelDescriptor], runs: Runs, lie: str, meter: Meter
) -> None:
    model = make()
    for _ in range(2):
        sessions = SessionCache(clock=meter.clock if lie == "true" else LYING[lie]())
        for _ in in_turn(model, runs, meter, sessions):
            pass
        account = account_on_disk(model)
        assert account.learning_pixels == meter.learning
        assert account.learning_pixels <= 0.05 * account.work_pixels
        assert account.work_pixels <= meter.work, "what is computed again, to mend it, is not in the account"
    assert meter.learning, "something was found out"
    assert set(meter.begun.values()) == {1}
    assert not learners()


def test_a_run_that_could_bear_each_of_two_studies_does_not_make_both(meter: Meter) -> None:
    """A try in half precision, and how much tiles must overlap: the one is 1.1 % of it, the other 10."""
    model, sessions = zoo.toy(2, looking_at_all), new_sessions()
    for _ in range(2):
        run(model, sessions, (460, 460), precision="fp32")
    assert not meter.learning
    for _ in in_turn(model, [((150, 726), {"tile": 390})] * 3, meter, sessions):
        pass
    assert meter.learning == TRIAL + FIELD


def test_a_coarse_grid_makes_studies_dearer_and_is_reckoned_with(meter: Meter) -> None:
    size = SizeRequirements(multiple_of=20)
    model, sessions = zoo.toy(2, looking_at_all, size=size), SessionCache(clock=meter.clock)
    runs: Runs = [((340, 340), {"precision": "fp32", "tile": 200})] * 5
    for _ in in_turn(model, runs, meter, sessions):
        pass
    assert meter.learning


# --- the same bits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "size", "tile"),
    [
        (lambda: zoo.toy(2, looking_at_all), (350, 350), 150),
        (zoo.compact, (350, 350), 150),
        (zoo.swinir, (60, 70), 0),
    ],
    ids=["toy", "Compact", "SwinIR"],
)
def test_runs_of_one_revision_have_the_same_bits_whatever_the_clock(
    make: Callable[[], ImageModelDescriptor], size: tuple[int, int], tile: int, meter: Meter
) -> None:
    model, seen = make(), {}
    clocks = [make_clock() for make_clock in (*LYING.values(), lambda: meter.clock)]
    for clock in clocks:
        sessions = SessionCache(clock=clock)
        for _ in range(2):
            for options in ({"tile": tile}, {"precision": "fp32", "tile": tile}):
                result = run(model, sessions, size, **options)
                told = result.report
                decided = (told.precision, told.kernels, told.tiles, told.overlap)
                key = (told.profile, *options)
                image, before = seen.setdefault(key, (result.image, decided))
                assert decided == before, key
                assert torch.equal(result.image, image), key
        sessions.finish_learning()
    assert len({profile for profile, *_ in seen}) > 1, "something was learned on the way"


def test_a_run_that_finds_out_how_much_tiles_must_overlap_is_of_the_revision_that_knows_it(meter: Meter) -> None:
    model, sessions = zoo.toy(2, lambda y: (y + y.roll(20, dims=3)) / 2), new_sessions()
    before, first, later = (run(model, sessions, (350, 350), precision="fp32", tile=150) for _ in range(3))
    assert meter.learning == FIELD, "in the second run"
    assert before.report.overlap != first.report.overlap == later.report.overlap
    assert before.report.profile != first.report.profile == later.report.profile
    assert torch.equal(first.image, later.image)


def test_what_decides_has_another_revision_when_it_changes(meter: Meter) -> None:
    model, sessions = zoo.toy(), SessionCache(clock=meter.clock)
    reports = []
    for _ in range(4):
        reports.append(run(model, sessions).report)
        sessions.finish_learning()
    assert [report.precision for report in reports] == ["fp32"] * 3 + ["bf16"]
    assert len({report.profile for report in reports[:3]}) == 1
    assert reports[3].profile != reports[2].profile
    assert run(model, SessionCache(clock=meter.clock)).report.profile == reports[3].profile


def test_the_copy_of_a_try_that_went_well_between_runs_is_what_the_next_run_computes_with(meter: Meter) -> None:
    model, sessions = zoo.toy(), SessionCache(clock=meter.clock)
    for _ in range(3):
        run(model, sessions)
        sessions.finish_learning()
    made = len(meter.copies)
    assert run(model, sessions).report.precision == "bf16"
    assert len(meter.copies) == made
    assert meter.alive() == 1


def test_kernels_that_appear_are_another_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    from cudaspeed.kernels import winograd

    if not winograd.prepare(StandaloneContext("cpu").cache_folder):
        pytest.skip("the kernels cannot be built here: not Linux, or no C++ compiler")
    monkeypatch.setattr(modes, "verified", lambda model, kernels: True)
    model, told = zoo.compact(2, features=16), []
    with monkeypatch.context() as patch:
        patch.setattr(winograd, "prepare", lambda folder, patience=0.0: False)
        told += [run(model, new_sessions(), precision="fp32").report for _ in range(2)]
    told += [run(model, new_sessions(), precision="fp32").report for _ in range(2)]
    assert [report.kernels for report in told] == ["plain", "plain", "winograd", "winograd"]
    assert told[0].profile == told[1].profile != told[2].profile == told[3].profile


@pytest.mark.parametrize("first", ["bright", "dark"])
def test_automatic_precision_is_chosen_once_and_kept(first: str, meter: Meter) -> None:
    """Also where a later picture would have said otherwise."""

    def coarse_where_dark(y: Tensor) -> Tensor:
        return y + 2 - 2 if y.dtype in HALF and float(y.mean()) < 0.35 else y

    pictures = {"bright": zoo.photograph(120, 120), "dark": zoo.photograph(120, 120) ** 3}
    model, sessions = zoo.toy(2, coarse_where_dark), new_sessions()
    for _ in range(3):  # what repays the try
        run(model, sessions, precision="fp32")
    chosen = run(model, sessions, image=pictures[first]).report
    assert chosen.precision == ("bf16" if first == "bright" else "fp32")
    learned = meter.learning
    assert learned == TRIAL
    for kept in (sessions, new_sessions()):
        for picture in pictures.values():
            report = run(model, kept, image=picture).report
            assert (report.precision, report.profile) == (chosen.precision, chosen.profile)
    assert meter.learning == learned


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_what_fails_is_not_tried_again(meter: Meter) -> None:
    def only_fp32(y: Tensor) -> Tensor:
        if y.dtype in HALF:
            raise RuntimeError("not implemented for this type")
        return y

    model = zoo.toy(2, only_fp32)
    for sessions in (SessionCache(clock=meter.clock), SessionCache(clock=meter.clock)):
        for _ in range(5):
            assert not run(model, sessions, (150, 150)).report.warnings
            sessions.finish_learning()
    assert meter.begun[place(model, "bf16")] == 1


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no"), MemoryError(), RuntimeError("CUDA out of memory")])
@pytest.mark.parametrize("size", [BACKGROUND, (150, 150)], ids=["between runs", "within a run"])
@pytest.mark.parametrize("where", ["forward", "comparison", "picture"])
def test_memory_that_runs_out_in_a_study_costs_nothing(
    error: Exception, size: tuple[int, int], where: str, meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise error

    model = zoo.toy(2, lambda y: fail() if where == "forward" and y.dtype in HALF else y)
    if where == "comparison":
        monkeypatch.setattr(trial, "difference", fail)
    if where == "picture":
        monkeypatch.setattr(receptive_field, "_probe_picture", fail)
    sessions = SessionCache(clock=meter.clock)
    for _ in range(5):
        result = run(model, sessions, size)
        assert not result.report.warnings
        sessions.finish_learning()
    run(model, sessions, (460, 460), tile=200)
    sessions.finish_learning()
    assert meter.learning <= 0.05 * meter.work
    assert not learners()


def test_an_error_between_runs_ends_that_study_and_no_other(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Tensor:
        raise ZeroDivisionError

    monkeypatch.setattr(receptive_field, "_probe_picture", broken)
    model, sessions = zoo.toy(), SessionCache(clock=meter.clock)
    context = StandaloneContext("cpu")
    with monkeypatch.context() as patch:  # left for later
        patch.setattr(StudyRunner, "affordable", lambda *_: False)
        for _ in range(2):
            run(model, sessions, (460, 460), tile=200)
            sessions.finish_learning()
    assert sessions.profile(model, context).known.trials[place(model, "bf16")] == ""
    assert run(model, sessions).report.precision == "bf16"
    assert not learners()


class StopError(Exception):
    """As ComfyUI's own, which is an `Exception` too."""


def test_an_interrupt_within_a_study_goes_up_and_leaves_all_as_it_was(meter: Meter) -> None:
    model, sessions, context = zoo.toy(), new_sessions(), StandaloneContext("cpu")
    for _ in range(3):
        run(model, sessions, precision="fp32")
    before = sessions.profile(model, context).known
    asked: list[int] = []

    def stop() -> None:
        asked.append(1)
        if len(asked) == 2:
            raise StopError

    context.raise_if_interrupted = stop  # type: ignore[method-assign]
    with pytest.raises(StopError):
        run(model, sessions, (150, 150), context=context)
    assert meter.learning == TRIAL // 2, "half of the try was made"
    assert sessions.profile(model, context).known == before
    report = run(model, sessions, (150, 150)).report
    assert report.precision == "bf16"
    sessions.finish_learning()
    assert account_on_disk(model).learning_pixels == meter.learning


def test_weights_that_were_changed_are_studied_as_they_are(meter: Meter) -> None:
    """What is kept of a model says nothing of the one that its module held before."""

    def coarse_where_dark(y: Tensor) -> Tensor:
        return y + 2 - 2 if y.dtype in HALF and float(y.mean()) < 0.1 else y

    model, sessions = zoo.toy(2, coarse_where_dark), SessionCache(clock=meter.clock)
    context, verdicts = StandaloneContext("cpu"), []
    for _ in range(2):
        for _ in range(4):
            run(model, sessions)
            sessions.finish_learning()
        verdicts.append(sessions.profile(model, context).known.trials.get(place(model, "bf16")))
        with torch.no_grad():
            model.model.weight.mul_(0.05)
    assert verdicts[0] == ""
    assert "strays" in verdicts[1]


# --- between runs ----------------------------------------------------------------------------------------------------


def test_a_run_waits_for_one_forward_of_a_study_at_most(meter: Meter) -> None:
    began, go_on, forwards = threading.Event(), threading.Event(), []

    def change(y: Tensor) -> Tensor:
        if y.is_meta:  # no forward: its memory is traced
            return y
        studying = threading.current_thread().name == LEARNER
        forwards.append("study" if studying else "work")
        if studying:
            began.set()
            assert go_on.wait(60)
        return y

    model, learner = zoo.toy(2, change), Learner()
    sessions = SessionCache(clock=meter.clock, learner=learner)
    for _ in range(3):
        run(model, sessions)
    assert began.wait(60)
    another = threading.Thread(target=run, args=(model, sessions))
    another.start()
    until = time.monotonic() + 60
    while not learner._runs and time.monotonic() < until:  # it has come as far as to wait
        time.sleep(0.001)
    go_on.set()
    another.join(60)
    sessions.finish_learning()
    assert forwards == ["work"] * 3 + ["study", "work", "work"], "the rest of the study is on this thread"
    assert run(model, sessions).report.precision == "bf16"


def test_a_large_forward_is_begun_only_when_nothing_runs(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run of a queue comes at once, and would wait for it."""
    monkeypatch.setattr("cudaspeed.pipeline.learner._IDLE", 3600.0)
    meter.pace = 1e-3
    model, sessions = zoo.toy(), SessionCache(clock=meter.clock)
    for _ in range(40):
        run(model, sessions, (60, 60))
    assert not meter.learning
    sessions.finish_learning()  # somebody waits for it
    assert meter.learning == TRIAL
    assert not learners()


@pytest.mark.parametrize(("side", "pace"), [(100, 1e-3), (40, 1e-6)], ids=["a tenth", "short"])
def test_a_small_forward_is_begun_in_the_moment_between_two_prompts(
    meter: Meter, monkeypatch: pytest.MonkeyPatch, side: int, pace: float
) -> None:
    """Or a queue of small pictures would be computed in fp32 to its end: of a try, one forward is what a run waits for,
    not both. Small is a tenth of a run, or what is over in a moment."""
    monkeypatch.setattr("cudaspeed.pipeline.learner._IDLE", 3600.0)
    model, sessions, until = zoo.toy(), SessionCache(clock=meter.clock), time.monotonic() + 60
    meter.pace = pace
    assert (0.1 * side**2 >= TRIAL / 2) == (side == 100)
    while run(model, sessions, (side, side)).report.precision == "fp32" and time.monotonic() < until:
        time.sleep(0.1)  # which is no second, but longer than from one call to the next
    assert run(model, sessions).report.precision == "bf16", f"{meter.learning} pixels of tries"
    sessions.learner.stop()


def test_what_a_thread_waits_for_others_between_runs_is_not_spent(meter: Meter) -> None:
    """On a busy machine one of low priority hardly computes: if its waiting counted, nothing would ever be repaid."""
    model, context = zoo.toy(), StandaloneContext("cpu")
    hardware = describe_environment(context.device)["hardware"]
    tried, truth = (usual_mode(precision, False, model) for precision in ("bf16", "fp32"))
    spent = [0.0]
    for within in (False, True):
        sessions = SessionCache(clock=meter.clock, thread_clock=lambda: meter.clock() / 10)
        runner = StudyRunner(model, context, sessions)
        study = trial.trial(tried, truth, f"within a run: {within}", torch.rand(1, 3, 24, 25))
        if within:
            runner.run(study)
        else:
            ask = runner.first(study)
            while ask:
                ask = runner.step(study, ask)
        spent.append(sessions.profile(model, context).account(hardware).learning_seconds)
    between, all_of_it = spent[1:]
    assert between == pytest.approx(1e-7 * TRIAL)
    assert all_of_it - between == pytest.approx(1e-6 * TRIAL), "a run waits for it"


def test_a_smaller_try_takes_the_place_of_one_that_has_not_begun(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large picture first and small ones later the small ones can bear no more than theirs."""
    monkeypatch.setattr("cudaspeed.pipeline.learner._PAUSE", 3600.0)
    monkeypatch.setattr("cudaspeed.pipeline.learner._IDLE", 3600.0)
    monkeypatch.setattr(trial, "_SIDE", 48)
    monkeypatch.setattr(trial, "_LEAST_SIDE", 24)
    model, sessions = zoo.toy(), SessionCache(clock=meter.clock)
    run(model, sessions, (150, 150))
    for _ in range(4):
        run(model, sessions, (80, 90))
    assert not meter.learning
    sessions.finish_learning()
    assert meter.learning == TRIAL, "the least that there is to compare by"


def test_what_runs_leave_no_time_for_is_tried_again_whenever_the_work_repays_it() -> None:
    """And no sooner. A study that is given up would leave all runs of a busy machine in fp32."""
    model, sessions, context = zoo.toy(), new_sessions(), StandaloneContext("cpu")
    runner = StudyRunner(model, context, sessions)
    subject = learner.Subject(runner, in_background=True)
    tried, truth = (usual_mode(precision, False, model) for precision in ("bf16", "fp32"))
    hardware = describe_environment(context.device)["hardware"]
    subject.offer([trial.trial(tried, truth, "here", torch.rand(1, 3, 24, 25))], 100)
    profile, work = sessions.profile(model, context), Account(work_pixels=40 * TRIAL, work_seconds=100.0)
    for _ in range(5):
        before = profile.account(hardware).learning_pixels
        assert not subject.has_work
        profile.spend(hardware, work)
        while subject.has_work:
            subject.step(lambda: True)
        account = profile.account(hardware)
        assert before < account.learning_pixels <= 0.05 * account.work_pixels
    profile.spend(hardware, work)
    while subject.has_work:
        subject.step()
    assert profile.known.trials["here"] == ""


def test_a_run_that_comes_while_a_model_is_copied_for_a_try_takes_nothing_from_it(meter: Meter) -> None:
    copied: list[object] = []

    class Part:
        def __deepcopy__(self, memo: object) -> Part:
            copied.append(self)
            return self

    model, sessions, context = zoo.toy(), new_sessions(), StandaloneContext("cpu")
    model.model.part = Part()  # type: ignore[assignment]
    runner = StudyRunner(model, context, sessions)
    tried, truth = (usual_mode(precision, False, model) for precision in ("bf16", "fp32"))
    study = trial.trial(tried, truth, "here", torch.rand(1, 3, 24, 25))
    ask = runner.first(study)
    assert isinstance(ask, Ask)
    again = runner.step(study, ask, lambda: bool(copied))
    assert isinstance(again, Ask)
    assert again is not ask, "none of it was left"
    assert again.picture is ask.picture
    hardware = describe_environment(context.device)["hardware"]
    assert meter.learning == 0 == sessions.profile(model, context).account(hardware).learning_pixels
    runner.step(study, again)
    assert (meter.learning, len(copied)) == (TRIAL // 2, 1), "by the same copy"


def test_when_all_is_found_out_no_thread_and_no_copy_is_left_but_that_of_runs(meter: Meter) -> None:
    model, sessions = zoo.toy(), SessionCache(clock=meter.clock)
    for size in (BACKGROUND, BACKGROUND, (460, 460), (460, 460)):
        run(model, sessions, size, tile=200)
        sessions.finish_learning()
    assert meter.learning
    assert not learners()
    assert meter.alive() == 1
    ours = weakref.ref(model.model)
    del model
    assert meter.alive() == 0
    assert ours() is None


def test_a_model_may_go_while_it_is_studied(meter: Meter) -> None:
    began, go_on = threading.Event(), threading.Event()

    def change(y: Tensor) -> Tensor:
        if threading.current_thread().name == LEARNER:
            began.set()
            assert go_on.wait(60)
        return y

    model, sessions = zoo.toy(2, change), SessionCache(clock=meter.clock)
    for _ in range(3):
        run(model, sessions)
    assert began.wait(60)
    ours = weakref.ref(model.model)
    del model
    go_on.set()
    sessions.finish_learning()
    assert meter.alive() == 0
    assert ours() is None
    assert not learners()


# --- asked for -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [zoo.toy, zoo.compact, zoo.swinir], ids=["toy", "Compact", "SwinIR"])
def test_tune_finds_out_everything_and_the_next_run_begins_so(make: Callable[[], Any], meter: Meter) -> None:
    model, context, sessions = make(), StandaloneContext("cpu"), SessionCache(clock=meter.clock)
    told = tune(model, (80, 80), UpscaleOptions(compile=False, autocast=False), context, sessions)
    known, learned = sessions.profile(model, context).known, meter.learning
    assert known.receptive_field is not None
    assert account_on_disk(model) == Account(), "it was asked for, and is no part of the budget"
    assert run(model, sessions, (80, 80), tile=48).report.profile == told.split("profile: ")[1]
    for kept in (sessions, SessionCache(clock=meter.clock)):
        for _ in range(2):
            assert run(model, kept, (80, 80), tile=48).report.precision == "bf16"
            kept.finish_learning()
    assert meter.learning == learned


def test_what_is_learned_after_tune_is_within_the_budget_again(meter: Meter) -> None:
    model, context, sessions = zoo.toy(), StandaloneContext("cpu"), SessionCache(clock=meter.clock)
    tune(model, (160, 160), UpscaleOptions(precision="fp32", compile=False), context, sessions)
    meter.learning = 0
    for _ in range(4):
        run(model, sessions)
        sessions.finish_learning()
    assert meter.learning == account_on_disk(model).learning_pixels == TRIAL


def test_what_tune_had_no_room_for_is_no_trouble_later(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    model, context, sessions = zoo.toy(), StandaloneContext("cpu"), SessionCache(clock=meter.clock)
    with monkeypatch.context() as patch:
        patch.setattr(fallback.ForwardCost, "is_allowed", lambda *_: False)
        tune(model, (160, 160), UpscaleOptions(compile=False, autocast=False), context, sessions)
    for _ in range(3):
        run(model, sessions, (460, 460), tile=200)
        sessions.finish_learning()
    assert set(meter.begun.values()) == {1}


def test_nothing_is_found_out_that_takes_more_memory_than_is_left(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system would not say so: it would end the process."""
    model, sessions = zoo.compact(), SessionCache(clock=meter.clock)
    monkeypatch.setattr(learner, "has_own_limits", lambda: True)  # it waits for us
    for _ in range(3):
        run(model, sessions)
    within_runs = meter.learning
    with monkeypatch.context() as patch:
        patch.setattr("cudaspeed.memory.memory_bytes_left", lambda: 1 << 10)
        sessions.finish_learning()
    assert meter.learning == within_runs


def test_a_process_with_limits_of_its_own_has_no_thread_that_counts_against_them(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sessions = zoo.toy(), SessionCache(clock=meter.clock)
    monkeypatch.setattr(learner, "has_own_limits", lambda: True)
    for _ in range(3):
        run(model, sessions)
        assert not learners()
    within_runs = meter.learning
    sessions.finish_learning()
    assert meter.learning > within_runs, "who asks for it still learns"


def test_finish_learning_waits_and_writes_the_account(meter: Meter) -> None:
    model, sessions = zoo.toy(), SessionCache(clock=meter.clock)
    for _ in range(3):
        run(model, sessions)
    finish_learning(sessions)
    assert meter.learning == TRIAL
    account = account_on_disk(model)
    assert (account.work_pixels, account.learning_pixels) == (meter.work, meter.learning)
    assert account.work_seconds == pytest.approx(1e-6 * meter.work)


# --- reproducible ----------------------------------------------------------------------------------------------------


def misleading(model: ImageModelDescriptor) -> dict[str, Any]:
    """All that a profile can say of a model, and each of it what would make another picture."""
    device = torch.device("cpu")
    usual = [usual_mode(asked, False, model) for asked in ("fp32", "bf16")]
    ours = ExecutionMode("fp32", False, True, kernels="winograd")
    return {
        "receptive_field": 3,
        "unbounded": True,
        "trials": {place_of(mode, device): "" for mode in (*usual, ours)}
        | {f"layout of {place_of(mode, device)}": "it fails" for mode in usual},
        "raised": {place_of(mode, device): "gave faulty tiles" for mode in usual},
        "fastest": {place_of(usual[0], device): str(ours)},
        "throughputs": {place_of(mode, device): ((64 * 64, 1.0), (128 * 128, 3.0)) for mode in usual},
    }


@pytest.mark.parametrize("asked", ["auto", "fp32", "bf16"])
@pytest.mark.parametrize("make", [zoo.compact, zoo.swinir, lambda: zoo.toy(2, looking_at_all)])
def test_what_is_reproducible_depends_on_nothing_that_was_measured(
    make: Callable[[], ImageModelDescriptor],
    asked: str,
    tmp_path: Path,
    meter: Meter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = []
    film = zoo.photograph(520, 40, frames=2)
    for k, clock in enumerate((still, LYING["random"](), meter.clock)):
        monkeypatch.setenv("CUDASPEED_CACHE_DIR", str(tmp_path / str(k)))
        model, context, sessions = make(), StandaloneContext("cpu"), SessionCache(clock=clock)
        context.free_bytes = lambda gib=4 * 4**k: gib << 30  # type: ignore[method-assign]
        if k:
            sessions.profile(model, context).keep(**misleading(model))
        for _ in range(2):
            result = run(
                model,
                sessions,
                image=film,
                context=context,
                batch_size=2,
                compile=True,
                reproducible=True,
                precision=asked,
            )
            results.append(result)
            sessions.finish_learning()
    assert {result.report.precision for result in results} <= ({"fp32"} if asked != "bf16" else {"fp32", "bf16"})
    assert len({result.report.precision for result in results}) == 1
    assert {result.report.kernels for result in results} == {"plain"}
    assert {(result.report.compiled, result.report.compiling) for result in results} == {(False, "off")}
    assert {result.report.tiles for result in results} == {4}
    assert all(torch.equal(result.image, results[0].image) for result in results)
    assert not meter.learning
