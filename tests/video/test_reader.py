"""Films are read frame by frame, with their times, and whatever is wrong with a file is told or counted."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from films import Beside, Look, av, every, make_film, overwrite, picture

from cudaspeed.api.errors import BadFilmError
from cudaspeed.video.facts import FilmFacts, Frame, Losses
from cudaspeed.video.reader import FilmReader


def read(path: Path) -> tuple[FilmFacts, list[Frame], list[bytes], Losses]:
    with FilmReader(path) as reader:
        items = [*reader.items()]
        frames = [item for item in items if isinstance(item, Frame)]
        return reader.facts, frames, [bytes(item) for item in items if not isinstance(item, Frame)], reader.losses


def test_frames_come_in_order_with_their_times(tmp_path: Path) -> None:
    pictures = make_film(tmp_path / "film.mkv", every(40, 30))
    facts, frames, others, losses = read(tmp_path / "film.mkv")
    assert (facts.size, facts.pixel_format, facts.rate) == ((48, 64), "yuv420p", 25)
    assert (facts.count.packets, facts.count.variable, facts.count.seconds) == (30, False, Fraction(29, 25))
    assert [frame.pts * facts.time_base for frame in frames] == [Fraction(number, 25) for number in range(30)]
    assert all(frame.duration * facts.time_base == Fraction(1, 25) for frame in frames)
    for frame, expected in zip(frames, pictures, strict=True):
        seen = frame.picture.to_ndarray(format="rgb24", src_colorspace=5, src_color_range=1)
        assert np.abs(seen.astype(int) - expected).mean() < 12
    assert not others and losses == Losses()


def test_a_variable_rate_is_told_and_its_times_are_kept(tmp_path: Path) -> None:
    """Matroska's own rate is that of the first frames, 25."""
    times = [0, 40, 80, 300, 310, 320, 900, 940]
    make_film(tmp_path / "film.mkv", times)
    facts, frames, _, _ = read(tmp_path / "film.mkv")
    assert facts.count.variable
    assert float(facts.rate) == pytest.approx(7 / 0.94, rel=0.01)
    assert [frame.pts for frame in frames] == times


@pytest.mark.parametrize("milliseconds", [33, 41, 17])
def test_rounded_times_are_no_variable_rate(tmp_path: Path, milliseconds: int) -> None:
    times = [round(milliseconds * 1.017 * number) for number in range(20)]
    make_film(tmp_path / "film.mkv", times)
    assert not read(tmp_path / "film.mkv")[0].count.variable


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
def test_how_it_is_turned_and_the_shape_of_pixels(tmp_path: Path, ending: str) -> None:
    look = Look(rotation=90, pixel_aspect=Fraction(16, 15))
    make_film(tmp_path / f"film{ending}", every(40, 3), look)
    facts = read(tmp_path / f"film{ending}")[0]
    assert facts.rotation == 90 and facts.display_matrix is not None
    assert facts.pixel_aspect == Fraction(16, 15)
    make_film(tmp_path / f"upright{ending}", every(40, 3))
    facts = read(tmp_path / f"upright{ending}")[0]
    assert facts.rotation == 0 and facts.display_matrix is None and facts.pixel_aspect == 1


def test_packets_of_other_streams_come_between_the_frames(tmp_path: Path) -> None:
    make_film(tmp_path / "film.mkv", every(40, 30), beside=Beside(("eng", "deu"), subtitles=True, font=True))
    with FilmReader(tmp_path / "film.mkv") as reader:
        kinds = ["film" if isinstance(item, Frame) else item.stream.type for item in reader.items()]
        assert [stream.type for stream in reader.others] == ["audio", "audio", "subtitle", "attachment"]
    assert (kinds.count("film"), kinds.count("subtitle")) == (30, 2)
    assert "audio" in kinds[kinds.index("film") : 60]


def test_a_cover_is_not_the_film(tmp_path: Path) -> None:
    make_film(tmp_path / "film.mp4", every(40, 5), beside=Beside(cover=True))
    facts, frames, others, _ = read(tmp_path / "film.mp4")
    assert facts.size == (48, 64) and len(frames) == 5
    assert len(others) == 1 and others[0].startswith(b"\xff\xd8")


