"""Which picture file goes where."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cudaspeed.api.errors import BadOptionError
from cudaspeed.images.jobs import Job, PassedOver, Plan, Refused, plan_jobs, refuse_unwritable, why_unwritable
from cudaspeed.images.naming import FolderOptions


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, in which paths may be relative: with two pictures, one of them in a folder."""
    monkeypatch.chdir(tmp_path)
    make("1.png", "in/2.bmp")
    return tmp_path


def make(*names: str) -> None:
    """Files with these names, all different; planning looks at their beginnings only."""
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")


def plan(inputs: Sequence[str], output: str, **options: Any) -> Plan:
    return plan_jobs(inputs, output, FolderOptions(**options))


def targets(inputs: Sequence[str], output: str, **options: Any) -> list[str]:
    return [job.target.as_posix() for job in plan(inputs, output, **options).jobs]


def refusals(plan: Plan) -> dict[str, str]:
    return {step.source.as_posix(): step.reason for step in plan.steps if isinstance(step, Refused)}


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
    assert plan_jobs(["in"], "out") == Plan((Job(Path("in/2.bmp"), Path("out/2.png")),))


def test_planning_keeps_missing_inputs_and_makes_no_folder(here: Path) -> None:
    assert plan_jobs(["absent.png"], "out") == Plan((Job(Path("absent.png"), Path("out/absent.png")),))
    assert sorted(path.name for path in here.iterdir()) == ["1.png", "in"]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("inputs", "output", "options", "told"),
    [
        (["1.png", "in/2.bmp"], "out.png", {}, "name a folder"),
        (["in"], "out.png", {}, "name a folder"),
        (["1.png"], "out.psd", {}, "its ending must be one of"),
        (["1.png"], "out.png", {"format": "webp"}, "does not end as format webp does"),
        (["1.png"], "out.png", {"suffix": "_x4"}, "without room for suffix"),
        (["1.png"], "out", {"format": "psd"}, "use one of png, "),
        (["1.png"], "out", {"suffix": "/../x"}, "without slashes"),
        (["1.png"], "out", {"suffix": "..\\x"}, "without slashes"),
        (["1.png"], "out", {"suffix": "a\0b"}, "without slashes"),
        (["1.png"], "1.png", {}, "never overwritten"),
        (["1.png"], "in/../1.png", {}, "never overwritten"),
        (["1.png"], ".", {}, "never overwritten"),
        (["1.png"], "1.png", {"skip_existing": True}, "never overwritten"),
        (["1.png"], "x" * 300 + ".png", {}, "too long"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    inputs: list[str], output: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(BadOptionError, match=told):
        refuse_unwritable(plan(inputs, output, **options))


@pytest.mark.usefixtures("here")
def test_a_working_folder_that_was_deleted_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "getcwd", gone)
    with pytest.raises(BadOptionError, match="the working folder was deleted"):
        plan(["1.png"], "out")


@pytest.mark.parametrize("name", ["jpg", "jpeg"])
@pytest.mark.usefixtures("here")
def test_a_file_may_be_in_the_format_that_is_asked_for(name: str) -> None:
    assert targets(["1.png"], f"out.{name}", format="jpg") == [f"out.{name}"]


@pytest.mark.usefixtures("here")
def test_names_in_the_output_folder_can_be_chosen() -> None:
    make("p/a.b.PNG", "p/v1.2", "p/c.jfif", "p/d.tiff")
    Path("p/v1.2").write_bytes(b"GIF89a")
    assert targets(["p"], "out") == ["out/a.b.PNG", "out/c.png", "out/d.tiff", "out/v1.2.png"]
    assert targets(["p"], "out", format="tiff") == ["out/a.b.tiff", "out/c.tiff", "out/d.tiff", "out/v1.2.tiff"]
    assert targets(["p"], "out", suffix="_x4") == ["out/a.b_x4.PNG", "out/c_x4.png", "out/d_x4.tiff", "out/v1.2_x4.png"]
    assert targets(["p/c.jfif"], "out", suffix="_x4", format="webp") == ["out/c_x4.webp"]


@pytest.mark.usefixtures("here")
def test_pictures_of_one_name_are_told_apart_and_only_they() -> None:
    make("p/photo.bmp", "p/photo.png", "p/photo.gif", "p/other.bmp", "p/photo.jpg")
    told_apart = {"photo.bmp": "photo.bmp.png", "photo.gif": targets(["p/photo.gif"], "o")[0][2:]}
    told_apart["photo.gif"] = "photo.gif.png" if told_apart["photo.gif"] == "photo.png" else "photo.gif"
    assert {job.source.name: job.target.name for job in plan(["p"], "out").jobs} == {
        **told_apart,
        "other.bmp": "other.png",
        "photo.jpg": "photo.jpg",
        "photo.png": "photo.png",
    }
    assert {job.source.name: job.target.name for job in plan(["p"], "out", format="webp", suffix="_x2").jobs} == {
        "other.bmp": "other_x2.webp",
        **{f"photo.{ending}": f"photo.{ending}_x2.webp" for ending in ("bmp", "gif", "jpg", "png")},
    }


@pytest.mark.usefixtures("here")
def test_one_that_has_the_name_by_right_keeps_it_wherever_it_stands() -> None:
    make("p/a.bmp", "p/a.png", "p/a.bmp.png")
    told = plan(["p"], "out")
    assert {job.source.name: job.target.name for job in told.jobs} == {"a.bmp.png": "a.bmp.png", "a.png": "a.png"}
    assert "would both become out/a.bmp.png" in refusals(told)["p/a.bmp"]


@pytest.mark.usefixtures("here")
def test_two_of_one_name_from_two_folders_cost_only_the_second() -> None:
    make("p/a.png", "q/a.png", "q/b.png")
    told = plan(["p", "q", "absent/a.png"], "out")
    assert [job.source.as_posix() for job in told.jobs] == ["p/a.png", "q/b.png"]
    assert refusals(told) == {
        source: f"p/a.png and {source} would both become out/a.png; use two outputs"
        for source in ("q/a.png", "absent/a.png")
    }


@pytest.mark.usefixtures("here")
def test_what_is_given_twice_is_done_once() -> None:
    assert targets(["in", "in/2.bmp", "./in/../in/2.bmp", "in"], "out") == ["out/2.png"]


@pytest.mark.usefixtures("here")
def test_an_output_that_is_an_input_costs_only_that_picture() -> None:
    make("p/a.png", "p/b.bmp", "p/c.png")
    told = plan(["p"], "p")
    assert [job.target.as_posix() for job in told.jobs] == ["p/b.png"]
    assert set(refusals(told)) == {"p/a.png", "p/c.png"}
    Path("out").mkdir()
    os.link("p/a.png", "out/c.png")
    Path("out/b.png").symlink_to("../p/a.png")
    told = plan(["p"], "out")
    assert [job.target.as_posix() for job in told.jobs] == ["out/a.png"]
    assert all("never overwritten" in reason for reason in refusals(told).values())


@pytest.mark.usefixtures("here")
def test_results_of_an_earlier_run_in_the_same_folder_are_not_made_larger_still() -> None:
    make("p/a.png", "p/b.png", "p/a_x4.png")
    told = plan(["p"], "p", suffix="_x4", skip_existing=True)
    assert [job.target.as_posix() for job in told.jobs] == ["p/a_x4.png", "p/b_x4.png"]
    assert told.passed_over == (PassedOver(Path("p"), ("a_x4.png",)),)
    told = plan(["p"], "p", suffix="_x4")
    assert set(refusals(told)) == {"p/a.png"}, "it might be somebody's own"


@pytest.mark.usefixtures("here")
def test_subfolders_are_mirrored() -> None:
    make("p/a.png", "p/s/a.png", "p/s/t/b.bmp", "p/.hidden/c.png", "p/out/d.png")
    assert plan(["p/s"], "p/s/t").passed_over == ()
    assert targets(["p"], "p/out", recursive=True) == ["p/out/a.png", "p/out/s/a.png", "p/out/s/t/b.png"]
    told = plan(["p"], "out")
    assert [job.target.as_posix() for job in told.jobs] == ["out/a.png"]
    assert told.passed_over == (PassedOver(Path("p"), (f"out{os.sep}", f"s{os.sep}")),)


def test_folders_that_hold_no_pictures_or_cannot_be_written_are_named(here: Path) -> None:
    make("empty/deep/a.png", "full/b.png")
    with pytest.raises(BadOptionError, match=r"the folder empty holds no pictures .*; --recursive"):
        plan_jobs(["empty"], "out")
    told = plan_jobs(["empty", "full"], "out")
    assert [job.source.as_posix() for job in told.jobs] == ["full/b.png"]
    assert set(refusals(told)) == {"empty"}
    assert why_unwritable(Path("out/deeper")) == ""
    assert "cannot write into 1.png/out" in why_unwritable(Path("1.png/out"))
    assert sorted(path.name for path in here.iterdir()) == ["1.png", "empty", "full", "in"]


@pytest.mark.usefixtures("here")
def test_an_output_folder_that_cannot_be_written_costs_only_its_pictures() -> None:
    make("p/a.png", "p/s/b.png", "p/t/c.png", "out/s")
    told = refuse_unwritable(plan(["p"], "out", recursive=True))
    assert [job.source.as_posix() for job in told.jobs] == ["p/a.png", "p/t/c.png"]
    assert refusals(told) == {"p/s/b.png": "cannot write into out/s: Not a directory"}
