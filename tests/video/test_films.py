"""Which film becomes which, before any of them is opened."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from cudaspeed.api.errors import BadOptionError
from cudaspeed.images.jobs import Job, Refused
from cudaspeed.video.films import plan_films
from cudaspeed.video.options import VideoOptions

PLAIN = VideoOptions()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With films, and other things."""
    for name in ("b.mp4", "a.MKV", "c.avi", "notes.txt", ".hidden.mp4"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "deeper.mp4").mkdir()
    return tmp_path


def names(steps: object, folder: Path) -> list[tuple[str, str]]:
    assert isinstance(steps, tuple)
    return [(step.source.name, str(step.target.relative_to(folder))) for step in steps if isinstance(step, Job)]


def test_a_folder_stands_for_its_films(folder: Path) -> None:
    plan = plan_films([str(folder)], str(folder / "out"), PLAIN, overwrite=False)
    assert names(plan.steps, folder) == [
        ("a.MKV", "out/a.MKV"),
        ("b.mp4", "out/b.mp4"),
        ("c.avi", "out/c.mkv"),
    ]


def test_where_the_encoder_does_not_go_into_a_films_container_it_becomes_another(folder: Path) -> None:
    given = [str(folder / "b.mp4")]
    assert names(plan_films(given, f"{folder}/out/", VideoOptions("ffv1"), False).steps, folder) == [
        ("b.mp4", "out/b.mkv")
    ]


def test_one_film_goes_into_a_named_file(folder: Path) -> None:
    plan = plan_films([str(folder / "c.avi")], str(folder / "out.webm"), PLAIN, overwrite=False)
    assert names(plan.steps, folder) == [("c.avi", "out.webm")]


@pytest.mark.parametrize(
    ("inputs", "output", "options", "told"),
    [
        (["b.mp4"], "out.avi", PLAIN, r"cannot write .*out\.avi.*\.mkv"),
        (["b.mp4"], "out.gif", PLAIN, r"cannot write .*out\.gif"),
        (["b.mp4", "c.avi"], "out.mp4", PLAIN, "several films"),
        (["."], "out.mp4", PLAIN, "several films"),
        (["b.mp4"], "out.webm", VideoOptions("libx264"), "libx264 does not go into"),
        (["b.mp4"], "out.mp4", VideoOptions(crf=52), "crf is 52"),
        (["b.mp4"], "a.MKV", PLAIN, r"a\.MKV exists; --overwrite"),
        (["b.mp4"], ".", PLAIN, "is an input"),
        (["deeper.mp4"], "out", PLAIN, "holds no films"),
    ],
)
def test_what_cannot_be_is_told(folder: Path, inputs: list[str], output: str, options: VideoOptions, told: str) -> None:
    with pytest.raises(BadOptionError, match=told):
        plan_films([str(folder / given) for given in inputs], str(folder / output), options, overwrite=False)


def test_what_exists_may_be_replaced_but_no_input(folder: Path) -> None:
    given = [str(folder / "b.mp4")]
    assert plan_films(given, str(folder / "a.MKV"), PLAIN, overwrite=True).jobs
    with pytest.raises(BadOptionError, match="is an input"):
        plan_films(given, str(folder / "b.mp4"), PLAIN, overwrite=True)


def test_two_films_of_one_name_do_not_become_one(folder: Path) -> None:
    (folder / "c.mkv").write_bytes(b"")
    plan = plan_films([str(folder)], str(folder / "out"), PLAIN, overwrite=False)
    refused = [step for step in plan.steps if isinstance(step, Refused)]
    assert len(refused) == 1 and "would both become" in refused[0].reason and len(plan.jobs) == 3


