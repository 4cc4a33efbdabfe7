"""Parts of films: exact to the frame, wherever films have frames to begin decoding at, with what is beside them."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from films import Beside, Look, av, decoded, every, make_film

from cudaspeed.api.errors import BadFilmError
from cudaspeed.video.reader import FilmReader, Frame
from cudaspeed.video.window import WHOLE, Window

SPARSE = {"g": "250", "bf": "3", "preset": "fast"}  # one frame to begin at
OFTEN = {"g": "10", "bf": "3"}
OPEN = {"x265-params": "keyint=10:bframes=4:open-gop=1:log-level=error"}
PARTS = [
    (0, 0.4),
    (0.04, 0.04),
    (0.38, 0.2),
    (0.41, 0.4),
    (0.4, 0),
    (1, 1),
    (1.36, 9),
]


def part(start: float, duration: float) -> Window:
    return Window(Fraction(str(start)), Fraction(str(duration)) if duration else None)


def read(source: Any, window: Window) -> tuple[list[Frame], list[tuple[str, Fraction, Fraction]], FilmReader]:
    """Frames, (type, time, duration) of packets, and who read them."""
    frames, packets = [], []
    with FilmReader(source, window) as reader:
        for item in reader.items():
            if isinstance(item, Frame):
                frames.append(item)
            else:
                times = ((item.pts or 0) * item.time_base, (item.duration or 0) * item.time_base)
                packets.append((item.stream.type, *times))
        return frames, packets, reader


@pytest.mark.parametrize(("start", "duration"), PARTS)
@pytest.mark.parametrize(
    ("name", "look"),
    [
        ("film.mp4", Look(options=SPARSE)),
        ("film.mp4", Look(options=OFTEN)),
        ("film.mkv", Look(options=OFTEN)),
        ("film.ts", Look(options=OFTEN)),
        ("film.avi", Look("mpeg4", options={"g": "10"})),
        ("film.mp4", Look("libx265", options=OPEN)),
        ("film.webm", Look("libvpx-vp9", options={"g": "10", "deadline": "realtime"})),
    ],
    ids=["one key frame", "B-frames", "mkv", "ts", "avi", "open GOP", "webm"],
)
def test_a_part_has_the_frames_that_begin_in_it(
    tmp_path: Path, name: str, look: Look, start: float, duration: float
) -> None:
    make_film(tmp_path / name, every(40, 40), look)
    whole, _, _ = read(tmp_path / name, WHOLE)
    first = whole[0].pts * _tick(tmp_path / name)
    window = part(start, duration)
    window = Window(window.start + first, window.duration) if start else window
    times = [frame.pts * _tick(tmp_path / name) for frame in whole]
    end = window.end
    wanted = [k for k, time in enumerate(times) if time >= window.start and (end is None or time < end)]
    if not wanted:
        with pytest.raises(BadFilmError, match="no frame that can be decoded in the part"):
            read(tmp_path / name, window)
        return
    frames, _, reader = read(tmp_path / name, window)
    pictures = [frame.picture.to_ndarray(format="rgb24") for frame in frames]
    expected = [whole[k].picture.to_ndarray(format="rgb24") for k in wanted]
    assert len(frames) == len(wanted) == reader.facts.count.packets
    assert np.array_equal(np.stack(pictures), np.stack(expected))
    assert frames[0].pts == 0
    assert not reader.losses.damaged
    assert reader.begins == times[wanted[0]]


def _tick(path: Path) -> Fraction:
    with av.open(str(path)) as container:
        return container.streams.video[0].time_base


def test_frames_stand_where_they_stood_from_the_first_of_them_on(tmp_path: Path) -> None:
    times = [0, 40, 100, 120, 300, 310, 500]
    make_film(tmp_path / "film.mkv", times)
    frames, _, reader = read(tmp_path / "film.mkv", part(0.05, 0.3))
    assert [frame.pts * reader.facts.time_base * 1000 for frame in frames] == [0, 20, 200, 210]
    assert reader.facts.count.variable
    assert frames[-1].duration * reader.facts.time_base * 1000 <= 40, "it ends where the part does"


@pytest.mark.parametrize("name", ["film.mkv", "film.mp4"])
def test_a_part_may_begin_before_the_film_does(tmp_path: Path, name: str) -> None:
    make_film(tmp_path / name, [2000 + 40 * k for k in range(20)], beside=Beside(sounds=("eng",)))
    frames, packets, reader = read(tmp_path / name, part(1, 1.4))
    assert len(frames) == 10
    assert (frames[0].pts, reader.begins) == (0, 2)
    assert packets[0][1] < Fraction(22, 1000)


def test_sound_subtitles_and_chapters_are_cut_with_it(tmp_path: Path) -> None:
    beside = Beside(sounds=("eng",), subtitles=True, chapters=True)
    make_film(tmp_path / "film.mkv", every(40, 50), beside=beside)
    _, packets, reader = read(tmp_path / "film.mkv", part(0.28, 0.8))
    sound = [time for kind, time, _ in packets if kind == "audio"]
    assert 0 <= sound[0] < Fraction(22, 1000)
    assert Fraction(77, 100) < sound[-1] < Fraction(8, 10)
    # the second subtitle is shown from 0.2 to 0.35 s
    assert [(time, end) for kind, time, end in packets if kind == "subtitle"] == [(0, Fraction(7, 100))]
    with reader:
        times = [(one["start"] * one["time_base"], one["end"] * one["time_base"]) for one in reader.tags.chapters]
    assert times == [(0, Fraction(7, 10)), (Fraction(7, 10), Fraction(8, 10))]


def test_a_cover_is_there_wherever_a_part_begins(tmp_path: Path) -> None:
    make_film(tmp_path / "film.mp4", every(40, 50), Look(options=OFTEN), Beside(cover=True))
    _, packets, reader = read(tmp_path / "film.mp4", part(1.2, 0.2))
    assert len(reader.covers) == 1
    assert [kind for kind, _, _ in packets] == ["video"]


def test_a_film_in_memory_may_be_read_by_two_at_once(tmp_path: Path) -> None:
    make_film(tmp_path / "film.mp4", every(40, 10))
    file = io.BytesIO((tmp_path / "film.mp4").read_bytes())
    with FilmReader(file) as one, FilmReader(file, part(0.2, 0)) as other:
        frames = [[item for item in reader.items() if isinstance(item, Frame)] for reader in (other, one)]
        assert [len(found) for found in frames] == [5, 10]
        frames.clear()
    assert len(decoded(tmp_path / "film.mp4")) == 10
    with pytest.raises(BadFilmError, match="film in memory: is no film"), FilmReader(io.BytesIO(b"no film")):
        pass
