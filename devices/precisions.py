"""The half precisions in which devices compute natively and fast, best first, as their drivers tell what they are.

The facts about other makers' devices than NVIDIA's are those that ComfyUI goes by (`should_use_fp16`,
`should_use_bf16` in `comfy/model_management.py`, 0.33). All this only says what is worth trying: a precision is used
where a trial with the model at hand stays close to fp32 (`models/trial.py`). Who gives no answer has none that is.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.amp.autocast_mode import is_autocast_available

from ..api.options import Precision
from .reading import answer

# NVIDIA's cards of Turing's capability without tensor cores, which produce NaN in convolutions in fp16: by their chips
# (TU116, TU117), of which only the names tell.
_CRIPPLED = re.compile(r"GTX 16|\b(T400|T500|T550|T600|T1000|T1200|T2000|MX450|MX550|CMP 30HX)\b")
# AMD's architectures before RDNA3 and CDNA, which have no bf16.
_WITHOUT_BF16 = re.compile(r"gfx(8..|90[02469c]|10..)")

Precisions = tuple[Precision, ...]


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Within it the `torch.autocast` of whoever called says nothing of what is computed on `device`: in which types
    that is done is chosen, and reported."""
    callers = is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if callers else nullcontext()


def of_nvidia(interface: Any, device: torch.device) -> Precisions:
    """fp16 since Volta, bf16 since Ampere."""
    capability = answer(lambda: interface.get_device_capability(device))
    name = answer(lambda: interface.get_device_name(device))
    if not capability or name is None:
        return ()
    fp16: Precisions = ("fp16",) if capability[0] >= 7 and not _CRIPPLED.search(name) else ()
    return (*fp16, "bf16") if capability[0] >= 8 else fp16


def of_amd(interface: Any, device: torch.device) -> Precisions:
    """By the architecture: the capability that torch tells here is none of NVIDIA's."""
    architecture = answer(lambda: interface.get_device_properties(device).gcnArchName.split(":")[0])
    return ("fp16",) if architecture is None or _WITHOUT_BF16.fullmatch(architecture) else ("fp16", "bf16")


def of_intel(interface: Any, device: torch.device) -> Precisions:
    properties = answer(lambda: interface.get_device_properties(device))
    if properties is None:
        return ()
    bf16: Precisions = ("bf16",) if getattr(properties, "has_bfloat16_conversions", True) else ()
    return (*bf16, "fp16") if getattr(properties, "has_fp16", True) else bf16


def of_apple(interface: Any, device: torch.device) -> Precisions:
    """bf16 came with macOS 14."""
    return ("fp16", "bf16") if answer(lambda: torch.backends.mps.is_macos_or_newer(14, 0)) else ("fp16",)


def of_ascend(interface: Any, device: torch.device) -> Precisions:
    """Older ones have no bf16; where torch_npu cannot tell, the trial does."""
    return ("fp16",) if answer(lambda: interface.is_bf16_supported()) is False else ("fp16", "bf16")


def of_cambricon(interface: Any, device: torch.device) -> Precisions:
    """bf16 after the MLU300s."""
    major = answer(lambda: interface.get_device_properties(device).major)
    return ("fp16", "bf16") if isinstance(major, int) and major > 3 else ("fp16",)


def of_directml(interface: Any, device: torch.device) -> Precisions:
    return ("fp16",)


def of_processor(interface: Any, device: torch.device) -> Precisions:
    """fp16 is emulated on CPUs. Which instructions there are, torch tells since 2.11; before, none is assumed."""
    capabilities = answer(lambda: interface.get_capabilities()) or {}
    return ("bf16",) if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else ()
