"""What goes to a device that works on its own and comes from it: all of it, in its place, and nothing left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
import zoo
from clocks import new_sessions
from lagging import LaggingDevice
from torch import Tensor

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.report import UpscaleResult
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.images.channels import ChannelPlan
from cudaspeed.pipeline import download, output, schedule_maker, session, upload
from cudaspeed.pipeline.download import StreamDownload
from cudaspeed.pipeline.frame_io import TensorSink, TensorSource
from cudaspeed.pipeline.streams import PastEvent, stream_device
from cudaspeed.pipeline.transfer import Transfer
from cudaspeed.pipeline.upload import StreamUpload
from cudaspeed.upscale_engine import upscale


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small pictures take many of them."""
    monkeypatch.setattr(upload, "_BUFFER_BYTES", 2000)
    monkeypatch.setattr(download, "_BUFFER_BYTES", 5000)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("cudaspeed")]


def values(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (2 * torch.rand(*shape, generator=torch.Generator().manual_seed(0)) - 0.5).to(dtype)


# frames in


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("strided", [False, True])
def test_frames_come_in_as_they_are(dtype: torch.dtype, strided: bool) -> None:
    image = values(3, 60, 40, 3, dtype=dtype)
    image = image.transpose(1, 2) if strided else image
    way = StreamUpload(TensorSource(image), LaggingDevice())
    for k in range(3):
        frame = way.frame(k)
        way.prefetch()
        assert torch.equal(frame, image[k])
    way.close()


def test_a_row_larger_than_a_block_comes_in() -> None:
    image = values(1, 4, 3000, 3)
    assert torch.equal(StreamUpload(TensorSource(image), LaggingDevice()).frame(0), image[0])


def test_the_next_frame_sets_out_before_it_is_asked_for_and_once() -> None:
    device = LaggingDevice()
    way = StreamUpload(TensorSource(values(2, 4, 4, 3)), device)
    (stream,) = device.streams
    way.frame(0)
    assert stream.copies == 1
    for _ in range(3):
        way.prefetch()
        assert stream.copies == 2
    way.frame(1)
    way.prefetch()  # there is no more
    assert stream.copies == 2


def test_the_computing_waits_for_its_frame_and_the_frames_memory_for_the_computing() -> None:
    device = LaggingDevice()
    way, compute = StreamUpload(TensorSource(values(1, 4, 4, 3)), device), device.current()
    frame = way.frame(0)
    assert compute.followed
    assert [id(kept) for kept in compute.kept] == [id(frame)]


def test_a_frame_in_pinned_memory_comes_straight() -> None:
    device = LaggingDevice(pinned=lambda tensor: True)
    image = values(2, 60, 40, 3)
    assert torch.equal(StreamUpload(TensorSource(image), device).frame(1), image[1])
    assert device.streams[0].copies == 1
    assert device.pinned_bytes == 0


def test_a_pinned_frame_is_its_owners_again_after_the_run() -> None:
    device = LaggingDevice(pinned=lambda tensor: True)
    way = StreamUpload(TensorSource(values(2, 8, 8, 3)), device)
    way.prefetch()
    way.close()
    assert device.idle


def test_no_more_is_read_ahead_while_a_film_stands_still() -> None:
    """It would be all of a film of slides."""
    looked: list[int] = []

    class Slides(TensorSource):
        def repeats(self, index: int) -> bool:
            looked.append(index)
            return index % 100 > 0

    device = LaggingDevice()
    way = StreamUpload(Slides(values(1, 6, 4, 3).expand(300, 6, 4, 3)), device)
    for _ in range(50):  # as many batches
        way.frame(0)
        way.prefetch()
    assert max(looked) < 8
    way.frame(99)
    way.prefetch()
    assert way.frame(100).shape == (6, 4, 3)
    way.close()


# rows out


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("target", [torch.float32, torch.float16])
@pytest.mark.parametrize("rows", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("planes", [False, True])
def test_rows_land_in_their_places(
    rows: torch.dtype, target: torch.dtype, clamp: bool, pinned: bool, planes: bool
) -> None:
    device = LaggingDevice(pinned=lambda tensor: pinned)
    made = values(3, 90, 50, dtype=rows).permute(1, 2, 0) if planes else values(90, 50, 3, dtype=rows)
    output = torch.full((90, 50, 3), torch.nan, dtype=target)
    way = StreamDownload(device)
    for top in range(0, 90, 30):
        way.write(output[top : top + 30], made[top : top + 30], clamp)
    way.written().synchronize()
    way.close()
    assert torch.equal(output, (made.clamp(0, 1) if clamp else made).to(target))
    assert (device.pinned_bytes == 0) == pinned


def test_half_of_the_bytes_cross_where_the_rows_are_of_half_precision() -> None:
    device, output = LaggingDevice(), torch.empty(10, 50, 3)
    way = StreamDownload(device)
    way.write(output, values(10, 50, 3, dtype=torch.half), clamp=True)
    assert device.streams[0].copies == 1  # 3000 bytes fit into a block, 6000 would not
    way.written().synchronize()
    way.close()


def test_rows_wider_than_a_block_land() -> None:
    way, output, rows = StreamDownload(LaggingDevice()), torch.empty(5, 2000, 3), values(5, 2000, 3)
    way.write(output, rows, clamp=False)
    way.write(output[:1], rows[:1], clamp=False)
    way.written().synchronize()
    way.close()
    assert torch.equal(output, rows)


@pytest.mark.parametrize("pinned", [False, True])
def test_written_is_past_when_the_rows_are_there_and_not_before(pinned: bool) -> None:
    device, output = LaggingDevice(pinned=lambda tensor: pinned), torch.zeros(4, 4, 3)
    device.gate.clear()
    way = StreamDownload(device)
    way.write(output, torch.ones(4, 4, 3), clamp=False)
    written = way.written()
    assert not written.query()
    assert (output == 0).all()
    device.gate.set()
    written.synchronize()
    assert written.query()
    assert (output == 1).all()
    way.close()


def test_what_is_written_later_is_not_waited_for() -> None:
    device, output = LaggingDevice(pinned=lambda tensor: True), torch.zeros(2, 4, 4, 3)
    way = StreamDownload(device)
    way.write(output[0], torch.ones(4, 4, 3), clamp=False)
    written = way.written()
    way.write(output[1], torch.ones(4, 4, 3), clamp=False)
    written.synchronize()
    assert [float(frame.mean()) for frame in output] == [1, 0]
    way.close()


def test_rows_and_numbers_follow_their_batch_and_not_the_next() -> None:
    device = LaggingDevice()
    with Transfer(TensorSource(torch.empty(1, 4, 4, 3)), TensorSink(torch.empty(1, 4, 4, 3)), device) as transfer:
        streams = dict(zip(("numbers", "upload", "download"), device.streams, strict=True))
        tile, numbers, computed = torch.ones(3, 4, 4), torch.ones(2), transfer.computed()
        transfer.computed()  # another batch is on its way
        transfer.fetch(numbers, computed)
        with transfer.download.leaving(computed, tile):
            transfer.download.write(torch.empty(4, 4, 3), tile.permute(1, 2, 0), clamp=True)
    for name, used in (("download", tile), ("numbers", numbers)):
        assert streams[name].followed == [computed]
        assert [id(kept) for kept in streams[name].kept] == [id(used)]


def test_a_full_ring_holds_the_writer_up_until_a_block_is_free() -> None:
    device, output = LaggingDevice(), torch.empty(download._BUFFERS + 3, 4, 4, 3)
    device.gate.clear()
    way = StreamDownload(device)
    for frame in output[: download._BUFFERS]:
        way.write(frame, torch.ones(4, 4, 3), clamp=False)
    rest = [(frame, torch.ones(4, 4, 3), False) for frame in output[download._BUFFERS :]]
    writer = threading.Thread(target=lambda: [way.write(*write) for write in rest])
    writer.start()
    writer.join(0.1)
    assert writer.is_alive()
    device.gate.set()
    writer.join()
    way.written().synchronize()
    way.close()
    assert (output == 1).all()


def test_no_more_than_some_batches_are_leaving_at_once() -> None:
    device, output = LaggingDevice(pinned=lambda tensor: True), torch.zeros(5, 4, 4, 3)
    way = StreamDownload(device)
    for k, frame in enumerate(output):
        way.write(frame, torch.ones(4, 4, 3), clamp=False)
        way.throttle()
        assert int(output.mean(dim=(1, 2, 3)).sum()) == max(0, k + 1 - download._BATCHES_LEAVING)
    way.close()


@pytest.mark.parametrize("later", ["write", "wait"])
def test_what_goes_wrong_on_the_thread_is_raised_where_the_work_is(later: str) -> None:
    def fail() -> None:
        raise RuntimeError("the bus is gone")

    device, output = LaggingDevice(), torch.empty(4, 4, 3)
    device.fails = fail
    way = StreamDownload(device)
    try:
        way.write(output, torch.ones(4, 4, 3), clamp=False)
        with pytest.raises(RuntimeError, match="the bus is gone"):
            if later == "wait":
                way.written().synchronize()
            for _ in range(1000):  # however late the thread is, before the ring has gone round
                way.write(output, torch.ones(4, 4, 3), clamp=False)
    finally:
        device.fails = lambda: None
        way.close()


def test_leaving_early_ends_the_thread_and_the_copies() -> None:
    device, output = LaggingDevice(), torch.empty(3, 4, 4, 3)
    with (
        pytest.raises(KeyboardInterrupt),
        Transfer(TensorSource(torch.empty(3, 4, 4, 3)), TensorSink(output), device) as transfer,
    ):
        transfer.upload.prefetch()
        for frame in output:
            transfer.download.write(frame, torch.ones(4, 4, 3), clamp=False)
        raise KeyboardInterrupt
    assert device.idle


def test_numbers_are_fetched_for_themselves() -> None:
    device = LaggingDevice()
    with Transfer(TensorSource(torch.empty(1, 4, 4, 3)), TensorSink(torch.empty(1, 4, 4, 3)), device) as transfer:
        numbers = values(5, 4)
        fetched = transfer.fetch(numbers, transfer.computed())
        assert not device.idle
        assert torch.equal(fetched(), numbers)


@pytest.mark.parametrize("way", ["cpu", "meta"])
def test_where_nothing_works_on_its_own_everything_is_done_at_once(way: str) -> None:
    assert stream_device(torch.device(way)) is None
    output, numbers = torch.empty(4, 4, 3), values(2, 4)
    with Transfer(TensorSource(values(2, 4, 4, 3)), TensorSink(output[None]), None) as transfer:
        assert isinstance(transfer.computed(), PastEvent)
        transfer.download.write(output, 2 * torch.ones(4, 4, 3), clamp=True)
        assert transfer.download.written().query()
        assert (output == 1).all()
        assert torch.equal(transfer.fetch(numbers, PastEvent())(), numbers)


# whole runs


def run(image: Tensor, model, context: StandaloneContext | None = None, **options) -> UpscaleResult:
    options = {"precision": "fp32", "compile": False, "overlap": 8, **options}
    return upscale(image, model, UpscaleOptions(**options), context or StandaloneContext("cpu"), new_sessions())


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[LaggingDevice]:
    """The CPU as a device that works on its own."""
    device = LaggingDevice()
    monkeypatch.setitem(schedule_maker._AHEAD, "cpu", 1)
    monkeypatch.setattr(session, "stream_device", lambda _: device)
    yield device
    assert device.idle


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch):
    def plainly(*arguments, **options) -> UpscaleResult:
        with monkeypatch.context() as patched:
            patched.setattr(session, "stream_device", lambda _: None)
            return run(*arguments, **options)

    return plainly


@pytest.mark.parametrize("pinned", [False, True], ids=["pageable", "pinned"])
@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("tile", [0, 32])
def test_a_run_on_lanes_gives_the_same_video(
    tile: int, batch_size: int, pinned: bool, device: LaggingDevice, plain
) -> None:
    device.is_pinned = lambda tensor: pinned
    video, model = zoo.photograph(50, 70, frames=5), zoo.compact()
    told: list[tuple[int, int]] = []
    context = StandaloneContext("cpu", on_progress=lambda *progress: told.append(progress))
    result = run(video, model, context, tile=tile, batch_size=batch_size)
    assert torch.equal(result.image, plain(video, model, tile=tile, batch_size=batch_size).image)
    assert told[-1][0] == told[-1][1]


@pytest.mark.parametrize("roomy", [True, False], ids=["on the device", "in main memory"])
@pytest.mark.parametrize("options", [{}, {"tiling_mode": "wrap"}, {"tiling_mode": "wrap_x", "tile": 32}])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_frames_made_of_pictures_are_the_same_wherever_they_are_made(
    channels: int, options: dict, roomy: bool, device: LaggingDevice, plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule_maker, "_SHARE_FOR_FRAMES", 0.25 if roomy else 0.0)
    video = zoo.photograph(40, 50, channels, frames=2)
    if channels in (2, 4):
        video[..., -1] = (video[..., -1] > 0.6).float()
    for model in (zoo.compact(), zoo.compact(channels=1)):
        assert torch.equal(run(video, model, **options).image, plain(video, model, **options).image)
    sources = [kept for kept in device.streams[2].kept if kept.shape[-1] == channels]
    assert len(sources) >= len(video), "they are needed until the frames are made"


def test_frames_are_made_in_main_memory_once_the_device_has_run_out(
    device: LaggingDevice, plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, errors = ChannelPlan.from_model, []

    def short(*arguments) -> Tensor:
        if device.streams[-1].copies == 0:  # nothing has left
            errors.append(1)
            raise torch.OutOfMemoryError("out of memory, as a device would say")
        return make(*arguments)

    picture, model = zoo.photograph(40, 50, 4), zoo.compact()
    truth = plain(picture, model, tile=32).image
    monkeypatch.setattr(ChannelPlan, "from_model", short)
    result = run(picture, model, tile=32)
    assert errors == [1]
    assert torch.allclose(result.image, truth, atol=1e-2)  # in smaller tiles


def test_rows_of_half_precision_differ_in_nothing_but_the_seams_rounding(device: LaggingDevice, plain) -> None:
    image, model = zoo.photograph(60, 80), zoo.compact(4)
    ours, theirs = (way(image, model, precision="bf16", autocast=False, tile=32).image for way in (run, plain))
    differs = ours != theirs
    assert 0 < float(differs.float().mean()) < 0.5
    assert float((ours - theirs).abs().max()) <= 2**-8
    assert torch.equal(ours[differs], ours[differs].bfloat16().float())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("pinned", [False, True], ids=["pageable", "pinned"])
def test_ill_tiles_are_mended_on_lanes_as_anywhere(pinned: bool, precision: str, device: LaggingDevice, plain) -> None:
    """One tile of the second frame has holes, in fp32 too: the frame is looked after as a whole, in its place."""
    device.is_pinned = lambda tensor: pinned

    def holes(y: Tensor) -> Tensor:
        return torch.where((y > 0.995) & (y.shape[-1] == 64), torch.nan, y)

    video = 0.9 * zoo.photograph(50, 70, frames=3)
    video[1, 2:6, 2:6] = 1.0
    options = {"tile": 32, "batch_size": 2, "precision": precision, "autocast": False}
    ours, theirs = (way(video, zoo.toy(2, holes), **options) for way in (run, plain))
    assert ours.report.precision == precision
    assert ours.report.health == theirs.report.health
    assert ours.report.health.non_finite
    assert torch.equal(ours.image, theirs.image)


def test_each_frame_has_set_out_when_its_turn_comes(device: LaggingDevice) -> None:
    sent: list[int] = []
    context = StandaloneContext("cpu")
    # before each batch, and while the model is copied, when there are no streams yet
    context.raise_if_interrupted = lambda: sent.extend(stream.copies for stream in device.streams[1:2])
    run(zoo.photograph(10, 12, frames=4), zoo.toy(), context)
    assert sent == [0, 2, 3, 4]


def test_results_do_not_pile_up_on_a_device_that_copies_more_slowly_than_it_computes(device: LaggingDevice) -> None:
    device.is_pinned = lambda tensor: True
    leaving: list[int] = []
    context = StandaloneContext("cpu", on_progress=lambda *_: leaving.append(len(device.streams[2].queue)))
    run(zoo.photograph(10, 10, frames=12), zoo.toy(), context)
    assert max(leaving) <= 2 * (download._BATCHES_LEAVING + 1)  # each waits for its batch, and is copied


def test_an_interrupt_leaves_nothing_running(device: LaggingDevice) -> None:
    class Interrupted(BaseException):
        """What ComfyUI raises is no Exception either."""

    def stop(done: int, total: int) -> None:
        if done >= total // 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(zoo.photograph(80, 80, frames=3), zoo.compact(), StandaloneContext("cpu", on_progress=stop), tile=32)


@pytest.mark.parametrize("pinned", [False, True], ids=["pageable", "pinned"])
def test_complete_frames_are_kept_when_memory_runs_out(pinned: bool, device: LaggingDevice) -> None:
    device.is_pinned = lambda tensor: pinned
    whole: list[int] = []
    tiles: list[int] = []  # after memory ran out

    def short(y: Tensor) -> Tensor:
        if len(whole) == 4:
            tiles.append(len(y))
        elif y.shape[-1] == 120:
            whole.append(1)
            if len(whole) == 4:
                raise torch.OutOfMemoryError("out of memory, as a device would say")
        return y

    video = zoo.photograph(60, 60, frames=5)
    result = run(video, zoo.toy(2, short))
    assert torch.equal(result.image, video.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert sum(tiles) == 2, "what failed once more, and the frame to come: two were complete, one was in flight"


def test_what_goes_wrong_on_the_way_out_ends_the_run(device: LaggingDevice) -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        if threading.current_thread().name.startswith("cudaspeed") and len(calls) > 20:
            device.fails = lambda: None
            raise ValueError("the bus is gone")

    device.fails = fail
    with pytest.raises(ValueError, match="the bus is gone"):
        run(zoo.photograph(60, 60, frames=6), zoo.compact())


# the result's memory


def test_pinned_results_stay_within_a_limit_while_they_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_MOST_PINNED", 1 << 20)
    monkeypatch.setattr(output, "_pinned", type(output._pinned)())
    plenty = 1 << 40
    assert output.may_be_pinned(1 << 20, plenty)
    assert not output.may_be_pinned((1 << 20) + 1, plenty), "it takes the next power of two"
    assert not output.may_be_pinned(1 << 20, (1 << 20) - 1), "the memory there is"

    alive = torch.empty(300_000, dtype=torch.uint8)
    output._pinned.add(alive.untyped_storage())
    view = alive[5:10]
    del alive
    assert output.may_be_pinned(1 << 19, plenty)
    assert not output.may_be_pinned((1 << 19) + 1, plenty), "a view of the one before is still there"
    del view
    assert output.may_be_pinned(1 << 20, plenty)
