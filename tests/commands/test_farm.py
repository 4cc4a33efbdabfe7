"""`cudaspeed farm` as far as no Ray is needed: what is found, what it is called, what is refused at once."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cudaspeed.cli import main
from cudaspeed.commands import farm
from cudaspeed.commands.farm_listing import Listing, Naming, list_units
from cudaspeed.images.naming import FolderOptions
from cudaspeed.scaleout import ray_library
from cudaspeed.scaleout.manifest import open_manifest
from cudaspeed.scaleout.units import Outcome
from cudaspeed.video.options import VideoOptions


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    return path


def listed(*inputs: Path, output: Path, known: dict[str, str] | None = None, **options: object) -> Listing:
    naming = Naming(FolderOptions(**options), VideoOptions())  # type: ignore[arg-type]
    return list_units([*map(str, inputs)], output, naming, known or {})


def names(listing: Listing) -> dict[str, str]:
    return {Path(unit.source).name: unit.target for unit in listing.units}


def test_pictures_of_one_name_are_kept_apart_and_those_that_keep_their_ending_come_first(tmp_path: Path) -> None:
    for name in ("a/photo.bmp", "a/photo.png", "b/photo.png", "b/deep/photo.png"):
        picture(tmp_path / name)
    listing = listed(tmp_path / "a", tmp_path / "b", output=tmp_path / "out", recursive=True)
    targets = {unit.source.removeprefix(f"{tmp_path}/"): unit.target for unit in listing.units}
    assert targets == {
        "a/photo.bmp": "photo.bmp.png",
        "a/photo.png": "photo.png",
        "b/photo.png": "photo.png.png",
        "b/deep/photo.png": "deep/photo.png",
    }
    more = listed(tmp_path / "a", tmp_path / "b", picture(tmp_path / "c/photo.png"), output=tmp_path / "out")
    assert [unit.target for unit in more.units] == ["photo.bmp.png", "photo.png", "photo.png.png", "photo (2).png"]


def test_names_that_differ_in_letter_case_only_are_kept_apart(tmp_path: Path) -> None:
    picture(tmp_path / "in/a.png")
    picture(tmp_path / "in/A.png")
    targets = [unit.target for unit in listed(tmp_path / "in", output=tmp_path / "out").units]
    assert len({target.casefold() for target in targets}) == 2


def test_a_name_that_is_known_stays_whatever_is_found_beside_it(tmp_path: Path) -> None:
    first, second = picture(tmp_path / "a/x.png"), picture(tmp_path / "b/x.png")
    known = {str(second): "x.png"}
    units = {unit.source: unit.target for unit in listed(first, second, output=tmp_path / "out", known=known).units}
    assert units == {str(first): "x.png.png", str(second): "x.png"}


def test_no_input_is_written_over(tmp_path: Path) -> None:
    picture(tmp_path / "x.png")
    assert names(listed(tmp_path / "x.png", output=tmp_path)) == {"x.png": "x.png.png"}
    assert names(listed(tmp_path / "x.png", output=tmp_path, suffix="_2")) == {"x.png": "x_2.png"}


def test_films_lie_beside_pictures_and_keep_their_endings_where_these_are_written(tmp_path: Path) -> None:
    for name in ("film.mp4", "old.avi", "film.mkv", "photo.png", "notes.odt", "sub/film.mp4"):
        picture(tmp_path / "in/x.png").rename(tmp_path / "in/y.png")
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in/y.png").rename(tmp_path / "in" / name)
    assert names(listed(tmp_path / "in", output=tmp_path / "out", suffix="_x2")) == {
        "film.mkv": "film_x2.mkv",
        "film.mp4": "film_x2.mp4",
        "old.avi": "old_x2.mkv",
        "photo.png": "photo_x2.png",
        "notes.odt": "notes.odt_x2.png",  # which is a picture inside
    }
    again = listed(tmp_path / "in", tmp_path / "in/sub/film.mp4", output=tmp_path / "out")
    assert again.units[-1].target == "film.mp4.mp4"


def test_a_list_has_a_path_in_each_line(tmp_path: Path) -> None:
    picture(tmp_path / "in/a.png")
    picture(tmp_path / "folder.txt/b.png")
    text = tmp_path / "list.txt"
    text.write_text(f"in/a.png\n\n{tmp_path}/gone.png\nin/a.png\nlist.txt\nfolder.txt\nx\0y.png\n", "utf-8-sig")
    listing = listed(text, tmp_path / "none.txt", output=tmp_path / "out")
    assert names(listing) == {"a.png": "a.png", "b.png": "b.png"}
    told = " ".join(listing.failures)
    assert "gone.png: cannot be read: No such file" in told and "none.txt: this list cannot be read" in told
    assert "list.txt: is a list in the list" in told and "null" in told
    assert len(listing.failures) == 4


def test_what_the_farm_has_made_is_no_input_of_the_next_run(tmp_path: Path) -> None:
    source = picture(tmp_path / "x.png")
    first = listed(tmp_path, output=tmp_path, suffix="_2")
    picture(tmp_path / "x_2.png")
    known = {unit.source: unit.target for unit in first.units}
    assert known == {str(source): "x_2.png"}
    assert listed(tmp_path, output=tmp_path, known=known, suffix="_2") == first


def test_an_input_that_lies_in_the_output_by_a_link_is_not_written_over(tmp_path: Path) -> None:
    real = picture(tmp_path / "out/x.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x.png").symlink_to(real)
    assert names(listed(tmp_path / "in", output=tmp_path / "out")) == {"x.png": "x.png.png"}


def test_an_input_in_an_output_that_may_not_be_listed_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object) -> list[str]:
        raise PermissionError(13, "Permission denied", path)

    source = picture(tmp_path / "out" / "a.png")
    monkeypatch.setattr(os, "listdir", refuse)
    assert names(listed(source, output=tmp_path / "out")) == {"a.png": "a.png.png"}


def test_an_input_of_an_earlier_run_is_not_written_over(tmp_path: Path) -> None:
    picture(tmp_path / "out/x.png")
    other = picture(tmp_path / "in/x.png")
    known = {str(tmp_path / "out/x.png"): "x.png.png"}
    assert listed(other, output=tmp_path / "out", known=known).units[0].target == "x (2).png"


def test_thousands_of_one_name_are_numbered_in_no_time(tmp_path: Path) -> None:
    for number in range(1500):
        (tmp_path / "in" / str(number)).mkdir(parents=True)
        (tmp_path / "in" / str(number) / "cover.jpg").touch()
    sources = sorted((tmp_path / "in").glob("*/cover.jpg"))
    targets = [unit.target for unit in listed(*sources, output=tmp_path / "out").units]
    assert len({*targets}) == 1500 and targets[-1] == "cover (1499).jpg"


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
def test_a_name_that_is_no_text_is_told_and_the_others_are_done(tmp_path: Path) -> None:
    picture(tmp_path / "in/a.png")
    (tmp_path / "in" / os.fsdecode(b"\xff.png")).touch()
    listing = listed(tmp_path / "in", output=tmp_path / "out")
    assert names(listing) == {"a.png": "a.png"}
    assert "its name is no UTF-8" in listing.failures[0]


def test_what_changed_is_told_from_what_did_not(tmp_path: Path) -> None:
    picture(tmp_path / "in/a.png")
    before = listed(tmp_path / "in", output=tmp_path / "out")
    assert listed(tmp_path / "in", output=tmp_path / "out") == before
    (tmp_path / "in/a.png").write_bytes(b"other")
    assert listed(tmp_path / "in", output=tmp_path / "out") != before


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("-o", "out.png"), "out.png is called like a picture; a farm's output is a folder"),
        (("-o", "out", "--actors", "none"), "actors is 'none'; give a number of workers, or auto"),
        (("-o", "out", "--actors", "0"), "actors is '0'"),
        (("-o", "out", "--gpus-per-actor", "0"), "gpus per actor is 0; give 1"),
        (("-o", "out", "--cpus-per-actor", "0"), "cpus per actor is 0"),
        (("-o", "out", "--tile", "-1"), "tile size is -1"),
        (("-o", "out", "--model", "nothing-like-it"), "nothing-like-it"),
        (("-o", "out", "--device", "toaster"), "device is 'toaster'"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_begun(
    more: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "a.png")
    assert main(["farm", "run", "a.png", *more]) == 2
    assert told in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]


@pytest.mark.parametrize(("found", "told"), [("", "which is not installed"), ("2.9.1", "and 2.9.1 is installed")])
def test_without_ray_the_line_is_told_that_installs_it(
    found: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(ray_library, "installed_version", lambda _: found)
    assert main(["farm", "run", str(picture(tmp_path / "a.png")), "-o", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert told in err and 'pip install "ray>=2.58"' in err
    assert not (tmp_path / "out").exists()


def test_nothing_to_do_is_no_error_and_needs_no_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("cudaspeed.commands.farm.load_ray", lambda alone: None)
    (tmp_path / "in").mkdir()
    assert main(["farm", "run", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == "nothing to do\n"


def test_status_tells_how_far_it_is_and_why_something_was_set_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    picture(tmp_path / "in/a.png")
    picture(tmp_path / "in/b.png")
    with open_manifest(tmp_path / "out") as manifest:
        manifest.merge(listed(tmp_path / "in", output=tmp_path / "out").units)
        unit = manifest.waiting(-1, 1)[0]
        manifest.settle([Outcome(unit.number, unit.made_from, tries=2, error="a.png: it breaks")])
    assert main(["farm", "status", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == "0 of 2 done, 1 to be done, 1 set aside\na.png: it breaks\n"
    assert main(["farm", "status", str(tmp_path / "out"), "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"waiting": 1, "done": 0, "failed": 1, "total": 2}
    assert (second["error"], second["tries"]) == ("a.png: it breaks", 2)
    assert main(["farm", "status", str(tmp_path / "in")]) == 2
    assert "holds no results of a farm" in capsys.readouterr().err


def test_what_was_set_aside_is_tried_again_from_wherever_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    begun = []
    monkeypatch.setattr("cudaspeed.commands.farm.load_ray", lambda alone: None)
    monkeypatch.setattr(farm, "_carry_out", lambda manifest, *_: begun.append([*manifest.waiting(-1, 9)]) or 0)
    monkeypatch.chdir(tmp_path)
    source = picture(tmp_path / "in/a.png")
    assert main(["farm", "run", "in", "-o", "out", "--suffix", "_x2"]) == 0
    with open_manifest(tmp_path / "out") as manifest:
        unit = manifest.waiting(-1, 1)[0]
        manifest.settle([Outcome(unit.number, unit.made_from, error="a.png: it breaks")])
    (tmp_path / "out").rename(tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["farm", "retry", str(tmp_path / "moved")]) == 0
    assert [(unit.source, unit.target) for unit in begun[-1]] == [(str(source), "a_x2.png")]
    assert [*(tmp_path / "elsewhere").iterdir()] == []


def test_a_farm_that_never_began_has_nothing_to_try_again(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with open_manifest(tmp_path):
        pass
    assert main(["farm", "retry", str(tmp_path)]) == 2
    assert "was stopped before it began" in capsys.readouterr().err


def test_other_options_are_an_error_by_their_names_once_something_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("cudaspeed.commands.farm.load_ray", lambda alone: None)
    monkeypatch.setattr(farm, "_carry_out", lambda *_: 0)
    run = ["farm", "run", str(picture(tmp_path / "a.png")), "-o", str(tmp_path / "out")]
    assert main(run) == main([*run, "--frozen"]) == 0
    with open_manifest(tmp_path / "out") as manifest:
        unit = manifest.waiting(-1, 1)[0]
        manifest.settle([Outcome(unit.number, unit.made_from)])
    assert main([*run, "--frozen", "--actors", "3", "--recursive"]) == 0
    assert main([*run, "--tile", "64"]) == 2
    err = capsys.readouterr().err
    assert "--frozen was True, is False" in err and "--tile was 0, is 64" in err


def test_why_something_was_set_aside_is_kept_where_it_cannot_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("cudaspeed.commands.farm.load_ray", lambda alone: None)
    monkeypatch.setattr(farm, "_carry_out", lambda *_: 0)
    assert main(["farm", "run", str(picture(tmp_path / "a.png")), "-o", str(tmp_path / "out")]) == 0
    with open_manifest(tmp_path / "out") as manifest:
        unit = manifest.waiting(-1, 1)[0]
        manifest.settle([Outcome(unit.number, unit.made_from, error="a.png: it breaks")])
    monkeypatch.undo()
    monkeypatch.setattr(ray_library, "installed_version", lambda _: "")
    assert main(["farm", "retry", str(tmp_path / "out")]) == 1
    assert main(["farm", "status", str(tmp_path / "out")]) == 0
    assert "a.png: it breaks" in capsys.readouterr().out
