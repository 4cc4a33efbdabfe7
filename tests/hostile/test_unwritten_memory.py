"""Memory that nobody wrote is never part of a picture: fresh memory full of NaN changes no bit of any result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from clocks import new_sessions
from lagging import LaggingDevice
from spandrel import ImageModelDescriptor
from torch import Tensor

from cudaspeed.api.options import ALPHA_MODES, TILING_MODES, UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.kernels import window_attention, winograd
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.runner import ModelRunner
from cudaspeed.pipeline import download, schedule_maker, session, upload
from cudaspeed.upscale_engine import upscale


@contextmanager
def poisoned() -> Iterator[None]:
    """Within it, torch fills what it allocates with NaN, or an integer type's largest value."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        assert bool(torch.empty(3).isnan().all())
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


def run(image: Tensor, make: Callable[[], ImageModelDescriptor], options: dict[str, Any]) -> Tensor:
    asked = UpscaleOptions(**{"precision": "fp32", "compile": False, **options})
    return upscale(image, make(), asked, StandaloneContext("cpu"), new_sessions()).image


def is_the_same(image: Tensor, make: Callable[[], ImageModelDescriptor], options: dict[str, Any]) -> None:
    """Poisoned and not, to the bit."""
    plain = run(image, make, options)
    with poisoned():
        result = run(image, make, options)
    assert bool(result.isfinite().all())
    assert torch.equal(result, plain)


MODELS = [zoo.compact, zoo.esrgan, zoo.swinir, zoo.fdat, zoo.rcan_unshuffle]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"tile": 32},
    {"tile": 64, "overlap": 16},
    {"level": "memory"},
    {"precision": "bf16"},
    {"precision": "bf16", "autocast": False, "tile": 32},
]


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("size", [(2, 2), (16, 16), (61, 83)], ids=str)
def test_tiles_and_whole_frames_of_every_kind_of_model(size: tuple[int, int], make) -> None:
    for options in OPTIONS:
        if make is zoo.swinir and options.get("precision") == "bf16" and not options.get("autocast", True):
            continue  # it takes no bare bf16
        is_the_same(zoo.photograph(*size), make, options)


@pytest.mark.parametrize("tiling_mode", TILING_MODES)
@pytest.mark.parametrize("tile", [0, 32])
def test_tileable_pictures(tiling_mode: str, tile: int) -> None:
    for size in ((5, 3), (40, 57)):
        is_the_same(zoo.photograph(*size), zoo.compact, {"tiling_mode": tiling_mode, "tile": tile})


@pytest.mark.parametrize("alpha_mode", ALPHA_MODES)
@pytest.mark.parametrize("model_channels", [1, 3, 4])
def test_transparency_and_every_number_of_channels(alpha_mode: str, model_channels: int) -> None:
    for channels in (1, 2, 3, 4):
        for tile in (0, 32):
            image = zoo.photograph(40, 57, channels)
            image[:, :20, :20, -1] = 0
            is_the_same(image, lambda: zoo.compact(channels=model_channels), {"alpha_mode": alpha_mode, "tile": tile})


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches(batch_size: int) -> None:
    for options in ({}, {"tile": 32}):
        is_the_same(zoo.photograph(40, 57, frames=5), zoo.compact, {"batch_size": batch_size, **options})


def holes_in_half(y: Tensor) -> Tensor:
    return torch.where(y > 0.9, float("nan"), y) if y.dtype != torch.float32 else y


def holes(y: Tensor) -> Tensor:
    return torch.where(y > 0.95, float("inf"), y)


@pytest.mark.parametrize("change", [holes_in_half, holes, lambda y: 3 * y], ids=["retry", "filled", "corrected"])
def test_tiles_computed_again_and_frames_that_are_mended(change: Callable[[Tensor], Tensor]) -> None:
    for options in ({}, {"tile": 32}, {"tile": 32, "overlap": 8}):
        for channels in (3, 4):
            options = {**options, "precision": "bf16", "autocast": False}
            is_the_same(zoo.photograph(64, 90, channels), lambda: zoo.toy(2, change), options)


def test_runs_that_find_too_little_memory_on_the_way() -> None:
    def full(y: Tensor) -> Tensor:
        if y.shape[0] * y.shape[2] * y.shape[3] > 100 * 100:
            raise torch.OutOfMemoryError("out of memory, as a device would say")
        return y

    is_the_same(zoo.photograph(90, 110, frames=2), lambda: zoo.toy(2, full), {"batch_size": 2})


@pytest.mark.parametrize("pinned", [False, True])
def test_a_device_with_streams_and_its_staging_buffers(pinned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "_BUFFER_BYTES", 2000)
    monkeypatch.setattr(download, "_BUFFER_BYTES", 5000)
    monkeypatch.setattr(session, "stream_device", lambda device: LaggingDevice(lambda tensor: pinned))
    monkeypatch.setitem(schedule_maker._AHEAD, "cpu", 1)
    for options in ({}, {"tile": 32}, {"tile": 32, "batch_size": 2}, {"tiling_mode": "wrap"}):
        for channels in (3, 4):
            is_the_same(zoo.photograph(40, 57, channels, frames=2), zoo.compact, options)


@pytest.mark.parametrize("make", [zoo.compact, zoo.esrgan, zoo.swinir, zoo.fdat], ids=lambda make: make.__name__)
def test_kernels_of_ours_and_their_workspaces(make: Callable[[], ImageModelDescriptor], tmp_path: Path) -> None:
    if not (winograd.prepare(tmp_path / "compiled") and window_attention.prepare(tmp_path / "compiled")):
        pytest.skip("no compiler for our kernels")
    ours = ModelRunner(make(), ExecutionMode("fp32", autocast=False, channels_last=True, kernels="winograd"))
    for count, height, width in ((1, 16, 16), (2, 32, 48), (1, 64, 16)):
        tiles = zoo.photograph(height, width, frames=count).permute(0, 3, 1, 2).contiguous()
        with torch.inference_mode():
            plain = ours.forward(tiles)
            with poisoned():
                result = ours.forward(tiles)
        assert torch.equal(result, plain)
