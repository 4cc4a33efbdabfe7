"""The surroundings outside ComfyUI: the device that is taken by default, the folder of compiled models."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import weakref
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
import zoo
from clocks import new_sessions
from drivers import GIB, MIB, PLACES, driver, install, metal, usual_driver

from cudaspeed.api.errors import BadOptionError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.commands.devices import check_device
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.storage.location import compiled_folder
from cudaspeed.upscale_engine import upscale

ACCELERATORS = {"cuda": torch.cuda, "xpu": torch.xpu, "mps": torch.mps}


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


@pytest.mark.parametrize("name", ["hpu", "privateuseone:0", "mtia", "cuda:99", "npu", "meta", "abacus", "cpu:x"])
def test_a_device_that_is_not_there_is_refused_by_its_name(name: str) -> None:
    """Some kinds torch does not know before a package has told it, and of some it misses the package."""
    with pytest.raises(BadOptionError, match=f"device is '{name}', which this machine does not offer"):
        StandaloneContext(name)


def test_what_is_said_of_a_device_is_short_however_long_its_name() -> None:
    with pytest.raises(BadOptionError) as raised:
        StandaloneContext("x" * 10_000)
    assert len(str(raised.value)) < 600
    with pytest.raises(BadOptionError) as raised:
        check_device("x y" * 10_000, None)
    assert len(str(raised.value)) < 400


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


def context_on(monkeypatch: pytest.MonkeyPatch, name: str, module: object, **more: float) -> StandaloneContext:
    """On a stand-in of a device."""
    device = install(monkeypatch, name, module)
    monkeypatch.setattr("cudaspeed.devices.named._device", lambda asked: device)
    return StandaloneContext(PLACES.get(name, "privateuseone"), **more)


@pytest.mark.parametrize("name", ["CUDA", "ROCm", "XPU", "NPU", "MLU"])
def test_a_run_has_what_is_free_but_for_the_desktops_share(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    context = context_on(monkeypatch, name, usual_driver())
    assert context.free_bytes() == 5 * GIB + 512 * MIB - 400 * MIB
    assert context.peak_bytes() == 1800 * MIB
    context = context_on(monkeypatch, name, usual_driver(), reserve_vram=1.5)
    assert context.free_bytes() == 4 * GIB
    assert context_on(monkeypatch, name, usual_driver(), reserve_vram=7).free_bytes() == 0, "and never less"


def test_a_run_on_an_apple_gpu_has_what_metal_recommends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=16 * GIB, available=16 * GIB))
    monkeypatch.setattr("cudaspeed.memory.memory_bytes_left", lambda: None)
    context = context_on(monkeypatch, "MPS", metal(), reserve_vram=0)
    assert (context.free_bytes(), context.peak_bytes()) == (8 * GIB, None)


@pytest.mark.parametrize(
    ("name", "module"), [("DirectML", driver()), ("XPU", driver()), ("MPS", metal(driver_allocated_memory=None))]
)
def test_where_nobody_tells_a_little_is_assumed_and_said_once(
    name: str, module: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from cudaspeed import memory

    memory._tell_assumed.cache_clear()
    with caplog.at_level(logging.WARNING, "cudaspeed"):
        for _ in range(3):
            context = context_on(monkeypatch, name, module, reserve_vram=0)
            assert [context.free_bytes() for _ in range(3)] == [GIB] * 3
    (record,) = caplog.records
    assert "how much memory is free is not known" in record.getMessage()
    assert "1 GiB" in record.getMessage()


@pytest.mark.parametrize("reserve", [-1, float("nan"), float("inf"), 8])
def test_a_reserve_that_cannot_be_is_refused_before_anything(reserve: float, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadOptionError, match="reserve"):
        context_on(monkeypatch, "CUDA", usual_driver(), reserve_vram=reserve)


def test_what_only_holds_itself_is_dropped_with_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    class Held:
        """As an error holds the frames that it came through, and these hold it, and tensors."""

    cleared: list[bool] = []
    context = context_on(monkeypatch, "XPU", usual_driver(empty_cache=lambda: cleared.append(known() is None)))
    held = Held()
    held.itself, known = held, weakref.ref(held)  # type: ignore[attr-defined]
    del held
    assert known() is not None
    context.release_cached()
    assert cleared == [True], "first the tensors, then what torch keeps of them"


def test_a_driver_that_fails_while_memory_is_short_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_on(monkeypatch, "CUDA", usual_driver(empty_cache=RuntimeError("CUDA error: launch failure")))
    context.release_cached()
    assert context.is_out_of_memory(RuntimeError("CUDA out of memory"))


def test_a_picture_comes_out_the_same_where_the_system_does_not_tell_its_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from cudaspeed import memory

    def nothing() -> None:
        raise OSError(2, "No such file or directory", "/proc/meminfo")

    image, options = zoo.photograph(40, 40), UpscaleOptions(precision="fp32", compile=False)
    expected = upscale(image, zoo.compact(), options, StandaloneContext("cpu"), new_sessions()).image
    monkeypatch.setattr(psutil, "virtual_memory", nothing)
    memory._tell_assumed.cache_clear()
    with caplog.at_level(logging.WARNING, "cudaspeed"):
        result = upscale(image, zoo.compact(), options, StandaloneContext("cpu"), new_sessions())
    assert torch.equal(result.image, expected)
    assert [record.getMessage() for record in caplog.records] == [
        "how much memory is free is not known for cpu: 1 GiB are assumed"
    ]
