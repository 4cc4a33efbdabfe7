"""Compiling as a user meets it: never waited for, never wrong, never twice. The compilers here are stand-ins."""

from __future__ import annotations

import gc
import logging
import random
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import zoo
from clocks import still
from compilers import Compilers, Job
from engines import StandIn
from spandrel import ImageModelDescriptor
from torch import Tensor

from cudaspeed import compile_cache
from cudaspeed.api.errors import BadOptionError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.report import UpscaleReport
from cudaspeed.backends import offer, openvino_library
from cudaspeed.backends.errors import DeviceFullError
from cudaspeed.compile_cache import CompileCache
from cudaspeed.compiling import model_entries
from cudaspeed.compiling.model_entries import ModelEntries, Subject
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.kernels.timing import Clock
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.info import model_info
from cudaspeed.models.precision import usual_mode
from cudaspeed.pipeline import session
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.storage import fingerprint
from cudaspeed.storage.artifacts import ArtifactStore
from cudaspeed.upscale_engine import memory_of, upscale, warm_up

pytestmark = pytest.mark.usefixtures("plain_kernels")

EAGER = UpscaleOptions(precision="fp32", compile=False)
AUTO = UpscaleOptions(precision="fp32")
BACKGROUND = UpscaleOptions(precision="fp32", compile_mode="background")
WAIT = UpscaleOptions(precision="fp32", compile_mode="wait")


@pytest.fixture
def compilers(monkeypatch: pytest.MonkeyPatch) -> Compilers:
    made = Compilers()
    monkeypatch.setattr(compile_cache, "load_package", made.load)
    return made


def process(compilers: Compilers, clock: Clock = still) -> SessionCache:
    """What a fresh process knows."""
    sessions = SessionCache(clock)
    sessions.compiles = CompileCache(start=compilers.start)
    return sessions


