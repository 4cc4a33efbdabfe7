"""The main path: what a picture becomes, whatever its size, channels, tiles and the memory there is."""

from __future__ import annotations

import copy
import gc
import logging
import weakref

import pytest
import torch
import zoo
from clocks import new_sessions
from spandrel import SizeRequirements
from torch import Tensor

from cudaspeed.api.errors import BadImageError, BadModelError, BadOptionError, ModelFailedError, OutOfMemoryError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.report import ImageHealth
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.models.precision import usual_mode
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.upscale_engine import tune, upscale

FP32 = UpscaleOptions(precision="fp32")


def run(image: Tensor, model, options: UpscaleOptions = FP32, context: StandaloneContext | None = None):
    return upscale(image, model, options, context or StandaloneContext("cpu"), new_sessions())


def warm(model, context: StandaloneContext) -> SessionCache:
    """Caches that know the model already, so that the next run calls it for the picture's tiles only."""
    sessions = new_sessions()
    upscale(zoo.photograph(32, 32), model, FP32, context, sessions)
    return sessions


def whole(image: Tensor, model) -> Tensor:
    """spandrel's own answer for a batch of RGB pictures."""
    return model(image.permute(0, 3, 1, 2).clone()).permute(0, 2, 3, 1)


def furthest(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 64), (127, 255), (1000, 31)])
@pytest.mark.parametrize("model", [zoo.compact(), zoo.esrgan(), zoo.swinir()], ids=["Compact", "ESRGAN", "SwinIR"])
def test_whole_and_tiled_equal_spandrels_answer(size: tuple[int, int], model) -> None:
    image = zoo.photograph(*size)
    truth = whole(image, model)
    in_one = run(image, model)
    assert in_one.report.tiles == 1
    assert furthest(in_one.image, truth) <= 1e-5
    tiled = run(image, model, UpscaleOptions(precision="fp32", tile=64))
    assert max(tiled.report.tile) <= 64
    assert tiled.report.tiles > 1 or max(size) <= 64
    assert furthest(tiled.image, truth) <= 1 / 255


def test_span_and_realcugan_which_keep_state_or_need_their_grid_equal_spandrels_answer() -> None:
    image = zoo.photograph(70, 90)
    for model in (zoo.span(), zoo.realcugan()):
        truth = whole(image, copy.deepcopy(model)).clamp(0, 1)
        assert furthest(run(image, model).image, truth) <= 1e-4


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_every_scale(scale: int) -> None:
    image = zoo.photograph(40, 50)
    result = run(image, zoo.toy(scale), UpscaleOptions(precision="fp32", tile=24))
    truth = image.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    assert furthest(result.image, truth) <= 1e-6
    assert result.report.output_size == (40 * scale, 50 * scale)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("model_channels", [1, 3, 4])
def test_every_combination_of_channels_keeps_the_pictures_own(channels: int, model_channels: int) -> None:
    image = zoo.photograph(20, 24, channels)
    result = run(image, zoo.toy(2, channels=model_channels), UpscaleOptions(precision="fp32", tile=16)).image
    assert result.shape == (1, 40, 48, channels)
    colours = {1: 1, 2: 1, 3: 3, 4: 3}[channels]
    truth = image.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert furthest(result[..., :colours], truth[..., :colours]) <= 1e-6
    if channels in (2, 4):  # alpha: the model's or bicubic, close to the input either way
        assert float((result[..., -1] - truth[..., -1]).abs().mean()) < 0.05


def test_a_grey_model_keeps_colour() -> None:
    image = zoo.photograph(40, 40)
    result = run(image, zoo.grey_denoiser()).image
    single = torch.cat([whole(image[..., c : c + 1], zoo.grey_denoiser()) for c in range(3)], -1)
    assert furthest(result, single) <= 1e-5


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_frames_do_not_mix(batch_size: int) -> None:
    video = zoo.photograph(33, 47, frames=7)
    model = zoo.compact()
    result = run(video, model, UpscaleOptions(precision="fp32", tile=32, batch_size=batch_size))
    assert result.image.shape == (7, 66, 94, 3)
    assert furthest(result.image, whole(video, model)) <= 1 / 255
    assert result.report.frames == 7


