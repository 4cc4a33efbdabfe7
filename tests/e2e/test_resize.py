"""Results in the size that is wanted: what the model made, resized; however it was tiled, and wherever it was made."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import zoo
from clocks import new_sessions
from lagging import LaggingDevice
from torch import Tensor

from cudaspeed.api.errors import BrokenOutputError, ModelFailedError, OutOfMemoryError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.report import UpscaleResult
from cudaspeed.api.resize import MODELS_SIZE, Resample, Resize
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.images.alpha import premultiplied
from cudaspeed.pipeline import output, schedule_maker, session
from cudaspeed.pipeline import run as pipeline
from cudaspeed.pipeline.relay import RelaySink
from cudaspeed.storage.fingerprint import describe_environment
from cudaspeed.tiling.fit import Resampling, Sampling
from cudaspeed.tiling.resample import Resampler
from cudaspeed.upscale_engine import upscale


def run(
    image: Tensor,
    model: Any,
    resize: Resize = MODELS_SIZE,
    context: StandaloneContext | None = None,
    **options: Any,
) -> UpscaleResult:
    asked = UpscaleOptions(**{"precision": "fp32", "resize": resize, **options})
    return upscale(image, model, asked, context or StandaloneContext("cpu"), new_sessions())


def resized(frames: Tensor, size: tuple[int, int], resample: Resample = "lanczos") -> Tensor:
    """All `frames` [B, H, W, C] made `size`, after the model, by the filter alone."""
    rows, columns = (Sampling(have, want, 0, want) for have, want in zip(frames.shape[1:3], size, strict=True))
    resampler = Resampler(Resampling(rows, columns, resample), torch.device("cpu"))
    made = [torch.cat([new for _, new in resampler.begin().add(frame)]) for frame in frames]
    return torch.stack(made).clamp(0, 1)


def furthest(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


@pytest.fixture(params=["at once", "streams"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Everything is done at once, as on a CPU, or on a device that works on its own, and late."""
    if request.param == "streams":
        device = LaggingDevice()
        monkeypatch.setattr(session, "stream_device", lambda _: device)
        monkeypatch.setattr(schedule_maker, "_AHEAD", {"cpu": 1})
    yield request.param


# the model's result, resized


@pytest.mark.parametrize("options", [{}, {"tile": 32}, {"tile": 32, "batch_size": 3}], ids=["whole", "tiles", "batch"])
@pytest.mark.parametrize("size", [(64, 80), (33, 41), (130, 170), (1, 1), (128, 7)])
def test_it_is_the_models_result_resized(size: tuple[int, int], options: dict[str, Any], way: str) -> None:
    video, model = zoo.photograph(64, 80, frames=3), zoo.compact(2)
    truth = resized(run(video, model, **options).image, size)
    result = run(video, model, Resize(height=size[0], width=size[1]), **options)
    assert furthest(result.image, truth) <= 1e-5
    assert result.report.output_size == size
    assert result.report.sizes == f"80x64, model 160x128, lanczos {size[1]}x{size[0]}"
    assert result.report.passes == 1
    assert not result.report.warnings


@pytest.mark.parametrize("resample", ["area", "bicubic", "lanczos"])
def test_each_filter(resample: Resample) -> None:
    image, model = zoo.photograph(40, 50), zoo.compact(4)
    truth = resized(run(image, model).image, (60, 75), resample)
    assert furthest(run(image, model, Resize(scale_by=1.5, resample=resample)).image, truth) <= 1e-5


def test_no_size_and_the_models_own_are_bit_for_bit_as_without(way: str) -> None:
    image, model = zoo.photograph(50, 61), zoo.compact(2)
    truth = run(image, model, tile=32)
    for resize in (Resize(fit="pad", resample="area"), Resize(scale_by=2), Resize(width=122), Resize(height=100)):
        result = run(image, model, resize, tile=32)
        assert torch.equal(result.image, truth.image)
        assert result.report.sizes == "61x50, model 122x100"


def test_a_crop_and_a_pad_are_made_of_the_whole(way: str) -> None:
    image, model = 0.25 + 0.5 * zoo.photograph(40, 60), zoo.toy(2)
    whole = resized(run(image, model).image, (50, 75))
    cropped = run(image, model, Resize(width=50, height=50, fit="crop"), tile=32).image
    assert furthest(cropped, whole[:, :, 12:62]) <= 1e-5
    padded = run(image, model, Resize(width=75, height=90, fit="pad"), tile=32).image
    assert furthest(padded[:, 20:70], whole) <= 1e-5
    assert not padded[:, :20].any()
    assert not padded[:, 70:].any()


