"""What devices compute at most, by their vendors: floating point operations a second in half precision.

Dense products of matrices in fp16 or bf16 that are summed in fp32, as torch has them computed, at the boost clock. Only
of devices whose name says which one it is: one that is not here is not guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch

from ..api.options import Precision
from .reading import answer

_TERA = 1e12
# By the name that the driver tells, without "NVIDIA " and "GeForce ". After NVIDIA's data sheets (of V100, T4, A100,
# H100, H200, L4 and L40S, which tell rates with sparsity: twice these, from A100 on) and its architecture papers (GA102
# of 2020, Ada of 2022, RTX Blackwell of 2025: "Peak FP16 Tensor TFLOPS with FP32 Accumulate").
_RATES = {
    "Tesla V100-SXM2-16GB": 125.0,
    "Tesla V100-SXM2-32GB": 125.0,
    "Tesla T4": 65.0,
    "A100-SXM4-40GB": 312.0,
    "A100-SXM4-80GB": 312.0,
    "A100-PCIE-40GB": 312.0,
    "A100 80GB PCIe": 312.0,
    "H100 80GB HBM3": 989.4,
    "H200": 989.4,
    "L4": 121.0,
    "L40S": 362.0,
    "RTX 3090": 71.0,
    "RTX 4080": 97.5,
    "RTX 4090": 165.2,
    "RTX 5090": 209.5,
}
_BRANDS = ("NVIDIA ", "GeForce ")


def peak_rate(name: str) -> float | None:
    """Operations a second of the device of that name; a multiplication and its addition are two. None: not known."""
    for brand in _BRANDS:
        name = name.removeprefix(brand)
    rate = _RATES.get(name)
    return rate * _TERA if rate else None


def peak_rate_of(
    device: torch.device,
    precision: Precision,
    name_of: Callable[[torch.device], str] = torch.cuda.get_device_name,
) -> float | None:
    """The same of a device that computes already, in a precision. None for fp32, of which torch computes some layers in
    TF32 and some not."""
    if device.type != "cuda" or precision not in ("fp16", "bf16"):
        return None
    return _known(device, name_of)


@lru_cache(maxsize=64)  # asked for every batch
def _known(device: torch.device, name_of: Callable[[torch.device], str]) -> float | None:
    name = answer(lambda: name_of(device))
    return peak_rate(name) if isinstance(name, str) else None
