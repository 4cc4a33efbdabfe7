"""Kernels built on the user's machine: kept, trusted only if they are what was built and right, and never missed."""

from __future__ import annotations

import ctypes
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import zoo
from bad_compilers import real, script
from clocks import new_sessions

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.kernels import build, winograd
from cudaspeed.kernels.build import load_library
from cudaspeed.storage import private_copy
from cudaspeed.storage.artifacts import ArtifactStore
from cudaspeed.storage.fingerprint import _describe_environment
from cudaspeed.storage.index import Entry
from cudaspeed.upscale_engine import upscale

LONG = 60.0  # seconds, in which a busy machine builds them

linux = pytest.mark.skipif(sys.platform != "linux" or not shutil.which("g++"), reason="nothing is built here")


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    forget(monkeypatch)
    yield
    _describe_environment.cache_clear()  # which compiler there is


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has loaded nothing."""
    monkeypatch.setattr(build, "_loaded", {})
    monkeypatch.setattr(build, "_unfinished", set())
    _describe_environment.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "compiled"


@pytest.fixture
def built(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernels, built into `folder` by an earlier process."""
    if not winograd.prepare(folder, LONG):
        pytest.skip("the kernels cannot be built here: not Linux, or no C++ compiler")
    forget(monkeypatch)
    return folder


def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a build was started")

    monkeypatch.setattr(build, "start_apart", refuse)