def test_the_report_tells_what_is_cut_and_what_is_padded() -> None:
    image, model = zoo.photograph(20, 24), zoo.toy(2)
    assert run(image, model, Resize(width=40, height=40, fit="crop")).report.sizes == "24x20, model 48x40, cut 40x40"
    assert run(image, model, Resize(width=48, height=48, fit="pad")).report.sizes == "24x20, model 48x40, padded 48x48"


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("model_channels", [1, 3, 4])
@pytest.mark.parametrize("alpha_mode", ["model", "lanczos"])
def test_every_combination_of_channels(channels: int, model_channels: int, alpha_mode: str, way: str) -> None:
    image, model = zoo.photograph(24, 30, channels, frames=2), zoo.toy(2, channels=model_channels)
    large = run(image, model, alpha_mode=alpha_mode, tile=16).image
    if channels in (2, 4):
        small = resized(premultiplied(large), (31, 40), "area")
        truth = torch.cat([small[..., :-1] / small[..., -1:], small[..., -1:]], -1)
    else:
        truth = resized(large, (31, 40), "area")
    asked = Resize(width=40, height=31, resample="area")
    assert furthest(run(image, model, asked, alpha_mode=alpha_mode, tile=16).image, truth) <= 1e-5


def test_what_is_transparent_does_not_reach_over_an_edge() -> None:
    """A white disc on nothing that is black: it has no dark fringe, and what is opaque stays exactly so."""
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    inside = ((y - 24) ** 2 + (x - 24) ** 2 < 15**2).float()[None, ..., None]
    image = inside.expand(-1, -1, -1, 4)
    for resample in ("area", "bicubic", "lanczos"):
        result = run(image, zoo.toy(2), Resize(scale_by=0.7, resample=resample)).image
        visible = result[..., -1] > 0.05
        assert float(result[..., :3][visible].min()) >= 0.99
        assert float(result[0, 17, 17, 3]) == 1
        assert float(result[0, 0, 0, 3]) == 0


def test_a_padded_picture_with_alpha_is_clear_around() -> None:
    result = run(torch.ones(1, 10, 20, 4), zoo.toy(2), Resize(width=40, height=40, fit="pad")).image
    assert torch.equal(result[0, :, :, 3], torch.cat([torch.zeros(10, 40), torch.ones(20, 40), torch.zeros(10, 40)]))


@pytest.mark.parametrize("resample", ["area", "lanczos"])
def test_a_seamless_texture_stays_seamless(resample: Resample) -> None:
    ends = torch.linspace(0, 2 * torch.pi, 33)[:-1]
    image = (0.5 + 0.4 * torch.sin(ends)[:, None] * torch.cos(3 * ends))[None, ..., None].repeat(1, 1, 1, 3)
    for factor in (1.5, 3):  # the second takes two runs of the model
        asked = Resize(scale_by=factor, resample=resample)
        results = [
            run(rolled, zoo.compact(2), asked, tiling_mode="wrap").image
            for rolled in (image, image.roll((16, 16), (1, 2)))
        ]
        half = int(16 * factor)
        assert furthest(results[1], results[0].roll((half, half), (1, 2))) <= 1e-3


