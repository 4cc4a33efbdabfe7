"""What only a CUDA device can show. Skipped without one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import zoo
from torch import Tensor

from cudaspeed.api.context import Switches
from cudaspeed.api.errors import ModelFailedError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.kernels.attention_fusion import attend
from cudaspeed.memory import measure_cost, working_bytes
from cudaspeed.models.execution import DTYPES
from cudaspeed.models.info import model_info
from cudaspeed.models.loader import load_model
from cudaspeed.models.precision import usual_mode
from cudaspeed.models.runner import ModelRunner
from cudaspeed.pipeline import output, schedule_maker
from cudaspeed.pipeline.download import StreamDownload
from cudaspeed.pipeline.modes import place_of
from cudaspeed.pipeline.offload import OffloadedWeights
from cudaspeed.pipeline.residency import bring
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.pipeline.streams import CudaStream
from cudaspeed.upscale_engine import tune, upscale

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def run(image: Tensor, model, **options):
    return upscale(image, model, UpscaleOptions(**options), StandaloneContext("cuda"), SessionCache())


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


@pytest.fixture
def truth():
    def on_cpu(image: Tensor, model) -> Tensor:
        return upscale(image, model, UpscaleOptions(precision="fp32"), StandaloneContext("cpu"), SessionCache()).image

    return on_cpu


@pytest.mark.parametrize("model", [zoo.compact(4), zoo.esrgan(), zoo.swinir()], ids=["Compact", "ESRGAN", "SwinIR"])
@pytest.mark.parametrize("tile", [0, 64])
def test_fp32_equals_the_cpus(model, tile: int, truth) -> None:
    video = zoo.photograph(150, 131, frames=3)
    result = run(video, model, precision="fp32", tile=tile, batch_size=2).image
    assert result.device.type == "cpu"
    assert float((result - truth(video, model)).abs().max()) <= 2 / 255  # TF32 convolutions, where torch allows them


@pytest.mark.parametrize("precision", ["auto", "fp16", "bf16"])
@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_stays_close(precision: str, autocast: bool, truth) -> None:
    image, model = zoo.photograph(120, 140), zoo.compact(4)
    result = run(image, model, precision=precision, autocast=autocast, tile=64)
    assert result.report.precision != "fp32"
    assert psnr(result.image, truth(image, model)) >= 45


def enlarged(image: Tensor) -> Tensor:
    return image.repeat_interleave(2, 1).repeat_interleave(2, 2)


class Small(StandaloneContext):
    """A device that has no room for weights that are not computed with."""

    switches = Switches(weights_stay=False)


@pytest.mark.parametrize("options", [{}, {"tile": 64}, {"precision": "fp16"}, {"batch_size": 3, "tile": 48}], ids=str)
@pytest.mark.parametrize("make", [zoo.deep, zoo.swinir, zoo.rcan_unshuffle, zoo.span], ids=lambda make: make.__name__)
def test_weights_that_come_block_by_block_give_the_same_bits(make, options: dict) -> None:
    video = zoo.photograph(150, 131, frames=3)
    options = UpscaleOptions(**{"precision": "fp32", "compile": False, "tile": 96, "reproducible": True, **options})
    graphless = StandaloneContext("cuda")
    graphless.switches = Switches(cuda_graphs=False)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        whole = upscale(video, make(), options, graphless, SessionCache())
        found = upscale(video, make(), options, Small("cuda"), SessionCache())
    assert any("layer by layer" in note for note in found.report.notes)
    assert torch.equal(found.image, whole.image)


def test_weights_come_block_by_block_where_they_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.deep()
    context = StandaloneContext("cuda")
    brought = ModelRunner(model, usual_mode("fp32", False, model))
    least = 1 << 20
    monkeypatch.setattr(context, "room_beside", lambda model, needed: least + brought.bytes // 2)
    bring(context, brought, least)
    before = torch.cuda.memory_allocated()
    y = brought.forward(torch.rand(1, 3, 64, 64, device="cuda"))
    del y
    assert isinstance(brought.offload, OffloadedWeights)
    assert brought.offload.held_bytes <= brought.bytes // 2
    assert torch.cuda.memory_allocated() <= before + brought.offload.held_bytes
    assert all(block.memory.is_pinned() for block in brought.offload._blocks)


WAYS_OUT = pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "pageable"])


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tensor], Tensor]:
    """A device whose copies are late; what it gives makes a model's results late, too. What is read too early is then
    wrong for certain."""
    copy = CudaStream.copy

    def slowly(stream: CudaStream, target: Tensor, source: Tensor) -> None:
        with stream.active():
            torch.cuda._sleep(3_000_000)
        copy(stream, target, source)

    def compute(y: Tensor) -> Tensor:
        torch.cuda._sleep(6_000_000)
        return y * 1

    monkeypatch.setattr(CudaStream, "copy", slowly)
    return compute


@WAYS_OUT
@pytest.mark.parametrize("options", [{}, {"batch_size": 3}, {"tile": 48, "batch_size": 4}, {"level": "memory"}])
@pytest.mark.parametrize("source", ["pageable", "pinned", "device"])
def test_frames_and_rows_land_in_their_places_however_late(
    source: str, options: dict, pinned: bool, late, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "may_be_pinned", lambda *_: pinned)
    video = zoo.photograph(300, 200, frames=5)
    given = {"pageable": video, "pinned": video.pin_memory(), "device": video.cuda()}[source]
    for _ in range(2):  # the second time, in memory that was used before
        result = run(given, zoo.toy(2, late), precision="fp32", compile=False, **options).image
        assert result.is_pinned() == pinned
        assert torch.equal(result, enlarged(video))


@WAYS_OUT
def test_half_precision_arrives_as_it_was_computed(pinned: bool, late, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "may_be_pinned", lambda *_: pinned)
    video = zoo.photograph(200, 150, frames=6)
    result = run(video, zoo.toy(2, late), precision="fp16", autocast=False, compile=False).image
    assert result.dtype == torch.float32
    assert torch.equal(result, enlarged(video.half().float()))


def test_a_host_that_is_slower_than_the_device_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    land = StreamDownload._land

    def slowly(*arguments) -> None:
        time.sleep(0.01)
        land(*arguments)

    monkeypatch.setattr(output, "may_be_pinned", lambda *_: False)
    monkeypatch.setattr(StreamDownload, "_land", slowly)
    video = zoo.photograph(64, 64, frames=40)
    assert torch.equal(run(video, zoo.toy(2), precision="fp32", compile=False).image, enlarged(video))


@pytest.mark.parametrize("options", [{}, {"tile": 48}, {"tiling_mode": "wrap"}])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_frames_made_on_the_device_are_those_made_in_main_memory(
    channels: int, options: dict, late, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, model = zoo.photograph(120, 90, channels, frames=3), zoo.toy(2, late)
    on_device = run(video, model, precision="fp32", compile=False, **options).image
    monkeypatch.setattr(schedule_maker, "_SHARE_FOR_FRAMES", 0.0)
    elsewhere = run(video, model, precision="fp32", compile=False, **options).image
    assert float((on_device - elsewhere).abs().max()) <= 1e-5  # alpha is interpolated by either


@WAYS_OUT
def test_an_interrupt_leaves_no_thread_and_no_pinned_memory_in_use(
    pinned: bool, late, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(BaseException):
        pass

    def stop(done: int, total: int) -> None:
        if 2 * done >= total:
            raise Interrupted

    def in_use() -> int:
        torch.cuda.synchronize()
        if not hasattr(torch.cuda, "host_memory_stats"):
            return 0
        torch.empty(1, pin_memory=True)  # what was given back is counted when the next is asked for
        return torch.cuda.host_memory_stats().get("active_bytes.current", 0)

    monkeypatch.setattr(output, "may_be_pinned", lambda *_: pinned)
    video, model = zoo.photograph(300, 200, frames=6), zoo.toy(2, late)
    options = UpscaleOptions(precision="fp32", compile=False)
    upscale(video, model, options, StandaloneContext("cuda"), SessionCache())
    before = in_use()
    with pytest.raises(Interrupted):
        upscale(video, model, options, StandaloneContext("cuda", on_progress=stop), SessionCache())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("cudaspeed-download")]
    assert in_use() == before


def test_only_so_much_pinned_memory_is_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_pinned", type(output._pinned)())
    monkeypatch.setattr(output, "_MOST_PINNED", 2 << 20)
    images = [run(zoo.photograph(150, 150), zoo.toy(2), precision="fp32", compile=False).image for _ in range(2)]
    assert [image.is_pinned() for image in images] == [True, False], "each takes 2 MiB, the next power of two"


def test_the_estimate_holds_the_real_peak() -> None:
    for model in (zoo.compact(4, features=64, convs=8), zoo.esrgan()):
        image = zoo.photograph(512, 512)
        report = run(image, model, precision="fp16", autocast=False).report
        cost = measure_cost(model.model, model._call_fn, model_info(model), torch.float16)
        assert report.peak_bytes - image.nbytes <= cost.weights + working_bytes(cost, 512 * 512, torch.device("cuda"))


def test_a_device_that_runs_out_gets_smaller_tiles(truth) -> None:
    """A second process' worth of memory is taken away, so that the plan made from the estimate does not fit."""
    context, model, sessions = StandaloneContext("cuda"), zoo.esrgan(), SessionCache()
    image = zoo.photograph(600, 600)
    upscale(zoo.photograph(32, 32), model, UpscaleOptions(precision="fp32"), context, sessions)
    info = model_info(model)
    cost = measure_cost(model.model, model._call_fn, info, torch.float32)
    free, total = torch.cuda.mem_get_info()
    leave = working_bytes(cost, 600 * 600, torch.device("cuda")) // 4 + torch.cuda.memory_reserved()
    context.free_bytes = lambda: free  # type: ignore[method-assign]  # a host that does not know of it
    torch.cuda.set_per_process_memory_fraction(leave / total)
    try:
        result = upscale(image, model, UpscaleOptions(precision="fp32"), context, sessions)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert result.report.tiles > 1
    assert psnr(result.image, truth(image, model)) >= 50


