"""The machine's load, as stand-ins for its drivers tell it."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cudaspeed.devices import usage
from cudaspeed.devices.backends import Backend
from cudaspeed.devices.nvml import Card, Nvml
from cudaspeed.devices.reading import DeviceMemory
from cudaspeed.devices.tpu import TpuInfo
from cudaspeed.devices.usage import DeviceUsage, UsageReader

GIGABYTE = 1 << 30
CpuTimes = namedtuple("CpuTimes", "user system idle iowait guest")


def unwell(*_: Any) -> Any:
    raise RuntimeError("the driver is unwell")


def library(cards: int = 1, **answers: Any) -> SimpleNamespace:
    """NVML with cards of 8 GB, of which 2 are taken and which compute for a third of the time."""
    usual = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: cards,
        "nvmlDeviceGetHandleByIndex": lambda number: number,
        "nvmlDeviceGetName": lambda handle: "NVIDIA H200",
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}A",
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=2 * GIGABYTE, total=8 * GIGABYTE),
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=33),
    }
    return SimpleNamespace(**{**usual, **answers})


def torchs(uuids: tuple[str, ...], initialized: bool = True, reserved: int = 0) -> Backend:
    """A kind of device that torch uses, if it has begun to."""
    asked_for_memory: list[torch.device] = []
    interface = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: initialized,
        device_count=lambda: len(uuids),
        memory_reserved=lambda device: reserved,
        get_device_properties=lambda device: SimpleNamespace(name="NVIDIA H200", uuid=uuids[device.index]),
        asked_for_memory=asked_for_memory,
    )

    def memory(interface: Any, device: torch.device) -> DeviceMemory:
        asked_for_memory.append(device)
        return DeviceMemory(8 * GIGABYTE, 5 * GIGABYTE)

    return Backend("CUDA", "cuda", lambda: interface, memory, lambda *_: ())


def devices(nvml: Any, *backends: Backend) -> list[DeviceUsage]:
    return UsageReader([Nvml(lambda: nvml)], backends).devices()


def test_the_processors_share_is_of_the_time_between_two_questions() -> None:
    """A guest's time is its host's as well, and waiting for a disk is no work."""
    told = iter([CpuTimes(10, 5, 100, 3, 1), CpuTimes(14, 6, 110, 8, 3), CpuTimes(14, 6, 110, 8, 3)])
    reader = UsageReader([], [], lambda: next(told))
    assert reader.cpu() is None, "since when?"
    assert reader.cpu() == pytest.approx(5 / 20)
    assert reader.cpu() is None, "no time has passed"


@pytest.mark.parametrize("told", [unwell, lambda: None, lambda: SimpleNamespace(_asdict=lambda: {"user": "?"})])
def test_a_system_that_does_not_tell_has_no_share(told: Any) -> None:
    reader = UsageReader([], [], told)
    assert reader.cpu() is None and reader.cpu() is None


def test_time_that_went_back_is_no_share() -> None:
    told = iter([CpuTimes(10, 5, 100, 3, 0), CpuTimes(9, 5, 300, 3, 0), CpuTimes(500, 5, 299, 3, 0)])
    reader = UsageReader([], [], lambda: next(told))
    assert [reader.cpu() for _ in range(3)] == [None, None, None]


def test_cards_are_told_of_before_torch_uses_any() -> None:
    cuda = torchs(("0a",), initialized=False)
    card = DeviceUsage("NVIDIA H200", None, 2 * GIGABYTE, 8 * GIGABYTE, 0.33)
    assert devices(library(cards=2), cuda) == [card, card]
    assert cuda.interface().asked_for_memory == [], "that would begin CUDA"


def test_once_torch_uses_some_they_are_those_and_known_by_their_number() -> None:
    found = devices(library(cards=3), torchs(("2a", "1a")))
    assert [usage.device for usage in found] == [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert {usage.busy for usage in found} == {0.33}


def test_a_card_whose_number_torch_does_not_tell_is_known_by_its_name_if_there_is_one() -> None:
    assert devices(library(), torchs(("",)))[0].busy == 0.33
    assert [usage.busy for usage in devices(library(cards=2), torchs(("", "")))] == [None, None]


def test_without_the_drivers_library_torch_tells_of_memory_that_it_has_some_of() -> None:
    (used,) = devices(None, torchs(("0a",), reserved=GIGABYTE))
    assert used == DeviceUsage("NVIDIA H200", torch.device("cuda", 0), 3 * GIGABYTE, 8 * GIGABYTE)
    idle = torchs(("0a",))
    (used,) = devices(None, idle)
    assert (used.used, used.total, used.busy) == (None, None, None)
    assert idle.interface().asked_for_memory == [], "to ask takes hundreds of megabytes on a device that nobody uses"


def test_memory_that_torch_gave_back_is_told_of_all_the_same() -> None:
    cuda = torchs(("0a",), reserved=GIGABYTE)
    reader = UsageReader([], [cuda])
    reader.devices()
    cuda.interface().memory_reserved = lambda device: 0
    assert reader.devices()[0].total == 8 * GIGABYTE


@pytest.mark.parametrize(
    "answers",
    [
        {"nvmlInit": unwell},
        {"nvmlDeviceGetCount": unwell},
        {"nvmlDeviceGetCount": lambda: None},
        {"nvmlDeviceGetHandleByIndex": unwell},
    ],
)
def test_a_library_that_does_not_answer_tells_of_no_card(answers: dict[str, Any]) -> None:
    assert devices(library(**answers)) == []


@pytest.mark.parametrize("used, total", [(9, 8), (-1, 8), (0, 0), (1.5, 8), ("2", 8), (2, None), (1, 1 << 70)])
def test_memory_that_cannot_be_is_none(used: Any, total: Any) -> None:
    (card,) = devices(library(nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=used, total=total)))
    assert (card.used, card.total, card.busy) == (None, None, 0.33)


@pytest.mark.parametrize("busy", [-1, 101, "33", None, float("nan")])
def test_a_share_that_cannot_be_is_none(busy: Any) -> None:
    (card,) = devices(library(nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=busy)))
    assert (card.used, card.busy) == (2 * GIGABYTE, None)


def test_what_one_function_does_not_tell_the_others_do() -> None:
    (card,) = devices(library(nvmlDeviceGetUtilizationRates=unwell, nvmlDeviceGetName=lambda handle: b"Tesla T4"))
    assert card == DeviceUsage("Tesla T4", None, 2 * GIGABYTE, 8 * GIGABYTE)
    (card,) = devices(library(nvmlDeviceGetName=unwell, nvmlDeviceGetUUID=unwell, nvmlDeviceGetMemoryInfo=unwell))
    assert card == DeviceUsage("GPU 0", busy=0.33)


def test_a_library_that_is_not_there_is_looked_for_once() -> None:
    looked = []

    def find() -> Any:
        looked.append(1)
        raise ModuleNotFoundError("pynvml")

    reader = UsageReader([Nvml(find)], [])
    assert [reader.devices() for _ in range(3)] == [[], [], []]
    assert looked == [1]


def test_libraries_that_raise_are_gone_without() -> None:
    assert UsageReader([SimpleNamespace(cards=unwell)], []).devices() == []


def test_tpus() -> None:
    chips = [SimpleNamespace(memory_usage=3 * GIGABYTE, total_memory=16 * GIGABYTE, duty_cycle_pct=75.0)]
    modules = {
        "tpu_info.device": SimpleNamespace(get_local_chips=lambda: ("v5e", 1)),
        "tpu_info.metrics": SimpleNamespace(get_chip_usage=lambda kind: chips),
    }
    tpus = TpuInfo(modules.__getitem__)
    assert tpus.cards() == [Card("TPU 0", "", 3 * GIGABYTE, 16 * GIGABYTE, 0.75)]
    chips[:] = [SimpleNamespace(memory_usage=17 * GIGABYTE, total_memory=16 * GIGABYTE)]
    assert tpus.cards() == [Card("TPU 0", "", None, None, None)]
    modules["tpu_info.metrics"].get_chip_usage = unwell
    assert tpus.cards() == [], "nobody computes there"
    modules["tpu_info.device"].get_local_chips = lambda: (None, 0)
    assert TpuInfo(modules.__getitem__).cards() == []


def test_without_their_library_jax_tells_of_the_tpus_that_runs_compute_on() -> None:
    stats: dict[str, int] | None = {"bytes_in_use": 3 * GIGABYTE, "bytes_limit": 16 * GIGABYTE}
    chip = SimpleNamespace(device_kind="TPU v5 lite", id=0, memory_stats=lambda: stats)
    processor = SimpleNamespace(device_kind="cpu", id=0, memory_stats=lambda: None)
    tpus = TpuInfo({}.__getitem__, [chip, processor])
    assert tpus.cards() == [Card("TPU v5 lite 0", "", 3 * GIGABYTE, 16 * GIGABYTE, None)]
    stats.pop("bytes_limit")
    assert tpus.cards() == [Card("TPU v5 lite 0", "", None, None, None)]
    chip.memory_stats = unwell
    assert tpus.cards() == []


def test_looking_begins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is in the page's route, on this machine."""
    monkeypatch.setattr(torch.cuda, "_lazy_init", unwell)
    reader = usage.UsageReader()
    assert reader.cpu() is None
    reader.devices()
    ram = reader.ram()
    assert ram is not None and 0 < ram.free < ram.total
    assert not torch.cuda.is_initialized()
