"""The surroundings outside ComfyUI: the device that is taken by default."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from cudaspeed.host import StandaloneContext

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
