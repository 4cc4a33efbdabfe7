"""Devices as far as mistakes about them can be told without torch."""

from __future__ import annotations

import re

from ..api.errors import BadOptionError
from ..devices.engine_names import is_xla
from ..devices.reserve import asked_reserve

# All kinds that torch has names for; which of them a machine has, only torch knows.
_KINDS = (
    "cpu", "cuda", "xpu", "mps", "hip", "hpu", "mtia", "xla", "ipu", "ve", "maia", "vulkan", "privateuseone",
    "meta", "lazy", "mkldnn", "opengl", "opencl", "ideep", "fpga",
)  # fmt: skip
_NAME = re.compile(r"([a-z_][a-z0-9_]*)(:[0-9]{1,3})?", re.ASCII)


def check_device(name: str, reserve_vram: float | None) -> None:
    """Raise `BadOptionError` for what cannot be a device here, nor several with commas between: no name of one, or of a
    kind that neither torch has nor an installed package that torch loads by itself (its entry point "torch.backends").
    And for a `reserve_vram` that cannot be so many GB. OpenVINO and JAX are asked about their own."""
    if reserve_vram is not None:
        asked_reserve(reserve_vram)
    if name.startswith("openvino:"):
        from ..backends.openvino_library import check_openvino_device  # here because few ask

        check_openvino_device(name)
        return
    if is_xla(name):
        from ..backends.xla_library import check_xla_device  # here because few ask

        check_xla_device(name)
        return
    if name not in ("auto", "all") and not all(map(_may_be, name.split(","))):
        raise BadOptionError(
            f"device is {name!r:.200}, which is none; try auto, cpu, cuda:0, xpu or mps, or cuda:0,cuda:1 for both"
        )


def _may_be(name: str) -> bool:
    found = _NAME.fullmatch(name.strip())
    return bool(found and (found[1] in _KINDS or _others_are_installed()))


def _others_are_installed() -> bool:
    from importlib.metadata import entry_points  # here because it takes its time, and few ask

    return bool(entry_points(group="torch.backends"))
