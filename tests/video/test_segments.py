"""Films in segments: the same film as in one piece, whatever stops it and however often; and what is there is gone on
with only where it is of the same film, whole, and nobody else's."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from films import (
    FULL,
    LIMITED,
    MASTERING,
    REC2020,
    Beside,
    Look,
    av,
    decoded,
    every,
    make_film,
    overwrite,
    plane,
)
from spandrel import ImageModelDescriptor

import cudaspeed
from cudaspeed.api.errors import BadOptionError, OutputError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.video import join, segments
from cudaspeed.video.manifest import Manifest
from cudaspeed.video.options import VideoOptions
from cudaspeed.video.parts import Parts, opened_parts, partial_of, parts_of
from cudaspeed.video.pipeline import FilmJob, upscale_film
from cudaspeed.video.report import FilmProgress, FilmReport
from cudaspeed.video.segmented import FilmStopped

PLAIN = UpscaleOptions(precision="fp32", compile=False, reproducible=True)
QUICK = VideoOptions(crf=30, segment_seconds=0.6)
LOSSLESS = VideoOptions("ffv1", segment_seconds=0.6)
FRAMES, SEGMENT = 60, 15  # of the usual film, and of one of its segments
TWICE = 8  # frames at most that are computed again, so that the engine has as many at once as before
ALL = Beside(("eng", "deu"), subtitles=True, chapters=True, font=True, tags={"title": "A film"})


@pytest.fixture(scope="module")
def model() -> ImageModelDescriptor:
    return cudaspeed.load_model("cudaspeed-compact-x2")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the films, whose folder is looked into."""
    monkeypatch.setenv("CUDASPEED_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


class Upscaling:
    """What upscales the film `source` into files beside it."""

    def __init__(self, source: Path, model: ImageModelDescriptor) -> None:
        self.source, self.model = source, model
        self.told: list[FilmProgress] = []

    def __call__(
        self,
        name: str,
        video: VideoOptions = QUICK,
        options: UpscaleOptions = PLAIN,
        restart: bool = False,
        stop: tuple[int, type[BaseException]] | None = None,
    ) -> FilmReport:
        """What is to `stop` it is raised when segments up to this one are done; -1: at the first frame."""
        self.told.clear()

        def tell(progress: FilmProgress) -> None:
            self.told.append(progress)
            if stop and progress.done > SEGMENT * (stop[0] + 1) + (0 if stop[0] < 0 else TWICE):
                record = parts_of(self.target(name)) / f"{stop[0]:06}.json"
                while stop[0] >= 0 and not record.exists():
                    time.sleep(0.01)
                raise stop[1]

        job = FilmJob(self.source, self.target(name), video, restart=restart)
        return upscale_film(job, self.model, options, StandaloneContext("cpu"), tell)

    def target(self, name: str) -> Path:
        return self.source.with_name(name)

    @property
    def computed(self) -> int:
        """Frames, by the last call."""
        return sum(progress.done > progress.resumed for progress in self.told)


class Killed(BaseException):
    """As good as SIGKILL: nothing is joined."""


@pytest.fixture
def upscaling(tmp_path: Path, model: ImageModelDescriptor) -> Upscaling:
    """Of a film with all that films have, of four segments."""
    make_film(tmp_path / "film.mkv", every(40, FRAMES), beside=ALL)
    return Upscaling(tmp_path / "film.mkv", model)


def uneven(frames: int) -> list[int]:
    """The times of so many frames of a variable rate."""
    gaps = [40, 40, 33, 80, 17] * frames
    return [sum(gaps[:number]) for number in range(frames)]


def content(path: Path) -> list[tuple[Any, ...]]:
    """All packets of all streams: (stream, pts, dts, duration, bytes)."""
    with av.open(str(path)) as container:
        found = [*container.demux([s for s in container.streams if s.type != "attachment"])]
        return [(p.stream.index, p.pts, p.dts, p.duration, bytes(p)) for p in found if p.size]


def assert_same(found: list[Any], wanted: list[Any]) -> None:
    assert len(found) == len(wanted)
    for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
        for k in range(len(other.planes)):
            assert np.array_equal(plane(one, k), plane(other, k)), f"frame {number}, plane {k}"


def told_of(path: Path) -> dict[str, Any]:
    """What a player is told of a film's pictures, and when they are shown."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [*container.decode(stream)]
        first = frames[0]
        return {
            "times": [(frame.pts, frame.duration) for frame in frames],
            "stream": (stream.time_base, stream.average_rate, stream.start_time, stream.duration, stream.disposition),
            "codec": (stream.codec_context.codec_tag, stream.codec_context.profile, first.format.name),
            "shape": (stream.sample_aspect_ratio, first.rotation, first.width, first.height),
            "colour": (first.colorspace, first.color_range, first.color_primaries, first.color_trc),
            "side data": sorted(
                (entry.type.name, bytes(entry)) for entry in iter(first.side_data) if "SEI" not in entry.type.name
            ),
            "tags": {name: value for name, value in stream.metadata.items() if name != "DURATION"},
            "film": (dict(container.metadata), [chapter["metadata"] for chapter in container.chapters()]),
            "streams": [(s.type, s.metadata.get("language"), s.disposition) for s in container.streams],
        }


HDR = Look(
    "libx265",
    "yuv420p10le",
    colour=(REC2020, LIMITED, 9, 16),
    options={"x265-params": f"log-level=none:master-display={MASTERING}:max-cll=1000,400"},
)


@pytest.mark.parametrize(
    ("times", "look", "codec", "ending"),
    [
        (every(40, 40), Look(), "libx264", ".mp4"),
        (uneven(40), Look(), "libx264", ".mp4"),
        (uneven(40), Look(), "libx264", ".mkv"),
        ([500 + at for at in every(40, 40)], Look(rotation=90, pixel_aspect=Fraction(4, 3)), "libx264", ".mov"),
        (every(40, 40), HDR, "libx265", ".mp4"),
        (uneven(40), HDR, "libsvtav1", ".mkv"),
        (every(40, 40), Look(colour=(1, FULL, 1, 1)), "libvpx-vp9", ".webm"),
        (every(40, 40), Look("ffv1", "yuva444p"), "prores_ks", ".mov"),
        ([0, 40, 80, 15000, 15040, 40000], Look("mpeg4"), "libx264", ".mp4"),
    ],
)
def test_it_is_told_of_as_if_it_were_of_one_piece(
    tmp_path: Path, model: ImageModelDescriptor, times: list[int], look: Look, codec: str, ending: str
) -> None:
    film = tmp_path / ("film.mp4" if look.rotation else "film.mkv")
    make_film(film, times, look, ALL if times[-1] < 10_000 and not look.rotation else Beside(("eng",)))
    upscaling = Upscaling(film, model)
    crf = None if codec == "prores_ks" else 35
    upscaling(f"one{ending}", VideoOptions(codec, crf))
    upscaling(f"joined{ending}", VideoOptions(codec, crf, segment_seconds=0.6))
    one, joined = upscaling.target(f"one{ending}"), upscaling.target(f"joined{ending}")
    assert told_of(joined) == told_of(one)
    others = [packet for packet in content(one) if packet[0]]
    assert [packet for packet in content(joined) if packet[0]] == others
    assert not parts_of(joined).exists()


def test_its_frames_are_those_that_were_computed(upscaling: Upscaling) -> None:
    upscaling("one.mkv", VideoOptions("ffv1"))
    upscaling("joined.mkv", LOSSLESS)
    assert_same(decoded(upscaling.target("joined.mkv")), decoded(upscaling.target("one.mkv")))


def test_each_segment_begins_with_a_key_frame(upscaling: Upscaling) -> None:
    upscaling("out.mp4")
    keys = [frame.key_frame for frame in decoded(upscaling.target("out.mp4"))]
    assert [number for number, key in enumerate(keys) if key] == [0, 15, 30, 45]


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
def test_what_was_done_is_not_computed_again_and_the_film_is_the_same(
    upscaling: Upscaling, name: str, batch: int
) -> None:
    options = UpscaleOptions(precision="fp32", compile=False, reproducible=True, batch_size=batch)
    upscaling(f"whole-{name}", options=options)
    for segment in (0, 1, 2):
        with pytest.raises(Killed):
            upscaling(name, options=options, stop=(segment, Killed))
    report = upscaling(name, options=options)
    assert report.frames == FRAMES and report.resumed == 45
    assert upscaling.told[0].done == upscaling.told[0].resumed == 45 and upscaling.told[-1].total >= FRAMES
    assert 15 <= upscaling.computed < 15 + batch
    assert content(upscaling.target(name)) == content(upscaling.target(f"whole-{name}"))
    assert not parts_of(upscaling.target(name)).exists()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


@pytest.mark.parametrize(
    ("name", "look", "spoil"),
    [
        ("film.mkv", Look("libx265", options={"x265-params": "log-level=none:open-gop=1:keyint=20"}), None),
        ("film.mkv", Look(options={"x264-params": "intra-refresh=1:keyint=20"}, b_frames=0), None),
        ("film.ts", Look(options={"x264-params": "open-gop=1:keyint=20:min-keyint=20"}), None),
        ("film.avi", Look("mpeg4", b_frames=0), None),
        ("film.mkv", Look(options={"g": "10"}, b_frames=0), lambda path: overwrite(path, 12, 4)),
        ("film.mkv", Look(options={"g": "10"}, b_frames=0), lambda path: overwrite(path, 52, 4)),
        ("film.ts", Look(options={"g": "10"}), _cut),
        ("film.webm", Look("libvpx-vp9", "yuva420p", tags={"alpha_mode": "1"}, options={"cpu-used": "8"}), None),
    ],
)
def test_also_of_films_that_are_hard_to_enter_in_their_middle(
    tmp_path: Path, model: ImageModelDescriptor, name: str, look: Look, spoil: Any
) -> None:
    make_film(tmp_path / name, every(40, FRAMES), look)
    if spoil:
        spoil(tmp_path / name)
    upscaling = Upscaling(tmp_path / name, model)
    whole = upscaling("whole.mkv")
    with pytest.raises(Killed):
        upscaling("out.mkv", stop=(1, Killed))
    report = upscaling("out.mkv")
    assert report.resumed and (report.frames, report.losses) == (whole.frames, whole.losses)
    assert content(upscaling.target("out.mkv")) == content(upscaling.target("whole.mkv"))


def test_of_a_film_that_changes_its_size(tmp_path: Path, model: ImageModelDescriptor) -> None:
    make_film(tmp_path / "one.ts", every(40, 40), Look(size=(48, 64), b_frames=0))
    make_film(tmp_path / "two.ts", every(40, 40), Look(size=(64, 96), b_frames=0))
    film = tmp_path / "film.ts"
    film.write_bytes((tmp_path / "one.ts").read_bytes() + (tmp_path / "two.ts").read_bytes())
    upscaling = Upscaling(film, model)
    options = UpscaleOptions(precision="fp32", compile=False, reproducible=True, batch_size=3)
    upscaling("whole.mkv", options=options)
    for segment in (1, 3):
        with pytest.raises(Killed):
            upscaling("out.mkv", options=options, stop=(segment, Killed))
    assert upscaling("out.mkv", options=options).resumed
    assert content(upscaling.target("out.mkv")) == content(upscaling.target("whole.mkv"))


def kill(upscaling: Upscaling) -> Path:
    """The folder that a run leaves which does not get further than three segments."""
    with pytest.raises(Killed):
        upscaling("out.mkv", stop=(2, Killed))
    assert not upscaling.target("out.mkv").exists()
    return parts_of(upscaling.target("out.mkv"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("000001.mkv", flip),
        ("000001.mkv", lambda path: path.write_bytes(b"")),
        ("000001.json", lambda path: path.write_bytes(path.read_bytes()[:50])),
        ("000001.json", lambda path: path.write_text("[" * 100_000)),
        ("000001.json", lambda path: path.write_text(path.read_text().replace('"first": 15', '"first": "15"'))),
        ("000001.json", Path.unlink),
    ],
)
def test_a_damaged_segment_is_told_and_done_anew_alone(upscaling: Upscaling, name: str, damage: Any) -> None:
    upscaling("whole.mkv")
    damage(kill(upscaling) / name)
    report = upscaling("out.mkv")
    assert report.resumed == 30 and upscaling.computed == 30
    assert sum("000001.mkv is damaged" in warning for warning in report.warnings) == 1
    assert content(upscaling.target("out.mkv")) == content(upscaling.target("whole.mkv"))


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\udcff"])
def test_a_damaged_manifest_is_told_and_segments_speak_for_themselves(upscaling: Upscaling, text: str) -> None:
    folder = kill(upscaling)
    (folder / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    report = upscaling("out.mkv")
    assert report.resumed == 45 and any("manifest.json is damaged" in warning for warning in report.warnings)


def test_without_a_manifest_nothing_of_another_kind_is_trusted(upscaling: Upscaling) -> None:
    (kill(upscaling) / "manifest.json").unlink()
    report = upscaling("out.mkv", VideoOptions(crf=31, segment_seconds=0.6))
    assert report.resumed == 0 and report.frames == FRAMES


@pytest.mark.parametrize(
    ("video", "options", "told"),
    [
        (VideoOptions(crf=31, segment_seconds=0.6), PLAIN, "crf was 30, is 31"),
        (VideoOptions("libx265", 30, segment_seconds=0.6), PLAIN, 'codec was "auto", is "libx265"'),
        (VideoOptions(crf=30, segment_seconds=2), PLAIN, "segment seconds was 0.6, is 2"),
        (QUICK, UpscaleOptions(precision="fp32", compile=False, reproducible=True, tile=48), "tile was 0, is 48"),
    ],
)
def test_other_options_are_an_error_that_tells_them_and_a_restart_begins_anew(
    upscaling: Upscaling, video: VideoOptions, options: UpscaleOptions, told: str
) -> None:
    folder = kill(upscaling)
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(BadOptionError, match=f"(?s){told}.*--restart") as raised:
        upscaling("out.mkv", video, options)
    assert "precision" not in str(raised.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept
    assert upscaling("out.mkv", video, options, restart=True).resumed == 0
    assert upscaling.computed == FRAMES and not folder.exists()


def test_so_is_a_film_that_was_changed(upscaling: Upscaling) -> None:
    kill(upscaling)
    make_film(upscaling.source, every(40, 50), beside=ALL)
    with pytest.raises(BadOptionError, match=r"the input's size was .*, is .*the input's last MiB was"):
        upscaling("out.mkv")
    assert upscaling("out.mkv", restart=True).frames == 50


def test_so_is_another_model(upscaling: Upscaling) -> None:
    kill(upscaling)
    upscaling.model = cudaspeed.load_model("cudaspeed-compact-x2")
    next(upscaling.model.model.parameters()).data[0] += 0.01
    with pytest.raises(BadOptionError, match=r'model was "[0-9a-f]+\.\.\., is "'):
        upscaling("out.mkv")


def test_another_run_is_refused_while_the_first_lives(upscaling: Upscaling) -> None:
    target = upscaling.target("out.mkv")
    with opened_parts((parts_of(target), target), Manifest({"of": "another"}), restart=False):
        for restart in (False, True):
            with pytest.raises(OutputError, match="another run is writing it"):
                upscaling("out.mkv", restart=restart)
    assert upscaling("out.mkv").frames == FRAMES


def test_what_others_have_in_the_folder_stays(upscaling: Upscaling) -> None:
    folder = parts_of(upscaling.target("out.mkv"))
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "12.mkv").write_text("mine, too")
    upscaling("out.mkv", restart=True)
    assert sorted(path.name for path in folder.iterdir()) == ["12.mkv", "notes.txt"]


def test_where_the_folder_cannot_be_made_that_is_told(upscaling: Upscaling) -> None:
    parts_of(upscaling.target("out.mkv")).write_text("a file")
    with pytest.raises(OutputError, match=r"out\.mkv\.parts: segments cannot be written"):
        upscaling("out.mkv")


@pytest.mark.parametrize("name", ["out.mkv", "out.mp4"])
@pytest.mark.parametrize("segment", [-1, 2])
def test_an_interrupt_leaves_a_film_of_what_is_done(upscaling: Upscaling, name: str, segment: int) -> None:
    upscaling(f"whole-{name}")
    whole = decoded(upscaling.target(f"whole-{name}"))
    target, partial = upscaling.target(name), partial_of(upscaling.target(name))
    try:
        upscaling(name, stop=(segment, KeyboardInterrupt))
    except FilmStopped as stopped:
        frames = decoded(stopped.partial)
        assert stopped.partial == partial and len(frames) == stopped.frames
        assert f"stopped after {len(frames)} frames, which are in {partial}" in str(stopped)
        assert [shown.time for shown in frames] == [shown.time for shown in whole[: len(frames)]]
        done = (segment + 1) * SEGMENT
        assert len(frames) >= done
        assert_same(frames[:done], whole[:done])
        with av.open(str(partial)) as container:
            assert [stream.type for stream in container.streams][:4] == ["video", "audio", "audio", "subtitle"]
    except KeyboardInterrupt:
        assert segment == -1  # no frame was encoded by then
    assert not target.exists()
    assert upscaling(name).resumed == (segment + 1) * SEGMENT
    assert content(target) == content(upscaling.target(f"whole-{name}")) and not partial.exists()


def test_a_file_of_that_name_that_is_not_ours_stays(upscaling: Upscaling) -> None:
    partial = partial_of(upscaling.target("out.mkv"))
    partial.write_text("mine")
    with pytest.raises(FilmStopped) as stopped:
        upscaling("out.mkv", stop=(1, KeyboardInterrupt))
    assert stopped.value.partial is None
    upscaling("out.mkv")
    assert partial.read_text() == "mine"


def test_where_nothing_is_done_nothing_is_left(upscaling: Upscaling) -> None:
    with pytest.raises(Killed):
        upscaling("out.mkv", stop=(-1, Killed))
    assert [path.name for path in upscaling.source.parent.iterdir()] == ["film.mkv"]


def test_a_full_disk_is_told_and_what_is_done_is_gone_on_with(
    upscaling: Upscaling, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = segments._OpenSegment.write, [0]

    def fill(self: Any, frame: Any) -> None:
        written[0] += 1
        if written[0] > 50:
            raise OSError(28, "No space left on device")
        write(self, frame)

    monkeypatch.setattr(segments._OpenSegment, "write", fill)
    with pytest.raises(
        OutputError, match=r"No space left.*takes about .* GB.* and .* GB are free.*the same call goes on"
    ):
        upscaling("out.mkv")
    monkeypatch.undo()
    assert upscaling("out.mkv").resumed == 45


def test_without_room_to_join_segments_are_kept(upscaling: Upscaling, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(OutputError, match=r"takes .* GB.*0\.00 GB are free.*kept in .*out\.mkv\.parts"):
        upscaling("out.mkv")
    monkeypatch.undo()
    report = upscaling("out.mkv")
    assert (report.resumed, report.frames, upscaling.computed, report.upscaling) == (FRAMES, FRAMES, 0, None)


def test_a_join_that_is_stopped_is_done_by_the_next_run(upscaling: Upscaling, monkeypatch: pytest.MonkeyPatch) -> None:
    put, muxed = join.FilmWriter.put, [0]

    def stop(self: Any, packet: Any) -> None:
        muxed[0] += 1
        if muxed[0] > 30:
            raise KeyboardInterrupt
        put(self, packet)

    monkeypatch.setattr(join.FilmWriter, "put", stop)
    with pytest.raises(FilmStopped):
        upscaling("out.mp4")
    assert not upscaling.target("out.mp4").exists()
    monkeypatch.undo()
    assert upscaling("out.mp4").resumed == FRAMES


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="a thread cannot send a signal here")
def test_an_interrupt_in_the_middle_of_a_write_stops_a_join(
    upscaling: Upscaling, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = threading.get_ident()

    class Interrupting:
        def __init__(self, file: Any) -> None:
            self._file, self._writes = file, 0

        def write(self, data: bytes) -> int:
            self._writes += 1
            if self._writes == 2:
                signal.pthread_kill(main, signal.SIGINT)
                time.sleep(0.3)
            return int(self._file.write(data))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    write_whole = join.write_whole
    monkeypatch.setattr(join, "write_whole", lambda path, fill: write_whole(path, lambda f: fill(Interrupting(f))))
    with pytest.raises(FilmStopped):
        upscaling("out.mp4")
    assert not upscaling.target("out.mp4").exists()
    monkeypatch.undo()
    assert upscaling("out.mp4").resumed == FRAMES


def test_what_is_there_is_replaced_when_the_film_is_whole(upscaling: Upscaling) -> None:
    upscaling.target("out.mkv").write_bytes(b"as it was")
    with pytest.raises(FilmStopped):
        upscaling("out.mkv", stop=(1, KeyboardInterrupt))
    assert upscaling.target("out.mkv").read_bytes() == b"as it was"
    upscaling("out.mkv")
    assert len(decoded(upscaling.target("out.mkv"))) == FRAMES


def test_a_segment_counts_only_with_its_record(tmp_path: Path, upscaling: Upscaling) -> None:
    """However a run ends between writing a segment and saying so."""
    folder = kill(upscaling)
    made_from = json.loads((folder / "000000.json").read_text())["made_from"]
    shutil.copy(folder / "000000.mkv", folder / "000007.mkv")
    shutil.copy(folder / "000000.json", folder / "000007.json")
    parts = Parts(folder, upscaling.target("out.mkv"), made_from)
    assert sorted(parts.segments) == [0, 1, 2] and len(parts.notes) == 1
    assert not Parts(folder, upscaling.target("out.mkv"), "something else").segments


def test_a_segment_in_the_middle_is_not_the_last_one(upscaling: Upscaling, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where it is the only one that was done anew."""
    monkeypatch.setattr(join.Joining, "whole", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        upscaling("out.mkv")
    folder = parts_of(upscaling.target("out.mkv"))
    flip(folder / "000001.mkv")
    with pytest.raises(Killed):
        upscaling("out.mkv")
    assert upscaling.computed == SEGMENT
    (folder / "000002.mkv").unlink()
    monkeypatch.undo()
    assert upscaling("out.mkv").frames == FRAMES and upscaling.computed == SEGMENT


def test_what_is_wrong_in_all_of_a_film_is_told_once(
    tmp_path: Path, model: ImageModelDescriptor, caplog: pytest.LogCaptureFixture
) -> None:
    make_film(tmp_path / "film.mkv", every(40, 6))
    upscaling = Upscaling(tmp_path / "film.mkv", model)
    report = upscaling("out.mkv", VideoOptions(segment_seconds=0.1), UpscaleOptions(precision="fp16", compile=False))
    told = [warning for warning in report.warnings if "fp16 was asked for" in warning]
    assert len(told) == 1
    assert caplog.text.count("fp16 was asked for") == 1 and f"{upscaling.source}: {told[0]}" in caplog.text


def _with_a_corner_that_moves(path: Path, frames: int) -> None:
    """A film of noise that stands still, and a small part that does not; nothing of it is lost."""
    values = np.random.default_rng(1)
    still = np.kron(values.integers(30, 220, (20, 32, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 160, 256, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            still[8:40, 8:48] = values.integers(0, 256, (32, 40, 3))
            frame = av.VideoFrame.from_ndarray(still, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = 40 * number, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("codec", ["ffv1", "libx264"])
def test_also_where_tiles_are_laid_around_what_moves(tmp_path: Path, model: ImageModelDescriptor, codec: str) -> None:
    _with_a_corner_that_moves(tmp_path / "film.mkv", 3 * 13)
    upscaling = Upscaling(tmp_path / "film.mkv", model)
    options, video = UpscaleOptions(precision="fp32", compile=False), VideoOptions(codec, segment_seconds=0.5)
    upscaling("first.mkv", video, options)  # after which all is known of the model
    whole = upscaling("whole.mkv", video, options)
    assert whole.upscaling and whole.upscaling.still_tiles, "no tiles lay around what moves"
    with pytest.raises(Killed):
        upscaling("out.mkv", video, options, stop=(0, Killed))
    assert upscaling("out.mkv", video, options).resumed == 13
    assert content(upscaling.target("out.mkv")) == content(upscaling.target("whole.mkv"))


@pytest.mark.parametrize("seconds", [-1, 0.01, 4000, float("nan")])
def test_segments_of_no_sensible_length_are_refused(seconds: float) -> None:
    with pytest.raises(BadOptionError, match="segment_seconds is"):
        VideoOptions(segment_seconds=seconds)
