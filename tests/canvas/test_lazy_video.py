"""A VIDEO that is upscaled while it is saved, outside ComfyUI. Inside it: comfyui/test_video.py."""

from __future__ import annotations

import enum
import io
import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import video_wire
import zoo
from films import LIMITED, REC2020, Beside, Look, av, decoded, every, make_film, packets
from video_wire import VideoComponents, VideoFromComponents, VideoFromFile

from cudaspeed import nodes
from cudaspeed.api.errors import (
    BadFilmError,
    BadModelError,
    BadOptionError,
    MissingLibraryError,
    OutOfMemoryError,
    OutputError,
)
from cudaspeed.canvas import lazy_video
from cudaspeed.host import comfyui, context, language
from cudaspeed.host import executing as host_executing
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.video import clip, pyav

PLAIN = {"precision": "fp32", "enable_compile": "disable", "reproducible": "enable"}
FRAMES = 12
PQ2020 = (REC2020, LIMITED, REC2020, clip.PQ)


class Container(enum.Enum):
    """As the host names them."""

    AUTO = "auto"
    MKV = "mkv"


class Interrupted(Exception):  # noqa: N818  # no error
    """The user asked to stop."""


@dataclass
class Computing:
    """What is computed: how often a run began, what was said and shown; `stop_at` so many frames it is interrupted."""

    runs: int = 0
    said: list[str] = field(default_factory=list)
    shown: list[Any] = field(default_factory=list)
    stop_at: float = float("inf")

    def context(self, devices: str) -> Any:
        assert not devices
        self.runs += 1
        made = StandaloneContext("cpu", on_progress=self._progress, on_say=self.said.append)
        made.show, made.looked_at = self.shown.append, True  # type: ignore[method-assign]
        return made

    def _progress(self, done: float, total: int) -> None:
        if done >= self.stop_at:
            raise Interrupted


@pytest.fixture(autouse=True)
def computing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Computing:
    """Inside a host with VIDEO, whose temporary folder is a test's."""
    computing = Computing()
    video_wire.enter(monkeypatch)
    monkeypatch.setattr(context, "StandaloneContext", computing.context)
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(lazy_video, "temporary_folder", lambda: tmp_path / "temp")
    monkeypatch.setenv("CUDASPEED_CACHE_DIR", str(tmp_path / "cache"))
    return computing


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.mp4"
    make_film(path, every(40, FRAMES), beside=Beside(sounds=("eng",), chapters=True, tags={"title": "Home"}))
    return path


def upscaled(video: Any, **widgets: Any) -> Any:
    node = nodes.UpscaleVideoCUDAspeed()
    (made,) = node.upscale(zoo.compact(), video, **{**PLAIN, **widgets})
    return made


def from_file(path: Path, **window: float) -> VideoFromFile:
    return VideoFromFile(str(path), **window)  # type: ignore[abstract]


def of_frames(frames: int = 6, size: tuple[int, int] = (24, 32), bits: int = 8, **more: Any) -> VideoFromComponents:
    images = zoo.photograph(*size, frames=max(1, frames))[:frames]
    components = VideoComponents(images, Fraction(25), **more)
    return VideoFromComponents(components, bits)  # type: ignore[abstract]