def test_a_broken_frame_is_mended_alone() -> None:
    video = zoo.photograph(32, 32, frames=3)
    video[1] = 0.5 * video[1]

    def tripled_when_dark(x: Tensor) -> Tensor:
        return torch.where(x.mean((1, 2, 3), keepdim=True) < 0.4, 3 * x + 0.5, x)

    result = run(video, zoo.toy(2, tripled_when_dark))
    truth = video.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert furthest(result.image[[0, 2]], truth[[0, 2]]) == 0
    assert result.report.health.corrected_frames == (1,)
    assert float((result.image[1] - truth[1]).square().mean()) < 1e-3
    assert any("quantiles" in warning for warning in result.report.warnings)


def test_not_finite_output_is_repaired_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    def with_holes(x: Tensor) -> Tensor:
        x = x.clone()
        x[..., 4:8, 4:8] = float("nan")
        x[..., 10, 10] = float("inf")
        return x

    image = zoo.photograph(32, 32)
    with caplog.at_level(logging.WARNING, "cudaspeed"):
        result = run(image, zoo.toy(2, with_holes))
    truth = image.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert result.report.health.non_finite == 3 * 17
    assert "51 values" in caplog.text
    assert furthest(result.image, truth) < 0.3
    assert furthest(result.image[:, 12:], truth[:, 12:]) == 0


def test_a_picture_in_range_comes_through_bit_for_bit() -> None:
    image = zoo.photograph(64, 48)
    result = run(image, zoo.toy(1), UpscaleOptions(precision="fp32", tile=32, overlap=8))
    assert torch.equal(result.image, image)


def test_neither_the_picture_nor_the_model_is_changed() -> None:
    image, model = zoo.photograph(40, 40), zoo.span()
    picture_before, weights_before = image.clone(), copy.deepcopy(model.model.state_dict())
    attributes = set(vars(model.model))
    for options in (FP32, UpscaleOptions(precision="bf16"), UpscaleOptions(precision="bf16", autocast=False)):
        run(image, model, options)
    assert torch.equal(image, picture_before)
    assert set(vars(model.model)) == attributes
    for name, weight in model.model.state_dict().items():
        assert weight.dtype == torch.float32
        assert weight.stride() == weights_before[name].stride()
        assert torch.equal(weight, weights_before[name]), name


def test_a_run_that_came_to_nothing_leaves_the_next_one_s_model_alone() -> None:
    sessions, context = new_sessions(), StandaloneContext("cpu")
    with pytest.raises(BadImageError):
        upscale(torch.zeros(1, 0, 8, 3), zoo.toy(2), FP32, context, sessions)
    never = zoo.toy(2)
    with pytest.raises(BadImageError):
        upscale(torch.zeros(1, 0, 8, 3), never, FP32, context, sessions)
    assert upscale(zoo.photograph(16, 16), zoo.toy(2), FP32, context, sessions).report.frames == 1


def test_a_caller_s_autocast_changes_no_bit() -> None:
    image, model = zoo.photograph(40, 50), zoo.compact()
    alone = run(image, model)
    with torch.autocast("cpu", torch.bfloat16):
        within = run(image, model)
        assert torch.is_autocast_enabled("cpu"), "it is the caller's"
    assert torch.equal(within.image, alone.image)
    assert within.report.precision == "fp32"


def test_our_copy_goes_with_the_callers_model() -> None:
    sessions, model = new_sessions(), zoo.compact()
    upscale(zoo.photograph(16, 16), model, FP32, StandaloneContext("cpu"), sessions)
    mode = usual_mode("fp32", False, model)
    ours = weakref.ref(sessions.runners.get(model, mode).module)
    assert ours() is not None
    gc.collect()  # what building the model left
    gc.disable()  # it has not to wait for it: a device's memory may hang on it
    try:
        del model
        assert ours() is None
    finally:
        gc.enable()


