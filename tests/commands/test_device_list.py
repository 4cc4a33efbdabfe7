"""`cudaspeed devices`: what is there, what it has, and a question mark where nothing tells."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from drivers import GIB, MIB, install, usual_driver

from cudaspeed.backends import packages
from cudaspeed.cli import main
from cudaspeed.commands import device_list
from cudaspeed.devices.backends import BACKENDS
from cudaspeed.devices.nvidia_cards import NvidiaCard
from cudaspeed.memory import free_device_bytes


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without accelerators, and with 16 GiB of main memory."""
    for interface in (torch.cuda, torch.xpu, torch.mps):
        monkeypatch.setattr(interface, "is_available", lambda: False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=16 * GIB, available=8 * GIB))
    monkeypatch.setattr("cudaspeed.memory.memory_bytes_left", lambda: None)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)


def records(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main(["devices", "--json", *arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_machine_without_accelerators_has_its_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    *devices, last = records(capsys, "--reserve-vram", "0.5")
    assert devices == [
        {
            "device": "cpu",
            "backend": "CPU",
            "total_bytes": 16 * GIB,
            "free_bytes": free_device_bytes(torch.device("cpu")),
            "reserve_bytes": 512 * MIB,
            "vram_state": "disabled",
            "offload_device": "cpu",
            "precisions": ["fp32"],
            "auto": True,
        }
    ]
    assert main(["devices"]) == 0
    line = " ".join(capsys.readouterr().out.splitlines()[0].split())
    assert line == "cpu CPU 8.00 of 16.00 GiB free, 0.00 reserved VRAM disabled fp32 auto"
    assert last["missing"] == []
    assert last["versions"]["torch"] == torch.__version__


def test_chips_of_a_tpu_are_one_device(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    kind = SimpleNamespace(value=SimpleNamespace(name="v5e", hbm_gib=16, devices_per_chip=1))
    module = SimpleNamespace(get_local_chips=lambda: (kind, 4))
    monkeypatch.setitem(sys.modules, "tpu_info", SimpleNamespace(device=module))
    monkeypatch.setitem(sys.modules, "tpu_info.device", module)
    installed = {"libtpu": "0.0.20", "tpu-info": "0.4.0"}
    for place in (device_list, packages):
        monkeypatch.setattr(place, "installed_version", lambda name: installed.get(name, ""))
    _, chips, last = records(capsys)
    assert chips == {"device": "tpu", "backend": "XLA", "name": "TPU v5e", "chips": 4, "chip_bytes": 16 * GIB}
    assert last["versions"] | {"libtpu": "0.0.20", "tpu-info": "0.4.0"} == last["versions"]
    (sentence,) = last["missing"]
    assert sentence.startswith("TPUs: JAX is not installed: pip install jax")
    assert main(["devices"]) == 0
    assert "4 x TPU v5e, 16.00 GiB each" in capsys.readouterr().out


def test_a_card_that_torch_does_not_see_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = NvidiaCard("NVIDIA GeForce RTX 4090", (8, 9))
    monkeypatch.setattr(device_list, "nvidia_cards", lambda: [card])
    *_, last = records(capsys)
    (sentence,) = last["missing"]
    assert card.name in sentence
    assert torch.__version__ in sentence


def test_all_devices_of_a_kind_are_listed_and_what_they_do_not_tell_is_null(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, "XPU", usual_driver(device_count=2, mem_get_info=None))
    monkeypatch.setattr("cudaspeed.commands.device_list.automatic_kind", lambda: "cpu")
    listed = records(capsys)
    assert [(record["device"], record["free_bytes"]) for record in listed[:2]] == [("xpu:0", None), ("xpu:1", None)]
    assert [record["vram_state"] for record in listed[:-1]] == ["normal", "normal", "disabled"]
    assert main(["devices"]) == 0
    assert "? of ? GiB free" in capsys.readouterr().out


def test_a_kind_that_cannot_count_its_devices_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "XPU", usual_driver(device_count=RuntimeError("forked")))
    (row,) = (row for row in BACKENDS if row.name == "XPU")
    assert row.devices() == []


def test_a_reserve_that_is_too_much_for_one_device_does_not_end_the_list(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, "XPU", usual_driver(device_count=1))
    monkeypatch.setattr("cudaspeed.commands.device_list.automatic_kind", lambda: "cpu")
    assert main(["devices", "--json", "--reserve-vram", "10"]) == 1
    told = capsys.readouterr()
    *listed, _ = [json.loads(line) for line in told.out.splitlines()]
    assert [(record["device"], record["reserve_bytes"]) for record in listed] == [("xpu:0", None), ("cpu", 10 * GIB)]
    assert "xpu:0: the memory to reserve" in told.err


def test_a_reserve_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--reserve-vram", "nan"]) == 2
    assert "nan; give GB" in capsys.readouterr().err
