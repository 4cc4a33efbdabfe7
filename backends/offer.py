"""The engines that are tried beside torch's own, and which of them made what."""

from __future__ import annotations

from pathlib import Path

import torch

from ..api.options import Precision
from ..devices.engine_names import is_xla
from ..devices.tpu import bytes_left
from ..storage.engines_own import folder_of_xla
from .errors import CompileError
from .interface import Engine
from .openvino import OpenVino
from .openvino_library import PREFIX, check_openvino_device
from .openvino_library import full_name as name_of_openvino
from .tensorrt import TensorRt
from .xla import Xla, tiles_together
from .xla_library import check_xla_compiler, check_xla_device, devices_of
from .xla_library import full_name as name_of_xla

ENGINES: tuple[Engine, ...] = (TensorRt(for_rtx=True), TensorRt(), OpenVino())
"""In the order in which they are tried: where TensorRT for RTX is installed and knows the card, it comes first."""


def usable(device: torch.device) -> list[Engine]:
    """Those that are installed, and lack nothing, for what torch computes on `device`."""
    return [engine for engine in ENGINES if not engine.lacks(device)]


def bytes_held(name: str, file_bytes: int) -> int:
    """Of memory where it computes, by what is loaded of a file of so many bytes that the engine of that name made; ""
    is torch's own, whose weights lie in the file."""
    maker = _named(name, Path())
    return maker.bytes_held(file_bytes) if maker else file_bytes


def engine(name: str, folder: Path) -> Engine:
    """The one of that name; "openvino:GPU" is OpenVINO on that device. What it makes of the files of a store besides is
    kept in a part of the store's `folder`. Raises `CompileError` where there is none."""
    found = _named(name, folder)
    if found is None:
        raise CompileError(f"{name} made it, and there is no such engine here")
    return found


def check_device(name: str) -> None:
    """Raise `BadOptionError` where an engine's device of that name, such as "openvino:GPU" or "tpu", is not here."""
    (check_xla_device if is_xla(name) else check_openvino_device)(name)


def check_compiler(name: str) -> None:
    """Raise `BadOptionError` where a model cannot be compiled for an engine's device of that name, which is here."""
    if is_xla(name):
        check_xla_compiler(name)


def full_name(name: str) -> str:
    """Which ones an engine's device of that name is: "openvino:GPU (Intel Arc)", for XLA with the versions that make
    its programs."""
    return (name_of_xla if is_xla(name) else name_of_openvino)(name)


def takes_one_size(name: str) -> bool:
    """Whether an engine's device of that name takes tiles of one size only."""
    return is_xla(name)


def weights_in(name: str, precision: Precision) -> Precision:
    """The type in which an engine of that name is given a model that it is to compute in `precision`: XLA computes in
    what weights and tiles are, others are given float32 and choose types themselves. XLA's float16 is float32 with such
    products as it makes by itself, since a TPU has none."""
    return "bf16" if is_xla(name) and precision == "bf16" else "fp32"


def automatic_precisions(name: str) -> tuple[Precision, ...] | None:
    """What "auto" chooses from for an engine's device of that name, best first, where that is not what suits a
    processor: bfloat16 is a TPU's own type, and on a processor XLA makes float32 of it and back."""
    if not is_xla(name):
        return None
    return ("bf16", "fp32") if devices_of(name)[0].platform == "tpu" else ("fp32",)


def devices_at_once(name: str) -> int:
    """How many devices an engine's name means, which share a batch of tiles."""
    return len(devices_of(name)) if is_xla(name) else 1


def free_bytes(name: str) -> int | None:
    """Of memory of their own that each of the devices which an engine's name means can still give; None where that is
    not told of all of them."""
    left = [bytes_left(device) for device in devices_of(name)] if is_xla(name) else []
    told = [some for some in left if some is not None]
    return min(told) if told and len(told) == len(left) else None


def tiles_at_once(name: str, size: tuple[int, int]) -> int:
    """How many tiles of `size` (height, width) an engine's device of that name takes at once, where it takes one size
    only."""
    return devices_at_once(name) * tiles_together(*size)


def _named(name: str, folder: Path) -> Engine | None:
    if is_xla(name):
        return Xla(name, folder_of_xla(folder))
    if name.startswith(PREFIX):
        return OpenVino(name.removeprefix(PREFIX))
    return next((one for one in ENGINES if one.name == name), None)
