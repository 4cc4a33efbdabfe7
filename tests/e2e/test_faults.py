"""Models that misbehave on purpose, through the real path: the picture is right, and what was done is told.

The model is the bundled one, with something done to its output. The picture is held against ground truth, as the
literature does, and may lose 0.1 dB there to what the healthy model gives in fp32.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from clocks import new_sessions
from compilers import Compilers
from PIL import Image
from spandrel import ImageModelDescriptor
from torch import Tensor

from cudaspeed import compile_cache
from cudaspeed.api.errors import ModelFailedError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.report import UpscaleResult
from cudaspeed.compile_cache import CompileCache
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.models import precision
from cudaspeed.models.loader import DEFAULT_MODEL, load_model, resolve_model
from cudaspeed.pipeline import schedule_maker
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.upscale_engine import upscale

Fault = Callable[[Tensor, Tensor], Tensor]
"""(the model's output [N, 3, 2h, 2w], its input [N, 3, h, w]) -> what it gives instead."""

EXAMPLE = Path(__file__).absolute().parent.parent.parent / "examples" / "chelsea.png"
TILE = 64


@pytest.fixture(scope="module")
def truth() -> Tensor:
    """A photograph, [1, 220, 300, 3], with one white spot to tell a tile by."""
    pixels = np.array(Image.open(EXAMPLE).convert("RGB"))[None, 60:280, 100:400]
    picture = 0.02 + 0.9 * torch.from_numpy(pixels).float() / 255
    picture[:, 60:64, 50:54] = 1.0
    return picture


@pytest.fixture(scope="module")
def small(truth: Tensor) -> Tensor:
    planes = truth.permute(0, 3, 1, 2)
    return torch.nn.functional.interpolate(planes, scale_factor=0.5, mode="area").permute(0, 2, 3, 1).contiguous()


@pytest.fixture
def fp16_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: CPUs emulate fp16, slowly, and with its limits."""
    monkeypatch.setattr(precision, "emulated", lambda precision, device: False)


def model_with(fault: Fault = lambda y, x: y) -> ImageModelDescriptor:
    descriptor = load_model(resolve_model(DEFAULT_MODEL))
    call = descriptor._call_fn
    descriptor._call_fn = lambda module, x: fault(call(module, x), x)
    return descriptor


def run(
    image: Tensor, model: ImageModelDescriptor, asked: str = "fp16", sessions: SessionCache | None = None, **options
) -> UpscaleResult:
    options = {"tile": TILE, "compile": False, "autocast": False, **options}
    return upscale(
        image, model, UpscaleOptions(precision=asked, **options), StandaloneContext("cpu"), sessions or new_sessions()
    )


def psnr(result: UpscaleResult, truth: Tensor) -> float:
    return float(-10 * torch.log10((result.image - truth).square().mean()))


def in_marked_tile(x: Tensor) -> Tensor:
    """[N, 1, 1, 1]: the tiles with the white spot."""
    return (x.amin(dim=1, keepdim=True) > 0.98).amax(dim=(2, 3), keepdim=True)


def where_half(y: Tensor, dtypes: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16)) -> bool:
    return y.dtype in dtypes


def test_nan_in_one_tile_in_fp16_is_computed_again_in_bf16(
    truth: Tensor, small: Tensor, fp16_runs: None, caplog: pytest.LogCaptureFixture
) -> None:
    def fault(y: Tensor, x: Tensor) -> Tensor:
        return torch.where(in_marked_tile(x), torch.nan, y) if y.dtype == torch.float16 else y

    healthy = run(small, model_with(), "fp32")
    with caplog.at_level(logging.WARNING, "cudaspeed"):
        result = run(small, model_with(fault), overlap=8)
    assert psnr(result, truth) > psnr(healthy, truth) - 0.1
    (repair,) = result.report.health.repairs
    assert (repair.fault, repair.before, repair.after) == ("NaN or infinite values", "fp16", "bf16")
    assert result.report.precision == "fp16", "the rest of the picture keeps its speed"
    (line,) = [record.message for record in caplog.records]
    told = f"(the first in frame 0, row {repair.tile[0]}, column {repair.tile[1]})"
    assert line == f"1 tile(s) had NaN or infinite values in fp16 and were computed again in bf16 {told}"


@pytest.mark.parametrize(("first_good", "ahead"), [("bf16", 0), ("fp32", 0), ("fp32", 1)])
def test_overflow_makes_the_run_leave_fp16_for_what_works_and_that_is_remembered(
    truth: Tensor, small: Tensor, fp16_runs: None, first_good: str, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(schedule_maker._AHEAD, "cpu", ahead)  # 1: as on CUDA
    bad = (torch.float16,) if first_good == "bf16" else (torch.float16, torch.bfloat16)
    calls: list[torch.dtype] = []

    def fault(y: Tensor, x: Tensor) -> Tensor:
        calls.append(y.dtype)  # beyond 65504 from where the picture is bright, but for the probe picture's size
        return y * 60000 * 60000 if y.dtype in bad and x.shape[-1] == TILE else y

    healthy, sessions, model = run(small, model_with(), "fp32"), new_sessions(), model_with(fault)
    result = run(small, model, sessions=sessions)
    health = result.report.health
    assert psnr(result, truth) > psnr(healthy, truth) - 0.1
    assert result.report.precision == first_good
    assert health.given_up == "fp16"
    assert 2 <= len(health.repairs) <= 3 * (1 + ahead), "what was in the batch, too"
    assert "the rest was computed without fp16" in result.report.warnings[0]
    calls.clear()
    again = run(small, model, sessions=sessions)
    assert torch.float16 not in calls
    assert not again.report.health.repairs
    told = f"fp16 gave faulty tiles with this model before: {first_good} is used instead"
    assert again.report.warnings == (told,)
    later = run(small, model_with(fault)).report
    assert (later.precision, later.warnings) == (first_good, (told,)), "also in another session"


@pytest.mark.parametrize("fault", [lambda y: 3 * y, lambda y: 255 * y, lambda y: y + 1.6], ids=["x3", "x255", "+1.6"])
@pytest.mark.parametrize("asked", ["fp32", "bf16"])
def test_a_scaled_picture_is_brought_back_by_its_quantiles(
    truth: Tensor, small: Tensor, fault: Callable[[Tensor], Tensor], asked: str
) -> None:
    healthy = run(small, model_with(), asked)
    result = run(small, model_with(lambda y, x: fault(y)), asked)
    assert psnr(result, truth) > psnr(healthy, truth) - 0.1
    assert result.report.health.corrected_frames == (0,)
    assert "the output's range was broken and was corrected by quantiles in frame 0" in result.report.warnings


def test_a_picture_scaled_in_half_precision_only_is_computed_in_fp32(truth: Tensor, small: Tensor) -> None:
    healthy = run(small, model_with(), "fp32")
    result = run(small, model_with(lambda y, x: 3 * y if where_half(y) else y), "bf16")
    assert psnr(result, truth) > psnr(healthy, truth) - 0.1
    assert not result.report.health.corrected_frames
    assert result.report.precision == "fp32"


@pytest.mark.usefixtures("plain_kernels")
@pytest.mark.parametrize(
    "veil", [lambda y: y + 0.3, lambda y: 0.7 * y + 0.15, lambda y: 0 * y], ids=["+", "grey", "black"]
)
def test_a_veil_that_only_the_compiled_model_adds_is_not_in_the_picture(
    truth: Tensor, small: Tensor, veil: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the check of the first tile does not see it, because it comes later."""
    compilers, sessions, model = Compilers(), new_sessions(), model_with()
    monkeypatch.setattr(compile_cache, "load_package", compilers.load)
    compilers.at_once = lambda job: job.succeed()
    sessions.compiles = CompileCache(start=compilers.start)
    compilers.wrong = lambda y: veil(y) if len(compilers.calls) > 1 else y
    healthy = run(small, model, "fp32")
    result = run(small, model, "fp32", sessions, compile=True, compile_mode="wait")
    assert len(compilers.calls) > 1
    assert psnr(result, truth) > psnr(healthy, truth) - 0.1
    assert {(repair.before, repair.after) for repair in result.report.health.repairs} == {("fp32 compiled", "fp32")}
    calls = len(compilers.calls)
    run(small, model, "fp32", sessions, compile=True)
    assert len(compilers.calls) == calls, "it is not asked again"


@pytest.mark.parametrize("asked", ["fp32", "bf16"])
def test_one_wild_pixel_is_filled(truth: Tensor, small: Tensor, asked: str) -> None:
    def fault(y: Tensor, x: Tensor) -> Tensor:
        y = y.clone()
        y[..., 40, 40] = torch.where(in_marked_tile(x)[..., 0, 0], 1e6, y[..., 40, 40])
        return y

    healthy = run(small, model_with(), asked)
    result = run(small, model_with(fault), asked, overlap=8)
    assert psnr(result, truth) > psnr(healthy, truth) - 0.1
    assert float((result.image - healthy.image).abs().max()) < 0.3
    assert result.report.health.wild == 3
    assert "3 values of the output were far from any other and were filled from the input" in result.report.warnings


@pytest.mark.parametrize("value", [0.0, 0.5, 3.0])
def test_a_constant_picture_is_an_error_in_fp32_and_none_where_only_half_gives_it(
    truth: Tensor, small: Tensor, value: float
) -> None:
    with pytest.raises(
        ModelFailedError, match="one and the same value for all of frame 0, in fp32 too; is the model's"
    ):
        run(small, model_with(lambda y, x: torch.full_like(y, value)), "fp32")
    healthy = run(small, model_with(), "fp32")
    result = run(small, model_with(lambda y, x: torch.full_like(y, value) if where_half(y) else y), "bf16")
    assert psnr(result, truth) > psnr(healthy, truth) - 0.1
    assert {repair.fault for repair in result.report.health.repairs} == {"no detail"}


def test_a_model_that_brightens_on_purpose_may(small: Tensor) -> None:
    """It does so in fp32, too; a tile or two tell."""
    in_fp32: list[int] = []

    def brighten(y: Tensor, x: Tensor) -> Tensor:
        if y.dtype == torch.float32 and x.shape[-1] == TILE:
            in_fp32.append(len(x))
        return y.clamp(0, 1) ** 0.4

    sessions, model = new_sessions(), model_with(brighten)
    result = run(small, model, "bf16", sessions)
    assert 1 <= len(in_fp32) <= 3
    assert not result.report.warnings
    assert result.report.precision == "bf16"
    assert float(result.image.mean() - small.mean()) > 0.1
    in_fp32.clear()
    run(small, model, "bf16", sessions)
    assert not in_fp32


def test_memory_that_runs_out_during_a_repair_makes_smaller_tiles(truth: Tensor, small: Tensor) -> None:
    def fault(y: Tensor, x: Tensor) -> Tensor:
        if y.dtype == torch.float32 and x.shape[-1] > TILE:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.where(in_marked_tile(x), torch.nan, y) if where_half(y) else y

    healthy = run(small, model_with(), "fp32")
    result = run(small, model_with(fault), "bf16", tile=0)
    assert psnr(result, truth) > psnr(healthy, truth) - 0.1
    assert max(result.report.tile) < 150
    assert result.report.health.repairs


def test_two_frames_of_a_video_one_of_them_ill(small: Tensor) -> None:
    video = torch.cat([small, small.flip(2), small])
    video[1] = video[1].clamp(0, 0.9)  # no white spot

    healthy = run(video, model_with(), "fp32", batch_size=3)
    result = run(
        video,
        model_with(lambda y, x: torch.where(x.amax(dim=(1, 2, 3), keepdim=True) > 0.91, 3 * y, y)),
        "fp32",
        tile=0,
        batch_size=3,
    )
    assert set(result.report.health.corrected_frames) == {0, 2}
    assert torch.equal(result.image[1], run(video, model_with(), "fp32", tile=0, batch_size=3).image[1])
    assert float((result.image - healthy.image).abs().mean()) < 0.01
