"""One run over several devices, for which workers on the CPU stand in: what comes out is what one device makes."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import pytest
import torch
import zoo
from clocks import new_sessions
from hearing import Host, Interrupted
from torch import Tensor

from cudaspeed.api.errors import BadOptionError, OutOfMemoryError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.resize import Resize
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.pipeline.frame_io import TensorSink, TensorSource
from cudaspeed.scaleout import devices
from cudaspeed.upscale_engine import upscale, upscale_frames

FP32 = UpscaleOptions(precision="fp32")


def context_of(*peers: StandaloneContext) -> StandaloneContext:
    context = StandaloneContext("cpu")
    context.peers = peers
    return context


def run(image: Tensor, model, context, options: UpscaleOptions = FP32):
    return upscale(image, model, options, context, new_sessions())


def film(frames: int, height: int = 48, width: int = 40) -> Tensor:
    """Frames that all differ."""
    one = zoo.photograph(height, width)
    return torch.cat([one.roll(3 * number, 2) for number in range(frames)])


@pytest.mark.parametrize("frames", [2, 3, 7, 40])
def test_frames_come_in_order_and_are_those_of_one_device(frames: int) -> None:
    image, model = film(frames), zoo.compact()
    truth = run(image, model, StandaloneContext("cpu")).image
    made = run(image, model, StandaloneContext("cpu,cpu"))
    assert torch.equal(made.image, truth)
    assert made.report.frames == frames
    assert len(made.report.devices) == 2
    assert "on 2 devices" in made.report.summary


@pytest.mark.parametrize("options", [FP32, UpscaleOptions(precision="fp32", resize=Resize(scale_by=1.5))])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("model", [zoo.compact(), zoo.span()], ids=["Compact", "SPAN"])
def test_one_picture_is_shared_in_parts(model, channels: int, options: UpscaleOptions) -> None:
    image = torch.cat([zoo.photograph(301, 90), zoo.photograph(301, 90)[..., :1].roll(7, 1)], -1)
    image = {1: image[..., :1], 2: image[..., 2:], 3: image[..., :3], 4: image}[channels]
    truth = run(image, model, StandaloneContext("cpu"), options).image
    made = run(image, model, StandaloneContext("cpu,cpu"), options)
    assert made.image.shape == truth.shape
    assert (made.image - truth).abs().max() <= 1e-4
    assert made.report.output_size == tuple(truth.shape[1:3])
    assert (made.report.input_size, made.report.frames) == ((301, 90), 1)
    assert sum(share.parts for share in made.report.devices) >= 2


def test_what_cannot_be_cut_is_done_by_one_device_which_is_told() -> None:
    for image, options in [
        (zoo.photograph(24, 24), FP32),
        (zoo.photograph(300, 40), UpscaleOptions(precision="fp32", tiling_mode="wrap")),
    ]:
        truth = run(image, zoo.compact(), StandaloneContext("cpu"), options)
        made = run(image, zoo.compact(), StandaloneContext("cpu,cpu"), options)
        assert torch.equal(made.image, truth.image)
        assert not made.report.devices
        assert "one device" in made.report.warnings[0]


def test_a_frame_that_is_the_one_before_is_not_computed() -> None:
    image = film(6).repeat_interleave(torch.tensor([1, 4, 1, 1, 30, 1]), 0)
    truth = run(image, zoo.compact(), StandaloneContext("cpu"))
    made = run(image, zoo.compact(), StandaloneContext("cpu,cpu"))
    assert torch.equal(made.image, truth.image)
    assert made.report.still_frames == truth.report.still_frames == 32
    assert made.report.tiles == truth.report.tiles
    assert made.report.frames == 38


def test_another_output_than_main_memory_and_half_precision() -> None:
    image, model = film(5), zoo.compact()
    context = StandaloneContext("cpu,cpu")
    context.output_dtype = torch.float16
    made = run(image, model, context).image
    assert made.dtype == torch.float16
    assert (made.float() - run(image, model, StandaloneContext("cpu")).image).abs().max() <= 1e-3


class Failing(StandaloneContext):
    """A device that fails for good when it has been asked so often whether to go on."""

    def __init__(self, error: Exception) -> None:
        super().__init__("cpu")
        self.error = error

    def make_resident(self, model, bytes_wanted: int) -> None:
        raise self.error


def test_a_device_that_fails_is_left_out_and_its_frames_go_to_the_rest() -> None:
    image, model = film(12), zoo.compact()
    truth = run(image, model, StandaloneContext("cpu")).image
    made = run(image, model, context_of(Failing(RuntimeError("CUDA error: the card fell off the bus"))))
    assert torch.equal(made.image, truth)
    assert "cpu (2) failed" in made.report.warnings[0]
    assert "fell off the bus" in made.report.warnings[0]
    assert [*map(str, made.report.devices)] == ["cpu: 12 frames", "cpu (2): 0 frames"]


def test_where_all_devices_fail_the_last_error_is_raised() -> None:
    class AllFail(Failing):
        pass

    context = AllFail(RuntimeError("first"))
    context.peers = (Failing(RuntimeError("second")),)
    with pytest.raises(RuntimeError, match=r"first|second"):
        run(film(4), zoo.compact(), context)


def test_a_device_without_memory_for_one_tile_is_left_out() -> None:
    class Full(StandaloneContext):
        def make_resident(self, model, bytes_wanted: int) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

    image = film(6)
    made = run(image, zoo.compact(), context_of(Full("cpu")))
    assert torch.equal(made.image, run(image, zoo.compact(), StandaloneContext("cpu")).image)
    assert "cpu (2) failed" in made.report.warnings[0]


def test_a_device_with_little_memory_takes_smaller_tiles_and_the_others_go_on(monkeypatch) -> None:
    """The forward of one thread runs out of memory for more than so many pixels."""
    image, model = film(8, 160, 160), zoo.compact()
    truth = run(image, model, StandaloneContext("cpu")).image
    forward, seen = model.model.forward, {"small": [], "other": []}

    class Small(StandaloneContext):
        pass

    original = type(model.model).forward

    def limited(self, x: Tensor) -> Tensor:
        small = threading.current_thread().name.endswith("cpu (2)")
        if small and x.shape[-1] * x.shape[-2] > 100 * 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        seen["small" if small else "other"].append(tuple(x.shape[-2:]))
        return original(self, x)

    monkeypatch.setattr(type(model.model), "forward", limited)
    made = run(image, model, context_of(Small("cpu")))
    assert forward is not None
    assert (made.image - truth).abs().max() <= 1e-4
    assert seen["small"]
    assert all(height * width <= 100 * 100 for height, width in seen["small"])
    assert (160, 160) in seen["other"]
    assert made.report.out_of_memory
    assert not any("failed" in told for told in made.report.warnings)


def test_an_interrupt_ends_all_devices_and_the_next_run_works() -> None:
    image, model = film(40), zoo.compact()
    host = Host()
    host.peers = (StandaloneContext("cpu"), StandaloneContext("cpu"))
    progress = host.progress

    def stop_soon(done: float, total: int) -> None:
        host.stop |= done > 0
        progress(done, total)

    host.progress = stop_soon
    sessions = new_sessions()
    with pytest.raises(Interrupted):
        upscale(image, model, FP32, host, sessions)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("cudaspeed on")]
    host.progress = progress
    made = upscale(image, model, FP32, host, sessions)
    assert torch.equal(made.image, run(image, model, StandaloneContext("cpu")).image)
    assert made.report.frames == 40


def test_progress_only_grows_and_ends_at_all() -> None:
    host = Host()
    host.peers = (StandaloneContext("cpu"),)
    run(film(10), zoo.compact(), host)
    assert host.shares == sorted(host.shares)
    assert host.shares[-1] == 1


def test_a_bad_option_is_raised_as_by_one_device() -> None:
    with pytest.raises(BadOptionError, match="overlap is 64"):
        run(film(4), zoo.compact(), StandaloneContext("cpu,cpu"), UpscaleOptions(tile=64, overlap=64))


def test_frames_that_are_read_one_after_the_other_are_held_as_briefly_as_possible() -> None:
    """A source that gives frames in order only, as a film's does, and a sink that takes them so."""
    image, model = film(60), zoo.compact()

    class Source(TensorSource):
        most = at = 0

        def __init__(self, image: Tensor) -> None:
            super().__init__(image)
            self.held: set[int] = set()

        def frame(self, index: int) -> Tensor:
            assert index >= self.at - 1
            self.at = max(self.at, index)
            self.held.add(index)
            self.most = max(self.most, len(self.held))
            return super().frame(index)

        def release(self, index: int) -> None:
            self.held.discard(index)

    class Sink(TensorSink):
        finished = 0

        def finish(self, index: int) -> None:
            assert index == self.finished
            self.finished += 1

    source, sink = Source(image), Sink(torch.zeros(60, 96, 80, 3))
    context = StandaloneContext("cpu,cpu")
    report = upscale_frames((source, sink), model, FP32, context, new_sessions())
    assert sink.finished == report.frames == 60
    assert not source.held
    assert source.most <= 40
    assert torch.equal(sink.tensor, run(image, model, StandaloneContext("cpu")).image)