@pytest.mark.parametrize("batch_size", [1, 3])
def test_ill_tiles_are_computed_again_while_the_next_are_on_their_way(batch_size: int) -> None:
    """Overflow in fp16, in the bright tiles only: some are repaired, then the run leaves fp16."""

    def overflow(y: Tensor) -> Tensor:
        bright = (y.amax(dim=(1, 2, 3), keepdim=True) > 0.97) & (y.shape[-1] == 2 * 48)  # and not the probe picture
        return torch.where(bright, y * 65000 * 2, y) if y.dtype == torch.half else y

    video = 0.9 * zoo.photograph(200, 150, frames=3)
    video[1, 60:64, 60:64] = video[2, 150:154, 100:104] = 1.0
    sessions, model = SessionCache(), zoo.toy(2, overflow)
    options = UpscaleOptions(precision="fp16", autocast=False, tile=48, batch_size=batch_size, compile=False)
    result = upscale(video, model, options, StandaloneContext("cuda"), sessions)
    healthy = upscale(video, zoo.toy(2), UpscaleOptions(precision="fp32"), StandaloneContext("cpu"), SessionCache())
    assert psnr(result.image, healthy.image) >= 60
    assert result.report.health.repairs
    assert {repair.after for repair in result.report.health.repairs} == {"bf16"}
    assert result.report.precision == "bf16"


