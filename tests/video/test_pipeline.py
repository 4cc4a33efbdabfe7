"""A film through the engine: the same pixels as in memory, in order, with few frames at once; and nothing is left of
one that fails."""

from __future__ import annotations

import signal
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import films
import numpy as np
import pytest
import torch
from clocks import new_sessions
from films import LIMITED, REC709, Beside, Look, av, decoded, every, make_film, overwrite, packets, plane
from spandrel import ImageModelDescriptor

import cudaspeed
from cudaspeed.api.errors import BadFilmError, BadOptionError, CudaspeedError, OutputError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.resize import Resize
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.upscale_engine import upscale
from cudaspeed.video import reader, stages, writer
from cudaspeed.video.colour import FromPixels, ToPixels, colour_of
from cudaspeed.video.facts import Frame, PacketCount
from cudaspeed.video.in_memory import upscale_into_memory
from cudaspeed.video.options import VideoOptions
from cudaspeed.video.pipeline import FilmJob, upscale_film
from cudaspeed.video.queues import ByteQueue
from cudaspeed.video.reader import FilmReader
from cudaspeed.video.report import FilmProgress, FilmReport

LOSSLESS = VideoOptions("ffv1")
PLAIN = UpscaleOptions(precision="fp32", compile=False, reproducible=True)


@pytest.fixture(scope="module")
def model() -> ImageModelDescriptor:
    return cudaspeed.load_model("cudaspeed-compact-x2")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the films, whose folder is looked into."""
    monkeypatch.setenv("CUDASPEED_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def threads_end() -> Iterator[None]:
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith(("cudaspeed de", "cudaspeed en"))]
    assert not left


def run(
    source: Path,
    target: Path,
    model: ImageModelDescriptor,
    options: UpscaleOptions = PLAIN,
    video: VideoOptions = LOSSLESS,
    **more: Any,
) -> FilmReport:
    return upscale_film(FilmJob(source, target, video), model, options, StandaloneContext("cpu"), **more)


def expected(source: Path, model: ImageModelDescriptor, options: UpscaleOptions, pixel_format: str) -> list[Any]:
    """The film's frames through `upscale` in memory, as they are to be encoded."""
    frames = decoded(source)
    pixels = np.stack([ToPixels(alpha=False)(frame) for frame in frames])
    image = torch.from_numpy(pixels).float() / (255 if pixels.dtype == np.uint8 else 1)
    result = upscale(image.clamp(0, 1), model, options, StandaloneContext("cpu"), new_sessions()).image
    back = FromPixels(pixel_format, colour_of(frames[0]))
    return [back(frame.numpy()) for frame in result]