def run(
    sessions: SessionCache,
    model: ImageModelDescriptor,
    options: UpscaleOptions = AUTO,
    size: tuple[int, int] = (40, 40),
    frames: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> UpscaleReport:
    """Upscale, and hold the result against the eager one: whatever compilers do, the picture is right."""
    image = zoo.photograph(*size, frames=frames)
    result = upscale(image, model, options, StandaloneContext("cpu", on_progress), sessions)
    truth = upscale(image, model, EAGER, StandaloneContext("cpu")).image
    torch.testing.assert_close(result.image, truth, atol=2 / 255, rtol=0)
    return result.report


def compiled(sessions: SessionCache, model: ImageModelDescriptor, size: tuple[int, int] = (40, 40)) -> bool:
    return run(sessions, model, AUTO, size).compiled


def test_a_small_picture_is_neither_delayed_nor_burdened(compilers: Compilers) -> None:
    sessions, model = process(compilers), zoo.compact()
    for _ in range(3):
        report = run(sessions, model)
        assert not report.compiled
        assert report.compiling == "eager: compiling would not pay yet"
    assert not compilers.jobs


def test_work_over_many_runs_adds_up_until_a_compile_pays(compilers: Compilers) -> None:
    seconds = iter(range(0, 10**9, 50))  # each look at the clock is 50 s after the one before
    model = zoo.compact()
    for _ in range(30):  # every run in a process of its own
        run(process(compilers, lambda: float(next(seconds))), model)
        if compilers.jobs:
            break
    assert compilers.jobs, "half an hour of eager work pays for a compile"


def test_short_runs_one_after_the_other_write_to_the_disk_now_and_then(
    compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none of their work is forgotten on the way."""
    now, written = [1000.0], []
    monkeypatch.setattr(compile_cache, "time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    note = ArtifactStore.note
    monkeypatch.setattr(ArtifactStore, "note", lambda *given: written.append(given[3].eager_seconds) or note(*given))
    ticks = iter(range(10**9))
    sessions, model = process(compilers, lambda: float(next(ticks))), zoo.compact()
    for _ in range(20):
        upscale(zoo.photograph(40, 40), model, AUTO, StandaloneContext("cpu"), sessions)
        now[0] += 1
    assert 2 <= len(written) <= 3
    assert written[1] == pytest.approx(10 * written[0], rel=0.2)


def test_eager_tiles_flow_on_while_it_compiles_and_the_next_batch_after_is_compiled(compilers: Compilers) -> None:
    at: list[int] = []

    def progress(done: int, total: int) -> None:
        if done == 7:
            assert len(compilers.jobs) == 1, "started after the first tile"
            assert not compilers.calls
            compilers.jobs[0].succeed()
        at.append(done)

    options = UpscaleOptions(precision="fp32", compile_mode="background", tile=32)
    report = run(process(compilers), zoo.compact(), options, (32, 32), frames=20, on_progress=progress)
    assert at == list(range(1, 21))
    assert report.compiled
    assert len(compilers.calls) == 13


def test_what_is_compiled_is_there_after_a_restart(compilers: Compilers) -> None:
    compilers.at_once = Job.succeed
    assert run(process(compilers), zoo.compact(), WAIT).compiled
    later = process(compilers)
    assert compiled(later, zoo.compact()), "the same weights, loaded anew, however little work there is"
    assert len(compilers.jobs) == 1


def test_what_is_improved_is_taken_at_once_and_checked_anew(
    compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker goes on after it has published, and a long film should not wait for the next session."""
    compilers.at_once = Job.succeed
    sessions, model = process(compilers), zoo.compact()
    assert run(sessions, model, WAIT).compiled
    job, store = compilers.jobs[0], ArtifactStore(StandaloneContext("cpu").cache_folder)
    assert store.get(job.id).verified
    better = store.folder / "better.pt2"
    better.write_text("better")
    compilers.modules["better"] = compilers.modules[job.id]
    store.improve(job.id, better)
    assert not store.get(job.id).verified
    loads, right = [], compilers.load

    def load(path: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
        loads.append(path.read_text())
        return right(path, device)

    monkeypatch.setattr(compile_cache, "load_package", load)
    assert compiled(sessions, model)
    assert compiled(sessions, model)
    assert loads == ["better"]
    assert store.get(job.id).verified


def test_what_is_only_being_improved_is_not_waited_for_and_gives_way(compilers: Compilers) -> None:
    compilers.at_once = Job.publish
    sessions, model = process(compilers), zoo.swinir()
    sizes = [(40, 40), (64, 104)]
    for size in sizes:
        report = run(sessions, model, WAIT, size)
        assert report.compiled, report.compiling
    assert run(sessions, zoo.compact(), WAIT).compiled
    assert [job.stopped for job in compilers.jobs] == [True, True, False]
    assert [compiled(sessions, model, size) for size in sizes] == [True, True], "what was published stays"


def test_improving_what_was_cleared_away_meanwhile_is_not_held_against_the_model(compilers: Compilers) -> None:
    compilers.at_once = Job.publish
    sessions, model = process(compilers), zoo.compact()
    assert run(sessions, model, WAIT).compiled
    ArtifactStore(StandaloneContext("cpu").cache_folder).clear()
    compilers.jobs[0].end()
    sessions.compiles.busy()
    assert run(sessions, zoo.compact(), WAIT).compiled
    assert len(compilers.jobs) == 2


def test_what_was_improved_and_has_no_room_beside_what_is_loaded_costs_nothing(
    compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    compilers.at_once = Job.succeed
    sessions, model = process(compilers), zoo.compact()
    assert run(sessions, model, WAIT).compiled
    store = ArtifactStore(StandaloneContext("cpu").cache_folder)
    better = store.folder / "better.pt2"
    better.write_text("better")
    store.improve(compilers.jobs[0].id, better)

    def full(path: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(compile_cache, "load_package", full)
    assert compiled(sessions, model)
    assert compiled(sessions, model)


def test_a_run_that_used_the_file_before_it_was_improved_says_nothing_of_the_new_one(compilers: Compilers) -> None:
    compilers.at_once = Job.succeed
    sessions, model = process(compilers), zoo.compact()
    store = ArtifactStore(StandaloneContext("cpu").cache_folder)

    def improve(done: int, total: int) -> None:
        better = store.folder / "better.pt2"
        if done == total:  # between its last tile and its end
            better.write_text("better")
            store.improve(compilers.jobs[0].id, better)

    assert run(sessions, model, WAIT, on_progress=improve).compiled
    assert not store.get(compilers.jobs[0].id).verified


def test_models_of_one_architecture_do_not_share(compilers: Compilers) -> None:
    compilers.at_once = Job.succeed
    sessions, model, other = process(compilers), zoo.compact(), zoo.compact()
    with torch.no_grad():
        next(other.model.parameters()).mul_(1.01)
    assert run(sessions, model, WAIT).compiled
    assert not compiled(sessions, other)
    assert run(sessions, other, WAIT).compiled
    assert len(compilers.jobs) == 2


def test_weights_changed_in_place_are_noticed(compilers: Compilers) -> None:
    compilers.at_once = Job.succeed
    sessions, model = process(compilers), zoo.compact()
    assert run(sessions, model, WAIT).compiled
    with torch.no_grad():
        for weight in model.model.parameters():
            weight.mul_(0.5)
    assert not compiled(sessions, model)


@pytest.mark.parametrize(
    "other",
    [
        UpscaleOptions(precision="bf16", autocast=True),
        UpscaleOptions(precision="bf16", autocast=False),
    ],
)
def test_another_precision_is_another_compile(compilers: Compilers, other: UpscaleOptions) -> None:
    compilers.at_once = Job.succeed
    sessions, model = process(compilers), zoo.compact()
    run(sessions, model, WAIT)
    assert not upscale(zoo.photograph(40, 40), model, other, StandaloneContext("cpu"), sessions).report.compiled
    assert compiled(sessions, model), "and does not disturb the first"


def test_another_device_or_version_is_another_compile(compilers: Compilers, monkeypatch: pytest.MonkeyPatch) -> None:
    compilers.at_once = Job.succeed
    run(process(compilers), zoo.compact(), WAIT)
    described = model_entries.describe_environment(torch.device("cpu"))
    for name in ("hardware", "torch", "cuda", "triton", "spandrel", "format"):
        changed = {**described, name: "another"}
        monkeypatch.setattr(model_entries, "describe_environment", lambda device, changed=changed: changed)
        assert not compiled(process(compilers), zoo.compact()), name
    monkeypatch.setattr(model_entries, "describe_environment", lambda device: described)
    assert compiled(process(compilers), zoo.compact())


def test_what_a_version_without_a_format_compiled_is_left_alone(
    compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It told its code by a digest."""
    now = model_entries.describe_environment
    old = {**now(torch.device("cpu")), "code": "0123456789ab"}
    del old["format"]
    compilers.at_once = Job.succeed
    monkeypatch.setattr(model_entries, "describe_environment", lambda device: old)
    run(process(compilers), zoo.compact(), WAIT)
    assert compiled(process(compilers), zoo.compact())
    monkeypatch.setattr(model_entries, "describe_environment", now)
    assert not compiled(process(compilers), zoo.compact())
    assert run(process(compilers), zoo.compact(), WAIT).compiled, "and it is compiled anew"


# --- few shapes ----------------------------------------------------------------------------------------------------


def test_fifty_sizes_need_one_compile_of_a_convolutional_model(compilers: Compilers) -> None:
    compilers.at_once = Job.succeed
    context, sessions, model = StandaloneContext("cpu"), process(compilers), zoo.compact()
    chance = random.Random(7)
    for _ in range(50):
        size = chance.randint(64, 3000), chance.randint(64, 4096)
        assert warm_up(model, size, AUTO, context, sessions) == "compiled"
    for _ in range(5):
        assert compiled(sessions, model, (chance.randint(64, 300), chance.randint(64, 300)))
    assert len(compilers.jobs) == 1


@pytest.mark.parametrize("seed", range(5))
def test_fifty_sizes_need_at_most_four_compiles_of_an_attention_model(compilers: Compilers, seed: int) -> None:
    compilers.at_once = Job.succeed
    context, sessions, model = StandaloneContext("cpu"), process(compilers), zoo.toy_attention()
    chance = random.Random(seed)
    for _ in range(50):
        warm_up(model, (chance.randint(64, 3000), chance.randint(64, 4096)), AUTO, context, sessions)
    assert 1 <= len(compilers.jobs) <= 4
    assert all(job.shapes.fixed for job in compilers.jobs)


def test_what_is_slower_for_any_size_is_not_compiled_for_one(
    compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where forwards as small as this picture's are dear in eager."""
    compilers.at_once = Job.succeed
    sessions, model, store = process(compilers), zoo.compact(), ArtifactStore(StandaloneContext("cpu").cache_folder)
    assert run(sessions, model, WAIT).compiled
    store.note(compilers.jobs[0].id, {}, compile_cache.Usage(eager_rate=1.0, compiled_rate=1.5))
    monkeypatch.setattr("cudaspeed.models.throughput.Throughput.relative", lambda self, pixels: 1.3)
    for options in (WAIT, BACKGROUND):
        run(process(compilers), model, options)
    assert len(compilers.jobs) == 1


def test_a_convolutional_model_s_picture_is_never_filled_up_to_the_size_that_was_compiled(compilers: Compilers) -> None:
    """It would have other borders: beyond a picture's edges a convolution sees zeros."""
    compilers.at_once = lambda job: job.succeed() if job.shapes.fixed else job.fail(scope="shapes")
    sessions, model = process(compilers), zoo.compact()
    assert run(sessions, model, WAIT, (41, 53)).compiled
    for size in ((40, 53), (41, 50), (33, 40)):
        image = zoo.photograph(*size)
        result = upscale(image, model, AUTO, StandaloneContext("cpu"), sessions)
        truth = upscale(image, model, EAGER, StandaloneContext("cpu")).image
        assert not result.report.compiled
        torch.testing.assert_close(result.image, truth, atol=1e-5, rtol=0)


def test_a_picture_that_compiled_tiles_suit_uses_them_and_another_does_not(compilers: Compilers) -> None:
    compilers.at_once = Job.succeed
    sessions, model = process(compilers), zoo.swinir()
    assert run(sessions, model, WAIT, (64, 80)).compiled
    report = run(sessions, model, AUTO, (63, 78))
    assert report.compiled, "padding to it is cheaper than computing eagerly"
    assert report.tile == (64, 80)
    report = run(sessions, model, AUTO, (16, 16))
    assert not report.compiled, "twenty times the pixels are not"
    assert len(compilers.jobs) == 1


def test_the_users_tile_size_is_kept(compilers: Compilers) -> None:
    compilers.at_once = Job.succeed
    sessions, model = process(compilers), zoo.swinir()
    assert run(sessions, model, WAIT, (96, 96)).compiled
    report = run(sessions, model, UpscaleOptions(precision="fp32", tile=64), (96, 96))
    assert max(report.tile) <= 64


def test_a_frame_begun_in_eager_starts_again_compiled_where_that_is_quicker(compilers: Compilers) -> None:
    """An attention model's compiled tiles are not the plan's, so the swap is at a frame, or at a new start of one."""
    done: list[int] = []

    def progress(now: int, total: int) -> None:
        """Also called now and then by the clock, on a busy machine before anything is being compiled."""
        done.append(total)
        if len(done) >= 2 and compilers.jobs and compilers.jobs[0].running():
            compilers.jobs[0].succeed(1.0)
            store = ArtifactStore(compilers.jobs[0]._store.folder)
            store.note(compilers.jobs[0].id, {}, compile_cache.Usage(eager_rate=10.0, compiled_rate=1.0))

    options = UpscaleOptions(precision="fp32", compile_mode="background", tile=64)
    report = run(process(compilers), zoo.swinir(), options, (300, 300), on_progress=progress)
    assert report.compiled


# --- it always ends in a picture -------------------------------------------------------------------------------------


def test_a_model_that_cannot_be_compiled_is_tried_once_ever(compilers: Compilers) -> None:
    compilers.at_once = Job.fail
    sessions, model = process(compilers), zoo.swinir()
    report = run(sessions, model, WAIT)
    assert not report.compiled
    assert report.compiling == "eager: it uses an unknown operator"
    run(sessions, model, WAIT)
    report = run(process(compilers), zoo.swinir(), BACKGROUND)
    assert report.compiling == "eager: it uses an unknown operator", "after a restart, too"
    assert len(compilers.jobs) == 1


def test_a_convolutional_model_that_cannot_be_compiled_for_any_size_is_compiled_for_one(compilers: Compilers) -> None:
    compilers.at_once = lambda job: job.succeed() if job.shapes.fixed else job.fail(scope="shapes")
    sessions, model = process(compilers), zoo.compact()
    assert run(sessions, model, WAIT).compiled
    assert [job.shapes.fixed for job in compilers.jobs] == [False, True]


def test_what_the_machine_lacks_is_found_once_for_all_models(compilers: Compilers) -> None:
    compilers.at_once = lambda job: job.fail("no C++ compiler was found; install g++", "environment")
    assert run(process(compilers), zoo.compact(), WAIT).compiling == "eager: no C++ compiler was found; install g++"
    assert run(process(compilers), zoo.esrgan(), WAIT).compiling == "eager: no C++ compiler was found; install g++"
    assert len(compilers.jobs) == 1


def test_it_is_tried_again_when_the_machine_has_changed(compilers: Compilers, monkeypatch: pytest.MonkeyPatch) -> None:
    compilers.at_once = lambda job: job.fail("no C++ compiler was found", "environment")
    run(process(compilers), zoo.compact(), WAIT)
    described = model_entries.describe_environment(torch.device("cpu"))
    monkeypatch.setattr(model_entries, "describe_environment", lambda device: {**described, "compiler": "new"})
    compilers.at_once = Job.succeed
    assert run(process(compilers), zoo.compact(), WAIT).compiled


def test_memory_that_ran_out_while_compiling_is_not_held_against_the_model_for_ever(compilers: Compilers) -> None:
    compilers.at_once = Job.give_up
    sessions = process(compilers)
    for _ in range(3):
        run(sessions, zoo.swinir(), BACKGROUND, frames=2)
    assert len(compilers.jobs) == 1, "not again in this process"
    compilers.at_once = Job.succeed
    assert run(process(compilers), zoo.swinir(), WAIT).compiled


def veil(x: Tensor) -> Tensor:
    return x + 0.3


def nothing(x: Tensor) -> Tensor:
    return x * torch.nan


def short(x: Tensor) -> Tensor:
    return x[..., 1:]


@pytest.mark.parametrize("wrong", [veil, nothing, short])
def test_a_wrong_result_is_refused_at_its_first_tile(
    compilers: Compilers, wrong: Callable[[Tensor], Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    compilers.at_once, compilers.wrong = Job.succeed, wrong
    sessions = process(compilers)
    report = run(sessions, zoo.toy_attention(), WAIT, frames=3)
    assert not report.compiled
    assert len(compilers.calls) == 1
    assert "its result was refused" in run(sessions, zoo.toy_attention(), WAIT).compiling
    assert sum(record.levelno == logging.WARNING for record in caplog.records) == 1
    compilers.wrong = lambda x: x
    assert not compiled(process(compilers), zoo.toy_attention()), "nor is it taken after a restart"


def test_compiled_code_that_breaks_down_later_gives_way_to_eager(
    compilers: Compilers, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(x: Tensor) -> Tensor:
        if len(compilers.calls) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return x

    compilers.at_once, compilers.wrong = Job.succeed, breaks
    report = run(process(compilers), zoo.compact(), WAIT, frames=6)
    assert len(compilers.calls) == 3
    assert report.frames == 6
    assert sum(record.levelno == logging.WARNING for record in caplog.records) == 1


def test_a_damaged_file_is_made_anew(compilers: Compilers, caplog: pytest.LogCaptureFixture) -> None:
    compilers.at_once = Job.succeed
    run(process(compilers), zoo.compact(), WAIT)
    (file,) = StandaloneContext("cpu").cache_folder.glob("*.pt2")
    file.write_text("damaged")
    assert not run(process(compilers), zoo.compact(), AUTO).compiled
    assert run(process(compilers), zoo.compact(), WAIT).compiled
    assert len(compilers.jobs) == 2
    assert "not what was compiled" in caplog.text


def improved_by(engine: StandIn, compilers: Compilers, content: bytes) -> None:
    """What the last compile made is replaced by what `engine` made."""
    job, store = compilers.jobs[-1], ArtifactStore(StandaloneContext("cpu").cache_folder)
    engine.module = compilers.modules[job.id]
    better = store.folder / "better"
    better.write_bytes(content)
    assert store.improve(job.id, better, engine.name)


def test_what_another_engine_made_is_loaded_by_it_and_the_report_says_so(
    compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = StandIn("openvino")
    monkeypatch.setattr(offer, "ENGINES", (engine,))
    compilers.at_once = Job.succeed
    sessions, model = process(compilers), zoo.compact()
    report = run(sessions, model, WAIT)
    assert (report.compiled, report.compiling) == (True, "compiled")
    improved_by(engine, compilers, b"openvino")
    for report in (run(sessions, model), run(process(compilers), model)):  # at once, and after a restart
        assert (report.compiled, report.compiling) == (True, "compiled by openvino")
        assert "fp32, compiled by openvino" in report.summary
    assert engine.loads == [b"openvino"] * 2


def test_what_a_compiled_model_holds_is_counted_before_and_while_it_is_loaded_and_let_go_of(
    compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, content = StandIn("openvino"), b"openvino"
    monkeypatch.setattr(offer, "ENGINES", (engine,))
    compilers.at_once = Job.succeed
    sessions, model, context = process(compilers), zoo.compact(), StandaloneContext("cpu")
    assert memory_of(model, (40, 40), AUTO, context, process(compilers))[0].compiled == 0
    assert run(sessions, model, WAIT).memory.compiled == len(compilers.jobs[0].id), "torch's own: its file"
    improved_by(engine, compilers, content)
    held = engine.bytes_held(len(content))
    assert memory_of(model, (40, 40), AUTO, context, process(compilers))[0].compiled == held, "it is not loaded yet"
    use = run(sessions, model).memory
    assert use.compiled == held
    assert use.total == memory_of(model, (40, 40), EAGER, context, process(compilers))[0].total + held
    before = sessions.holdings()
    assert (before.compiled, before.compiled_bytes) == (1, held)
    sessions.let_go(lambda: None)
    assert (sessions.holdings().compiled, sessions.holdings().compiled_bytes) == (0, 0)


def test_the_engine_that_is_asked_for_computes_and_has_what_it_compiled_for_itself(
    compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the rates say, and beside what was compiled without it."""
    monkeypatch.setattr(openvino_library, "OPENVINO", SimpleNamespace(missing=lambda: ""))
    monkeypatch.setattr(openvino_library, "devices_seen", lambda: {"CPU": "a processor", "GPU.0": "a", "GPU.1": "b"})
    engine = StandIn("openvino:GPU")
    monkeypatch.setattr(compile_cache, "engine", lambda name, folder: {engine.name: engine}[name])

    def publish(job: Job) -> None:
        job.succeed()
        if job.request.engine:
            improved_by(engine, compilers, engine.name.encode())
            usage = compile_cache.Usage(eager_rate=1.0, compiled_rate=9.0)
            ArtifactStore(Path(job.request.folder)).note(job.id, {}, usage)

    compilers.at_once = publish
    model, image = zoo.compact(), zoo.photograph(40, 40)
    assert run(process(compilers), model, WAIT).compiling == "compiled"
    for _ in range(2):
        asked = StandaloneContext("openvino:GPU")
        result = upscale(image, model, AUTO, asked, process(compilers))
        assert (asked.device.type, result.report.compiling) == ("cpu", "compiled by openvino:GPU")
    assert [job.request.engine for job in compilers.jobs] == ["", "openvino:GPU"]
    assert run(process(compilers), model).compiling == "compiled"
    with pytest.raises(BadOptionError, match="device is openvino:GPU, which computes what is compiled"):
        upscale(image, model, EAGER, asked, process(compilers))
    with pytest.raises(BadOptionError, match=r"openvino:GPU.0 \(a\), openvino:GPU.1 \(b\)"):
        upscale(image, model, AUTO, StandaloneContext("openvino:NPU"), process(compilers))


def test_what_another_engine_computes_wrongly_is_refused(compilers: Compilers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here, on this machine, whatever was found when it was compiled."""
    engine = StandIn()
    engine.wrong = lambda y: y + 0.1
    monkeypatch.setattr(offer, "ENGINES", (engine,))
    compilers.at_once = Job.succeed
    run(process(compilers), zoo.compact(), WAIT)
    improved_by(engine, compilers, b"stand-in")
    for _ in range(2):
        report = run(process(compilers), zoo.compact())  # which looks at the picture
        assert not report.compiled
        assert "its result was refused" in report.compiling


def with_xla(monkeypatch: pytest.MonkeyPatch, devices: int = 1, platform: str = "cpu") -> None:
    """As if XLA were installed, and had so many."""
    for check in ("check_device", "check_compiler"):
        monkeypatch.setattr(session, check, lambda name: None)
    monkeypatch.setattr(
        offer, "devices_of", lambda name: (SimpleNamespace(platform=platform, memory_stats=lambda: None),) * devices
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [zoo.compact, zoo.swinir])
def test_for_a_folder_of_odd_sizes_an_engine_of_one_size_compiles_four_times_at_most(
    make: Callable[[], ImageModelDescriptor], seed: int, compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all of it is compiled, though no tile of a convolutional model may be larger than its picture."""
    with_xla(monkeypatch)
    compilers.at_once = Job.succeed
    sessions, model, sizes = process(compilers), make(), random.Random(seed)
    for _ in range(16):
        image = zoo.photograph(sizes.randint(64, 200), sizes.randint(64, 200))
        result = upscale(image, model, AUTO, StandaloneContext("xla"), sessions)
        assert result.report.compiled, image.shape
    assert 2 <= len(compilers.jobs) <= 4


def test_a_picture_that_no_size_compiled_for_an_engine_fits_in_is_told_of(
    compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_xla(monkeypatch)
    compilers.at_once = Job.succeed
    sessions, model, reports = process(compilers), zoo.esrgan(), []
    for sides in ((200, 300), (250, 180), (64, 300), (90, 90), (41, 43)):
        reports.append(upscale(zoo.photograph(*sides), model, AUTO, StandaloneContext("xla"), sessions).report)
    assert [report.compiled for report in reports] == [True, True, True, True, False]
    assert not reports[-2].warnings
    assert "none of the 4 sizes of tiles" in reports[-1].warnings[0]
    assert "torch computed it on the CPU" in reports[-1].warnings[0]


def test_what_an_engine_made_is_taken_whatever_layout_and_kernels_eager_has(tmp_path: Path) -> None:
    model = zoo.swinir()
    subject = Subject(weakref.ref(model.model), model_info(model), "architecture", "content")
    ways = [(last, kernels) for last in (True, False) for kernels in ("plain", "attention")]
    for engine, ids in (("xla", 1), ("", 4)):
        modes = (ExecutionMode("fp32", False, last, kernels) for last, kernels in ways)
        store = ArtifactStore(tmp_path)
        assert len({ModelEntries(store, subject, mode, torch.device("cpu"), engine).id for mode in modes}) == ids


def test_where_an_engines_device_has_no_room_its_tiles_become_smaller(
    compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_xla(monkeypatch)
    compilers.at_once = Job.succeed

    def full(tiles: Tensor) -> Tensor:
        if tiles[0, 0].numel() > 4 * 100 * 100:  # results of x2
            raise DeviceFullError("RESOURCE_EXHAUSTED: out of memory allocating 1 byte")
        return tiles

    compilers.wrong = full
    image, model, sessions = zoo.photograph(160, 200, frames=3), zoo.compact(), process(compilers)
    result = upscale(image, model, AUTO, StandaloneContext("xla"), sessions)
    by_torch = upscale(image, model, EAGER, StandaloneContext("cpu"), sessions)
    torch.testing.assert_close(result.image, by_torch.image, atol=2 / 255, rtol=0)
    assert by_torch.report.tile == (160, 200), "main memory has not run out"
    report = result.report
    assert report.compiled
    assert report.out_of_memory >= 1
    assert len(compilers.jobs) >= 2
    assert report.tile[0] * report.tile[1] <= 100 * 100


@pytest.mark.parametrize(("platform", "precision"), [("tpu", "bf16"), ("cpu", "fp32")])
def test_on_a_tpu_half_precision_is_chosen_by_itself(
    platform: str, precision: str, compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_xla(monkeypatch, platform=platform)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)  # a processor without
    compilers.at_once = Job.succeed
    options = UpscaleOptions()
    result = upscale(zoo.photograph(500, 500), zoo.compact(), options, StandaloneContext("tpu"), process(compilers))
    assert result.report.precision == precision


def test_what_an_engine_cannot_compute_torch_does_where_that_is_asked_for(
    compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_xla(monkeypatch)
    compilers.at_once = Job.fail
    model, image = zoo.compact(), zoo.photograph(64, 64)
    with pytest.raises(BadOptionError, match=r"device is xla, which cannot compute .* unknown operator; take"):
        upscale(image, model, AUTO, StandaloneContext("xla"), process(compilers))
    result = upscale(image, model, replace(AUTO, fallback=True), StandaloneContext("xla"), process(compilers))
    (note,) = result.report.notes
    assert "it uses an unknown operator; torch computed it on the CPU" in note
    truth = upscale(image, model, EAGER, StandaloneContext("cpu")).image
    torch.testing.assert_close(result.image, truth, atol=2 / 255, rtol=0)


def test_where_what_is_compiled_does_not_even_fit_when_it_is_loaded_tiles_become_smaller_too(
    compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_xla(monkeypatch)
    compilers.at_once = Job.succeed

    def load(path: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
        height, width = compilers.jobs[-1].shapes.most
        if height * width > 100 * 150:
            raise DeviceFullError("RESOURCE_EXHAUSTED: out of memory allocating 1 byte")
        return compilers.load(path, device)

    monkeypatch.setattr(compile_cache, "load_package", load)
    image, model = zoo.photograph(160, 200), zoo.compact()
    result = upscale(image, model, AUTO, StandaloneContext("xla"), process(compilers))
    truth = upscale(image, model, EAGER, StandaloneContext("cpu")).image
    torch.testing.assert_close(result.image, truth, atol=2 / 255, rtol=0)
    assert result.report.compiled
    assert result.report.out_of_memory == 1


@pytest.mark.parametrize("devices", [1, 3])
def test_an_engine_of_one_size_is_given_as_many_tiles_as_it_takes(
    devices: int, compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_xla(monkeypatch, devices)
    compilers.at_once = Job.succeed
    options = replace(AUTO, tile=128, batch_size=1)
    image = zoo.photograph(128, 1200)
    upscale(image, zoo.compact(), options, StandaloneContext("xla"), process(compilers))
    (job,) = compilers.jobs
    assert job.shapes.batch == 4 * devices
    batches = [shape[0] for shape in compilers.calls]
    assert max(batches) == min(4 * devices, sum(batches))
    assert sum(batch < 4 * devices for batch in batches) <= 1, "what is left at the end"


@pytest.mark.parametrize("content", [b"something else", b""])
def test_an_engines_file_that_is_none_of_its_is_not_used(
    content: bytes, compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = StandIn()
    monkeypatch.setattr(offer, "ENGINES", (engine,))
    compilers.at_once = Job.succeed
    run(process(compilers), zoo.compact(), WAIT)
    improved_by(engine, compilers, content)
    report = run(process(compilers), zoo.compact())
    assert report.compiling == "eager: what was compiled cannot be loaded (it is something else)"


def test_what_is_improved_while_it_is_fetched_is_not_taken_for_another_engines(
    compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = StandIn()
    monkeypatch.setattr(offer, "ENGINES", (engine,))
    compilers.at_once = Job.succeed
    run(process(compilers), zoo.compact(), WAIT)
    fetch, fetched = ArtifactStore.copy_of, []

    def late(store: ArtifactStore, entry_id: str) -> object:
        if not fetched:
            improved_by(engine, compilers, b"stand-in")
        fetched.append(entry_id)
        return fetch(store, entry_id)

    monkeypatch.setattr(ArtifactStore, "copy_of", late)
    report = run(process(compilers), zoo.compact(), AUTO, frames=3)
    assert report.compiling == "compiled by stand-in"
    assert engine.loads == [b"stand-in"]


def test_of_an_engine_that_is_unknown_here_one_sentence_is_told(compilers: Compilers) -> None:
    compilers.at_once = Job.succeed
    run(process(compilers), zoo.compact(), WAIT)
    improved_by(StandIn("abacus"), compilers, b"abacus")
    report = run(process(compilers), zoo.compact())
    assert "(abacus made it, and there is no such engine here)" in report.compiling


def test_what_is_compiled_under_an_engine_of_another_version_is_made_anew(
    compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so it is when an engine is installed: it may be faster."""
    installed = {"openvino": ""}
    version_of = fingerprint.installed_version
    monkeypatch.setattr(fingerprint, "installed_version", lambda package: installed.get(package, version_of(package)))
    compilers.at_once = Job.succeed
    for compiles, told in enumerate(["", "2026.4.1", "2026.5.0"], 1):
        installed["openvino"] = told
        fingerprint._describe_environment.cache_clear()
        for _ in range(2):
            run(process(compilers), zoo.compact(), WAIT)
            assert len(compilers.jobs) == compiles
    fingerprint._describe_environment.cache_clear()


def test_without_engines_what_was_compiled_before_there_were_any_stays_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "installed_version", lambda package: "")
    fingerprint._describe_environment.cache_clear()
    told = fingerprint.describe_environment(torch.device("cpu"))
    fingerprint._describe_environment.cache_clear()
    assert "openvino" not in told


def test_a_package_that_cannot_be_loaded_is_not_tried_again(
    compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
        raise RuntimeError("undefined symbol: aoti_torch_something\nand a long story")

    compilers.at_once = Job.succeed
    monkeypatch.setattr(compile_cache, "load_package", broken)
    report = run(process(compilers), zoo.swinir(), WAIT)
    assert report.compiling == "eager: what was compiled cannot be loaded (undefined symbol: aoti_torch_something)"
    run(process(compilers), zoo.swinir(), WAIT)
    assert len(compilers.jobs) == 1


def test_a_folder_that_cannot_be_written_costs_a_warning(
    compilers: Compilers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CUDASPEED_CACHE_DIR", str(tmp_path / "file"))
    report = run(process(compilers), zoo.compact(), WAIT, frames=2)
    assert not report.compiled
    assert not compilers.jobs
    assert "cannot be compiled" in report.compiling
    assert len(caplog.records) == 1


def test_compiled_code_that_is_slower_here_is_left_alone(compilers: Compilers) -> None:
    compilers.at_once = Job.succeed
    sessions, model = process(compilers), zoo.compact()
    assert run(sessions, model, WAIT).compiled
    job = compilers.jobs[0]
    ArtifactStore(StandaloneContext("cpu").cache_folder).note(
        job.id, {}, compile_cache.Usage(eager_rate=1.0, compiled_rate=1.5)
    )
    report = run(process(compilers), model)
    assert not report.compiled
    assert report.compiling == "eager: what was compiled is slower here"


def test_what_a_busy_machine_left_undecided_is_looked_at_again_for_a_twentieth_of_the_work(
    compilers: Compilers,
) -> None:
    """Neither never again, nor at every run."""
    seconds, search = iter(range(0, 10**9, 100)), 30.0  # each look at the clock is 100 s after the one before
    compilers.at_once = Job.succeed
    sessions, model, context = process(compilers, lambda: float(next(seconds))), zoo.compact(), StandaloneContext("cpu")
    assert run(sessions, model, WAIT).compiled
    store, name = ArtifactStore(context.cache_folder), compilers.jobs[0].id
    compilers.at_once = Job.stop  # which says nothing: it remains undecided
    hardware = fingerprint.describe_environment(context.device)["hardware"]
    store.searched(name, search, undecided=True)
    began = sessions.profile(model, context).account(hardware).learning_seconds
    runs = 0
    while len(compilers.jobs) < 4 and runs < 100:
        assert run(sessions, model).compiled
        runs += 1
        account = sessions.profile(model, context).account(hardware)
        assert account.learning_seconds <= 0.05 * account.work_seconds
    again = compilers.jobs[1:]
    assert [(job.id, job.request.again) for job in again] == [(name, True)] * 3
    assert runs >= 3 * 4, "not at every run"
    assert account.learning_seconds - began >= 3 * search, "it is on the account of all that is found out"
    store.searched(name, search, undecided=False)
    for _ in range(runs // 3 + 2):
        run(sessions, model)
    assert len(compilers.jobs) == 4, "nothing is left to be said"


# --- waiting, stopping, unloading ------------------------------------------------------------------------------------


class Stopped(BaseException):
    pass


def test_an_interrupt_while_waiting_ends_the_compile_and_it_can_be_started_again(compilers: Compilers) -> None:
    context = StandaloneContext("cpu")
    said: list[str] = []

    def interrupted() -> None:
        if said:
            raise Stopped

    context.say = said.append  # type: ignore[method-assign]
    context.raise_if_interrupted = interrupted  # type: ignore[method-assign]
    sessions = process(compilers)
    with pytest.raises(Stopped):
        upscale(zoo.photograph(40, 40), zoo.compact(), WAIT, context, sessions)
    assert compilers.jobs[0].stopped
    assert said[0].startswith("compiling for ")
    assert said[-1] == "" or said[-1].startswith("stopped after"), "and the text is taken away"
    compilers.at_once = Job.succeed
    assert run(sessions, zoo.compact(), WAIT).compiled


def test_one_compile_at_a_time(compilers: Compilers) -> None:
    sessions = process(compilers)
    for model in (zoo.compact(), zoo.esrgan(), zoo.span()):
        report = run(sessions, model, BACKGROUND, frames=3)
    assert len(compilers.jobs) == 1
    compilers.jobs[0].succeed()
    run(sessions, model, BACKGROUND, frames=3)
    assert len(compilers.jobs) == 2
    assert report.compiling == "eager: compiling would not pay yet"


def test_swapping_in_code_that_takes_one_tile_at_a_time_skips_no_tile(compilers: Compilers) -> None:
    def progress(now: int, total: int) -> None:
        if now >= 8 and compilers.jobs[0].running():
            compilers.jobs[0].succeed()

    options = UpscaleOptions(precision="fp32", compile_mode="background", tile=64, batch_size=4)
    report = run(process(compilers), zoo.toy_attention(), options, (64, 64), frames=24, on_progress=progress)
    assert report.compiled
    assert {shape[0] for shape in compilers.calls} == {1}
    assert len(compilers.calls) >= 12, "the rest, one by one"


def test_weights_of_any_layout_and_an_index_someone_wrote_into_cost_no_picture(compilers: Compilers) -> None:
    compilers.at_once = Job.succeed
    run(process(compilers), zoo.compact(), WAIT)
    store = ArtifactStore(StandaloneContext("cpu").cache_folder)
    (ready,) = [entry for entry in store.entries().values() if entry.state == "ready"]
    store.note("f" * 24, {**ready.what, "shapes": "tiles of any shape"}, compile_cache.Usage())
    assert compiled(process(compilers), zoo.compact())


def test_once_checked_a_single_tile_is_computed_once(compilers: Compilers) -> None:
    compilers.at_once = Job.succeed
    assert run(process(compilers), zoo.compact(), WAIT).compiled
    compilers.calls.clear()
    model, eager_calls = zoo.compact(), []
    sessions = process(compilers)
    run(sessions, model)
    runner = sessions.runners.get(model, usual_mode("fp32", False, model))
    (forwards,) = runner.compiled.values()
    plain = forwards.eager
    forwards.eager = lambda x: eager_calls.append(x.shape) or plain(x)
    assert run(sessions, model).compiled
    assert len(compilers.calls) == 2
    assert not eager_calls


def test_what_is_released_is_gone_at_once(compilers: Compilers) -> None:
    compilers.at_once = Job.succeed
    sessions, model = process(compilers), zoo.compact()
    run(sessions, model, WAIT)
    runner = sessions.runners.get(model, usual_mode("fp32", False, model))
    (forwards,) = runner.compiled.values()
    (loaded,) = forwards._loaded.values()
    package = weakref.ref(loaded._forward)
    gc.collect()
    gc.disable()
    try:
        del forwards, loaded
        runner.release()
        assert package() is None
    finally:
        gc.enable()


def test_what_another_process_compiles_is_not_compiled_twice_and_taken_when_ready(compilers: Compilers) -> None:
    here, there = process(compilers), process(compilers)
    run(there, zoo.compact(), BACKGROUND, frames=2)
    report = run(here, zoo.compact(), BACKGROUND, frames=3)
    assert len(compilers.jobs) == 1
    assert report.compiling.startswith("compiling for tiles of ")
    compilers.jobs[0].succeed()
    assert compiled(here, zoo.compact())


def test_unloading_the_model_lets_go_of_compiled_code_which_is_loaded_again(compilers: Compilers) -> None:
    compilers.at_once = Job.succeed
    sessions, model = process(compilers), zoo.compact()
    run(sessions, model, WAIT)
    mode = usual_mode("fp32", False, model)
    runner = sessions.runners.get(model, mode)
    assert runner.compiled
    runner.release()
    assert not runner.compiled
    assert compiled(sessions, model)
    assert len(compilers.jobs) == 1


def test_without_compiling_nothing_compiled_is_written(compilers: Compilers) -> None:
    run(process(compilers), zoo.compact(), EAGER)
    assert [path.name for path in StandaloneContext("cpu").cache_folder.iterdir()] == ["profiles"], "of the model"


def test_warm_up_says_why_it_could_not(compilers: Compilers) -> None:
    compilers.at_once = Job.fail
    status = warm_up(zoo.swinir(), (48, 48), AUTO, StandaloneContext("cpu"), process(compilers))
    assert status == "eager: it uses an unknown operator"