@pytest.mark.parametrize("options", [UpscaleOptions(reproducible=True, batch_size=3), UpscaleOptions(precision="auto")])
def test_batches_and_the_precision_are_those_of_one_device(options: UpscaleOptions, tmp_path, monkeypatch) -> None:
    for model in (zoo.compact(), zoo.swinir()):
        made = []
        for names in ("cpu", "cpu,cpu"):
            monkeypatch.setenv("CUDASPEED_CACHE_DIR", str(tmp_path / names / model.architecture.id))
            made.append(run(film(17), model, StandaloneContext(names), options))
        assert torch.equal(made[0].image, made[1].image)
        assert made[0].report.precision == made[1].report.precision


def test_a_slow_device_gets_fewer_frames_and_keeps_nobody_waiting() -> None:
    """Paces as on a card and a processor: the other one takes fifty times as long."""

    class Slow(StandaloneContext):
        def make_resident(self, model, bytes_wanted: int) -> None:
            time.sleep(1.0)
            super().make_resident(model, bytes_wanted)

    image, model = film(120), zoo.compact()
    made = run(image, model, context_of(Slow("cpu")))
    assert torch.equal(made.image, run(image, model, StandaloneContext("cpu")).image)
    fast, slow = (share.frames for share in made.report.devices)
    assert fast + slow == 120
    assert slow <= 4