def test_alpha_is_read(tmp_path: Path) -> None:
    look = Look("libvpx-vp9", "yuva420p", tags={"alpha_mode": "1"}, options={"cpu-used": "8"})
    make_film(tmp_path / "film.webm", every(40, 5), look)
    facts, frames, _, losses = read(tmp_path / "film.webm")
    assert facts.pixel_format == "yuva420p" and len(frames) == 5 and losses == Losses()
    alpha = frames[0].picture.to_ndarray(format="rgba")[..., 3]
    assert alpha[24, 32] > 250 and alpha[0, 0] < 5


@pytest.mark.parametrize("ending", [".mkv", ".mp4"])
def test_damaged_packets_are_skipped_and_counted(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"film{ending}"
    make_film(path, every(40, 60), Look(options={"g": "15"}, b_frames=0))
    overwrite(path, 20, 5)
    _, frames, _, losses = read(path)
    assert losses.damaged >= 1
    assert 45 <= len(frames) <= 60 and [frame.pts for frame in frames] == sorted({frame.pts for frame in frames})


def test_what_is_left_of_a_truncated_film_is_read(tmp_path: Path) -> None:
    path = tmp_path / "film.mkv"
    make_film(path, every(40, 60))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    _, frames, _, _ = read(path)
    assert 20 <= len(frames) < 60


def test_frames_without_times_follow_one_another_and_are_counted(tmp_path: Path) -> None:
    make_film(tmp_path / "film.mkv", every(40, 10))
    with av.open(str(tmp_path / "film.mkv")) as source, av.open(str(tmp_path / "film.h264"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    facts, frames, _, losses = read(tmp_path / "film.h264")
    assert len(frames) == 10 and losses.retimed == 10
    gaps = {(after.pts - before.pts) * facts.time_base for before, after in pairwise(frames)}
    assert gaps == {Fraction(1, 25)}


def test_interlaced_frames_are_told(tmp_path: Path) -> None:
    make_film(tmp_path / "film.mkv", every(40, 3), Look(options={"x264-params": "tff=1"}))
    assert read(tmp_path / "film.mkv")[0].interlaced


def no_film(path: Path) -> None:
    path.write_bytes(b"This is a letter, and no film at all. " * 100)


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def sound_alone(path: Path) -> None:
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48000, 0
        container.mux([*stream.encode(frame), *stream.encode()])


def cover_alone(path: Path) -> None:
    make_film(path.with_suffix(".mp4"), every(40, 2), beside=Beside(("eng",), cover=True))
    with av.open(str(path.with_suffix(".mp4"))) as source, av.open(str(path), "w", format="mp4") as target:
        kept = {stream.index: target.add_stream_from_template(stream) for stream in source.streams if stream.index != 0}
        for stream in kept:
            kept[stream].disposition = source.streams[stream].disposition
        for packet in source.demux():
            if packet.size and packet.stream.index in kept:
                packet.stream = kept[packet.stream.index]
                target.mux(packet)


def no_frame(path: Path) -> None:
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height = 64, 48
        container.start_encoding()


def noise_alone(path: Path) -> None:
    make_film(path.with_suffix(".mkv"), every(40, 5))
    overwrite(path.with_suffix(".mkv"), 0, 5)
    path.write_bytes(path.with_suffix(".mkv").read_bytes())


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (no_film, "no film"),
        (nothing, "no film"),
        (sound_alone, "no pictures"),
        (cover_alone, "only a cover picture"),
        (no_frame, "no frame that can be decoded"),
        (noise_alone, "5 packets cannot be decoded"),
    ],
)
def test_what_is_no_film_is_told_in_a_sentence(tmp_path: Path, make: object, told: str) -> None:
    path = tmp_path / "given"
    assert callable(make)
    make(path)
    with pytest.raises(BadFilmError, match=told) as raised, FilmReader(path):
        pass
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadFilmError, match="No such file"), FilmReader(tmp_path / "film.mkv"):
        pass


def test_pictures_of_the_film_are_what_was_made() -> None:
    """The films of these tests move, so that a frame is told from its neighbours."""
    assert np.abs(picture(0).astype(int) - picture(1)).mean() > 2
