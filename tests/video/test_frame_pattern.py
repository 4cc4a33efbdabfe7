"""The names of frames: which of a folder's files are meant, in which order, and what they are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from cudaspeed.api.errors import BadFilmError
from cudaspeed.video.frame_pattern import FramePattern, frame_pattern, pattern_of_pictures


def pattern(path: Path | str) -> FramePattern:
    found = frame_pattern(Path(path))
    assert found is not None
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("8.png", "9.png", "10.png", "007.png", "0012.png", "a.png", "11.jpg", "x13.png", "14.png.bak"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "numbers"), [("%d.png", (8, 9, 10)), ("%03d.png", (7,)), ("%04d.png", (12,)), ("x%d.png", (13,))]
)
def test_frames_are_those_that_are_written_so_in_the_order_of_their_numbers(
    folder: Path, name: str, numbers: tuple[int, ...]
) -> None:
    assert pattern(folder / name).frames() == numbers


def test_more_digits_than_asked_for_come_where_numbers_need_them(tmp_path: Path) -> None:
    form = pattern(tmp_path / "f_%03d.exr")
    for number in (998, 1000, 999):
        form.path(number).write_bytes(b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f_1000.exr", "f_998.exr", "f_999.exr"]
    assert form.frames() == (998, 999, 1000) and str(form) == str(tmp_path / "f_%03d.exr") and form.ending == ".exr"


@pytest.mark.parametrize("name", ["100%%_%d.png", "a[1]*_%02d.PNG", "100%_%d.tif", "%06d_final.jpeg"])
def test_other_letters_stand_for_themselves(tmp_path: Path, name: str) -> None:
    form = pattern(tmp_path / name)
    form.path(5).write_bytes(b"")
    assert form.frames() == (5,) and pattern(str(form)) == form


@pytest.mark.parametrize("name", ["film%d.mp4", "%d", "a.png", "%d_%d.png", "%%d.png", "%s.png", "%x.png", "%+d.png"])
def test_what_is_no_pattern(name: str) -> None:
    assert frame_pattern(Path(name)) is None


@pytest.mark.parametrize(
    ("names", "asked", "told"),
    [
        (("0001.png", "0002.png"), "%d.png", r"%04d\.png finds those"),
        (("9.png", "10.png"), "%06d.png", r"%d\.png finds those"),
        (("shot2_0001.tif",), "%d.tif", r"shot2_%04d\.tif finds those"),
        (("1.PNG",), "%d.png", r"%d\.PNG finds those"),
        (("a.png",), "%d.png", r"there is no frame, 1\.png would be one$"),
        ((), "%03d.png", r"there is no frame, 001\.png would be one$"),
    ],
)
def test_where_there_is_none_it_is_told_what_would_find_some(
    tmp_path: Path, names: tuple[str, ...], asked: str, told: str
) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(BadFilmError, match=told):
        pattern(tmp_path / asked).frames()


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadFilmError, match=r"cannot look into .*none: No such file"):
        pattern(tmp_path / "none" / "%d.png").frames()
    assert pattern_of_pictures(tmp_path / "none") is None
