"""What a run finds out outlives a change of its mode: finished frames, limits, warnings; what warming up plans for."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from clocks import new_sessions
from compilers import Compilers
from processors import fast_at_bf16
from torch import Tensor

from cudaspeed import compile_cache
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.compile_cache import CompileCache
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.models.runner import ModelRunner
from cudaspeed.pipeline.scheduler import Limits
from cudaspeed.pipeline.session import Session
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.pipeline.workload import workload_of_one
from cudaspeed.storage import fingerprint
from cudaspeed.upscale_engine import upscale


@pytest.fixture(autouse=True)
def half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU as a device that is fast at bf16."""
    fast_at_bf16(monkeypatch)


def upscaled(image: Tensor, model: Any, **options: Any):
    options = {"precision": "bf16", "autocast": False, "compile": False, **options}
    return upscale(image, model, UpscaleOptions(**options), StandaloneContext("cpu"), new_sessions())


class Failing:
    """A toy whose half-precision forwards fail after `good` pictures. `forwards` are those of pictures."""

    def __init__(self, good: int) -> None:
        self.forwards = forwards = []

        def change(y: Tensor) -> Tensor:
            if y.shape[-1] != 120:  # what is measured
                return y
            forwards.append(y.dtype)
            if y.dtype == torch.bfloat16 and len(forwards) > good:
                raise RuntimeError("not implemented for 'BFloat16'")
            return y

        self.model = zoo.toy(2, change)


@pytest.mark.parametrize("good", [0, 3, 8, 9])
def test_frames_that_are_finished_when_half_precision_fails_are_not_done_again(good: int) -> None:
    film, toy = zoo.photograph(60, 60, frames=10), Failing(good)
    result = upscaled(film, toy.model)
    assert len(toy.forwards) == 12, "each frame once, and the one that failed twice more: in the plain layout, in fp32"
    assert result.report.precision == "fp32"
    assert any("fp32 is used" in warning for warning in result.report.warnings)
    exact = film.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(result.image[good:], exact[good:])
    assert float((result.image - exact).abs().max()) <= 1 / 255


