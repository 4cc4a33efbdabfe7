"""`cudaspeed farm` by a real Ray: workers and the driver are killed, and every picture comes out as by itself."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import films
import numpy as np
import pytest
from PIL import Image

import cudaspeed
from cudaspeed.api.errors import BadOptionError
from cudaspeed.scaleout.manifest import read_manifest

pytest.importorskip("ray", reason='needs pip install "ray>=2.58"')
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds and kills processes by /proc")

SECONDS = 400
COUNT = 60


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "cudaspeed.cli", *map(str, arguments)]


def farm(pictures: Path, output: Path, *more: str) -> list[str]:
    return command(
        *("farm", "run", pictures, "-o", output, "--model", "cudaspeed-compact-x2", "--frozen", "--no-compile"),
        *("--json", *more),
    )


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(COUNT):
        Image.fromarray(random.integers(0, 256, (300, 200 + number, 3), np.uint8)).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDASPEED_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDASPEED_MODELS", "")


def bits(folder: Path) -> dict[str, bytes]:
    return {path.name: np.asarray(Image.open(path)).tobytes() for path in sorted(folder.glob("*.png"))}


def records(output: str) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


def units_of(output: Path) -> list[dict]:
    return json.loads((output / "report.json").read_text())


def workers_of(output: Path) -> list[int]:
    """The processes that did something for the farm in this folder, as far as that is known already."""
    with suppress(BadOptionError), read_manifest(output) as manifest:  # it may be being made
        found = {told["worker"].rpartition(":")[2] for told in manifest.outcomes("done")}
        return [int(pid) for pid in found if Path("/proc", pid).exists()]
    return []


def test_a_worker_and_then_the_driver_are_killed_and_every_picture_comes_out(pictures: Path, tmp_path: Path) -> None:
    alone, output = tmp_path / "alone", tmp_path / "out"
    done = subprocess.run(
        command(
            *("upscale", pictures, "-o", f"{alone}/", "--model", "cudaspeed-compact-x2", "--frozen", "--no-compile")
        ),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    (pictures / "broken.png").write_bytes(b"\x89PNG nothing")

    driver = subprocess.Popen(
        farm(pictures, output, "--actors", "2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until(lambda: workers_of(output), driver)
    os.kill(workers_of(output)[0], signal.SIGKILL)
    until(lambda: len(bits(output)) >= 14, driver)
    driver.kill()
    driver.wait()
    finished = {path.name: path.stat().st_mtime_ns for path in output.glob("*.png")}

    again = subprocess.run(
        farm(pictures, output, "--actors", "1"), capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert again.returncode == 1, again.stderr
    assert "broken.png" in again.stderr or any("broken" in unit["error"] for unit in units_of(output))
    assert bits(output) == bits(alone)
    computed_again = [name for name, when in finished.items() if (output / name).stat().st_mtime_ns != when]
    assert len(computed_again) <= 4, "the units in flight, at most"
    states = {Path(unit["source"]).name: unit["state"] for unit in units_of(output)}
    assert states.pop("broken.png") == "failed"
    assert set(states.values()) == {"done"} and len(states) == COUNT
    assert not [*(output / ".farm/parts").iterdir()]

    told = subprocess.run(command("farm", "status", output, "--json"), capture_output=True, text=True, check=True)
    assert records(told.stdout)[0] == {"waiting": 0, "done": COUNT, "failed": 1, "total": COUNT + 1}

    (pictures / "broken.png").write_bytes((pictures / "00.png").read_bytes())
    mended = subprocess.run(
        command("farm", "retry", output), capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert mended.returncode == 0, mended.stderr
    nothing = subprocess.run(farm(pictures, output), capture_output=True, text=True, timeout=SECONDS, check=True)
    assert records(nothing.stdout)[-1]["nothing_to_do"]


def test_a_film_is_done_in_segments_and_is_the_one_that_is_done_in_one_go(tmp_path: Path) -> None:
    folder, output, whole = tmp_path / "films", tmp_path / "out", tmp_path / "whole.mkv"
    folder.mkdir()
    films.make_film(folder / "film.mkv", films.every(40, 700), beside=films.Beside(("eng",), subtitles=True))
    (folder / "broken.mp4").write_bytes(b"nothing")
    options = ("--model", "cudaspeed-compact-x2", "--frozen", "--no-compile", "--segment-seconds", "2")
    driver = subprocess.Popen(
        farm(folder, output, "--actors", "2", "--segment-seconds", "2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: len([*(output / ".farm" / "together").glob("*/*.json")]) >= 3, driver)
    os.kill(workers_of(output)[0], signal.SIGKILL)
    until(lambda: len([*(output / ".farm" / "together").glob("*/*.json")]) >= 6, driver)
    driver.kill()
    driver.wait()
    made = {path.name for path in (output / ".farm" / "together").glob("*/*.json")}

    again = subprocess.run(
        farm(folder, output, "--actors", "2", "--segment-seconds", "2"), capture_output=True, text=True, timeout=SECONDS
    )
    assert again.returncode == 1, again.stderr
    units = units_of(output)
    assert [Path(unit["source"]).name for unit in units if unit["state"] != "done"] == ["broken.mp4"]
    (film,) = (unit for unit in units if unit["part"] == -1 and unit["state"] == "done")
    assert (film["record"]["frames"], film["record"]["resumed_frames"]) == (700, 700), "all segments were used"
    last = [unit for unit in units if unit["part"] >= 0]
    assert len(last) == 14 and len(made) >= 6
    assert sorted(path.name for path in output.iterdir()) == [".farm", "film.mkv", "report.json"]
    assert not [*(output / ".farm" / "together").iterdir()]

    subprocess.run(command("video", folder / "film.mkv", "-o", whole, *options), check=True, timeout=SECONDS)
    one, other = ([frame.to_ndarray() for frame in films.decoded(path)] for path in (whole, output / "film.mkv"))
    assert len(one) == len(other) == 700
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert films.packets(whole, 1) == films.packets(output / "film.mkv", 1)


class Nodes:
    """A Ray of two nodes on this machine, which `ray_nodes.py` does things with."""

    def __init__(self) -> None:
        script = Path(__file__).parents[1] / "support" / "ray_nodes.py"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([sys.executable, script], text=True, **pipes)
        self.address = self.tell(None)

    def tell(self, word: str | None) -> str:
        if word:
            self.process.stdin.write(f"{word}\n")
            self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.communicate("end\n", timeout=SECONDS)


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    """By which programs are known to the nodes, whatever this machine's user has for other Rays."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


