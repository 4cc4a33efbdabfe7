"""`cudaspeed devices`: what is there, what it has, and a question mark where nothing tells."""

from __future__ import annotations

import json
from types import SimpleNamespace

import psutil
import pytest
import torch
from drivers import GIB, MIB, install, usual_driver

from cudaspeed.cli import main
from cudaspeed.devices.backends import BACKENDS
from cudaspeed.memory import free_device_bytes


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without accelerators, and with 16 GiB of main memory."""
    for interface in (torch.cuda, torch.xpu, torch.mps):
        monkeypatch.setattr(interface, "is_available", lambda: False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=16 * GIB, available=8 * GIB))
    monkeypatch.setattr("cudaspeed.memory.memory_bytes_left", lambda: None)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)


def records(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    assert main(["devices", "--json", *arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_machine_without_accelerators_has_its_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert records(capsys, "--reserve-vram", "0.5") == [
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
    line = " ".join(capsys.readouterr().out.split())
    assert line == "cpu CPU 8.00 of 16.00 GiB free, 0.00 reserved VRAM disabled fp32 auto"


def test_all_devices_of_a_kind_are_listed_and_what_they_do_not_tell_is_null(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, "XPU", usual_driver(device_count=2, mem_get_info=None))
    monkeypatch.setattr("cudaspeed.commands.device_list.automatic_kind", lambda: "cpu")
    listed = records(capsys)
    assert [(record["device"], record["free_bytes"]) for record in listed[:2]] == [("xpu:0", None), ("xpu:1", None)]
    assert [record["vram_state"] for record in listed] == ["normal", "normal", "disabled"]
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
    listed = [json.loads(line) for line in told.out.splitlines()]
    assert [(record["device"], record["reserve_bytes"]) for record in listed] == [("xpu:0", None), ("cpu", 10 * GIB)]
    assert "xpu:0: the memory to reserve" in told.err


def test_a_reserve_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--reserve-vram", "nan"]) == 2
    assert "nan; give GB" in capsys.readouterr().err