def assert_same(found: list[Any], wanted: list[Any]) -> None:
    assert len(found) == len(wanted)
    for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
        for k in range(3):
            assert np.array_equal(plane(one, k), plane(other, k)), f"frame {number}, plane {k}"


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    ("look", "pixel_format"),
    [
        (Look(), "yuv420p"),
        (Look("libx265", "yuv420p10le", colour=(9, LIMITED, 9, 16), options={"x265-params": "log-level=none"}),
         "yuv420p10le"),
    ],
)  # fmt: skip
def test_it_is_the_same_as_in_memory(
    tmp_path: Path, model: ImageModelDescriptor, look: Look, pixel_format: str, batch_size: int
) -> None:
    options = UpscaleOptions(precision="fp32", compile=False, reproducible=True, batch_size=batch_size)
    make_film(tmp_path / "film.mkv", every(40, 13), look)
    report = run(tmp_path / "film.mkv", tmp_path / "out.mkv", model, options)
    assert (report.frames, report.input_size, report.output_size) == (13, (48, 64), (96, 128))
    assert_same(decoded(tmp_path / "out.mkv"), expected(tmp_path / "film.mkv", model, options, pixel_format))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_film_on_threes_is_computed_once_for_three_frames(
    tmp_path: Path, model: ImageModelDescriptor, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    options = UpscaleOptions(precision="fp32", compile=False, reproducible=True, batch_size=batch_size)
    picture = films.picture
    monkeypatch.setattr(films, "picture", lambda number, size: picture(number // 3, size))
    make_film(tmp_path / "film.mkv", every(40, 13), Look("ffv1", "bgr0"))
    report = run(tmp_path / "film.mkv", tmp_path / "out.mkv", model, options)
    assert (report.frames, report.upscaling.still_frames) == (13, 8)
    made = decoded(tmp_path / "out.mkv", "rgb24")
    monkeypatch.setattr("cudaspeed.video.frames.FilmSource.repeats", lambda source, index: False)
    every_one = run(tmp_path / "film.mkv", tmp_path / "each.mkv", model, options)
    assert every_one.upscaling.still_frames == 0
    assert all(np.array_equal(a, b) for a, b in zip(made, decoded(tmp_path / "each.mkv", "rgb24"), strict=True))
    times = [[frame.pts for frame in decoded(tmp_path / name)] for name in ("film.mkv", "out.mkv")]
    assert times[0] == times[1]


def test_little_noise_is_none_where_that_is_wanted(
    tmp_path: Path, model: ImageModelDescriptor, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = films.picture
    monkeypatch.setattr(films, "picture", lambda number, size: picture(0, size) + np.uint8(number % 2))
    make_film(tmp_path / "film.mkv", every(200, 11), Look("ffv1", "bgr0"))  # five a second
    counts = []
    for still in (0, 1):
        options = UpscaleOptions(precision="fp32", compile=False, still=still)
        report = run(tmp_path / "film.mkv", tmp_path / f"{still}.mkv", model, options)
        counts.append(report.upscaling.still_tiles)
    assert counts == [0, 11 - 3]  # once a second all of it is computed anew


@pytest.mark.parametrize("claimed", [0, 1, 5, 12, 14, 1000])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_how_many_frames_there_are_need_not_be_known(
    tmp_path: Path, model: ImageModelDescriptor, monkeypatch: pytest.MonkeyPatch, claimed: int, batch_size: int
) -> None:
    make_film(tmp_path / "film.mkv", every(40, 13))
    monkeypatch.setattr("cudaspeed.video.reader.count_packets", lambda *_: PacketCount(claimed))
    options = UpscaleOptions(precision="fp32", compile=False, reproducible=True, batch_size=batch_size)
    report = run(tmp_path / "film.mkv", tmp_path / "out.mkv", model, options)
    assert report.frames == report.upscaling.frames == 13
    assert [round(frame.time * 1000) for frame in decoded(tmp_path / "out.mkv")] == every(40, 13)


@pytest.mark.parametrize("claimed", [3, 1000])
def test_also_where_the_model_runs_twice(
    tmp_path: Path, model: ImageModelDescriptor, monkeypatch: pytest.MonkeyPatch, claimed: int
) -> None:
    make_film(tmp_path / "film.mkv", every(40, 7))
    monkeypatch.setattr("cudaspeed.video.reader.count_packets", lambda *_: PacketCount(claimed))
    options = UpscaleOptions(precision="fp32", compile=False, reproducible=True, resize=Resize(scale_by=4))
    report = run(tmp_path / "film.mkv", tmp_path / "out.mkv", model, options)
    assert (report.frames, report.upscaling.passes, report.output_size) == (7, 2, (192, 256))
    assert_same(decoded(tmp_path / "out.mkv"), expected(tmp_path / "film.mkv", model, options, "yuv420p"))


def test_few_frames_are_there_at_once(
    tmp_path: Path, model: ImageModelDescriptor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, and however slowly they are written."""
    make_film(tmp_path / "film.mkv", every(40, 90))
    frame = 48 * 64 * 3
    monkeypatch.setattr(stages, "_MOST_BYTES", 2 * 20 * frame)
    alive: set[int] = set()
    most = 0

    class Watched(ToPixels):
        def __call__(self, given: Any) -> Any:
            nonlocal most
            pixels = super().__call__(given)
            alive.add(id(pixels))
            weakref.finalize(pixels, alive.discard, id(pixels))
            most = max(most, len(alive))
            return pixels

    monkeypatch.setattr(reader, "ToPixels", Watched)
    run(tmp_path / "film.mkv", tmp_path / "out.mkv", model)
    assert len(decoded(tmp_path / "out.mkv")) == 90
    assert 2 < most <= 22


def test_sound_lies_near_the_pictures_of_its_time(tmp_path: Path, model: ImageModelDescriptor) -> None:
    """Decoding may be far ahead of the engine: players that read a file in order want both together."""
    make_film(tmp_path / "film.mkv", every(40, 120), beside=Beside(("eng",)))
    run(tmp_path / "film.mkv", tmp_path / "out.mkv", model, video=VideoOptions(crf=40))
    assert packets(tmp_path / "out.mkv", 1) == packets(tmp_path / "film.mkv", 1)
    with av.open(str(tmp_path / "out.mkv")) as container:
        last = {0: 0.0, 1: 0.0}
        for packet in container.demux():
            if packet.size:
                last[packet.stream.index] = float(packet.pts * packet.time_base)
                assert abs(last[0] - last[1]) < 2.5


def test_frames_of_the_first_size_are_made_as_they_were_after_others(
    tmp_path: Path, model: ImageModelDescriptor
) -> None:
    make_film(tmp_path / "one.ts", every(40, 3), Look(size=(48, 64), b_frames=0))
    make_film(tmp_path / "two.ts", every(40, 3), Look(size=(64, 96), b_frames=0))
    one, two = ((tmp_path / name).read_bytes() for name in ("one.ts", "two.ts"))
    (tmp_path / "film.ts").write_bytes(one + two + one)
    options = replace(PLAIN, resize=Resize(0, 100, 100, "crop"))
    run(tmp_path / "film.ts", tmp_path / "out.mkv", model, options)
    frames = decoded(tmp_path / "out.mkv")
    assert len(frames) == 9
    assert_same(frames[6:], frames[:3])
    with FilmReader(tmp_path / "film.ts") as film:
        images = upscale_into_memory(film, model, options, StandaloneContext("cpu")).image
    assert torch.equal(images[6:], images[:3])


def test_a_film_that_changes_its_size_keeps_that_of_its_result(tmp_path: Path, model: ImageModelDescriptor) -> None:
    small, large = Look(size=(48, 64), b_frames=0), Look(size=(64, 96), b_frames=0)
    make_film(tmp_path / "one.ts", every(40, 30), small)
    make_film(tmp_path / "two.ts", every(40, 5), large)
    film = tmp_path / "film.ts"
    film.write_bytes((tmp_path / "one.ts").read_bytes() + (tmp_path / "two.ts").read_bytes())
    report = run(film, tmp_path / "out.mkv", model)
    frames = decoded(tmp_path / "out.mkv")
    assert report.frames == len(frames) == 35 and {(frame.height, frame.width) for frame in frames} == {(96, 128)}
    assert sum("changes its size, to 96x64 from frame 30" in warning for warning in report.warnings) == 1
    gaps = [round((after.time - before.time) * 1000) for before, after in pairwise(frames)]
    assert gaps[:29] == [40] * 29 and gaps[30:] == [40] * 4 and 0 < gaps[29] <= 80


@pytest.mark.parametrize(
    ("resize", "size"), [(Resize(width=150, height=80), (150, 80)), (Resize(height=192), (144, 192))]
)
def test_a_wanted_size_is_that_of_the_film_as_it_is_shown(
    tmp_path: Path, model: ImageModelDescriptor, resize: Resize, size: tuple[int, int]
) -> None:
    """One that was filmed upright is stored lying."""
    make_film(tmp_path / "film.mp4", every(40, 2), Look(rotation=90))
    options = UpscaleOptions(precision="fp32", compile=False, resize=resize)
    run(tmp_path / "film.mp4", tmp_path / "out.mkv", model, options)
    frame = decoded(tmp_path / "out.mkv")[0]
    assert (frame.height, frame.width) == size and frame.rotation == 90


def test_a_film_of_oblong_pixels_that_is_stretched_looks_as_it_did(tmp_path: Path, model: ImageModelDescriptor) -> None:
    make_film(tmp_path / "film.mp4", every(40, 2), Look(pixel_aspect=Fraction(4, 3)))  # is shown as 16:9
    options = UpscaleOptions(precision="fp32", compile=False, resize=Resize(width=160, height=90))
    run(tmp_path / "film.mp4", tmp_path / "out.mp4", model, options, VideoOptions())
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert (container.streams.video[0].sample_aspect_ratio or 1) == 1


def test_alpha_goes_through_and_is_left_out_where_nobody_writes_it(tmp_path: Path, model: ImageModelDescriptor) -> None:
    look = Look("libvpx-vp9", "yuva420p", tags={"alpha_mode": "1"}, options={"cpu-used": "8"})
    make_film(tmp_path / "film.webm", every(40, 3), look)
    report = run(tmp_path / "film.webm", tmp_path / "out.mkv", model)
    assert report.pixel_format == "yuva420p"
    alpha = decoded(tmp_path / "out.mkv", "rgba")[0][..., 3]
    assert alpha[48, 64] > 250 and alpha[0, 0] < 5
    report = run(tmp_path / "film.webm", tmp_path / "out.mp4", model, video=VideoOptions())
    assert report.pixel_format == "yuv420p" and any("transparency" in warning for warning in report.warnings)


def test_what_is_wrong_with_a_film_is_counted_in_the_report(tmp_path: Path, model: ImageModelDescriptor) -> None:
    make_film(tmp_path / "film.mkv", every(40, 40), Look(options={"g": "10"}, b_frames=0))
    overwrite(tmp_path / "film.mkv", 15, 4)
    report = run(tmp_path / "film.mkv", tmp_path / "out.mkv", model)
    assert report.losses.damaged >= 1 and any("damaged" in warning for warning in report.warnings)
    assert len(decoded(tmp_path / "out.mkv")) == report.frames >= 25


def test_an_interlaced_film_is_warned_of_and_deinterlaced_where_asked_for(
    tmp_path: Path, model: ImageModelDescriptor
) -> None:
    look = Look(pixel_format="yuv420p10le", options={"x264-params": "tff=1"}, fields="tff")
    make_film(tmp_path / "film.mkv", every(40, 3), look, Beside(("eng",)))
    report = run(tmp_path / "film.mkv", tmp_path / "out.mkv", model)
    assert sum("interlaced" in warning and "--deinterlace" in warning for warning in report.warnings) == 1
    asked = VideoOptions("ffv1", deinterlace=True)
    report = run(tmp_path / "film.mkv", tmp_path / "whole.mkv", model, video=asked)
    assert report.frames == 3 and not report.warnings and report.pixel_format == "yuv420p10le"
    with FilmReader(tmp_path / "film.mkv", deinterlace=True) as given:
        whole = [one.picture for one in given.items() if isinstance(one, Frame)]
        pixels = torch.from_numpy(np.stack([*map(ToPixels(alpha=False), whole)])).clamp(0, 1)
        back = FromPixels("yuv420p10le", colour_of(whole[0]))
    made = upscale(pixels, model, PLAIN, StandaloneContext("cpu"), new_sessions()).image
    assert_same(decoded(tmp_path / "whole.mkv"), [back(frame.numpy()) for frame in made])
    assert packets(tmp_path / "whole.mkv", 1) == packets(tmp_path / "film.mkv", 1)


def test_progress_tells_every_frame(tmp_path: Path, model: ImageModelDescriptor) -> None:
    make_film(tmp_path / "film.mkv", every(40, 8))
    told: list[FilmProgress] = []
    run(tmp_path / "film.mkv", tmp_path / "out.mkv", model, tell=told.append)
    assert [(one.done, one.total, one.pixels) for one in told] == [(n, 8, n * 48 * 64) for n in range(1, 9)]
    assert str(FilmProgress(120, 2400, 20.0, 120 * 10**6)) == "120 of 2400 frames, 6.0 frames/s, 6.00 MP/s, 6:20 left"
    assert str(FilmProgress(1, 10**5, 1.0, 10**6)).endswith("27:46:39 left")


class Ended(BaseException):
    """As a host's interrupt."""


def interrupt_at(number: int) -> Any:
    def tell(progress: FilmProgress) -> None:
        if progress.done == number:
            raise Ended

    return tell


def test_an_interrupt_leaves_what_was_there(tmp_path: Path, model: ImageModelDescriptor) -> None:
    make_film(tmp_path / "film.mkv", every(40, 60), beside=Beside(("eng",)))
    (tmp_path / "out.mkv").write_bytes(b"as it was")
    with pytest.raises(Ended):
        run(tmp_path / "film.mkv", tmp_path / "out.mkv", model, tell=interrupt_at(5))
    assert (tmp_path / "out.mkv").read_bytes() == b"as it was"
    assert {path.name for path in tmp_path.iterdir()} == {"film.mkv", "out.mkv"}


def test_a_disk_that_is_full_is_told_and_nothing_is_left(
    tmp_path: Path, model: ImageModelDescriptor, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_film(tmp_path / "film.mkv", every(40, 60))
    write, written = writer.FilmWriter.write, [0]

    def fill(self: Any, *frame: Any) -> None:
        written[0] += 1
        if written[0] > 4:
            raise OSError(28, "No space left on device")
        write(self, *frame)

    monkeypatch.setattr(writer.FilmWriter, "write", fill)
    with pytest.raises(OutputError, match=r"No space left.*the film takes about .* GB, and .* GB are free"):
        run(tmp_path / "film.mkv", tmp_path / "out.mkv", model)
    assert [path.name for path in tmp_path.iterdir()] == ["film.mkv"]


def test_what_fails_in_the_decoder_is_raised_and_nothing_is_left(
    tmp_path: Path, model: ImageModelDescriptor, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(ToPixels):
        def __call__(self, frame: Any) -> Any:
            if frame.pts > 400:
                raise MemoryError("no memory for a frame")
            return super().__call__(frame)

    make_film(tmp_path / "film.mkv", every(40, 30))
    monkeypatch.setattr(reader, "ToPixels", Failing)
    with pytest.raises(CudaspeedError, match=r"64x48 does not fit into memory.*no memory for a frame"):
        run(tmp_path / "film.mkv", tmp_path / "out.mkv", model)
    assert [path.name for path in tmp_path.iterdir()] == ["film.mkv"]


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="a thread cannot send a signal here")
@pytest.mark.parametrize("video", [LOSSLESS, VideoOptions("ffv1", segment_seconds=0.4)])
def test_a_second_interrupt_waits_for_who_still_writes(
    tmp_path: Path, model: ImageModelDescriptor, monkeypatch: pytest.MonkeyPatch, video: VideoOptions
) -> None:
    make_film(tmp_path / "film.mkv", every(40, 30))
    main = threading.get_ident()
    last, writing, ending = threading.Event(), threading.Event(), threading.Event()
    make, stop = FromPixels.__call__, ByteQueue.stop

    def slowly(self: Any, pixels: Any) -> Any:
        if last.is_set():
            writing.set()
            ending.wait(60)
            for _ in range(3):
                time.sleep(0.1)
                signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.1)
        return make(self, pixels)

    def noted(self: Any, error: BaseException | None = None) -> None:
        stop(self, error)
        ending.set()

    def tell(progress: FilmProgress) -> None:
        if progress.done == 11:
            last.set()
        elif progress.done == 12:
            writing.wait(60)
            raise KeyboardInterrupt

    monkeypatch.setattr(FromPixels, "__call__", slowly)
    monkeypatch.setattr(ByteQueue, "stop", noted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "film.mkv", tmp_path / "out.mkv", model, video=video, tell=tell)
    assert not [thread for thread in threading.enumerate() if thread.name == "cudaspeed encoding"]
    assert not (tmp_path / "out.mkv").exists()


@pytest.mark.parametrize(
    ("size", "codec", "told"),
    [
        ((1, 1), "libx265", "2x2; libx265 writes sides of 16"),
        ((2, 9000), "auto", "18000x4; libx264 writes sides of 2 to 16384"),
    ],
)
def test_sizes_that_cannot_be_written_are_told_before_the_first_frame(
    tmp_path: Path, model: ImageModelDescriptor, size: tuple[int, int], codec: str, told: str
) -> None:
    make_film(tmp_path / "film.mkv", every(40, 2), Look("ffv1", size=size))
    seen: list[FilmProgress] = []
    with pytest.raises(BadOptionError, match=told):
        run(tmp_path / "film.mkv", tmp_path / "out.mkv", model, video=VideoOptions(codec), tell=seen.append)
    assert not seen and [path.name for path in tmp_path.iterdir()] == ["film.mkv"]


def test_what_is_no_film_leaves_no_file(tmp_path: Path, model: ImageModelDescriptor) -> None:
    (tmp_path / "film.mkv").write_bytes(b"no film")
    with pytest.raises(BadFilmError):
        run(tmp_path / "film.mkv", tmp_path / "out.mkv", model)
    assert [path.name for path in tmp_path.iterdir()] == ["film.mkv"]


def test_one_pixel_becomes_four(tmp_path: Path, model: ImageModelDescriptor) -> None:
    make_film(tmp_path / "film.mkv", every(40, 2), Look("ffv1", size=(1, 1), colour=(REC709, LIMITED, 1, 1)))
    run(tmp_path / "film.mkv", tmp_path / "out.mkv", model, video=VideoOptions())
    assert decoded(tmp_path / "out.mkv")[0].width == 2
