"""`cudaspeed devices`: which devices there are, and what is known of their memory and number types."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from ..api.errors import BadOptionError
from ..devices.backends import BACKENDS, Backend, automatic_kind
from ..devices.reading import answer
from ..devices.reserve import asked_reserve
from ..devices.vram import vram_of
from ..memory import free_device_bytes
from .console import Console
from .exit_codes import DONE, FAILED

_UNKNOWN = "?"


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Of each device a record or a line; what nothing tells is null, or a question mark; so is the reserve where
    what was asked for is all that a device has. The one that "auto" takes is marked."""
    if arguments.reserve_vram is not None:
        asked_reserve(arguments.reserve_vram)
    # made there: of several devices of a kind, "auto" is the present one
    chosen = answer(lambda: torch.empty(0, device=automatic_kind()).device)
    code = DONE
    for backend in BACKENDS:
        for device in backend.devices():
            taken = chosen is not None and (chosen.type, chosen.index or 0) == (device.type, device.index or 0)
            record = _describe(backend, device) | {"auto": taken}
            try:
                record["reserve_bytes"] = vram_of(device, arguments.reserve_vram).reserve
            except BadOptionError as error:  # what is too much for one is not for all
                console.complain(f"cudaspeed: {device}: {error}")
                record["reserve_bytes"], code = None, FAILED
            console.tell(record, _line(record))
    return code


def _describe(backend: Backend, device: torch.device) -> dict[str, Any]:
    memory, vram = backend.memory(device), vram_of(device)
    return {
        "device": str(device),
        "backend": backend.name,
        "total_bytes": memory.total if memory else None,
        "free_bytes": free_device_bytes(device),
        "reserve_bytes": vram.reserve,
        "vram_state": vram.state,
        "offload_device": str(vram.offload_device),
        "precisions": [*backend.fast_precisions(device), "fp32"],
    }


def _line(record: dict[str, Any]) -> str:
    total, free, reserve = (_gib(record[f"{name}_bytes"]) for name in ("total", "free", "reserve"))
    return (
        f"{record['device']:<16} {record['backend']:<9} {free} of {total} GiB free, {reserve} reserved  "
        f"VRAM {record['vram_state']:<9} {' '.join(record['precisions']):<15} {'auto' if record['auto'] else ''}"
    ).rstrip()


def _gib(size: int | None) -> str:
    return _UNKNOWN if size is None else f"{size / 2**30:.2f}"