def test_a_model_loaded_under_inference_mode_works_and_can_be_changed_in_place_afterwards() -> None:
    with torch.inference_mode():  # as ComfyUI runs its nodes
        model = zoo.compact()
        image = zoo.photograph(20, 20)
        result = run(image, model)
    result.image.add_(0)
    assert furthest(result.image, whole(image, model)) <= 1e-5


class Short(StandaloneContext):
    """A CPU with a memory error for every forward of more than `most` pixels."""

    def __init__(self, most: int) -> None:
        super().__init__("cpu")
        self.most, self.errors, self.steps = most, 0, []

    def check(self, x: Tensor) -> Tensor:
        if x.shape[0] * x.shape[2] * x.shape[3] > self.most:
            self.errors += 1
            raise torch.OutOfMemoryError("out of memory, as a device would say")
        return x

    def progress(self, done: int, total: int) -> None:
        self.steps.append((done, total))


@pytest.mark.parametrize("options", [FP32, UpscaleOptions(precision="fp32", tile=80, batch_size=3)])
def test_running_out_of_memory_shrinks_the_tiles_and_goes_on(options: UpscaleOptions) -> None:
    context = Short(most=10**9)
    model, video = zoo.toy(2, lambda x: context.check(x)), zoo.photograph(90, 110, frames=3)
    sessions = warm(model, context)
    context.most = 2 * 2 * 40 * 40
    result = upscale(video, model, options, context, sessions)
    assert context.errors > 0
    assert result.report.tile[0] * result.report.tile[1] * 4 <= context.most
    assert furthest(result.image, video.repeat_interleave(2, 1).repeat_interleave(2, 2)) <= 1e-6
    done, total = context.steps[-1]
    assert done == total


def test_finished_frames_are_kept_when_memory_runs_out() -> None:
    context = Short(most=10**9)
    seen: list[int] = []

    def shrinking(x: Tensor) -> Tensor:
        seen.append(x.shape[-1])
        if len(seen) == 4:  # the first frames went well; then another program takes the memory
            context.most = 2 * 2 * 30 * 30
        return context.check(x)

    model, video = zoo.toy(2, shrinking), zoo.photograph(60, 60, frames=5)
    sessions = warm(model, context)
    seen.clear()
    result = upscale(video, model, FP32, context, sessions)
    assert seen.count(120) <= 5, "frames that were done were computed again"
    assert furthest(result.image, video.repeat_interleave(2, 1).repeat_interleave(2, 2)) <= 1e-6


def test_memory_too_short_for_anything_is_one_clear_error() -> None:
    context = Short(most=10**9)
    model = zoo.toy(2, lambda x: context.check(x))
    sessions = warm(model, context)
    context.most = 1
    for known in (sessions, new_sessions()):
        with pytest.raises(OutOfMemoryError, match=r"too little memory even for (one|the model).*smaller model"):
            upscale(zoo.photograph(64, 64), model, FP32, context, known)


def test_a_result_larger_than_main_memory_is_refused_before_any_work() -> None:
    calls: list[int] = []
    model = zoo.toy(8, lambda x: calls.append(1) or x)
    sessions = warm(model, StandaloneContext("cpu"))
    calls.clear()
    frames = torch.zeros(1, 2, 2, 3).expand(400_000_000, 2, 2, 3)  # a view: takes no memory itself
    with pytest.raises(OutOfMemoryError, match=r"GiB of memory and .* GiB are free; upscale fewer frames"):
        upscale(frames, model, FP32, StandaloneContext("cpu"), sessions)
    assert not calls


class Interrupted(BaseException):
    """What ComfyUI raises is no Exception either."""


class InterruptedOfOld(Exception):  # noqa: N818
    """What ComfyUI 0.8 raises is one."""