class Frames(TensorSource):
    """Given one after the other, as a film's are; with `still` ones from the fourth on."""

    def __init__(self, image: Tensor, still: bool = False) -> None:
        super().__init__(image)
        self.still, self.asked = still, 0

    def repeats(self, index: int) -> bool:
        self.asked = max(self.asked, index)
        return index >= 3 if self.still else super().repeats(index)


class OneByOne(TensorSink):
    """As a film's frames are written: in order."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__(tensor)
        self.finished = 0

    def finish(self, index: int) -> None:
        assert index == self.finished
        self.finished += 1

    def repeat(self, index: int) -> None:
        super().repeat(index)
        self.finish(index)


def test_an_interrupt_is_noticed_in_a_stretch_that_stands_still() -> None:
    class Source(Frames):
        def repeats(self, index: int) -> bool:
            host.stop |= index == 20
            return super().repeats(index)

    image, host = film(3).repeat(200, 1, 1, 1), Host()
    host.peers = (StandaloneContext("cpu"),)
    source, sink = Source(image, still=True), OneByOne(torch.zeros(600, 96, 80, 3))
    with pytest.raises(Interrupted):
        upscale_frames((source, sink), zoo.compact(), FP32, host, new_sessions())
    assert source.asked < 60
    assert sink.finished < 60


@pytest.mark.parametrize("stopped", [False, True])
def test_nothing_is_kept_of_a_run_that_is_over_or_was_stopped(stopped: bool) -> None:
    host = Host()
    host.peers = (StandaloneContext("cpu"),)
    image, model, sessions = film(20), zoo.compact(), new_sessions()
    known = weakref.ref(image), weakref.ref(model.model)
    gc.collect()
    gc.disable()
    try:
        if stopped:
            host.progress = lambda done, total: setattr(host, "stop", done > 2)
            with pytest.raises(Interrupted):
                upscale(image, model, FP32, host, sessions)
        else:
            upscale(image, model, FP32, host, sessions)
        del image
        assert known[0]() is None
        del model, sessions
        assert known[1]() is None
    finally:
        gc.enable()


def test_what_is_kept_is_not_let_go_of_while_a_device_computes() -> None:
    sessions, model, image = new_sessions(), zoo.compact(), film(12)
    told: list[int] = []

    class Asking(StandaloneContext):
        def make_resident(self, resident, bytes_wanted: int) -> None:
            sessions.let_go(lambda: told.append(len(computing)))
            super().make_resident(resident, bytes_wanted)

    computing = [threading.current_thread()]
    context = StandaloneContext("cpu")
    context.peers = (Asking("cpu"),)
    end = sessions.end

    def over() -> None:
        if threading.current_thread() is computing[0]:
            computing.clear()
        end()

    sessions.end = over
    upscale(image, model, FP32, context, sessions)
    assert told
    assert set(told) == {0}
    assert sessions.holdings().copies == 0


def test_a_device_whose_thread_cannot_even_begin_is_left_out(monkeypatch) -> None:
    def current(device: torch.device) -> None:
        if threading.current_thread().name.endswith("(2)"):
            raise AssertionError("no such device")

    monkeypatch.setattr(devices, "_make_current", current)
    image = film(6)
    made = run(image, zoo.compact(), StandaloneContext("cpu,cpu"))
    assert torch.equal(made.image, run(image, zoo.compact(), StandaloneContext("cpu")).image)
    assert "no such device" in made.report.warnings[0]


def test_memory_that_is_let_go_of_is_that_of_all_devices() -> None:
    sessions, model = new_sessions(), zoo.compact()
    upscale(film(8), model, FP32, StandaloneContext("cpu,cpu,cpu"), sessions)
    assert sessions.holdings().copies == 3
    sessions.let_go(lambda: None)
    assert sessions.holdings().copies == 0


@pytest.mark.parametrize("names", ["cpu,", "cpu,,cpu", "all,cpu", "cpu;cpu", "meta", "nothing", ",".join(["cpu"] * 65)])
def test_devices_that_cannot_be_are_named(names: str) -> None:
    with pytest.raises(BadOptionError, match="device"):
        StandaloneContext(names)


def test_not_enough_memory_anywhere_is_told() -> None:
    class Full(StandaloneContext):
        def make_resident(self, model, bytes_wanted: int) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

    context = Full("cpu")
    context.peers = (Full("cpu"),)
    with pytest.raises(OutOfMemoryError):
        run(film(4), zoo.compact(), context)