@pytest.mark.parametrize("fault", [lambda y: 3 * y, lambda y: y * float("nan")], ids=["x3", "nan"])
def test_what_is_ill_in_fp32_too_is_mended_or_an_error(fault) -> None:
    image = zoo.photograph(200, 150)
    if float(fault(torch.ones(1))) == 3:
        result = run(image, zoo.toy(2, fault), precision="fp16", tile=64, compile=False)
        assert result.report.health.corrected_frames == (0,)
        assert psnr(result.image, image.repeat_interleave(2, 1).repeat_interleave(2, 2)) >= 45
    else:
        with pytest.raises(ModelFailedError, match="NaN or infinite, in fp32 too"):
            run(image, zoo.toy(2, fault), precision="fp16", tile=64, compile=False)


@pytest.mark.parametrize("precision", ["auto", "fp32"])
@pytest.mark.parametrize("model", [zoo.compact(4), zoo.swinir()], ids=["any size", "one size"])
def test_compiled_code_gives_the_eager_picture(model, precision: str) -> None:
    """A real compile, with Triton; where the machine lacks something for it, the reason is this test's."""
    image = zoo.photograph(128, 192)
    eager = run(image, model, precision=precision, compile=False)
    sessions, options = SessionCache(), UpscaleOptions(precision=precision, compile_mode="wait")
    reports = []
    for size in [(128, 192), (128, 192), (120, 184)]:
        picture = image[:, : size[0], : size[1]].contiguous()
        result = upscale(picture, model, options, StandaloneContext("cuda"), sessions)
        reports.append(result.report)
        if size == (128, 192):
            assert psnr(result.image, eager.image) >= 50
    sessions.compiles.stop()  # it would go on to improve it
    slower = "slower here" in reports[0].compiling
    assert [report.compiled for report in reports] == [not slower] * 3, reports[0].compiling


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("channels", [8, 10, 24, 30])
def test_attention_in_one_operation_is_the_same_and_holds_no_scores(precision: str, channels: int) -> None:
    """Heads of any width, though CUDA's kernels take multiples of eight; biases spread over windows, and masks."""
    torch.manual_seed(0)
    windows, heads, length = 64, 6, 256
    shapes = [(windows, heads, length, channels)] * 3 + [(heads, length, length), (windows, 1, length, length)]
    query, keys, values, bias, mask = (torch.randn(shape, device="cuda").to(DTYPES[precision]) for shape in shapes)
    scores = windows * heads * length**2 * query.element_size()
    for biases in ([], [bias]):
        truth = sum(biases, query.float() @ keys.float().mT).softmax(-1) @ values.float()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        found = attend(query, keys, values, biases)
        assert torch.cuda.max_memory_allocated() - before < scores
        assert psnr(found.float(), truth) >= 40
    masked = (query.float() @ keys.float().mT + bias + mask).softmax(-1) @ values.float()
    assert psnr(attend(query, keys, values, [bias, mask]).float(), masked) >= 40


