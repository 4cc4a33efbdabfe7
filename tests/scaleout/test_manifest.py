"""The account of a farm: what is done stays done, whatever ends the process that keeps it."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from cudaspeed.api.errors import BadOptionError, OutputError
from cudaspeed.scaleout.manifest import Manifest, open_manifest, read_manifest
from cudaspeed.scaleout.units import Listed, Outcome

TWO = (Listed("/in/a.png", "a.png", "1"), Listed("/in/b.png", "sub/b.png", "2"))


def sources(manifest: Manifest) -> list[str]:
    return [unit.source for unit in manifest.waiting(-1, 100)]


def test_what_is_settled_is_known_to_the_next_run_and_not_done_again(tmp_path: Path) -> None:
    with open_manifest(tmp_path) as manifest:
        manifest.merge(TWO)
        first, second = manifest.waiting(-1, 100)
        manifest.settle([Outcome(first.number, "1", tries=1, worker="w", seconds=0.5, record={"output": "a"})])
        manifest.settle([Outcome(second.number, "2", tries=2, error="/in/b.png: no picture")])

    with open_manifest(tmp_path) as manifest:
        manifest.merge(TWO)
        assert sources(manifest) == []
        assert manifest.counts() == {"waiting": 0, "done": 1, "failed": 1}
        done, failed = manifest.outcomes()
        assert (done["seconds"], done["record"]) == (0.5, {"output": "a"})
        assert (failed["tries"], failed["error"]) == (2, "/in/b.png: no picture")
        assert manifest.try_again() == 1
        assert sources(manifest) == ["/in/b.png"]


def test_an_input_that_changed_is_done_again_and_keeps_its_name(tmp_path: Path) -> None:
    with open_manifest(tmp_path) as manifest:
        manifest.merge(TWO)
        manifest.settle([Outcome(unit.number, unit.made_from) for unit in manifest.waiting(-1, 9)])
        manifest.merge([TWO[0]._replace(made_from="3", target="other.png")])
        (unit,) = manifest.waiting(-1, 9)
        assert (unit.source, unit.target, unit.made_from) == ("/in/a.png", "a.png", "3")


def test_other_options_are_told_by_what_they_were(tmp_path: Path) -> None:
    with open_manifest(tmp_path) as manifest:
        manifest.begin({"model": "y", "tile": 0})
        manifest.merge(TWO)
    with open_manifest(tmp_path) as manifest:
        manifest.begin({"model": "x", "tile": 0})  # nothing is done yet, so it is a farm that begins
        assert not manifest.waiting(-1, 1)
        manifest.merge(TWO)
        unit = manifest.waiting(-1, 1)[0]
        manifest.settle([Outcome(unit.number, unit.made_from)])
        manifest.begin({"model": "x", "tile": 0})
        with pytest.raises(BadOptionError, match="tile was 0, is 128"):
            manifest.begin({"model": "x", "tile": 128})


def test_two_do_not_write_one_folder_and_the_second_is_told_who_does(tmp_path: Path) -> None:
    with (
        open_manifest(tmp_path),
        pytest.raises(OutputError, match=f"is written by process {os.getpid()} on "),
        open_manifest(tmp_path),
    ):
        pass


def test_it_can_be_looked_at_while_another_writes_it(tmp_path: Path) -> None:
    with open_manifest(tmp_path) as manifest:
        manifest.merge(TWO)
        with read_manifest(tmp_path) as seen:
            assert seen.counts()["waiting"] == 2
    with pytest.raises(BadOptionError, match="holds no results of a farm"), read_manifest(tmp_path / "elsewhere"):
        pass


def test_a_manifest_that_is_only_being_made_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / ".farm").mkdir()
    (tmp_path / ".farm" / "manifest.sqlite").touch()
    with pytest.raises(BadOptionError, match="holds no results of a farm yet"), read_manifest(tmp_path):
        pass
    with open_manifest(tmp_path) as manifest:
        assert manifest.counts()["waiting"] == 0


def test_what_a_worker_noted_counts_where_the_result_is_there(tmp_path: Path) -> None:
    with open_manifest(tmp_path) as manifest:
        manifest.merge(TWO)
        first, second = manifest.waiting(-1, 9)
        (tmp_path / first.target).write_bytes(b"a picture")
        for unit in (first, second):  # of the second no result is there
            noted = Outcome(unit.number, unit.made_from, worker="w")
            manifest.note_of(unit.number).write_text(json.dumps(dataclasses.asdict(noted)))
        manifest.note_of(77).write_text("{half")

        assert manifest.take_notes() == 1
        assert sources(manifest) == ["/in/b.png"]
        assert [*manifest.notes.iterdir()] == []


def test_what_a_worker_noted_of_another_content_does_not_count(tmp_path: Path) -> None:
    with open_manifest(tmp_path) as manifest:
        manifest.merge(TWO)
        unit = manifest.waiting(-1, 1)[0]
        (tmp_path / unit.target).write_bytes(b"a picture")
        manifest.note_of(unit.number).write_text(json.dumps(dataclasses.asdict(Outcome(unit.number, "old"))))
        assert manifest.take_notes() == 0
        assert len(sources(manifest)) == 2


def test_a_manifest_of_another_version_is_not_read(tmp_path: Path) -> None:
    with open_manifest(tmp_path) as manifest:
        manifest.set_value("schema", "99")
    with pytest.raises(BadOptionError, match="another version \\(99, here 2\\)"), open_manifest(tmp_path):
        pass
    (tmp_path / ".farm" / "manifest.sqlite").write_bytes(b"nonsense" * 1000)
    with pytest.raises(OutputError, match="the manifest cannot be used"), open_manifest(tmp_path):
        pass
