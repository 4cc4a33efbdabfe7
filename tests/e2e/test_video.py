"""`cudaspeed video` as users run it: a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from films import Beside, decoded, every, make_film, packets


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


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_stopped_by_ctrl_c_it_leaves_nothing_behind(tmp_path: Path) -> None:
    source, out = tmp_path / "film.mkv", tmp_path / "out"
    make_film(source, every(40, 3000))
    out.mkdir()
    running = subprocess.Popen(command(source, "-o", out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in out.iterdir()):  # the film grows beside its target
        assert running.poll() is None and time.monotonic() < deadline, running.stderr
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130 and "stopped" in errors and "Traceback" not in errors
    assert not [*out.iterdir()]
