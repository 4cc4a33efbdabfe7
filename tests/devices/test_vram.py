"""What is left to others: ComfyUI's numbers, by stand-ins of devices."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch
from drivers import GIB, MIB, device, driver, install, metal, usual_driver

from cudaspeed.api.errors import BadOptionError
from cudaspeed.devices.reserve import asked_reserve
from cudaspeed.devices.vram import Vram, vram_of


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