def test_what_was_told_before_half_precision_failed_is_told_still(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Failing(2)
    result = upscaled(zoo.photograph(60, 60, frames=4), toy.model, precision="fp16")  # which a CPU only emulates
    assert any(warning.startswith("fp16 was asked for, bf16 is used") for warning in result.report.warnings)
    assert any("fp32 is used" in warning for warning in result.report.warnings)


def test_memory_that_ran_out_in_half_precision_is_not_asked_for_again_in_single() -> None:
    """Neither are tiles that the model takes only one by one put together again."""
    errors: list[torch.dtype] = []
    batches: list[tuple[torch.dtype, int]] = []

    def change(y: Tensor) -> Tensor:
        if y.shape[-1] < 100 or y.shape[-1] == y.shape[-2]:  # what is measured
            return y
        if y[0, 0].numel() > 200 * 200:
            errors.append(y.dtype)
            raise torch.OutOfMemoryError("out of memory, as a device would say")
        batches.append((y.dtype, len(y)))
        if y.dtype == torch.bfloat16 and len(batches) > 6:
            raise RuntimeError("not implemented for 'BFloat16'")
        return y

    result = upscaled(zoo.photograph(300, 410), zoo.toy(2, change))
    assert result.report.precision == "fp32"
    assert errors
    assert set(errors) == {torch.bfloat16}
    assert sum("memory ran out" in warning for warning in result.report.warnings) == 1, "it is told, and once"
    exact = zoo.photograph(300, 410).repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert float((result.image - exact).abs().max()) <= 1 / 255


def test_a_model_that_takes_one_picture_at_a_time_is_not_given_more_in_another_mode() -> None:
    failures: list[int] = []

    def change(y: Tensor) -> Tensor:
        if len(y) > 1:
            failures.append(len(y))
            raise RuntimeError("one at a time")
        alone.extend([y.dtype] * (y.shape[-1] == 64 and y.shape[-2] == 64))
        if y.dtype == torch.bfloat16 and alone.count(torch.bfloat16) > 3:
            raise RuntimeError("not implemented for 'BFloat16'")
        return y

    film, alone = zoo.photograph(32, 32, frames=6), []
    result = upscaled(film, zoo.toy(2, change), batch_size=3, precision="bf16")
    assert result.report.precision == "fp32"
    assert len(failures) == 1
    assert any("one by one" in warning for warning in result.report.warnings)


def test_pictures_go_together_again_where_going_alone_did_not_help() -> None:
    batches: list[int] = []

    def change(y: Tensor) -> Tensor:
        if y.dtype == torch.bfloat16 and y.shape[-1] == 64:
            raise RuntimeError("not implemented for 'BFloat16'")
        batches.append(len(y))
        return y

    result = upscaled(zoo.photograph(32, 32, frames=8), zoo.toy(2, change), batch_size=4)
    assert (result.report.precision, result.report.batch) == ("fp32", 4)
    assert max(batches) == 4


@pytest.mark.parametrize("free_mb", [300, 500, 700, 1000])
def test_warming_up_plans_for_the_tiles_that_the_run_will_have(free_mb: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a picture whose result takes a good part of the memory that there is."""
    model, context = zoo.swinir(), StandaloneContext("cpu")
    context.free_bytes = lambda: free_mb << 20
    options, size = UpscaleOptions(precision="fp32", compile=False), (750, 1000)
    session = Session(model, options, context, new_sessions())
    session.start(750 * 1000, lambda: None)
    with torch.inference_mode():
        planned = session.schedules.schedule(workload_of_one(size, session.known.info, context), Limits()).tile

    class FirstTileError(BaseException):
        """It tells enough."""

    def stop(module: object, inputs: tuple[Tensor]) -> None:
        tile = inputs[0].shape[2:]
        if tile.numel() > 160 * 160:  # and is not what is measured
            raise FirstTileError(*tile)

    sessions = new_sessions()
    get = sessions.runners.get

    def hooked(*asked: Any) -> ModelRunner:
        runner = get(*asked)
        runner.module.register_forward_pre_hook(stop)
        return runner

    monkeypatch.setattr(sessions.runners, "get", hooked)
    with pytest.raises(FirstTileError) as first:
        upscale(zoo.photograph(*size), model, options, context, sessions)
    assert first.value.args == planned


def test_weights_are_hashed_once_in_a_first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []
    digest = fingerprint._digest_of
    monkeypatch.setattr(fingerprint, "_digest_of", lambda module: read.append(module) or digest(module))
    model, sessions = zoo.compact(), new_sessions()
    for _ in range(2):
        upscale(zoo.photograph(40, 50), model, UpscaleOptions(tile=32), StandaloneContext("cpu"), sessions)
    assert len(read) == 1


def test_compiled_code_of_a_mode_that_was_left_is_not_said_to_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    compilers = Compilers()
    compilers.at_once = lambda job: job.succeed() if len(compilers.jobs) == 1 else job.fail()

    def until_it_breaks(y: Tensor) -> Tensor:
        if len(compilers.calls) > 2:
            raise RuntimeError("a broken package")
        return y

    compilers.wrong = until_it_breaks
    monkeypatch.setattr(compile_cache, "load_package", compilers.load)
    monkeypatch.setattr("cudaspeed.kernels.winograd.prepare", lambda folder, patience=0.0: False)

    def change(y: Tensor) -> Tensor:
        if y.dtype == torch.bfloat16 and len(compilers.calls) > 2:
            raise RuntimeError("not implemented for 'BFloat16'")
        return y

    sessions = SessionCache()  # by a clock that runs
    sessions.compiles = CompileCache(start=compilers.start)
    options = UpscaleOptions(precision="bf16", autocast=False, compile_mode="background")
    film = zoo.photograph(60, 60, frames=8)
    report = upscale(film, zoo.toy(2, change), options, StandaloneContext("cpu"), sessions).report
    assert (report.precision, report.compiled) == ("fp32", False)
    entries = sessions.compiles._stores.popitem()[1].entries().values()
    spent = {entry.what["precision"]: entry.eager_seconds for entry in entries if "shapes" not in entry.what}
    assert spent["bf16"] > 0, "what was seen of the mode that was left is kept"


def test_writing_to_weights_that_do_not_count_it_is_noticed_by_the_next_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is loaded under inference mode, as ComfyUI does, has no versions: a compiled forward of the old weights must
    not compute for the new ones."""
    compilers, frozen = Compilers(), []

    def start(store: Any, request: Any, module: torch.nn.Module, scratch: Path) -> Any:
        frozen.append(copy.deepcopy(module))
        return compilers.start(store, request, frozen[-1], scratch)

    compilers.at_once = lambda job: job.succeed()
    monkeypatch.setattr(compile_cache, "load_package", compilers.load)
    sessions, image = new_sessions(), zoo.photograph(48, 48)
    sessions.compiles = CompileCache(start=start)
    with torch.inference_mode():
        model = zoo.toy(2)
        model.model.load_state_dict({"weight": torch.ones(1)}, assign=True)
        compiled = UpscaleOptions(precision="fp32", compile_mode="wait")
        assert upscale(image, model, compiled, StandaloneContext("cpu"), sessions).report.compiled
        model.model.weight.mul_(0.5)
        upscale(image, model, UpscaleOptions(precision="bf16", compile=False), StandaloneContext("cpu"), sessions)
        again = upscale(image, model, compiled, StandaloneContext("cpu"), sessions)
    assert float(again.image.mean() / image.mean()) == pytest.approx(0.5, rel=1e-3)
