"""`cudaspeed video`: which films are done, what is said of them, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from films import Beside, Look, av, decoded, every, make_film, overwrite, picture
from PIL import Image

from cudaspeed.cli import main
from cudaspeed.commands import films as film_command
from cudaspeed.video import formats
from cudaspeed.video.report import FilmProgress


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[dict[str, Any]], str]:
    code = main(["video", *map(str, arguments), "--json", "--precision", "fp32", "--no-compile"])
    told = capsys.readouterr()
    return code, [json.loads(line) for line in told.out.splitlines()], told.err


def put(path: Path, number: int) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(picture(number)).save(path)


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
        (["a.mkv", "-o", "out.mkv", "--segment-seconds", "0.01"], "segment_seconds is 0.01"),
        (["a.mkv", "-o", "out.mkv", "--resume", "--restart"], "not allowed with"),
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


def test_frames_go_in_and_come_out(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (9, 10, 12):
        put(films / "shot" / f"{number}.png", number)
    frames, out = films / "shot" / "%d.png", tmp_path / "out" / "%06d.png"
    code, records, errors = run(capsys, frames, "-o", tmp_path / "out.mp4", "--fps", "23.976")
    assert code == 0 and (records[0]["frames"], records[0]["codec"]) == (3, "libx264") and "missing" in errors
    assert records[0]["bytes"] == (tmp_path / "out.mp4").stat().st_size
    code, records, _ = run(capsys, tmp_path / "out.mp4", "-o", out)
    assert code == 0 and (records[0]["codec"], records[0]["output_size"]) == ("png", [256, 192])
    assert records[0]["bytes"] == sum(path.stat().st_size for path in out.parent.iterdir())
    code, _, errors = run(capsys, frames, "-o", out)
    assert code == 2 and "000001.png exists; --overwrite" in errors
    code, records, errors = run(capsys, frames, "-o", out, "--overwrite")
    assert code == 0 and "3 frames of an earlier run are still there, 000001.png" in errors
    code, records, _ = run(capsys, films / "none" / "%d.png", frames, "-o", tmp_path / "queue", "--fps", "25")
    assert code == 1 and "cannot look into" in records[0]["error"] and records[1]["frames"] == 3
    assert [path.name for path in (tmp_path / "queue").iterdir()] == ["shot.mkv"]


def test_films_and_frames_are_in_one_queue(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_film(films / "a.mkv", every(40, 2))
    put(films / "shot" / "1.png", 1)
    code, records, _ = run(capsys, films / "a.mkv", films / "shot" / "%d.png", "-o", tmp_path / "out", "--fps", "25")
    assert code == 0 and [record["frames"] for record in records] == [2, 1]


def test_frames_into_frames_need_no_pyav(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(films / "1.png", 1)
    monkeypatch.setitem(sys.modules, "av", None)
    assert run(capsys, films / "%d.png", "-o", tmp_path / "%d.png")[0] == 0
    code, _, errors = run(capsys, films / "%d.png", "-o", tmp_path / "out.mp4", "--fps", 25)
    assert code == 1 and "pip install" in errors


@pytest.mark.parametrize("fps", ["0", "fast", "1/0", "2000"])
def test_a_rate_that_is_none_is_told(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fps: str) -> None:
    put(films / "1.png", 1)
    code, _, errors = run(capsys, films / "%d.png", "-o", tmp_path / "out.mp4", "--fps", fps)
    assert code == 2 and "24000/1001" in errors and len(errors.splitlines()) == 1


def test_upscale_says_so_of_films_in_a_folder_too(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_film(films / "a.mkv", every(40, 2))
    assert main(["upscale", str(films), "-o", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "holds no pictures" in told and "'cudaspeed video' upscales films" in told and len(told.splitlines()) == 1
    put(films / "b.png", 0)
    (tmp_path / "more").mkdir()
    shutil.copy(films / "a.mkv", tmp_path / "more")
    plain = ["--precision", "fp32", "--no-compile"]
    assert main(["upscale", str(films), str(tmp_path / "more"), "-o", str(tmp_path / "out"), *plain]) == 1
    told = capsys.readouterr().err
    assert told.count("'cudaspeed video' upscales films") == 3 and "1 passed over: a.mkv" in told
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.png"]


@pytest.mark.parametrize(("source", "target"), [("a.mkv", "out"), ("a.mkv", "out.mp4"), ("a.mkv", "out.png")])
def test_upscale_says_that_there_is_video(
    films: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], source: str, target: str
) -> None:
    make_film(films / "a.mkv", every(40, 2))
    monkeypatch.chdir(films)
    assert main(["upscale", source, "-o", target]) == 2
    assert "'cudaspeed video'" in capsys.readouterr().err


@pytest.mark.parametrize("codec", ["h264_nvenc", "hevc_nvenc", "av1_nvenc"])
def test_an_encoder_that_does_not_open_is_told_at_the_start_with_those_that_do(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    """Whatever the size of the films: those of NVENC have limits of their own."""
    make_film(films / "a.mkv", every(40, 2))
    make_film(films / "b.mkv", every(40, 2))
    tried: list[str] = []
    create = av.CodecContext.create

    def refusing(name: str, mode: str) -> Any:
        tried.append(name)
        if name.endswith("nvenc"):
            raise av.error.PermissionError(1, "Operation not permitted")
        return create(name, mode)

    monkeypatch.setattr(formats.load_av(), "CodecContext", SimpleNamespace(create=refusing))
    formats._why_not.cache_clear()
    code, records, errors = run(capsys, films, "-o", tmp_path / "out", "--codec", codec)
    formats._why_not.cache_clear()
    assert code == 2 and not records and not (tmp_path / "out").exists() and len(errors.splitlines()) == 1
    assert f"{codec} does not open here" in errors and "driver" in errors
    assert "libx264" in errors.partition("here open")[2] and "nvenc" not in errors.partition("here open")[2]
    assert tried.count(codec) == 1


def test_a_pipe_is_told_and_not_waited_for(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no named pipes here")
    os.mkfifo(films / "a.mkv")
    code, records, _ = run(capsys, films / "a.mkv", "-o", tmp_path / "out.mkv")
    assert code == 1 and "no file; copy the film into one" in records[0]["error"]


@pytest.mark.parametrize("share", [0.002, 0.5, 0.9])
def test_of_a_film_that_is_cut_off_what_is_there_is_done_and_the_rest_counted(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], share: float
) -> None:
    make_film(films / "a.mkv", every(40, 200), Look(b_frames=0), Beside(("eng",)))
    whole = (films / "a.mkv").read_bytes()
    (films / "a.mkv").write_bytes(whole[: int(len(whole) * share)])
    code, records, errors = run(capsys, films / "a.mkv", "-o", tmp_path / "out.mkv")
    if share < 0.1:
        assert code == 1 and "is no film, or is damaged" in records[0]["error"]
        assert not (tmp_path / "out.mkv").exists()
        return
    assert code == 0 and records[0]["frames"] == len(decoded(tmp_path / "out.mkv")) < 200 and "cut short" in errors
    assert abs(records[0]["frames"] + records[0]["missing"] - 200) <= 4


def test_of_a_whole_film_none_is_missing(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.mkv", "a.mp4", "a.ts"):
        make_film(films / name, every(40, 60), Look(options={"preset": "ultrafast"}), Beside(("eng",)))
        code, records, errors = run(capsys, films / name, "-o", tmp_path / f"{name}.mkv", "--crf", 40)
        assert (code, records[0]["missing"], errors) == (0, 0, "")


@pytest.mark.parametrize("more", [(), ("--resume",)])
def test_ctrl_c_ends_the_queue_and_the_next_call_goes_on(
    films: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    more: tuple[str, ...],
) -> None:
    for name in ("a", "b", "c"):
        make_film(films / f"{name}.mkv", every(40, 40))
    out, show = tmp_path / "out", film_command._Display.show
    shown = [0]

    def stop(self: Any, progress: FilmProgress) -> None:
        shown[0] += 1
        if shown[0] == 40 + 30:
            raise KeyboardInterrupt
        time.sleep(0.02)  # so that what is done is encoded
        show(self, progress)

    monkeypatch.setattr(film_command._Display, "show", stop)
    code, records, errors = run(capsys, films, "-o", out, "--segment-seconds", "0.4")
    assert code == 1 and [Path(record["input"]).name for record in records] == ["a.mkv", "b.mkv"]
    assert records[1]["stopped_after"] and "stopped after" in errors and "the same call goes on" in errors
    assert sorted(path.name for path in out.iterdir()) == ["a.mkv", "b.mkv.parts", "b.partial.mkv"]
    assert Path(records[1]["partial"]) == out / "b.partial.mkv" and decoded(out / "b.partial.mkv")
    monkeypatch.undo()
    code, records, errors = run(capsys, films, "-o", out, "--segment-seconds", "0.4", *more)
    assert code == 0 and records[0]["skipped"] and [record["frames"] for record in records[1:]] == [40, 40]
    resumed = records[1]["resumed_frames"]
    assert resumed in (10, 20) and records[2]["resumed_frames"] == 0
    assert f"b.mkv: resuming at frame {resumed} of 40" in errors and errors.count("resuming") == 1
    assert sorted(path.name for path in out.iterdir()) == ["a.mkv", "b.mkv", "c.mkv"]


def test_a_film_of_what_is_done_is_no_input(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_film(films / "a.mkv", every(40, 2))
    make_film(films / "my.partial.mkv", every(40, 2))  # somebody's own
    make_film(films / "b.partial.mp4", every(40, 2))
    (films / "b.mp4.parts").mkdir()
    code, records, _ = run(capsys, films, "-o", tmp_path / "out")
    assert code == 0 and [Path(record["input"]).name for record in records] == ["a.mkv", "my.partial.mkv"]


def test_what_differs_from_an_earlier_run_is_told_and_others_are_done(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_film(films / "a.mkv", every(40, 30))
    make_film(films / "b.mkv", every(40, 3))
    out, show = tmp_path / "out", film_command._Display.show

    def stop(self: Any, progress: FilmProgress) -> None:
        time.sleep(0.02)
        if progress.done == 29:
            raise KeyboardInterrupt
        show(self, progress)

    monkeypatch.setattr(film_command._Display, "show", stop)
    assert run(capsys, films, "-o", out, "--segment-seconds", "0.4")[0] == 1
    monkeypatch.undo()
    code, records, errors = run(capsys, films, "-o", out, "--segment-seconds", "0.4", "--crf", "30")
    assert code == 1 and "crf was null, is 30" in records[0]["error"] and "--restart" in errors
    assert records[1]["frames"] == 3
    code, records, _ = run(capsys, films, "-o", out, "--segment-seconds", "0.4", "--crf", "30", "--restart")
    assert code == 0 and (records[0]["frames"], records[0]["resumed_frames"]) == (30, 0) and records[1]["skipped"]
