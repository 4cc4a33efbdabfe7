"""`cudaspeed video` as users run it: a process of its own."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from films import Beside, av, decoded, every, make_film, packets, plane


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "cudaspeed.cli", "video", *map(str, arguments)]


def test_a_film_becomes_twice_as_large_and_keeps_the_rest(tmp_path: Path) -> None:
    source, target = tmp_path / "film.mkv", tmp_path / "out.mkv"
    times = [0, 40, 80, 300, 310, 320, 900, 940]
    make_film(source, times, beside=Beside(("eng", "deu"), subtitles=True, chapters=True, font=True))
    done = subprocess.run(command(source, "-o", target, "--json"), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["frames"], record["output_size"], record["warnings"]) == (8, [128, 96], [])
    frames = decoded(target)
    assert [round(frame.time * 1000) for frame in frames] == times and frames[0].width == 128
    for stream in (1, 2, 3):
        assert packets(target, stream) == packets(source, stream)
    assert not done.stderr


def begin(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_segments(running: subprocess.Popen[str], target: Path, count: int) -> None:
    """Until so many are done, or the film is."""
    deadline = time.monotonic() + 300
    while len([*target.with_name(target.name + ".parts").glob("*.json")]) <= count and not target.exists():
        assert running.poll() is None and time.monotonic() < deadline, running.communicate()
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_stopped_by_ctrl_c_it_leaves_a_film_of_what_is_done_and_goes_on(tmp_path: Path) -> None:
    source, target = tmp_path / "film.mkv", tmp_path / "out.mp4"
    make_film(source, every(40, 600), beside=Beside(("eng",)))
    arguments = (source, "-o", target, "--segment-seconds", 2, "--json")
    running = begin(*arguments)
    wait_for_segments(running, target, 1)
    running.send_signal(signal.SIGINT)
    out, errors = running.communicate(timeout=120)
    assert running.returncode == 1 and "stopped after" in errors and "Traceback" not in errors
    record = json.loads(out)
    frames = decoded(tmp_path / "out.partial.mp4")
    assert len(frames) == record["stopped_after"] >= 50 and record["partial"] == str(tmp_path / "out.partial.mp4")
    assert not target.exists()
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300)
    record = json.loads(done.stdout)
    assert done.returncode == 0 and record["frames"] == 600 and record["resumed_frames"] >= 50, done.stderr
    assert f"resuming at frame {record['resumed_frames']} of 600" in done.stderr
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.mp4"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_without_segments_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    source, out = tmp_path / "film.mkv", tmp_path / "out"
    make_film(source, every(40, 3000))
    out.mkdir()
    running = begin(source, "-o", out, "--segment-seconds", 0)
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in out.iterdir()):  # the film grows beside its target
        assert running.poll() is None and time.monotonic() < deadline, running.stderr
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130 and "stopped" in errors and "Traceback" not in errors
    assert not [*out.iterdir()]


def test_killed_again_and_again_it_becomes_the_same_film(tmp_path: Path) -> None:
    """CUDASPEED_KILLS says how often, CUDASPEED_KILL_SEED when; each start takes seconds."""
    kills, seed = int(os.environ.get("CUDASPEED_KILLS", "2")), os.environ.get("CUDASPEED_KILL_SEED")
    seed = int(seed) if seed else random.SystemRandom().randrange(10**6)
    print(f"CUDASPEED_KILL_SEED={seed}")  # noqa: T201
    dice = random.Random(seed)
    source, target, whole = tmp_path / "film.mkv", tmp_path / "out.mp4", tmp_path / "whole.mp4"
    make_film(source, every(40, 300), beside=Beside(("eng", "deu"), subtitles=True, chapters=True))
    rest = ("--segment-seconds", 1, "--frozen", "--no-compile", "--precision", "fp32", "--json")
    for kill in range(kills):
        running = begin(source, "-o", target, *rest)
        wait_for_segments(running, target, 10 * kill // kills)
        time.sleep(dice.random())
        running.kill()
        running.communicate(timeout=60)
    lasts = [
        subprocess.run(command(source, "-o", film, *rest), capture_output=True, text=True, timeout=300)
        for film in (target, whole)
    ]
    # 2: it exists, the last kill came after the end
    assert lasts[0].returncode in (0, 2) and lasts[1].returncode == 0, lasts
    if lasts[0].returncode == 0:
        assert json.loads(lasts[0].stdout)["resumed_frames"] or not kills
    wanted, found = decoded(whole), decoded(target)
    assert [frame.pts for frame in found] == [frame.pts for frame in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert all(np.array_equal(plane(one, k), plane(other, k)) for k in range(3))
    for stream in (1, 2, 3):
        assert packets(target, stream) == packets(whole, stream)
    with av.open(str(target)) as container:
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["Dawn", "Dusk"]
