"""Compiling for real, on the CPU: one tiny model, two racing processes, a restart, and compilers that fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
import zoo
from clocks import new_sessions
from safetensors import SafetensorError

from cudaspeed import compile_cache
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.report import UpscaleReport
from cudaspeed.backends.offer import usable
from cudaspeed.compiling import model_entries
from cudaspeed.compiling.errors import explain
from cudaspeed.compiling.model_entries import ModelEntries
from cudaspeed.compiling.policy import Expectation
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.storage.artifacts import ArtifactStore
from cudaspeed.upscale_engine import upscale

pytestmark = pytest.mark.usefixtures("plain_kernels")
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ["g++", "clang++", "cl"])), reason="no C++ compiler to compile with"
)
OPTIONS = UpscaleOptions(precision="fp32", compile_mode="wait")
RUN_IN_A_PROCESS = """
import sys
sys.path.insert(0, sys.argv[1])
import zoo
from cudaspeed.compiling import job, model_entries
from cudaspeed.kernels import winograd
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.storage import artifacts
from cudaspeed.upscale_engine import upscale

artifacts._NOTE_SECONDS = 60.0  # a hit that is not noted, since others hold the lock, is no second compile
winograd.prepare = lambda folder, patience=0.0: False
model_entries._CLEARLY_SLOWER = 100.0
job._NICENESS = 0
options = UpscaleOptions(precision="fp32", compile_mode="wait")
report = upscale(zoo.photograph(40, 40), zoo.compact(), options, StandaloneContext("cpu")).report
assert report.compiled, report.compiling
"""


def start_process(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN_IN_A_PROCESS, str(Path(__file__).parent.parent / "support")],
        env={**os.environ, "CUDASPEED_CACHE_DIR": str(folder)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def compiled_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where two processes, started at the same time, have compiled the same tiny model."""
    folder = tmp_path_factory.mktemp("cache") / "compiled"
    processes = [start_process(folder) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=500)
        assert process.returncode == 0, errors
    until = time.monotonic() + 120
    while any((folder / "jobs").iterdir()) and time.monotonic() < until:
        time.sleep(0.1)  # the worker measures what it has published
    yield folder