@pytest.mark.parametrize("interrupt", [Interrupted, InterruptedOfOld])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_interrupt_is_noticed_before_every_tile_batch(interrupt: type[BaseException], precision: str) -> None:
    class Impatient(StandaloneContext):
        asked = 0

        def raise_if_interrupted(self) -> None:
            self.asked += 1
            if self.asked == 3:
                raise interrupt

    calls: list[int] = []
    model = zoo.toy(2, lambda x: calls.append(1) or x)
    options, sessions = UpscaleOptions(precision=precision, tile=32), new_sessions()
    upscale(zoo.photograph(32, 32), model, options, StandaloneContext("cpu"), sessions)
    calls.clear()
    with pytest.raises(interrupt):
        upscale(zoo.photograph(100, 100), model, options, Impatient("cpu"), sessions)
    assert len(calls) == 2


def test_progress_reaches_every_tile() -> None:
    steps: list[tuple[int, int]] = []
    context = StandaloneContext("cpu", lambda done, total: steps.append((done, total)))
    report = run(zoo.photograph(70, 70, frames=2), zoo.toy(), UpscaleOptions(precision="fp32", tile=32), context).report
    totals = {total for _, total in steps}
    assert totals == {report.tiles}
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})
    assert steps[-1][0] == report.tiles


def test_levels_choose_their_tiles() -> None:
    image = zoo.photograph(300, 300)
    tiles = {level: run(image, zoo.toy(), UpscaleOptions("fp32", level=level)).report for level in ("speed", "memory")}
    assert tiles["speed"].tiles == 1
    assert max(tiles["memory"].tile) <= 128
    assert tiles["memory"].tiles > 1


def test_size_requirements_are_met_by_every_tile() -> None:
    shapes: set[tuple[int, int]] = set()

    def note(x: Tensor) -> Tensor:
        shapes.add((x.shape[2] // 2, x.shape[3] // 2))
        return x

    for size in (SizeRequirements(minimum=16, multiple_of=8), SizeRequirements(multiple_of=32, square=True)):
        model, image = zoo.toy(2, note, size=size), zoo.photograph(75, 133)
        sessions = warm(model, StandaloneContext("cpu"))
        shapes.clear()
        options = UpscaleOptions(precision="fp32", tile=64, overlap=16)
        result = upscale(image, model, options, StandaloneContext("cpu"), sessions)
        assert len(shapes) == 1, "one tile shape per run"
        height, width = shapes.pop()
        assert height % size.multiple_of == 0
        assert width % size.multiple_of == 0
        assert not size.square or height == width
        assert furthest(result.image, image.repeat_interleave(2, 1).repeat_interleave(2, 2)) <= 1e-6


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (torch.zeros(3, 8, 8), r"shape \(3, 8, 8\); \[batch, height, width, channels\]"),
        (torch.zeros(1, 0, 8, 3), "no pixels"),
        (torch.zeros(1, 8, 0, 3), "no pixels"),
        (torch.zeros(0, 8, 0, 3), "no pixels"),
        (torch.zeros(0, 8, 8, 0), "0 channels"),
        (torch.zeros(0, 8, 8, 3, dtype=torch.uint8), "torch.uint8; floats from 0 to 1"),
        (torch.zeros(1, 8, 8, 5), "5 channels"),
        (torch.full((1, 8, 8, 3), 200.0), "values from 200 to 200; the range is 0 to 1"),
        ([[0.5]], "the image is a list"),
        (torch.zeros(1, 8, 8, 3, dtype=torch.uint8), "torch.uint8; floats from 0 to 1"),
        (torch.full((2, 8, 8, 3), float("nan")), "192 values of frame 0 are NaN or infinite"),
    ],
)
def test_bad_pictures_are_named(image: Tensor, says: str) -> None:
    with pytest.raises(BadImageError, match=says):
        run(image, zoo.toy())


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_batch_without_frames_comes_back_as_one_and_no_model_runs(channels: int, dtype: torch.dtype) -> None:
    """As ComfyUI's own node passes it on."""
    calls: list[int] = []
    model = zoo.toy(2, lambda x: calls.append(1) or x)
    for options in (
        FP32,
        UpscaleOptions(),
        UpscaleOptions(tiling_mode="wrap", alpha_mode="model", compile_mode="wait"),
    ):
        result = run(torch.zeros(0, 30, 50_000, channels, dtype=dtype), model, options)
        assert (result.image.shape, result.image.dtype) == ((0, 60, 100_000, channels), torch.float32)
        report = result.report
        assert (report.frames, report.tiles, report.output_size) == (0, 0, (60, 100_000))
        assert report.warnings == ("the batch has no frames: there was nothing to upscale, and the result has none",)
        assert report.compiling == "not needed: no frames"
    assert not calls


