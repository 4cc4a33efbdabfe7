"""Interlaced films become whole pictures, by the order of their fields; all else about a frame is as it was."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from films import FULL, LIMITED, MASTERING, MILLISECONDS, REC709, REC2020, Look, av, every, make_film, of_fields, plane

from cudaspeed.video.deinterlace import Deinterlacer
from cudaspeed.video.facts import Frame
from cudaspeed.video.reader import FilmReader

X265 = f"log-level=none:master-display={MASTERING}:max-cll=1000,400"


def frames(path: Path, wanted: bool = True) -> tuple[list[Frame], str]:
    with FilmReader(path, deinterlace=wanted) as reader:
        found = [item for item in reader.items() if isinstance(item, Frame)]
        assert reader.first.picture is found[0].picture and reader.facts.interlaced == found[0].picture.interlaced_frame
        return found, " ".join(reader.notes)


def make(path: Path, look: Look, number: int = 5) -> list[Frame]:
    """The film's frames as they are."""
    make_film(path, every(40, number), look)
    return frames(path, wanted=False)[0]


@pytest.mark.parametrize(("order", "kept"), [("tff", 0), ("bff", 1)])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p10le"])
def test_the_field_that_comes_first_is_kept_and_the_other_made_of_it(
    tmp_path: Path, order: str, kept: int, pixel_format: str
) -> None:
    look = Look(pixel_format=pixel_format, options={"x264-params": f"{order}=1"}, fields=order)
    given = make(tmp_path / "film.mkv", look)
    made, note = frames(tmp_path / "film.mkv")
    assert not note and [(one.pts, one.duration) for one in made] == [(one.pts, one.duration) for one in given]
    for before, after in zip(given, made, strict=True):
        lines, wanted = plane(after.picture, 0), plane(before.picture, 0)
        assert after.picture.format.name == pixel_format
        assert np.array_equal(lines[kept::2], wanted[kept::2]) and not np.array_equal(lines, wanted)


def told(frame: Frame) -> tuple[Any, ...]:
    picture = frame.picture
    data = {entry.type.name: bytes(entry) for entry in iter(picture.side_data) if "SEI" not in entry.type.name}
    return (
        *(frame.pts, frame.duration, picture.format.name, picture.rotation, data),
        *(picture.colorspace, picture.color_range, picture.color_primaries, picture.color_trc),
    )


@pytest.mark.parametrize(
    ("name", "look"),
    [
        ("hdr.mkv", Look("libx265", "yuv420p10le", colour=(REC2020, LIMITED, 9, 16),
                         options={"x265-params": f"interlace=tff:{X265}"}, b_frames=0)),
        ("full.mkv", Look(colour=(REC709, FULL, 1, 1), options={"x264-params": "tff=1"})),
        ("turned.mp4", Look(rotation=90, options={"x264-params": "bff=1"})),
    ],
)  # fmt: skip
@pytest.mark.parametrize("number", [1, 2, 5])
def test_times_tags_and_side_data_are_those_of_the_frame(tmp_path: Path, name: str, look: Look, number: int) -> None:
    given = make(tmp_path / name, look, number)
    assert given[0].picture.interlaced_frame
    made, _ = frames(tmp_path / name)
    assert [*map(told, made)] == [*map(told, given)] and not made[0].picture.interlaced_frame


@pytest.mark.parametrize("look", [Look(), Look("ffv1", "yuva420p"), Look("ffv1", "bgr0"), Look("ffv1", size=(2, 2))])
def test_progressive_frames_are_left_as_they_are(tmp_path: Path, look: Look) -> None:
    given = make(tmp_path / "film.mkv", look)
    made, note = frames(tmp_path / "film.mkv")
    assert "left all of them as they are" in note
    for before, after in zip(given, made, strict=True):
        assert bytes(before.picture.planes[0]) == bytes(after.picture.planes[0]) and told(before) == told(after)


def test_frames_that_change_their_size_or_are_too_small_go_through() -> None:
    sizes, given = ((48, 64), (2, 64), (1, 1), (64, 96), (48, 64)), []
    for k, size in enumerate(size for size in sizes for _ in range(3)):
        picture = av.VideoFrame.from_ndarray(np.full((*size, 3), k, np.uint8), "rgb24").reformat(format="yuv420p")
        picture.pts, picture.time_base = k, MILLISECONDS
        given.append(Frame(of_fields(picture, "tff"), k, 1))
    made = [*Deinterlacer(True).through(iter(given))]
    assert [one.pts for one in made] == [*range(15)]
    assert [(one.picture.height, one.picture.width) for one in made[::3]] == [*sizes]


def test_an_interlaced_film_is_told_of_even_where_it_begins_progressive(tmp_path: Path) -> None:
    for name, options in (("a", {}), ("b", {"x264-params": "tff=1"})):
        make_film(tmp_path / f"{name}.ts", every(40, 4), Look(options=options, b_frames=0))
    film = tmp_path / "film.ts"
    film.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    assert "--deinterlace" in frames(film, wanted=False)[1]
    found, note = frames(film)
    assert len(found) == 8 and not note and Fraction(found[4].pts - found[3].pts) > 0