def streams(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        return [stream.codec_context.name if stream.codec_context else "" for stream in container.streams]


def tags(path: Path) -> dict[str, str]:
    with av.open(str(path)) as container:
        return {name.lower(): value for name, value in container.metadata.items()}


def test_it_tells_what_it_will_be_and_computes_nothing_for_that(film: Path, computing: Computing) -> None:
    made = upscaled(from_file(film))
    assert isinstance(made, video_wire.VideoInput)
    assert made.get_dimensions() == (128, 96)
    assert made.get_frame_rate() == 25
    assert made.get_frame_count() == FRAMES
    assert made.get_duration() == pytest.approx(FRAMES / 25)
    assert made.get_bit_depth() == 8
    assert made.get_color_space() == "sRGB"
    assert made.get_container_format() == "mp4"
    assert made.get_active_trim_window() == (0.0, 0.0)
    assert not computing.runs


def test_what_it_tells_is_what_is_written(tmp_path: Path) -> None:
    make_film(tmp_path / "film.mkv", every(40, 4), Look(pixel_format="yuv420p10le", size=(30, 42), colour=PQ2020))
    made = upscaled(from_file(tmp_path / "film.mkv"), scale_by=1.5)
    made.save_to(str(tmp_path / "out.mkv"))
    with av.open(str(tmp_path / "out.mkv")) as container:
        stream = container.streams.video[0]
        assert made.get_dimensions() == (stream.width, stream.height) == (64, 46)
        assert stream.codec_context.pix_fmt == "yuv420p10le"
    assert (made.get_bit_depth(), made.get_color_space()) == (10, "HDR PQ")


def test_it_is_written_as_its_widgets_say_with_what_is_beside_the_pictures(
    film: Path, tmp_path: Path, computing: Computing
) -> None:
    made = upscaled(from_file(film), codec="libx265", bit_depth="10", target_width=160)
    out = tmp_path / "out.mp4"
    made.save_to(str(out), format="auto", codec="auto", metadata={"prompt": {"1": "ü"}, "note": "mine"})
    assert streams(out)[:2] == ["hevc", "aac"]
    assert len(decoded(out)) == FRAMES
    assert decoded(out)[0].format.name == "yuv420p10le"
    assert decoded(out)[0].width == 160
    assert packets(out, 1) == packets(film, 1)
    assert json.loads(tags(out)["prompt"]) == {"1": "ü"}
    assert (tags(out)["note"], tags(out)["title"]) == ("mine", "Home")
    assert computing.said[-1].startswith(f"{FRAMES} frames of 160x120, libx265, ")


def test_what_the_saving_node_chooses_wins(film: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = upscaled(from_file(film), codec="libx265", crf=30)
    sizes = []
    for crf in (None, 40.0):
        made.save_to(str(tmp_path / "out.mkv"), Container.MKV, "av1", crf=crf, bit_depth=10)
        assert streams(tmp_path / "out.mkv")[0] == "libdav1d" or "av1" in streams(tmp_path / "out.mkv")[0]
        assert decoded(tmp_path / "out.mkv")[0].format.name == "yuv420p10le"
        sizes.append((tmp_path / "out.mkv").stat().st_size)
    assert sizes[1] < sizes[0], "a crf of libx265 is none of libsvtav1's"
    with caplog.at_level(logging.WARNING):
        made.save_to(str(tmp_path / "out.mp4"), codec="h264", color_space="sRGB", loops=3)
    assert streams(tmp_path / "out.mp4")[0] == "h264"
    assert "loops" in caplog.text


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"format": "avi"}, "format is 'avi'; choose auto, or one of mp4, mkv, mov, webm"),
        ({"codec": "theora"}, "codec is 'theora'; choose auto, or one of h264, "),
        ({"color_space": "HDR"}, "color_space is 'HDR', and the film is sRGB"),
        ({"crf": 99.0}, "crf is 99; libx264 takes 0"),
        ({"bit_depth": 12}, "bits is 12; use 8, 10"),
        ({"format": "webm", "codec": "h264"}, "libx264 does not go into .webm"),
    ],
)
def test_what_cannot_be_written_is_one_clear_error(film: Path, tmp_path: Path, asked: Any, told: str) -> None:
    made = upscaled(from_file(film))
    with pytest.raises(BadOptionError, match=told):
        made.save_to(str(tmp_path / "out.mp4"), **asked)
    assert not (tmp_path / "out.mp4").exists()


def test_what_goes_wrong_is_told_in_the_users_language(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language, "language", lambda: "zh")
    with pytest.raises(BadFilmError, match=r"^video 是 int；请连接"):
        upscaled(7)
    made = upscaled(from_file(film))
    with pytest.raises(BadOptionError, match=r"^codec 为 'nonsense'；请选择 auto，或从 "):
        made.save_to(tmp_path / "a.mp4", codec="nonsense")
    monkeypatch.setattr(lazy_video, "free_or_assumed_bytes", lambda device: 1000)
    with pytest.raises(OutOfMemoryError, match=r"^12 帧 .* 作为图像需要 .*；请先保存视频"):
        made.get_components()