def test_more_windows_than_a_grid_has_blocks() -> None:
    query, keys, values = (torch.randn(70_000, 2, 8, 8, device="cuda") for _ in range(3))
    mask = torch.randn(70_000, 1, 8, 8, device="cuda")
    for biases in ([], [mask], [mask[:1]]):
        truth = sum(biases, query @ keys.mT).softmax(-1) @ values
        assert psnr(attend(query, keys, values, biases), truth) >= 60
        without_heads = attend(query[:, 0], keys[:, 0], values[:, 0], [bias[:, 0] for bias in biases])
        assert psnr(without_heads, truth[:, 0]) >= 60


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_models_with_attention_in_one_operation_give_the_plain_picture(precision: str, truth) -> None:
    image, model = zoo.photograph(96, 128), zoo.swinir()
    options, context, sessions = UpscaleOptions(precision, compile=False), StandaloneContext("cuda"), SessionCache()
    for half in ("fp32", "fp16", "bf16"):
        usual = usual_mode(half, True, model)
        faster = {place_of(usual, context.device): str(replace(usual, kernels="attention"))}
        sessions.profile(model, context).keep(fastest=faster)
    tune(model, (96, 128), options, context, sessions)
    result = upscale(image, model, options, context, sessions)
    assert result.report.kernels == "attention"
    assert psnr(result.image, truth(image, model)) >= (80 if precision == "fp32" else 45)


def test_small_frames_are_replayed_as_they_were_recorded(truth) -> None:
    """Enough batches of one shape that a CUDA graph is recorded, where that gains anything."""
    model, video = zoo.compact(2), zoo.photograph(48, 64, frames=40)
    sessions = SessionCache()
    for _ in range(2):
        result = upscale(
            video, model, UpscaleOptions(precision="fp32", compile=False), StandaloneContext("cuda"), sessions
        )
        assert float((result.image - truth(video, model)).abs().max()) <= 2 / 255


def test_what_stands_still_is_handed_on_and_is_what_it_would_be() -> None:
    video = zoo.photograph(200, 150, frames=2).repeat_interleave(3, 0)
    video[4:, 150:, 100:] = 1 - video[4:, 150:, 100:]  # one corner
    model = zoo.compact(4)
    result = run(video, model, precision="fp32", tile=64)
    assert result.report.still_frames == 3  # the second and third, and the last of all
    assert result.report.still_tiles > 3 * result.report.tiles // len(video)
    for frame, found in zip(video, result.image, strict=True):
        alone = run(frame[None], model, precision="fp32", tile=64).image[0]
        assert float((found - alone).abs().max()) <= 1e-4


@pytest.mark.parametrize("codec", ["libx264", "h264_nvenc", "hevc_nvenc", "av1_nvenc"])
def test_a_film(codec: str, tmp_path: Path) -> None:
    films = pytest.importorskip("films", reason="films need PyAV")
    from cudaspeed.video import formats
    from cudaspeed.video.options import VideoOptions
    from cudaspeed.video.pipeline import FilmJob, upscale_film

    if formats._why_not(codec):
        pytest.skip(f"{codec} does not open here: {formats._why_not(codec)}")
    films.make_film(tmp_path / "film.mkv", films.every(40, 30), films.Look(size=(240, 320)))
    pictures = films.decoded(tmp_path / "film.mkv", "rgb24")
    job = FilmJob(tmp_path / "film.mkv", tmp_path / "out.mkv", VideoOptions(codec, segment_seconds=0.4))
    report = upscale_film(
        job, load_model("cudaspeed-compact-x2"), UpscaleOptions(precision="fp32"), StandaloneContext("cuda")
    )
    found = films.decoded(tmp_path / "out.mkv", "rgb24")
    assert (report.frames, report.encoder, len(found)) == (30, codec, 30)
    for picture, frame in zip(pictures, found, strict=True):
        assert abs(frame.reshape(240, 2, 320, 2, 3).mean((1, 3)) - picture).mean() < 6
