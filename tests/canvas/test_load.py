"""What the page's monitor is told."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
import torch

from cudaspeed.canvas.load import Load
from cudaspeed.devices.reading import DeviceMemory
from cudaspeed.devices.usage import DeviceUsage, UsageReader
from cudaspeed.pipeline.achieved import Achieved

CUDA = torch.device("cuda", 0)


class Reader(UsageReader):
    """Tells what it is given."""

    def __init__(self, cpu: float | None, ram: DeviceMemory | None, *devices: DeviceUsage) -> None:
        self.looks, self._answers = 0, (cpu, ram, list(devices))

    def cpu(self) -> float | None:
        self.looks += 1
        return self._answers[0]

    def ram(self) -> DeviceMemory | None:
        return self._answers[1]

    def devices(self) -> list[DeviceUsage]:
        return self._answers[2]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def after_a_while(load: Load, clock: Clock) -> dict[str, Any]:
    """The second answer, a second after the first."""
    load.told()
    clock.now += 1
    return load.told()


def test_all_that_is_known_is_told() -> None:
    clock = Clock()
    achieved = Achieved(clock)
    achieved.note(CUDA, 0.25, 1.0)
    reader = Reader(0.12345, DeviceMemory(16, 4), DeviceUsage("NVIDIA L4", CUDA, 3, 8, 0.5))
    told = after_a_while(Load(reader, achieved, clock), clock)
    card = {"name": "NVIDIA L4", "used": 3, "total": 8, "busy": 0.5, "mfu": 0.25}
    assert told == {"cpu": 0.123, "ram": {"used": 12, "total": 16}, "devices": [card]}


def test_what_nobody_tells_is_absent_and_not_zero() -> None:
    clock = Clock()
    told = after_a_while(Load(Reader(None, None, DeviceUsage("card")), Achieved(clock), clock), clock)
    assert told == {"devices": [{"name": "card"}]}


def test_nothing_is_a_number_all_the_same() -> None:
    clock = Clock()
    told = after_a_while(Load(Reader(0.0, None, DeviceUsage("card", None, 0, 8, 0.0)), Achieved(clock), clock), clock)
    assert told == {"cpu": 0.0, "devices": [{"name": "card", "used": 0, "total": 8, "busy": 0.0}]}


def test_several_pages_are_one_look_and_no_page_is_none() -> None:
    clock = Clock()
    reader = Reader(0.5, None)
    load = Load(reader, Achieved(clock), clock)
    assert reader.looks == 0
    for _ in range(5):
        load.told()
    assert reader.looks == 1
    clock.now += 0.25
    load.told()
    assert reader.looks == 2


def test_the_mean_of_an_hour_in_which_nobody_looked_is_not_the_load_now() -> None:
    clock = Clock()
    load = Load(Reader(0.5, None), Achieved(clock), clock)
    assert "cpu" in after_a_while(load, clock)
    clock.now += 3600
    assert "cpu" not in load.told()


def test_while_a_driver_hangs_the_last_answer_is_given() -> None:
    clock, asked, answers = Clock(), threading.Event(), threading.Event()

    class Hanging(Reader):
        def devices(self) -> list[DeviceUsage]:
            asked.set()
            assert answers.wait(30)
            return []

    load = Load(Hanging(0.5, DeviceMemory(16, 4)), Achieved(clock), clock)
    first = threading.Thread(target=load.told)
    first.start()
    assert asked.wait(30)
    assert load.told() == {}
    answers.set()
    first.join(30)
    assert load.told()["ram"] == {"used": 12, "total": 16}


def test_on_this_machine() -> None:
    load = Load()
    load.told()
    told = json.loads(json.dumps(load.told()))
    assert 0 < told["ram"]["used"] < told["ram"]["total"]
    assert set(told) <= {"cpu", "ram", "devices"}
    assert not torch.cuda.is_initialized() or pytest.skip("somebody else has begun CUDA")