def test_a_stream_gets_the_container_that_is_asked_for(film: Path, tmp_path: Path, computing: Computing) -> None:
    made = upscaled(from_file(film))
    for container, name in (("auto", "mov,mp4"), ("mkv", "matroska")):
        stream = io.BytesIO()
        made.save_to(stream, format=container, metadata={"prompt": {}})
        stream.seek(0)
        with av.open(stream) as found:
            assert found.format.name.startswith(name)
            assert len([*found.decode(video=0)]) == FRAMES
    made.save_to(str(tmp_path / "odd.dat"), format="mkv")
    for path in (tmp_path / "temp").iterdir():
        path.unlink()
    made.save_to(str(tmp_path / "odder.dat"), format="mkv")
    assert packets(tmp_path / "odd.dat", 0) == packets(tmp_path / "odder.dat", 0)
    assert len(decoded(tmp_path / "odder.dat")) == FRAMES
    assert computing.runs == 2


def test_a_film_in_memory_is_read_like_a_file(film: Path, tmp_path: Path) -> None:
    for number, source in enumerate((film, io.BytesIO(film.read_bytes()))):
        video = VideoFromFile(source if isinstance(source, io.BytesIO) else str(source))  # type: ignore[abstract]
        upscaled(video).save_to(str(tmp_path / f"{number}.mp4"))
    assert packets(tmp_path / "0.mp4", 0) == packets(tmp_path / "1.mp4", 0)


def test_the_same_film_again_is_copied_as_long_as_the_first_file_is_unchanged(
    film: Path, tmp_path: Path, computing: Computing
) -> None:
    made, first, second = upscaled(from_file(film)), tmp_path / "first.mp4", tmp_path / "second.mp4"
    made.save_to(str(first), metadata={"prompt": {"prefix": "first"}, "old": "1"})
    made.save_to(str(second), metadata={"prompt": {"prefix": "second"}})
    assert computing.runs == 1
    assert [packets(first, k) for k in (0, 1)] == [packets(second, k) for k in (0, 1)]
    assert json.loads(tags(second)["prompt"]) == {"prefix": "second"}
    assert "old" not in tags(second)
    assert tags(second)["title"] == "Home"
    with av.open(str(first)) as one, av.open(str(second)) as other:
        assert one.chapters() == other.chapters() != []
    made.save_to(str(second), crf=30.0)
    assert computing.runs == 2, "another quality is another film"
    first.write_bytes(first.read_bytes() + b"more")
    made.save_to(str(tmp_path / "third.mp4"))
    assert computing.runs == 3, "what was changed is not taken for ours"


def test_its_stream_source_is_one_file_in_the_temporary_folder(
    film: Path, tmp_path: Path, computing: Computing
) -> None:
    made = upscaled(from_file(film))
    path = Path(made.get_stream_source())
    assert path.parent == tmp_path / "temp"
    assert made.get_stream_source() == str(path)
    made.save_to(str(tmp_path / "out.mp4"))
    assert computing.runs == 1
    assert packets(path, 0) == packets(tmp_path / "out.mp4", 0)
    assert [*(tmp_path / "temp").iterdir()] == [path]
    path.unlink()
    assert Path(made.get_stream_source()).is_file()
    made.save_to(io.BytesIO())
    assert computing.runs == 1
    assert len([*(tmp_path / "temp").iterdir()]) == 1


def test_a_part_is_the_same_whether_the_source_or_the_result_is_cut(film: Path, tmp_path: Path) -> None:
    upscaled(from_file(film), codec="ffv1").save_to(str(tmp_path / "whole.mkv"))
    upscaled(from_file(film, start_time=0.1, duration=0.2), codec="ffv1").save_to(str(tmp_path / "before.mkv"))
    after = upscaled(from_file(film), codec="ffv1").as_trimmed(0.1, 0.2)
    after.save_to(str(tmp_path / "after.mkv"))
    whole, before, cut = (decoded(tmp_path / f"{name}.mkv", "rgb24") for name in ("whole", "before", "after"))
    assert np.array_equal(np.stack(before), np.stack(whole[3:8]))
    assert np.array_equal(np.stack(cut), np.stack(before))
    assert packets(tmp_path / "before.mkv", 1) == packets(tmp_path / "after.mkv", 1) != []
    assert (after.get_frame_count(), after.get_duration()) == (5, pytest.approx(0.2))


