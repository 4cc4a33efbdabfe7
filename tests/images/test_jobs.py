"""Which picture file goes where."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from cudaspeed.api.errors import BadOptionError
from cudaspeed.images.jobs import Job, plan_jobs, refuse_unwritable


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, in which paths may be relative: with two pictures, one of them in a folder."""
    (tmp_path / "in").mkdir()
    for name in ("1.png", "in/2.bmp"):  # planning reads none
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def targets(inputs: Sequence[str], output: str) -> list[str]:
    return [job.target.as_posix() for job in plan_jobs(inputs, output)]


def test_a_folder_is_told_by_its_separator_or_its_name(here: Path) -> None:
    assert targets(["1.png"], "out.png") == ["out.png"]
    assert targets(["1.png"], "out.PNG") == ["out.PNG"]
    assert targets(["1.png"], "out") == ["out/1.png"]
    assert targets(["1.png"], "results.v2") == ["results.v2/1.png"]
    assert targets(["1.png"], f"out.png{os.sep}") == ["out.png/1.png"]
    (here / "there.png").mkdir()
    assert targets(["1.png"], "there.png") == ["there.png/1.png"]


@pytest.mark.usefixtures("here")
def test_a_picture_keeps_its_name_and_an_ending_that_can_be_written() -> None:
    assert targets(["1.png", "in"], "out") == ["out/1.png", "out/2.png"]
    assert plan_jobs(["in"], "out") == [Job(Path("in/2.bmp"), Path("out/2.png"))]


def test_planning_keeps_missing_inputs_and_makes_no_folder(here: Path) -> None:
    assert plan_jobs(["absent.png"], "out") == [Job(Path("absent.png"), Path("out/absent.png"))]
    assert sorted(path.name for path in here.iterdir()) == ["1.png", "in"]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("inputs", "output", "told"),
    [
        (["absent.png", "absent.png"], "out", "would both become out/absent.png"),
        (["1.png", "in/2.bmp"], "out.png", "name a folder"),
        (["in"], "out.png", "name a folder"),
        (["1.png"], "out.jp2", "its ending must be one of"),
        (["1.png"], "1.png", "never overwritten"),
        (["1.png"], "in/../1.png", "never overwritten"),
        (["1.png"], ".", "never overwritten"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(inputs: list[str], output: str, told: str) -> None:
    with pytest.raises(BadOptionError, match=told):
        plan_jobs(inputs, output)


def test_folders_that_hold_no_pictures_or_cannot_be_written_are_named(here: Path) -> None:
    (here / "empty").mkdir()
    with pytest.raises(BadOptionError, match="the folder empty holds no pictures"):
        plan_jobs(["empty"], "out")
    refuse_unwritable(Path("out/deeper"))
    with pytest.raises(BadOptionError, match=r"cannot write into 1\.png/out"):
        refuse_unwritable(Path("1.png/out"))
    assert sorted(path.name for path in here.iterdir()) == ["1.png", "empty", "in"]