def test_bad_models_and_options_are_named() -> None:
    image = zoo.photograph(64, 64)
    with pytest.raises(BadModelError, match="Linear"):
        run(image, torch.nn.Linear(1, 1))
    with pytest.raises(BadModelError, match="takes 5 and gives 5 channels"):
        run(image, zoo.toy(channels=5))
    with pytest.raises(BadOptionError, match=r"tile size is 8; .* at least 16"):
        run(image, zoo.swinir(), UpscaleOptions(precision="fp32", tile=8))
    with pytest.raises(BadOptionError, match="overlap is 64 and tile size 32"):
        run(image, zoo.compact(), UpscaleOptions(precision="fp32", tile=32, overlap=64))
    with pytest.raises(BadOptionError, match="tile size is 4096; choose a whole number from 0 to 2048"):
        UpscaleOptions(tile=4096)
    with pytest.raises(BadOptionError, match="precision is 'fp8'"):
        UpscaleOptions(precision="fp8")


def test_the_report_tells_what_was_done() -> None:
    report = run(zoo.photograph(100, 60), zoo.compact(), UpscaleOptions(precision="bf16", tile=64, overlap=8)).report
    assert (report.scale, report.input_size, report.output_size) == (2, (100, 60), (200, 120))
    assert report.precision == "bf16"
    assert report.autocast
    assert min(report.overlap[0], 8) == 8
    assert report.overlap[1] == 0  # one tile across
    assert report.tiles == 2
    assert report.peak_bytes > 0
    assert report.seconds > 0
    assert not report.warnings


def test_half_precision_that_fails_on_the_picture_gives_way_to_fp32() -> None:
    def fails_on_large(x: Tensor) -> Tensor:
        if x.dtype != torch.float32 and x.shape[-1] > 200:
            raise RuntimeError("expected both to have the same dtype")
        return x

    image, model = zoo.photograph(120, 130), zoo.toy(2, fails_on_large)
    sessions = new_sessions()
    options = UpscaleOptions(precision="bf16", autocast=False)
    for told in ("half precision failed on a picture and fp32 is used", "bf16 failed on a picture"):  # it is remembered
        result = upscale(image, model, options, StandaloneContext("cpu"), sessions)
        assert result.report.precision == "fp32"
        assert told in result.report.warnings[0]
        assert furthest(result.image, image.repeat_interleave(2, 1).repeat_interleave(2, 2)) <= 1e-6


def test_nothing_but_nan_in_half_precision_gives_way_to_fp32_and_in_fp32_is_an_error() -> None:
    def overflows(x: Tensor) -> Tensor:
        return x * float("nan") if x.dtype != torch.float32 and x.shape[-1] > 200 else x

    image = zoo.photograph(120, 130)
    sessions, model = new_sessions(), zoo.toy(2, overflows)
    for precision in ("bf16", "fp32"):  # the second time the whole run
        options = UpscaleOptions(precision="bf16", autocast=False)
        result = upscale(image, model, options, StandaloneContext("cpu"), sessions)
        assert len(result.report.health.repairs) == 1
        assert result.report.health.non_finite == 0
        assert result.report.precision == precision
    assert not upscale(image, model, options, StandaloneContext("cpu"), sessions).report.health.repairs
    with pytest.raises(
        ModelFailedError, match=r"of the 187200 values .* are NaN or infinite, in fp32 too; is the model's file"
    ):
        run(image, zoo.toy(2, lambda x: x * float("nan")))