def test_a_film_given_twice_is_done_once(folder: Path) -> None:
    plan = plan_films([str(folder / "b.mp4"), str(folder)], str(folder / "out"), PLAIN, overwrite=False)
    assert len(plan.steps) == 3


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A folder of frames, beside a film."""
    (tmp_path / "shot").mkdir()
    for number in (8, 9, 10):
        (tmp_path / "shot" / f"{number:04}.png").write_bytes(b"")
    (tmp_path / "a.mkv").write_bytes(b"")
    return tmp_path


RATE = VideoOptions(fps=Fraction(25))


@pytest.mark.parametrize(
    ("inputs", "output", "options", "made"),
    [
        (["shot/%04d.png"], "out.mp4", RATE, ["out.mp4"]),
        (["shot/%04d.png"], "out/%06d.tif", PLAIN, ["out/%06d.tif"]),
        (["a.mkv"], "out/%06d.exr", PLAIN, ["out/%06d.exr"]),
        (["a.mkv", "shot/%04d.png"], "out", RATE, ["out/a.mkv", "out/shot.mkv"]),
        (["shot/%04d.png"], "shot/%d.png", PLAIN, ["shot/%d.png"]),
    ],
)
def test_frames_are_named_by_a_pattern(
    frames: Path, inputs: list[str], output: str, options: VideoOptions, made: list[str]
) -> None:
    given = [str(frames / name) for name in inputs]
    plan = plan_films(given, str(frames / output), options, overwrite=False)
    assert [str(job.target.relative_to(frames)) for job in plan.jobs] == made


@pytest.mark.parametrize(
    ("inputs", "output", "options", "told"),
    [
        (["shot/%04d.png"], "out.mp4", PLAIN, "pictures do not say .* --fps 25"),
        (["shot/%04d.png"], "out", PLAIN, "pictures do not say .* --fps 25"),
        (["a.mkv"], "out.mp4", RATE, "a film has its own times, leave it out"),
        (["a.mkv"], "out/%d.png", RATE, "a film has its own times, leave it out"),
        (["shot/%04d.png"], "out/%d.png", RATE, "they become frames again, leave it out"),
        (["shot/%04d.png"], "out.mp4", VideoOptions(fps=Fraction(25), deinterlace=True), "--deinterlace is of films"),
        (["a.mkv"], "shot/%04d.png", PLAIN, r"0008\.png exists; --overwrite replaces frames"),
        (["a.mkv"], "out/%d.bmp", PLAIN, r"frames must end with one of \.png"),
        (["a.mkv"], "out/%d.png", VideoOptions("ffv1", crf=None), "without --codec"),
        (["a.mkv"], "out/%d.png", VideoOptions(crf=3), "without --crf"),
        (["a.mkv", "shot/%04d.png"], "out/%d.png", PLAIN, "several films"),
        (["a.mkv"], "out.png", PLAIN, r"many pictures, name them by a pattern: .*out_%06d\.png"),
        (["a.mkv"], "out.exr", PLAIN, r"many pictures, name them by a pattern: .*out_%06d\.exr"),
        (["shot"], "out.mp4", RATE, r"holds no films.* named so: .*shot/%04d\.png, with --fps"),
        (["shot"], "out", PLAIN, r"holds no films.* named so: .*shot/%04d\.png, with --fps"),
    ],
)
def test_what_cannot_be_of_frames_is_told_in_one_sentence(
    frames: Path, inputs: list[str], output: str, options: VideoOptions, told: str
) -> None:
    with pytest.raises(BadOptionError, match=told):
        plan_films([str(frames / name) for name in inputs], str(frames / output), options, overwrite=False)
    assert not (frames / "out").exists()


def test_frames_are_never_written_over_inputs(frames: Path) -> None:
    given = [str(frames / "shot" / "%04d.png")]
    for output in ("shot/%04d.png", "shot/../shot/%04d.png"):
        with pytest.raises(BadOptionError, match=r"0008\.png is an input"):
            plan_films(given, str(frames / output), PLAIN, overwrite=True)


def test_a_folder_of_pictures_without_numbers_is_one_for_another_command(frames: Path) -> None:
    (frames / "photos").mkdir()
    (frames / "photos" / "dawn.png").write_bytes(b"")
    with pytest.raises(BadOptionError, match="'cudaspeed upscale' upscales its pictures"):
        plan_films([str(frames / "photos")], str(frames / "out"), PLAIN, overwrite=False)
