"""Kernels built on the user's machine: kept, trusted only if they are what was built and right, and never missed."""

from __future__ import annotations

import ctypes
import logging
from pathlib import Path

import pytest
import torch
import zoo
from clocks import new_sessions

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host import StandaloneContext
from cudaspeed.kernels import build, winograd
from cudaspeed.kernels.build import load_library
from cudaspeed.storage.artifacts import ArtifactStore
from cudaspeed.upscale_engine import upscale


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has loaded nothing."""
    monkeypatch.setattr(build, "_loaded", {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "compiled"


@pytest.fixture
def built(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernels, built into `folder` by an earlier process."""
    if not winograd.prepare(folder):
        pytest.skip("the kernels cannot be built here: not Linux, or no C++ compiler")
    forget(monkeypatch)
    return folder


def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a compiler was called")

    monkeypatch.setattr(build, "_call", refuse)


def test_the_next_process_finds_them(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_compiler(monkeypatch)
    assert winograd.prepare(built)


def test_a_changed_file_is_not_loaded_but_built_anew(built: Path) -> None:
    (file,) = built.glob("*.pt2")
    good = file.read_bytes()
    file.unlink()  # this process has loaded it
    file.write_bytes(good[:-1] + b"?")
    file.chmod(0o600)
    assert winograd.prepare(built)
    (file,) = built.glob("*.pt2")
    assert len(file.read_bytes()) == len(good)
    assert not file.read_bytes().endswith(b"?")


def test_wrong_results_are_refused_for_good(built: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    def flaw(library: ctypes.CDLL) -> str:
        return "their results are wrong"

    with caplog.at_level(logging.INFO, logger="cudaspeed"):
        assert load_library("winograd", built, flaw) is None
        forget(monkeypatch)
        no_compiler(monkeypatch)
        assert load_library("winograd", built, lambda library: None) is None
    assert caplog.text.count("their results are wrong") == 2
    assert not list(built.glob("*.pt2"))


@pytest.mark.parametrize("missing", ["system", "compiler", "right compiler"])
def test_without_them_the_picture_is_the_same(
    missing: str, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    if missing == "system":
        monkeypatch.setattr(build.sys, "platform", "win32")
    elif missing == "compiler":
        monkeypatch.setattr(build.shutil, "which", lambda name: None)
    else:
        monkeypatch.setattr(build, "_COMPILE", ("--no-such-flag",))
    image, model = zoo.photograph(40, 48), zoo.compact(2, features=16)
    with caplog.at_level(logging.INFO, logger="cudaspeed"):
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


def test_a_failed_build_is_not_tried_again_until_something_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if build.sys.platform != "linux":
        pytest.skip("nothing is built here")
    calls = []

    def fail(*command: str) -> None:
        calls.append(command)
        raise build.BuildError("g++ says: error")

    monkeypatch.setattr(build, "_call", fail)
    monkeypatch.setattr(build.shutil, "which", lambda name: "/usr/bin/g++")
    for _ in range(2):
        assert not winograd.prepare(folder)
        forget(monkeypatch)
    assert len(calls) == 1
    (entry,) = ArtifactStore(folder).entries().values()
    assert (entry.state, entry.reason) == ("failed", "g++ says: error")


def test_an_interrupted_build_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if build.sys.platform != "linux":
        pytest.skip("nothing is built here")

    def interrupt(*command: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "_call", interrupt)
    monkeypatch.setattr(build.shutil, "which", lambda name: "/usr/bin/g++")
    with pytest.raises(KeyboardInterrupt):
        winograd.prepare(folder)
    (entry,) = ArtifactStore(folder).entries().values()
    assert entry.state == "seen"


def test_what_another_process_is_building_is_waited_for(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_path_of, asked = ArtifactStore.path_of, []

    def late(self: ArtifactStore, entry_id: str) -> Path | None:
        asked.append(entry_id)
        return store_path_of(self, entry_id) if len(asked) > 2 else None

    no_compiler(monkeypatch)
    monkeypatch.setattr(ArtifactStore, "path_of", late)
    assert winograd.prepare(built)