def test_parts_of_parts_and_from_the_end(film: Path, computing: Computing) -> None:
    made = upscaled(from_file(film))
    assert made.as_trimmed(-0.2).get_frame_count() == 5
    assert made.as_trimmed(0.1).as_trimmed(0.08, 0.12).get_frame_count() == 3
    assert made.as_trimmed(0.04, 0.2).as_trimmed(0.1, 5.0).get_frame_count() == 2, "not beyond the first part"
    assert made.as_trimmed(0, 0).get_frame_count() == made.as_trimmed().get_frame_count() == FRAMES
    assert made.as_trimmed(0.2, 9.0).get_frame_count() == FRAMES - 5
    assert made.as_trimmed(0.2, 9.0, strict_duration=True) is None
    assert made.as_trimmed(FRAMES / 25) is None
    assert not computing.runs


def test_an_interrupt_leaves_nothing_and_the_next_time_all_is_done(
    film: Path, tmp_path: Path, computing: Computing
) -> None:
    made, out = upscaled(from_file(film)), tmp_path / "out"
    out.mkdir()
    computing.stop_at = 3
    with pytest.raises(Interrupted):
        made.save_to(str(out / "film.mp4"))
    assert not [*out.iterdir()]
    computing.stop_at = float("inf")
    made.save_to(str(out / "film.mp4"))
    assert len(decoded(out / "film.mp4")) == FRAMES


def test_with_segments_the_next_time_goes_on_with_what_an_interrupt_left(
    tmp_path: Path, computing: Computing, monkeypatch: pytest.MonkeyPatch
) -> None:
    film, out = tmp_path / "slow.mkv", tmp_path / "out"
    make_film(film, every(1000, 24))  # three segments
    out.mkdir()
    upscaled(from_file(film)).save_to(str(tmp_path / "whole.mkv"), metadata={"prompt": {"1": 2}})
    made = upscaled(from_file(film), segments="enable")
    calls: list[float] = []

    def interrupt(done: float, total: int) -> None:
        time.sleep(0.02)  # so that what is done is encoded
        calls.append(done)
        if len(calls) == 18:
            raise Interrupted

    monkeypatch.setattr(computing, "_progress", interrupt)
    with pytest.raises(Interrupted):
        made.save_to(str(out / "film.mkv"), metadata={"prompt": {"1": 2}})
    (kept,) = out.iterdir()
    assert kept.name.startswith("."), "Save Video goes on with its numbers by the names that it finds"
    made.save_to(str(out / "film.mkv"), metadata={"prompt": {"1": 2}})
    assert [path.name for path in out.iterdir()] == ["film.mkv"]
    assert len(calls) == 18 + 14, "the first ten frames are not computed again"
    frames = (decoded(path, "rgb24") for path in (out / "film.mkv", tmp_path / "whole.mkv"))
    for one, other in zip(*frames, strict=True):  # encoded in other pieces
        assert np.abs(one.astype(int) - other).mean() < 2
    assert "prompt" in tags(out / "film.mkv")


