"""Memory of an engine's devices: tiles are made for it where it is told, and what has no room is told beforehand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import zoo

from cudaspeed.api.errors import OutOfMemoryError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.backends import offer
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.memory import MemoryCost
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.info import model_info
from cudaspeed.pipeline.engine_memory import EngineMemory
from cudaspeed.pipeline.fallback import StepMaker
from cudaspeed.pipeline.room import Room
from cudaspeed.pipeline.scheduler import Budget, Limits, Scheduler
from cudaspeed.pipeline.session_cache import SessionCache

CPU = torch.device("cpu")
COST = MemoryCost(100 << 20, 20_000.0)


def chip(used: Any, limit: Any) -> Any:
    return SimpleNamespace(memory_stats=lambda: {"bytes_in_use": used, "bytes_limit": limit})


@pytest.mark.parametrize(
    ("devices", "free"),
    [
        ([chip(3, 16), chip(5, 16)], 11),
        ([chip(3, 16), SimpleNamespace(memory_stats=lambda: None)], None),
        ([SimpleNamespace(memory_stats=lambda: {"bytes_in_use": 3})], None),
        ([chip(17, 16)], None),
        ([chip("much", 16)], None),
    ],
)
def test_the_fullest_of_the_devices_counts(
    devices: list[Any], free: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offer, "devices_of", lambda name: tuple(devices))
    assert offer.free_bytes("tpu") == free


@pytest.mark.parametrize("free", [400 << 20, 1 << 30, 16 << 30])
def test_a_tile_takes_no_more_than_is_free(free: int) -> None:
    pixels = EngineMemory(COST, free, weights_there=True).tile_pixels("balanced")
    assert 0 < COST.per_pixel * pixels < free
    assert COST.per_pixel * pixels > free / 8


def test_tiles_are_made_for_it_and_not_for_main_memory() -> None:
    info, options = model_info(zoo.compact()), UpscaleOptions()

    def tile_of(most: int | None) -> tuple[int, int]:
        budget = Budget(COST, 64 << 30, CPU, tile_pixels=most)
        scheduler = Scheduler((600, 900), 1, info, options, budget)
        assert scheduler.bound_by_memory == (most is not None and most < 540_000)
        return scheduler.schedule({}, Limits()).tile

    assert tile_of(None) == tile_of(700_000) == (600, 900)
    assert math.prod(tile_of(256 * 256)) <= 256 * 256
    assert math.prod(tile_of(1)) > 48 * 48, "smaller ones are for when it really ran out"


@pytest.mark.parametrize(("there", "needed"), [(True, 78), (False, 178)])
def test_what_has_no_room_is_told_with_numbers_and_ways_out(there: bool, needed: int) -> None:
    free = 50 << 20 if there else (50 - 100) << 20  # beside the weights
    memory, context = EngineMemory(COST, free, there), StandaloneContext("tpu")
    room = Room("Compact", UpscaleOptions(), context, SessionCache())
    with pytest.raises(OutOfMemoryError) as raised:
        room.check_engine(memory, 64 * 64)
    assert str(raised.value) == (
        f"tpu has too little memory even for one tile of 64x64 with Compact: about {needed} MiB are needed and 50 are "
        "free; free memory (unload other models), use a smaller model, set precision to fp16 or bf16, or lower overlap "
        "or batch_size if you set it"
    )
    room.check_engine(EngineMemory(COST, 79 << 20, there), 64 * 64)


def test_in_bf16_weights_and_tiles_take_half_there() -> None:
    model, options = zoo.compact(features=64), UpscaleOptions(compile=False)
    maker = StepMaker(model, model_info(model), options, StandaloneContext("tpu"), SessionCache())
    full, half, by_products = (
        maker.make(ExecutionMode(some, some != "fp32", channels_last=False), shared=False).cost.on_engine
        for some in ("fp32", "bf16", "fp16")
    )
    assert 2 * half.weights == full.weights
    assert 2 * half.per_pixel == pytest.approx(full.per_pixel, rel=0.2), "all but masks and results"
    assert by_products == full, "a TPU has no float16"