@pytest.fixture
def folder(compiled_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, for this process to use."""
    shutil.copytree(compiled_folder, tmp_path / "copy")
    (tmp_path / "copy").chmod(0o700)
    monkeypatch.setenv("CUDASPEED_CACHE_DIR", str(tmp_path / "copy"))
    return tmp_path / "copy"


@pytest.fixture(autouse=True)
def no_compiled_code_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it pays here, for models this small, decides no test."""
    monkeypatch.setattr(model_entries, "_CLEARLY_SLOWER", 100.0)


@pytest.fixture(autouse=True)
def compilers_are_not_starved(monkeypatch: pytest.MonkeyPatch) -> None:
    """By other tests, which run at the same time: at low priority a compile would take minutes."""
    monkeypatch.setattr("cudaspeed.compiling.job._NICENESS", 0)


def run(sessions: SessionCache, options: UpscaleOptions = OPTIONS, size: tuple[int, int] = (40, 40)) -> UpscaleReport:
    """Upscale, and find the eager picture."""
    image = zoo.photograph(*size, frames=2)
    result = upscale(image, zoo.compact(), options, StandaloneContext("cpu"), sessions)
    truth = upscale(image, zoo.compact(), UpscaleOptions(precision="fp32", compile=False), StandaloneContext("cpu"))
    torch.testing.assert_close(result.image, truth.image, atol=1e-4, rtol=0)
    return result.report


@needs_compiler
def test_two_processes_that_race_compile_once(compiled_folder: Path) -> None:
    store = ArtifactStore(compiled_folder)
    (ready,) = [entry for entry in store.entries().values() if entry.state == "ready"]
    assert ready.hits == 2
    assert ready.verified
    assert ready.compile_seconds > 0
    assert [path.name for path in compiled_folder.glob("*.pt2")] == [f"{ready.id}.pt2"]
    assert not list((compiled_folder / "jobs").iterdir()), "nothing is left behind"


@needs_compiler
def test_after_a_restart_any_size_runs_compiled_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = new_sessions()
    monkeypatch.setattr(sessions.compiles, "start_job", None)  # nothing is compiled any more
    for size in [(40, 40), (33, 57), (200, 90), (32, 32)]:
        report = run(sessions, UpscaleOptions(precision="fp32"), size)
        assert report.compiled
        assert report.compiling == "compiled"
    assert not run(sessions, UpscaleOptions(precision="fp32"), (31, 40)).compiled, "below what it was made for"


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="what is loaded is not told there")
def test_torch_unpacks_where_it_was_seen_that_nobody_else_can_write(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    load, loaded = compile_cache.load_package, set()

    def unpacked() -> set[str]:
        """What the process has mapped of packages; of other tests, files that are deleted since, too."""
        lines = Path("/proc/self/maps").read_text().splitlines()
        return {line.split(maxsplit=5)[5] for line in lines if "/aotinductor/" in line}

    def load_and_look(path: Path, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
        before = unpacked()
        forward = load(path, device)
        loaded.update(unpacked() - before)
        return forward

    monkeypatch.setattr(compile_cache, "load_package", load_and_look)
    assert run(new_sessions(), UpscaleOptions(precision="fp32")).compiled
    assert loaded
    assert all(path.startswith(("/tmp/", f"{tmp_path}/")) for path in loaded), "see compiling/aoti.py, check_unpacking"


@needs_compiler
@pytest.mark.parametrize("damage", ["cut short", "one bit", "another's", "of another torch"])
def test_a_bad_file_gives_the_eager_picture(folder: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    (file,) = folder.glob("*.pt2")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "cut short":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "one bit":
        file.write_bytes(content)
    elif damage == "another's":
        file.chmod(0o666)
    else:  # well known to the index, and no package
        store, name = ArtifactStore(folder), file.stem
        other = folder / "jobs" / "other"
        other.write_bytes(b"PK\x03\x04 not what it seems")
        store.publish(name, other, 1.0)
    report = run(new_sessions(), UpscaleOptions(precision="fp32"))
    assert not report.compiled
    assert len(caplog.records) == 1


def settled(sessions: SessionCache, seconds: float = 500) -> UpscaleReport:
    """Upscale in eager while a compile runs in the background, now and then, until it is over."""
    until = time.monotonic() + seconds
    while True:
        report = run(sessions, UpscaleOptions(precision="fp32", compile_mode="background"))
        if not report.compiling.startswith("compiling"):
            return report
        assert time.monotonic() < until
        time.sleep(0.3)


@pytest.mark.skipif(bool(usable(torch.device("cpu"))), reason="an engine is installed that needs no compiler")
def test_a_machine_without_a_compiler_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-such-g++"))
    report = settled(new_sessions())
    assert "no C++ compiler was found; install one" in report.compiling
    assert settled(new_sessions()).compiling == report.compiling
    assert not report.compiled


@pytest.mark.skipif(os.name == "nt", reason="the hanging compiler is a shell script")
def test_a_compiler_that_hangs_is_ended_and_not_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hanging = tmp_path / "g++"
    hanging.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    hanging.chmod(0o755)
    monkeypatch.setenv("CXX", str(hanging))
    monkeypatch.setattr(compile_cache, "_LEAST_LIMIT", 1.0)
    monkeypatch.setattr(ModelEntries, "expectation", lambda self: Expectation(0.8, 0.1))
    report = settled(new_sessions())
    assert "took longer than 8 s" in report.compiling
    assert settled(new_sessions()).compiling == report.compiling
    if (tmp_path / "pid").exists():
        number = int((tmp_path / "pid").read_text())
        assert not psutil.pid_exists(number) or psutil.Process(number).status() == psutil.STATUS_ZOMBIE


@pytest.mark.skipif(os.name == "nt", reason="no such signal")
def test_a_worker_that_crashes_is_named_and_pictures_flow_on() -> None:
    sessions = new_sessions()
    run(sessions, UpscaleOptions(precision="fp32", compile_mode="background"))
    assert sessions.compiles.job is not None
    watch, until = psutil.Process(sessions.compiles.job._process.pid), time.monotonic() + 60
    while not watch.children() and time.monotonic() < until:
        time.sleep(0.05)
    watch.children()[0].send_signal(11)
    report = settled(sessions)
    assert "the compiling process died (SIGSEGV)" in report.compiling
    until = time.monotonic() + 60  # who watched it notes first how it ended, then clears up, then ends
    while sessions.compiles.busy() and time.monotonic() < until:
        time.sleep(0.05)
    assert not sessions.compiles.busy()


@pytest.mark.parametrize(
    ("said", "scope", "told"),
    [
        ("No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')", "environment", "Visual"),
        ("Cannot find a working triton installation. Either the package", "environment", "install triton"),
        ("C++ compile error\n\nCommand:\ng++ -fopenmp\n\nOutput:\nx.cpp:1: fatal error: Python.h: No such file", *
         ("environment", "python3-dev")),
        ("C++ compile error\n\nCommand:\ng++ -fopenmp\n\nOutput:\nx.cpp:1: fatal error: cuda.h: No such file", *
         ("environment", "CUDA toolkit")),
        ("C++ compile error\n\nCommand:\ng++ -fopenmp -lcuda\n\nOutput:\nx.cpp:9: error: 'float' is no class", *
         ("model", "'float' is no class")),
        ("missing lowering\ntarget: aten.strange", "model", "missing lowering"),
        ("CUDA out of memory. Tried to allocate", "", "memory ran out"),
        ("C++ compile error\n\nOutput:\ng++: fatal error: Killed signal terminated program cc1plus", "", "memory"),
        ("[Errno 28] No space left on device", "", "disk is full"),
    ],
)  # fmt: skip
def test_failures_are_told_in_one_line_that_says_what_to_do(said: str, scope: str, told: str) -> None:
    found, reason = explain(RuntimeError(said))
    assert found == scope
    assert told in reason
    assert "\n" not in reason


@needs_compiler
def test_an_attention_model_is_compiled_for_the_tile() -> None:
    """Its masks depend on the size, which inductor's own C++ for them does not survive: they are computed before."""
    sessions, model = new_sessions(), zoo.swinir()
    for size in [(48, 64), (47, 61)]:
        image = zoo.photograph(*size, frames=2)
        result = upscale(image, model, OPTIONS, StandaloneContext("cpu"), sessions)
        assert result.report.compiled, result.report.compiling
        assert result.report.tile == (48, 64)
        eager = upscale(image, model, UpscaleOptions(precision="fp32", compile=False), StandaloneContext("cpu"))
        inside = result.image[:, :64, :96], eager.image[:, :64, :96]  # where the tile's larger size is out of sight
        torch.testing.assert_close(*inside, atol=1e-3 if size == (48, 64) else 2 / 255, rtol=0)
    sessions.compiles.stop()  # it would go on to improve it


def test_a_full_disk_costs_a_warning_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("cudaspeed.compiling.job.save_file", full)
    report = run(new_sessions(), UpscaleOptions(precision="fp32", compile_mode="background"))
    assert "No space left on device" in report.compiling
    assert not list((StandaloneContext("cpu").cache_folder / "jobs").iterdir())
