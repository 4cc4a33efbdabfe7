"""Which film becomes which, before any of them is opened."""

from __future__ import annotations

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