def test_overshoot_stays_within_a_pictures_range() -> None:
    image = (torch.arange(40) % 8 < 4).float()[None, :, None, None].expand(1, 40, 40, 3)
    for resample in ("bicubic", "lanczos"):
        result = run(image, zoo.toy(2), Resize(scale_by=1.3, resample=resample)).image
        assert (float(result.min()), float(result.max())) == (0, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_result_has_the_hosts_type(dtype: torch.dtype) -> None:
    context = StandaloneContext("cpu")
    context.output_dtype = dtype
    for factor in (0.5, 1.5, 3):
        result = run(zoo.photograph(20, 20), zoo.toy(2), Resize(scale_by=factor), context).image
        assert (result.dtype, result.shape) == (dtype, (1, 20 * factor, 20 * factor, 3))


def test_faulty_frames_are_mended_in_the_models_size_first(way: str) -> None:
    def with_holes(x: Tensor) -> Tensor:
        return torch.where((x > 0.995) & (x.shape[-1] > 40), torch.nan, x)

    video = 0.9 * zoo.photograph(40, 50, frames=3)
    video[1, 2:6, 2:6] = 1.0
    plain = run(video, zoo.toy(2, with_holes), tile=32)
    small = run(video, zoo.toy(2, with_holes), Resize(scale_by=1), tile=32)
    assert plain.report.health.non_finite
    assert small.report.health == plain.report.health
    assert furthest(small.image, resized(plain.image, (40, 50))) <= 1e-5


def test_memory_that_runs_out_costs_no_frame() -> None:
    seen: list[int] = []

    def short(x: Tensor) -> Tensor:
        seen.append(x.shape[-1])
        if x.shape[-1] == 120 and seen.count(120) >= 4:
            raise torch.OutOfMemoryError("out of memory, as a device would say")
        return x

    video = zoo.photograph(60, 60, frames=5)
    result = run(video, zoo.toy(2, short), Resize(scale_by=1, resample="area"))
    assert any("memory ran out" in note for note in result.report.notes)
    assert furthest(result.image, video) <= 1e-6


# memory


def test_no_more_than_the_result_is_ever_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []
    allocate = output.torch.empty

    def noted(*shape: Any, **more: Any) -> Tensor:
        if str(more.get("device")) != "meta":  # where memory is only counted
            asked.append(shape if isinstance(shape[0], int) else tuple(shape[0]))
        return allocate(*shape, **more)

    monkeypatch.setattr(torch, "empty", noted)
    result = run(zoo.photograph(32, 40, frames=4), zoo.toy(4), Resize(scale_by=2))
    assert result.image.shape == (4, 64, 80, 3)
    assert (4, 64, 80, 3) in asked
    assert not [shape for shape in asked if math.prod(shape) >= 4 * 128 * 160 * 3]


@pytest.mark.parametrize("target", [{"width": 100_000}, {"width": 100_000, "height": 100_000}])
def test_a_target_that_no_memory_holds_is_refused_before_any_work(target: dict[str, int]) -> None:
    calls: list[int] = []
    model = zoo.toy(4, lambda x: calls.append(1) or x)
    context = StandaloneContext("cpu")
    size = r"the result, 1 frame\(s\) of 100000x\d+, takes 1\d\d\.\d\d GiB of memory"
    with pytest.raises(OutOfMemoryError, match=size + r".* GiB are free; .*scale_by, or a target's width and height"):
        run(zoo.photograph(60, 60), model, Resize(**target), context)
    assert not calls


@pytest.mark.parametrize("factor", [1.5, 3])
def test_a_lack_of_memory_for_the_filter_is_told_as_that(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: Any) -> Resampler:
        raise torch.OutOfMemoryError("out of memory, as a device would say")

    monkeypatch.setattr(pipeline, "Resampler", short)
    with pytest.raises(OutOfMemoryError, match="too little memory even for the weights that make results the size"):
        run(zoo.photograph(20, 24), zoo.toy(2), Resize(scale_by=factor))


def test_a_result_that_does_not_fit_fits_when_it_is_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    image, model = zoo.photograph(300, 400), zoo.toy(4)
    free = 12_000_000  # the x4 result alone takes 23 MB
    monkeypatch.setattr(output, "free_host_bytes", lambda: free)
    with pytest.raises(OutOfMemoryError):
        run(image, model)
    assert run(image, model, Resize(scale_by=2)).image.shape == (1, 600, 800, 3)


# the model, again


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("options", [{}, {"tile": 32}], ids=["whole", "tiles"])
def test_twice_the_model_is_upscaling_twice_bit_for_bit(
    options: dict[str, Any], channels: int, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cudaspeed")
    video, model = zoo.photograph(40, 52, channels, frames=3), zoo.compact(2)
    truth = run(run(video, model, **options).image, model, **options)
    result = run(video, model, Resize(scale_by=4), **options)
    assert torch.equal(result.image, truth.image)
    report = result.report
    assert (report.passes, report.input_size, report.output_size) == (2, (40, 52), (160, 208))
    assert report.sizes == "52x40, model 104x80, model 208x160"
    assert not report.warnings
    assert f"the model ran 2 times: {report.sizes}" in caplog.messages


@pytest.mark.parametrize("alpha_mode", ["model", "auto"])
def test_alpha_is_treated_alike_in_every_run_whatever_the_first_frame_is(alpha_mode: str) -> None:
    video = zoo.photograph(32, 32, 4, frames=2)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    video[0, ..., 3], video[1, ..., 3] = 1, ((y - 16) ** 2 + (x - 16) ** 2 < 60).float()
    asked, model = Resize(scale_by=4), zoo.toy(2)
    result = run(video, model, asked, alpha_mode=alpha_mode).image
    assert torch.equal(result[1:], run(video[1:], model, asked, alpha_mode=alpha_mode).image)


def test_the_last_run_gives_what_is_wanted() -> None:
    """x3 of an x2 model: the picture in between is 1.5 times as large, and what comes of it is not touched."""
    image, model = zoo.photograph(40, 52), zoo.compact(2)
    between = resized(run(image, model).image, (60, 78))
    result = run(image, model, Resize(scale_by=3))
    assert furthest(result.image, run(between, model).image) <= 1e-5
    assert result.report.sizes == "52x40, model 104x80, lanczos 78x60, model 156x120"
    odd = run(image, model, Resize(width=157, height=121))
    assert odd.image.shape == (1, 121, 157, 3)
    assert odd.report.sizes == "52x40, model 104x80, lanczos 79x61, model 158x122, cut 157x121"


def test_of_the_frames_between_two_runs_few_are_there_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    most: list[int] = []
    frame = RelaySink.frame

    def noted(self: RelaySink, index: int) -> Tensor:
        found = frame(self, index)
        most.append(len(self.frames))
        return found

    monkeypatch.setattr(RelaySink, "frame", noted)
    for batch_size in (1, 3):
        most.clear()
        run(zoo.photograph(20, 24, frames=12), zoo.toy(2), Resize(scale_by=4), batch_size=batch_size)
        assert max(most) <= 2 * batch_size


def test_all_that_a_run_computed_counts_as_work() -> None:
    model, context, sessions = zoo.toy(2), StandaloneContext("cpu"), new_sessions()
    options = UpscaleOptions(precision="fp32", resize=Resize(scale_by=4))
    upscale(zoo.photograph(20, 24, frames=3), model, options, context, sessions)
    account = sessions.profile(model, context).account(describe_environment(context.device)["hardware"])
    assert account.work_pixels == 3 * (20 * 24 + 40 * 48)


def test_progress_never_runs_backwards_and_comes_to_its_end_once() -> None:
    steps: list[tuple[float, int]] = []
    context = StandaloneContext("cpu", lambda done, total: steps.append((done, total)))
    run(zoo.photograph(40, 40, frames=3), zoo.toy(2), Resize(scale_by=8), context, tile=32)
    shares = [done / total for done, total in steps]
    assert shares == sorted(shares)
    assert len({total for _, total in steps}) == 1
    assert [done == total for done, total in steps].index(True) == len(steps) - 1
    assert len(steps) > 10


def test_an_interrupt_between_two_runs_leaves_nothing_behind() -> None:
    class Interrupted(BaseException):
        """What ComfyUI raises is no Exception either."""

    class Impatient(StandaloneContext):
        asked = 0

        def raise_if_interrupted(self) -> None:
            self.asked += 1
            if self.asked == 5:
                raise Interrupted

    made: list[weakref.ref[Tensor]] = []

    def noted(x: Tensor) -> Tensor:
        made.append(weakref.ref(x))
        return x

    with pytest.raises(Interrupted):
        run(zoo.photograph(30, 30, frames=6), zoo.toy(2, noted), Resize(scale_by=4), Impatient("cpu"))
    assert made
    assert not [result for result in made if result() is not None]


def test_a_model_that_fails_in_either_run_says_so_and_is_tried_no_more_often_than_in_one() -> None:
    def picky(side: int, calls: list[int]) -> Callable[[Tensor], Tensor]:
        def change(x: Tensor) -> Tensor:
            if x.shape[-1] == side:
                calls.append(1)
                raise ValueError("cannot reshape")
            return x

        return change

    counts = []
    for side, factor in ((80, 2), (80, 4), (160, 4)):
        calls: list[int] = []
        with pytest.raises(ModelFailedError, match=r"fails on 1 tile\(s\) of .* \(cannot reshape\)"):
            run(zoo.photograph(40, 40), zoo.toy(2, picky(side, calls)), Resize(scale_by=factor))
        counts.append(len(calls))
    assert len(set(counts)) == 1


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("factor", [2, 4])
def test_what_is_no_picture_is_told_as_that_in_either_run(factor: int, channels: int) -> None:
    with pytest.raises(BrokenOutputError, match="are NaN or infinite, in fp32 too"):
        run(zoo.photograph(40, 48, channels), zoo.toy(2, lambda x: x * torch.nan), Resize(scale_by=factor))


def test_no_frames_stay_none_in_the_size_that_is_wanted() -> None:
    result = run(torch.zeros(0, 30, 40, 3), zoo.toy(2), Resize(width=100, height=7))
    assert result.image.shape == (0, 7, 100, 3)
    assert result.report.output_size == (7, 100)
