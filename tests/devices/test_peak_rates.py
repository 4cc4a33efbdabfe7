"""What devices compute at most, where their names say which ones they are."""

from __future__ import annotations

import pytest
import torch

from cudaspeed.devices.peak_rates import peak_rate, peak_rate_of

CUDA = torch.device("cuda", 0)


@pytest.mark.parametrize(
    "name, rate",
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("Tesla T4", 65e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("AMD Radeon RX 7900 XTX", None),
        ("", None),
    ],
)
def test_by_the_whole_name(name: str, rate: float | None) -> None:
    assert peak_rate(name) == rate


def test_of_half_precisions_on_cards() -> None:
    assert peak_rate_of(CUDA, "fp16", lambda device: "NVIDIA L4") == 121e12
    assert peak_rate_of(CUDA, "fp32", lambda device: "NVIDIA L4") is None, "TF32 or not, layer by layer"
    assert peak_rate_of(torch.device("cpu"), "bf16", lambda device: "NVIDIA L4") is None


def test_a_driver_that_does_not_tell_the_name() -> None:
    def unwell(device: torch.device) -> str:
        raise RuntimeError("the driver is unwell")

    assert peak_rate_of(CUDA, "bf16", unwell) is None
