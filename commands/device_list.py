"""`cudaspeed devices`: which devices there are, what is known of their memory and number types, by which drivers they
are seen, and what is missing for those that are there and not used."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch

from ..api.errors import BadOptionError
from ..api.installed import installed_version
from ..backends.packages import XLA
from ..devices.backends import BACKENDS, Backend, automatic_kind
from ..devices.nvidia_cards import nvidia_cards
from ..devices.nvml import Nvml
from ..devices.reading import answer
from ..devices.reserve import asked_reserve
from ..devices.tpu import Chips, TpuInfo
from ..devices.vram import vram_of
from ..memory import free_device_bytes
from .console import Console
from .exit_codes import DONE, FAILED

_UNKNOWN = "?"
_TPU_RUNTIME, _TPU_TELLER = "libtpu", "tpu-info"


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Of each device a record or a line; what nothing tells is null, or a question mark; so is the reserve where
    what was asked for is all that a device has. The one that "auto" takes is marked. TPUs are one device of several
    chips; the last record is of what drives them all."""
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
    chips = TpuInfo().chips()
    if chips:
        _tell_of_chips(chips, console)
    versions, missing = _versions(), list(_missing(chips))
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    console.tell({"versions": versions, "missing": missing}, "\n".join([told, *missing]))
    return code


def _tell_of_chips(chips: Chips, console: Console) -> None:
    record = {"device": "tpu", "backend": "XLA", "name": chips.name, "chips": chips.count, "chip_bytes": chips.bytes}
    memory = f"{_gib(chips.bytes)} GiB each"
    console.tell(record, f"{'tpu':<16} {'XLA':<9} {chips.count} x {chips.name}, {memory}, bf16 fp32")


def _versions() -> dict[str, str]:
    """Of torch, of drivers, and of the libraries that stand between, those that are there."""
    told = {"torch": torch.__version__, "CUDA": torch.version.cuda or "", "NVIDIA's driver": Nvml().driver()}
    told |= {name: installed_version(name) for name in ("jax", _TPU_RUNTIME, _TPU_TELLER)}
    return {name: version for name, version in told.items() if version}


def _missing(chips: Chips | None) -> Iterator[str]:
    """What keeps devices that are there from being used, or told of, in sentences with what to do."""
    cards = [] if torch.cuda.is_available() else nvidia_cards()
    if cards:
        names = ", ".join(card.name for card in cards)
        yield (
            f"{names}: this torch ({torch.__version__}) does not see it; install one for CUDA "
            "(https://pytorch.org/get-started/locally), or a newer driver"
        )
    if (chips or installed_version(_TPU_RUNTIME)) and XLA.missing():
        yield f"TPUs: {XLA.missing()}"
    if installed_version(_TPU_RUNTIME) and not installed_version(_TPU_TELLER):
        yield f"TPUs: {_TPU_TELLER} is not installed, which tells which chips there are: pip install {_TPU_TELLER}"


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
