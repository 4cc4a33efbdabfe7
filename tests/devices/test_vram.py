"""What is left to others, and how much room weights have: ComfyUI's numbers, by stand-ins of devices."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from drivers import GIB, MIB, device, driver, install, metal, usual_driver

from cudaspeed.api.errors import BadOptionError
from cudaspeed.devices.reserve import asked_reserve
from cudaspeed.devices.vram import Vram, VramState, vram_of

LEAST_WORK = int(0.8 * GIB)


@pytest.mark.parametrize(
    ("platform", "total", "reserve"),
    [
        ("linux", 8 * GIB, 400 * MIB),
        ("linux", 80 * GIB, 400 * MIB),
        ("darwin", 24 * GIB, 400 * MIB),
        ("win32", 8 * GIB, 600 * MIB),
        ("win32", 15 * GIB, 600 * MIB),
        ("win32", 16 * GIB, 700 * MIB),
        ("win32", None, 600 * MIB),
    ],
)
def test_a_desktop_keeps_its_share(
    platform: str, total: int | None, reserve: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    answer = (total // 2, total) if total else RuntimeError()
    assert (
        vram_of(install(monkeypatch, "CUDA", usual_driver(mem_get_info=answer, memory_reserved=0))).reserve == reserve
    )


def test_main_memory_is_shared_in_other_ways() -> None:
    assert vram_of(torch.device("cpu")).reserve == 0
    assert vram_of(torch.device("cpu"), 0.5).reserve == 512 * MIB, "unless it is asked for"


@pytest.mark.parametrize(("asked", "reserve"), [(0, 0), (0.0, 0), (1.5, 1536 * MIB), (7.9, int(7.9 * GIB))])
def test_as_much_is_reserved_as_is_asked_for(asked: float, reserve: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert vram_of(install(monkeypatch, "CUDA", usual_driver()), asked).reserve == reserve


@pytest.mark.parametrize("asked", [-0.1, math.nan, math.inf, -math.inf, True, "1", None, 1e300, 10**400, 2**21])
def test_what_is_no_amount_is_refused(asked: Any) -> None:
    with pytest.raises(BadOptionError, match=r"memory to reserve .* give GB") as raised:
        asked_reserve(asked)
    assert f"is {asked!r};" in str(raised.value)


@pytest.mark.parametrize("asked", [8, 8.5, 2**20])
def test_more_than_there_is_is_refused(asked: float, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadOptionError, match=r"has 8\.00; reserve less"):
        vram_of(install(monkeypatch, "CUDA", usual_driver()), asked)


def test_a_device_that_does_not_tell_its_size_may_have_any_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    assert vram_of(install(monkeypatch, "DirectML", driver()), 100).reserve == 100 * GIB
    assert vram_of(device("abacus")) == Vram(device("abacus"), "normal", 400 * MIB)


@pytest.mark.parametrize(
    ("name", "module", "state"),
    [("CUDA", usual_driver(), "normal"), ("XPU", usual_driver(), "normal"), ("MPS", metal(), "shared")],
)
def test_the_state_is_told_by_where_the_memory_is(
    name: str, module: Any, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert vram_of(install(monkeypatch, name, module)).state == state
    assert vram_of(torch.device("cpu")).state == "disabled"


STATES: tuple[VramState, ...] = ("disabled", "no", "low", "normal", "high", "shared")


@pytest.mark.parametrize("state", STATES)
def test_weights_wait_in_main_memory_unless_all_of_them_stay(state: VramState) -> None:
    where = device("cuda")
    assert Vram(where, state, 0).offload_device == (where if state == "high" else torch.device("cpu"))


@pytest.mark.parametrize(("state", "room"), [("disabled", None), ("high", None), ("shared", None), ("no", 0)])
def test_all_weights_stay_or_none(state: VramState, room: int | None) -> None:
    assert Vram(device("cuda"), state, 400 * MIB, 0.4).room_for_weights(4 * GIB, GIB) == room


@pytest.mark.parametrize("state", ["low", "normal"])
def test_weights_have_what_work_and_reserve_leave(state: VramState) -> None:
    vram = Vram(device("cuda"), state, 400 * MIB)
    assert vram.room_for_weights(8 * GIB, 2 * GIB) == 6 * GIB - 400 * MIB
    assert vram.room_for_weights(8 * GIB, 0) == 8 * GIB - LEAST_WORK - 400 * MIB, "work takes something"
    assert vram.room_for_weights(2 * GIB, 2 * GIB) == 0
    assert vram.room_for_weights(0, 0) == 0


def test_other_makers_weights_have_a_share_as_long_as_the_least_work_fits() -> None:
    vram = Vram(device("xpu"), "normal", 400 * MIB, 0.4)
    assert vram.room_for_weights(8 * GIB, 8 * GIB) == int(8 * GIB * 0.4)
    assert vram.room_for_weights(GIB, GIB) == 0
    assert replace(vram, least_share_of_weights=0.0).room_for_weights(8 * GIB, 8 * GIB) == 0
    assert vram.room_for_weights(1500 * MIB, GIB) == 1500 * MIB - LEAST_WORK - 400 * MIB


def test_the_share_is_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert vram_of(install(monkeypatch, "CUDA", usual_driver())).least_share_of_weights == 0
    assert vram_of(install(monkeypatch, "ROCm", usual_driver())).least_share_of_weights == 0.4
