"""The surroundings outside ComfyUI: the device that is taken by default, the folder of compiled models."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cudaspeed.host import StandaloneContext, compiled_folder

ACCELERATORS = {"cuda": torch.cuda, "xpu": torch.xpu, "mps": torch.backends.mps}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """The accelerators that this machine has, as torch tells; none unless the test says so."""
    there = dict.fromkeys(ACCELERATORS, False)
    for kind, interface in ACCELERATORS.items():
        monkeypatch.setattr(interface, "is_available", lambda kind=kind: there[kind])
    return there


def of_torch_2_6() -> torch.device:
    """`current_accelerator` took no `check_available` yet, and named what torch is built for, there or not."""
    return torch.device("cuda")


@pytest.mark.parametrize("accelerator", [None, SimpleNamespace(current_accelerator=of_torch_2_6)])
def test_the_default_device_is_found_whatever_torch_calls_it(
    machine: dict[str, bool], monkeypatch: pytest.MonkeyPatch, accelerator: object
) -> None:
    if accelerator is None:
        monkeypatch.delattr(torch, "accelerator", raising=False)
    else:
        monkeypatch.setattr(torch, "accelerator", accelerator, raising=False)
    assert StandaloneContext().device.type == "cpu"
    machine["mps"] = True
    assert StandaloneContext().device.type == "mps"
    machine["xpu"] = True
    assert StandaloneContext().device.type == "xpu"
    assert StandaloneContext("cpu").device.type == "cpu"


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("CUDASPEED_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("linux")
def test_compiled_models_lie_where_the_platform_has_its_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert compiled_folder() == Path("/home/me/.cache/cudaspeed/compiled")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert compiled_folder() == Path("/caches/cudaspeed/compiled")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification
    assert compiled_folder() == Path("/home/me/.cache/cudaspeed/compiled")
    monkeypatch.setenv("CUDASPEED_CACHE_DIR", "relative")
    assert compiled_folder() == Path.cwd() / "relative"


@pytest.mark.usefixtures("linux")
@pytest.mark.parametrize("home", ["", "relative", None])
def test_a_user_without_a_home_has_a_folder_among_the_temporary_files(
    monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    def nobody(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr("pwd.getpwuid", nobody)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    expected = Path(tempfile.gettempdir()) / f"cudaspeed-{os.getuid()}" / "compiled"
    assert compiled_folder() == (expected if home != "" else Path("/.cache/cudaspeed/compiled"))


@pytest.mark.usefixtures("linux")
def test_a_folder_is_named_even_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*arguments: object) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setenv("CUDASPEED_CACHE_DIR", "relative")
    monkeypatch.setattr(os, "getcwd", nowhere)
    assert compiled_folder() == Path("relative")
    monkeypatch.delenv("CUDASPEED_CACHE_DIR")
    monkeypatch.setenv("HOME", "relative")
    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    assert compiled_folder().is_absolute()


def test_a_model_is_moved_once_and_again_after_a_move_that_failed() -> None:
    """Also where another context has had it meanwhile."""
    moves: list[torch.device] = []
    failing = [False]

    def to(device: torch.device) -> None:
        moves.append(device)
        if failing[0]:
            raise MemoryError

    model = SimpleNamespace(module=SimpleNamespace(to=to), residence=None, release=lambda: None)
    context = StandaloneContext("cpu")
    for _ in range(3):
        context.make_resident(model, 0)
    assert len(moves) == 1
    model.residence, failing[0] = object(), True
    with pytest.raises(MemoryError):
        context.make_resident(model, 0)
    failing[0] = False
    context.make_resident(model, 0)
    assert len(moves) == 3
