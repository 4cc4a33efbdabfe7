"""`cudaspeed video`: which films are done, what is said of them, and how it ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from films import Beside, Look, decoded, every, make_film, overwrite

from cudaspeed.cli import main


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[dict[str, Any]], str]:
    code = main(["video", *map(str, arguments), "--json", "--precision", "fp32", "--no-compile"])
    told = capsys.readouterr()
    return code, [json.loads(line) for line in told.out.splitlines()], told.err


def test_a_queue_goes_on_after_a_failure_and_skips_what_is_done(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_film(films / "a.mkv", every(40, 4), beside=Beside(("eng",), subtitles=True))
    (films / "b.mp4").write_bytes(b"This is no film.")
    make_film(films / "c.mkv", every(40, 3))
    out = tmp_path / "out"
    code, records, errors = run(capsys, films, "-o", out)
    assert code == 1
    first, bad, last = records
    assert (first["frames"], first["output_size"], first["codec"]) == (4, [128, 96], "libx264")
    assert (first["pixel_format"], first["variable_rate"], first["damaged"]) == ("yuv420p", False, 0)
    assert first["bytes"] == (out / "a.mkv").stat().st_size and last["frames"] == 3
    assert "is no film" in bad["error"] and str(films / "b.mp4") in bad["error"] and "is no film" in errors
    assert sorted(path.name for path in out.iterdir()) == ["a.mkv", "c.mkv"]
    before = (out / "a.mkv").read_bytes()
    code, records, _ = run(capsys, films / "a.mkv", films / "c.mkv", "-o", out)
    assert code == 0 and all(record["skipped"] for record in records)
    code, records, _ = run(capsys, films / "a.mkv", "-o", out, "--overwrite", "--bits", 10, "--crf", 30)
    assert code == 0 and records[0]["pixel_format"] == "yuv420p10le"
    assert (out / "a.mkv").read_bytes() != before


def test_size_and_encoder_are_those_asked_for(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_film(films / "a.mkv", [0, 40, 300, 310])
    target = tmp_path / "out.mp4"
    code, records, _ = run(capsys, films / "a.mkv", "-o", target, "--codec", "libx265", "--resize", "100x80")
    assert code == 0 and records[0]["output_size"] == [100, 80] and records[0]["variable_rate"]
    frames = decoded(target)
    assert (frames[0].width, frames[0].height) == (100, 80)
    assert [round(frame.time * 1000) for frame in frames] == [0, 40, 300, 310]


def test_warnings_are_told_in_the_record_and_the_log(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_film(films / "a.mkv", every(40, 30), Look(options={"g": "10"}, b_frames=0), Beside(font=True))
    overwrite(films / "a.mkv", 12, 4)
    code, records, errors = run(capsys, films / "a.mkv", "-o", tmp_path / "out.mp4")
    assert code == 0 and records[0]["damaged"] >= 1
    for told in ("serif.ttf", "damaged"):
        assert any(told in warning for warning in records[0]["warnings"]) and errors.count(told) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a.mkv", "-o", "a.mkv"], "exists"),
        (["a.mkv", "-o", "out.webm", "--codec", "prores_ks"], "does not go into"),
        (["a.mkv", "-o", "out.mkv", "--crf", "99"], "crf is 99"),
        (["a.mkv", "-o", "out.mkv", "--codec", "ffv1", "--crf", "9"], "ffv1 has no such number"),
        (["a.mkv", "-o", "out.mkv", "--bits", "9"], "invalid choice"),
        (["a.mkv", "-o", "out.avi"], "cannot write"),
    ],
)
def test_what_makes_no_sense_is_bad_usage_and_nothing_is_opened(
    films: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    make_film(films / "a.mkv", every(40, 2))
    monkeypatch.chdir(films)
    monkeypatch.setitem(sys.modules, "av", None)
    code, _, errors = run(capsys, *arguments)
    assert code == 2 and told in errors
    assert [path.name for path in films.iterdir()] == ["a.mkv"]


@pytest.mark.parametrize("there", [None, SimpleNamespace(__version__="16.0.1")])
def test_without_pyav_one_error_says_what_to_install(
    films: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], there: object
) -> None:
    make_film(films / "a.mkv", every(40, 2))
    monkeypatch.setitem(sys.modules, "av", there)
    code, _, errors = run(capsys, films / "a.mkv", "-o", films / "out.mkv")
    assert code == 1 and "pip install" in errors and len(errors.splitlines()) == 1


def test_a_film_that_is_not_there_fails_in_its_turn(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, records, _ = run(capsys, films / "a.mkv", "-o", tmp_path / "out.mkv")
    assert code == 1 and "No such file" in records[0]["error"] and not (tmp_path / "out.mkv").exists()


@pytest.mark.parametrize(("source", "target"), [("a.mkv", "out"), ("a.mkv", "out.mp4"), ("a.mkv", "out.png")])
def test_upscale_says_that_there_is_video(
    films: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], source: str, target: str
) -> None:
    make_film(films / "a.mkv", every(40, 2))
    monkeypatch.chdir(films)
    assert main(["upscale", source, "-o", target]) == 2
    assert "'cudaspeed video'" in capsys.readouterr().err