@pytest.mark.usefixtures("token")
def test_nodes_leave_and_join_and_when_the_head_is_lost_nothing_done_is(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(COUNT, 3 * COUNT):
        (pictures / f"{number}.png").write_bytes((pictures / f"{number % COUNT:02}.png").read_bytes())
    output, nodes = tmp_path / "out", Nodes()
    driver = subprocess.Popen(
        farm(pictures, output, "--address", nodes.address), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        until_told(driver, lambda told: told["workers"] == 2 and told["done"] >= 5)
        assert nodes.tell("stop") == "done"
        until_told(driver, lambda told: told["workers"] == 1)
        assert nodes.tell("join") == "done"
        until_told(driver, lambda told: told["workers"] == 2)
        running = [pid for pid in workers_of(output) if Path("/proc", str(pid)).exists()]
        assert len(running) >= 1
        assert nodes.tell("head") == "done"
        lost = time.monotonic()
        assert driver.wait(60) == 1
        while [pid for pid in running if Path("/proc", str(pid)).exists()]:
            assert time.monotonic() - lost <= 60
            time.sleep(0.2)
    finally:
        driver.kill()
        nodes.end()
    finished = {path.name: path.stat().st_mtime_ns for path in output.glob("*.png")}
    assert 5 <= len(finished) < 3 * COUNT

    monkeypatch.delenv("RAY_AUTH_TOKEN")
    again = subprocess.run(
        farm(pictures, output, "--actors", "2"), capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert again.returncode == 0, again.stderr
    computed_again = [name for name, when in finished.items() if (output / name).stat().st_mtime_ns != when]
    assert len(computed_again) <= 4, "the units in flight, at most"
    made = bits(output)
    assert len(made) == 3 * COUNT
    for number in range(COUNT):
        assert made[f"{number:02}.png"] == made[f"{number + COUNT}.png"] == made[f"{number + 2 * COUNT}.png"]


@pytest.mark.usefixtures("token")
def test_a_worker_of_another_version_is_refused_by_name_and_the_others_do_it_all(
    pictures: Path, tmp_path: Path
) -> None:
    package = Path(cudaspeed.__file__).parent
    aside = ("tests", "bench", "docs", "train", "fuzz", ".*", "__pycache__")
    other = shutil.copytree(package, tmp_path / "other" / "cudaspeed", ignore=shutil.ignore_patterns(*aside))
    with (other / "tiling" / "fit.py").open("a") as file:
        file.write("# mended\n")
    output, nodes = tmp_path / "out", Nodes()
    try:
        assert nodes.tell("stop") == "done"
        assert nodes.tell(f"join {tmp_path / 'other'}") == "done"
        done = subprocess.run(
            farm(pictures, output, "--address", nodes.address),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            cwd=tmp_path,  # which Ray tells the workers, too
        )
    finally:
        nodes.end()
    assert done.returncode == 0, done.stderr
    assert len(bits(output)) == COUNT
    assert len({unit["worker"] for unit in units_of(output)}) == 1
    (refused,) = (line for line in done.stderr.splitlines() if "is refused, its results would differ" in line)
    digests = re.findall(r"cudaspeed \S+ ([0-9a-f]{12}) there, \S+ ([0-9a-f]{12}) here", refused)
    assert len(digests) == 1 and digests[0][0] != digests[0][1], refused


def until_told(driver: subprocess.Popen, seen: Callable[[dict], bool]) -> None:
    """Until the driver's line of how far it is says so."""
    for line in driver.stdout:
        if seen(json.loads(line)):
            return
    pytest.fail(f"the driver ended: {driver.stderr.read()}")


def until(seen: object, driver: subprocess.Popen) -> None:
    end = time.monotonic() + SECONDS
    while not seen():  # type: ignore[operator]
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