def test_a_model_that_takes_one_picture_at_a_time_gets_one_at_a_time() -> None:
    def alone(x: Tensor) -> Tensor:
        if x.shape[0] > 1:
            raise RuntimeError("routed by the picture: the size of tensor a must match")
        return x

    video = zoo.photograph(48, 48, frames=4)
    report = run(video, zoo.toy(2, alone), UpscaleOptions(precision="fp32", batch_size=4)).report
    assert report.batch == 1
    assert report.precision == "fp32"


def test_a_window_model_at_the_size_of_the_try_and_at_others() -> None:
    """SwinIR makes its mask in fp32 at any size but the one it was trained at, and then fails in bare bfloat16."""
    for side in (16, 32, 40):
        result = run(zoo.photograph(side, side), zoo.swinir(), UpscaleOptions(precision="bf16", autocast=False))
        assert result.image.shape == (1, 2 * side, 2 * side, 3)


def test_a_model_that_writes_into_what_it_is_given_does_not_write_into_ours() -> None:
    image, model = zoo.photograph(60, 70), zoo.toy()
    call = model._call_fn
    model._call_fn = lambda module, x: call(module, x.mul_(255)) / 255
    for precision in ("fp32", "bf16"):
        result = run(image, model, UpscaleOptions(precision, tile=32))
        assert furthest(result.image, image.repeat_interleave(2, 1).repeat_interleave(2, 2)) <= 1e-2
        assert result.report.health == ImageHealth()


def test_weights_changed_in_place_are_noticed() -> None:
    image, model, sessions = zoo.photograph(24, 24), zoo.compact(), new_sessions()
    upscale(image, model, FP32, StandaloneContext("cpu"), sessions)
    with torch.no_grad():
        for weight in model.model.parameters():
            weight.mul_(1.5)
    result = upscale(image, model, FP32, StandaloneContext("cpu"), sessions)
    assert furthest(result.image, whole(image, model)) <= 1e-5


def test_tiles_too_small_for_their_overlap_are_told() -> None:
    far, options = zoo.toy(1, lambda x: (x + x.roll(5, dims=3)) / 2), UpscaleOptions(precision="fp32", tile=16)
    tune(far, (60, 60), options, StandaloneContext("cpu"), new_sessions())
    report = run(zoo.photograph(60, 60), far, options).report
    assert "tiles of 16x16 leave room for an overlap of only 8 pixels where 13 suit" in report.warnings[0]
    asked = run(zoo.photograph(60, 60), far, UpscaleOptions(precision="fp32", tile=32, overlap=8)).report
    assert not asked.warnings


def test_little_free_memory_does_not_make_tiles_of_nothing_but_overlap() -> None:
    context = StandaloneContext("cpu")
    context.free_bytes = lambda: 0  # type: ignore[method-assign]
    image, model = zoo.photograph(150, 150), zoo.compact()
    result = run(image, model, FP32, context)
    assert min(result.report.tile) >= 48
    assert furthest(result.image, whole(image, model)) <= 1 / 255


@pytest.mark.parametrize("unshuffle", [zoo.rcan_unshuffle, zoo.fdat])
def test_tiles_start_where_a_models_blocks_start(unshuffle) -> None:
    image, model = zoo.photograph(121, 173), unshuffle()
    tiled = run(image, model, UpscaleOptions(precision="fp32", tile=80, overlap=32))
    difference = (tiled.image - whole(image, model)).abs()[:, 16:-64, 16:-64]
    assert float((difference > 2 / 255).float().mean()) < 0.01


def test_a_model_that_fails_on_a_picture_says_which_tile_and_why() -> None:
    def picky(x: Tensor) -> Tensor:
        if x.shape[-1] > 200:
            raise ValueError("cannot reshape")
        return x

    with pytest.raises(
        ModelFailedError, match=r"fails on 1 tile\(s\) of 130x120 \(cannot reshape\); choose another tile"
    ):
        run(zoo.photograph(120, 130), zoo.toy(2, picky))