def test_pictures_are_shown_on_the_way_turned_and_small(
    tmp_path: Path, computing: Computing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cudaspeed.video.previews._BETWEEN", 0.0)
    monkeypatch.setattr("cudaspeed.video.previews.QUICK", 0.0)
    monkeypatch.setattr("cudaspeed.video.previews.SIDE", 64)
    make_film(tmp_path / "film.mp4", every(40, 4), Look(rotation=90))
    upscaled(from_file(tmp_path / "film.mp4")).save_to(str(tmp_path / "out.mp4"))
    assert [picture.shape for picture in computing.shown] == [(64, 48, 3)] * 4
    assert computing.shown[0].dtype == np.uint8


def test_a_failure_is_said_where_it_was_saved(film: Path, tmp_path: Path, computing: Computing) -> None:
    made = upscaled(from_file(film))
    with pytest.raises(OutputError, match="cannot be written"):
        made.save_to(str(tmp_path / "gone" / "out.mp4"))
    assert "cannot be written" in computing.said[-1]


def test_frames_in_memory_become_a_film_of_the_usual_kind_and_nothing_of_them_is_lost(tmp_path: Path) -> None:
    tone = torch.sin(torch.arange(48000 // 25 * 6) / 20)[None, None] * 0.5
    video = of_frames(audio={"waveform": tone, "sample_rate": 48000})
    made = upscaled(video)
    assert (made.get_frame_count(), made.get_frame_rate(), made.get_dimensions()) == (6, 25, (64, 48))
    made.save_to(str(tmp_path / "out.mp4"))
    assert streams(tmp_path / "out.mp4") == ["h264", "aac"]
    frame = decoded(tmp_path / "out.mp4")[0]
    assert (frame.format.name, frame.colorspace, frame.color_range) == ("yuv420p", 1, 1)
    parts, image = made.get_components(), video.get_components().images
    node = nodes.UpscaleImageCUDAspeed()
    (wanted,) = node.upscale(zoo.compact(), image, **PLAIN)["result"]
    assert torch.equal(parts.images, wanted)
    assert torch.equal(parts.audio["waveform"], tone)
    made.save_to(str(tmp_path / "out.webm"))
    assert streams(tmp_path / "out.webm")[1] == "opus"


def test_frames_in_memory_may_have_alpha_more_bits_and_another_colour_space(tmp_path: Path) -> None:
    alpha = torch.zeros(6, 24, 32)
    alpha[:, 6:18, 8:24] = 1
    made = upscaled(of_frames(alpha=alpha, bits=10), codec="ffv1")
    made.save_to(str(tmp_path / "out.mkv"), color_space="HDR PQ")
    frame = decoded(tmp_path / "out.mkv")[0]
    assert (frame.format.name, frame.color_trc) == ("yuva420p10le", clip.PQ)
    parts = made.get_components()
    assert (parts.images.shape, parts.alpha.shape) == ((6, 48, 64, 3), (6, 48, 64, 1))
    assert made.get_bit_depth() == 10
    cut = made.as_trimmed(0.04, 0.08)
    assert torch.equal(cut.get_components().images, parts.images[1:3])


def test_its_frames_are_upright_with_the_sound_of_their_time(tmp_path: Path) -> None:
    make_film(tmp_path / "film.mp4", every(40, 10), Look(rotation=90), Beside(sounds=("eng",)))
    made = upscaled(from_file(tmp_path / "film.mp4", start_time=0.12, duration=0.16))
    parts = made.get_components()
    assert parts.images.shape == (4, 128, 96, 3)
    assert parts.frame_rate == 25
    assert parts.audio["waveform"].shape == (1, 1, 7680)
    wanted = torch.sin((torch.arange(7680) + 5760) / 20) * 0.3
    assert (parts.audio["waveform"][0, 0] - wanted).abs().mean() < 0.02


def test_a_host_without_alpha_gets_none(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video_wire.enter(monkeypatch, old=True)
    assert upscaled(from_file(film)).get_components().images.shape == (FRAMES, 96, 128, 3)


def test_frames_that_do_not_fit_into_half_the_memory_are_one_clear_error(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = upscaled(from_file(film))
    needed = FRAMES * 96 * 128 * 3 * 4
    monkeypatch.setattr(lazy_video, "free_or_assumed_bytes", lambda device: 2 * needed - 2)
    with pytest.raises(OutOfMemoryError, match=r"12 frames of 128x96 take .* GB .* GB are free.*lower scale_by"):
        made.get_components()
    monkeypatch.setattr(lazy_video, "free_or_assumed_bytes", lambda device: 2 * needed)
    assert len(made.get_components().images) == FRAMES


def executing(monkeypatch: pytest.MonkeyPatch, server: SimpleNamespace) -> Callable[[str], None]:
    """Inside ComfyUI with this server; the function tells which node executes from now on."""
    now = SimpleNamespace(node_id="", prompt_id="a prompt")
    monkeypatch.setattr(host_executing, "inside_comfyui", lambda: True)
    for module in (comfyui, host_executing):
        monkeypatch.setattr(module, "prompt_server", lambda: server)
    utils = SimpleNamespace(get_executing_context=lambda: now)
    monkeypatch.setitem(sys.modules, "comfy_execution", SimpleNamespace(utils=utils))
    monkeypatch.setitem(sys.modules, "comfy_execution.utils", utils)
    return lambda node: setattr(now, "node_id", node)


def test_what_a_run_was_like_stands_on_the_node_that_it_comes_from(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, dict[str, Any], str | None]] = []
    server = SimpleNamespace(client_id="a page", send_sync=lambda *told: sent.append(told))
    execute = executing(monkeypatch, server)
    execute("up")
    made = upscaled(from_file(film))
    execute("cut")
    part = made.as_trimmed(0.0, 0.08)
    execute("save")
    assert sent == []
    made.save_to(str(tmp_path / "made.mp4"))
    made.save_to(str(tmp_path / "again.mp4"))
    ((kind, told, page), copied) = sent
    assert (kind, page, copied) == ("executed", "a page", sent[0]), "a copy is owed to the same run"
    assert (told["node"], told["display_node"], told["prompt_id"]) == ("up", "up", "a prompt")
    (run,) = map(json.loads, told["output"]["cudaspeed"])
    assert run["summary"].startswith(f"{FRAMES} frames of 128x96, libx264, ")
    assert dict(run["facts"])["encoding"] == "libx264, yuv420p"
    assert any("64x48 pixels became 128x96" in sentence for sentence in run["explained"])
    part.get_components()
    assert json.loads(sent[-1][1]["output"]["cudaspeed"][0])["summary"].startswith("2 frames, 64x48 -> 128x96, fp32, ")
    assert sent[-1][1]["node"] == "up"


@pytest.mark.parametrize("lacking", ["page", "server", "node"])
def test_where_nobody_looks_nothing_is_sent_and_the_film_is_made(
    lacking: str, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    if lacking != "server":
        client = None if lacking == "page" else "a page"
        execute = executing(monkeypatch, SimpleNamespace(client_id=client, send_sync=lambda *told: sent.append(told)))
        execute("up")
    if lacking == "node":
        monkeypatch.setitem(sys.modules, "comfy_execution.utils", SimpleNamespace())  # of an older host
    upscaled(from_file(film)).save_to(str(tmp_path / "made.mp4"))
    assert (tmp_path / "made.mp4").stat().st_size and sent == []


def test_what_goes_wrong_before_anything_is_computed_is_said_on_the_node_that_saves(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    made = upscaled(from_file(film))
    execute = executing(monkeypatch, SimpleNamespace(send_progress_text=lambda text, node: said.append(text)))
    execute("save")
    with pytest.raises(BadOptionError) as wrong:
        made.save_to(str(tmp_path / "made.mp4"), codec="klingon")
    assert said == [str(wrong.value)]
    later = made.as_trimmed(0.1, 0.1)
    film.unlink()
    with pytest.raises(BadFilmError) as gone:
        later.get_dimensions()  # as Save Video asks first
    assert said == [str(wrong.value), str(gone.value)]


def test_what_is_missing_and_wrong_wires_are_one_clear_error(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadFilmError, match="video is a Tensor; connect the output of Load Video"):
        upscaled(zoo.photograph(8, 8))
    with pytest.raises(BadModelError, match="connect the output of an UpscaleModelLoader"):
        nodes.UpscaleVideoCUDAspeed().upscale("4x.pth", from_file(film))  # type: ignore[arg-type]
    with pytest.raises(BadFilmError, match="No such file"):
        upscaled(from_file(film.with_name("gone.mp4")))
    with pytest.raises(BadFilmError, match=r"no frames|no frame that can be decoded in the part"):
        upscaled(from_file(film, start_time=50))
    with pytest.raises(BadFilmError, match="no frames"):
        upscaled(of_frames(frames=0))
    monkeypatch.setattr(pyav, "LEAST", (99, 0))
    with pytest.raises(MissingLibraryError, match=r"need PyAV 99\.0 or newer, and this is .*pip install"):
        upscaled(from_file(film))
    monkeypatch.undo()
    with pytest.raises(MissingLibraryError, match=r"VIDEO is not there .*update ComfyUI"):
        upscaled(from_file(film))