def by(compiler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built by that compiler from now on."""
    monkeypatch.setenv("CXX", str(compiler))
    _describe_environment.cache_clear()


def only_entry(folder: Path) -> Entry:
    (entry,) = ArtifactStore(folder).entries().values()
    return entry


def test_the_next_process_finds_them(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_compiler(monkeypatch)
    assert winograd.prepare(built, LONG)


@linux
def test_nothing_of_the_build_is_left(built: Path) -> None:
    until = time.monotonic() + 60
    while any((built / "jobs").iterdir()) and time.monotonic() < until:
        time.sleep(0.05)
    assert not list((built / "jobs").iterdir())


def test_a_changed_file_is_not_loaded_but_built_anew(built: Path) -> None:
    (file,) = built.glob("*.pt2")
    good = file.read_bytes()
    file.write_bytes(good[:-1] + b"?")
    assert winograd.prepare(built, LONG)
    (file,) = built.glob("*.pt2")
    assert len(file.read_bytes()) == len(good)
    assert not file.read_bytes().endswith(b"?")


def test_kernels_that_nobody_prepared_are_an_error_and_not_built_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    winograd.loaded.cache_clear()
    with pytest.raises(RuntimeError, match="the winograd kernels are not loaded; prepare them first"):
        winograd.loaded()
    assert not [*tmp_path.iterdir()]


@linux
@pytest.mark.parametrize("place", ["in memory", "in a folder"])
def test_what_is_swapped_after_it_was_checked_is_never_loaded(
    built: Path, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the check and the load: by name, and in place."""
    if place == "in a folder":
        monkeypatch.setattr(private_copy, "_memory", lambda: None)
    (tmp_path / "evil.cpp").write_text(
        '#include <cstdio>\n__attribute__((constructor)) static void now() { std::fclose(std::fopen("'
        f'{tmp_path}/ran", "w")); }}\n'
    )
    evil = tmp_path / "evil.so"
    subprocess.run([real(), "-shared", "-fPIC", tmp_path / "evil.cpp", "-o", evil], check=True)
    (file,) = built.glob("*.pt2")
    copy_of, swapped = ArtifactStore.copy_of, []

    def swap(store: ArtifactStore, entry_id: str) -> private_copy.PrivateCopy | None:
        copy = copy_of(store, entry_id)
        file.write_bytes(evil.read_bytes())
        shutil.copy(evil, tmp_path / "again.so")
        (tmp_path / "again.so").replace(file)
        swapped.append(file)
        return copy

    monkeypatch.setattr(ArtifactStore, "copy_of", swap)
    no_compiler(monkeypatch)
    assert winograd.prepare(built, LONG)
    assert swapped
    assert not (tmp_path / "ran").exists()


@linux
def test_wrong_results_are_refused_for_good(folder: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    def flaw(library: ctypes.CDLL) -> str:
        return "their results are wrong"

    with caplog.at_level(logging.INFO, logger="cudaspeed"):
        assert load_library("winograd", folder, flaw, LONG) is None
        forget(monkeypatch)
        no_compiler(monkeypatch)
        assert load_library("winograd", folder, lambda library: None) is None
    assert caplog.text.count("their results are wrong") == 2
    assert not list(folder.glob("*.pt2"))


def test_results_are_checked_once_not_in_every_process(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(library: ctypes.CDLL) -> str:
        raise AssertionError("it was checked again")

    assert load_library("winograd", built, asked)


def test_results_of_what_is_built_anew_are_checked_anew(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    next(built.glob("*.pt2")).unlink()
    assert load_library("winograd", built, lambda library: "wrong this time", LONG) is None


@pytest.mark.parametrize("missing", ["system", "compiler", "right compiler", "safe folder"])
def test_without_them_the_picture_is_the_same(
    missing: str, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    if missing == "system":
        monkeypatch.setattr(build.sys, "platform", "win32")
    elif missing == "compiler":
        monkeypatch.setattr(build.shutil, "which", lambda name: None)
    elif missing == "safe folder":
        folder.parent.chmod(0o777)
    else:
        monkeypatch.setattr(build, "_COMPILE", ("--no-such-flag",))
    image, model = zoo.photograph(40, 48), zoo.compact(2, features=16)
    with caplog.at_level(logging.INFO, logger="cudaspeed"):
        winograd.prepare(StandaloneContext("cpu").cache_folder, LONG)
        results = [
            upscale(image, model, UpscaleOptions(precision="fp32"), StandaloneContext("cpu"), new_sessions())
            for _ in range(2)
        ]
    assert [result.report.kernels for result in results] == ["plain"] * 2
    assert not results[0].report.warnings
    assert caplog.text.count("no winograd kernels for this CPU") == 1
    with torch.no_grad():
        truth = model(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(results[0].image, truth.clamp(0, 1), atol=1e-5, rtol=0)


@linux
def test_a_failed_build_is_not_tried_again_until_something_changes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by(script(tmp_path, "echo 'x.cpp:1: error: no such thing' >&2; exit 1"), monkeypatch)
    for _ in range(2):
        assert not winograd.prepare(folder, LONG)
        forget(monkeypatch)
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    entry = only_entry(folder)
    assert (entry.state, entry.reason) == ("failed", "g++ says: x.cpp:1: error: no such thing")
    monkeypatch.delenv("CXX")
    forget(monkeypatch)
    assert winograd.prepare(folder, LONG), "another compiler"


@linux
@pytest.mark.parametrize(("age", "again"), [(3600.0, False), (25 * 3600.0, True)])
def test_what_took_too_long_is_tried_again_on_another_day(
    age: float, again: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert winograd.prepare(folder, LONG)
    forget(monkeypatch)
    store, now = ArtifactStore(folder), time.time()
    with monkeypatch.context() as patch:
        patch.setattr("cudaspeed.storage.artifacts.time.time", lambda: now - age)
        store.fail(only_entry(folder).id, "g++ took longer than 60 s", "time", "")
    assert winograd.prepare(folder, LONG) == again


@linux
def test_a_build_that_was_killed_is_tried_again_by_the_next_process(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by(script(tmp_path, "kill -9 $$"), monkeypatch)
    assert not winograd.prepare(folder, LONG)
    assert only_entry(folder).state == "seen"
    script(tmp_path, "")
    assert not winograd.prepare(folder, LONG), "this process has its answer"
    forget(monkeypatch)
    assert winograd.prepare(folder, LONG)


@linux
def test_a_slow_build_is_not_waited_for_and_is_there_later(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by(script(tmp_path, f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"), monkeypatch)
    began = time.monotonic()
    assert not winograd.prepare(folder)
    assert not winograd.prepare(folder, 0.3)
    assert build.is_pending("winograd")
    assert time.monotonic() - began < 20
    assert build.code_of("winograd") == "", "nothing is measured of what is not there"
    (tmp_path / "go").touch()
    until = time.monotonic() + 60
    while not winograd.prepare(folder) and time.monotonic() < until:
        time.sleep(0.1)
    assert build.code_of("winograd")


@linux
def test_what_another_process_is_building_is_waited_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by(script(tmp_path, "sleep 0.5"), monkeypatch)
    assert not winograd.prepare(folder)
    forget(monkeypatch)
    no_compiler(monkeypatch)
    assert winograd.prepare(folder, LONG)


@linux
def test_what_is_compiled_is_what_the_digest_was_made_of(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler is given no name that somebody else could put another file under."""
    by(script(tmp_path, f'cp "$last" {tmp_path}/ 2>/dev/null; echo "$PWD: $*" >> {tmp_path}/said'), monkeypatch)
    assert winograd.prepare(folder, LONG)
    for line in (tmp_path / "said").read_text().splitlines():
        assert line.startswith(str(folder / "jobs"))
        assert str(build._SOURCES) not in line


@linux
def test_an_interrupt_ends_the_waiting_and_not_the_build(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by(script(tmp_path, "sleep 0.3"), monkeypatch)

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build.time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            winograd.prepare(folder, LONG)
    no_compiler(monkeypatch)
    assert winograd.prepare(folder, LONG)
