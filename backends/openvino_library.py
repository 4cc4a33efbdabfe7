"""OpenVINO's module, imported where it is used, and the devices that it sees. It takes no torch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any

from ..api.errors import BadOptionError
from .packages import OPENVINO

PREFIX = "openvino:"
"""Of the names of OpenVINO's devices, before what OpenVINO calls them."""
_TELEMETRY = "openvino_telemetry"


@cache
def openvino_library() -> Any:
    """OpenVINO, without its telemetry, which would write into the user's home and call out when it is imported."""
    hidden = _TELEMETRY not in sys.modules
    if hidden:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # so that importing it fails, as where it is not
    try:
        return importlib.import_module("openvino")
    finally:
        if hidden:
            del sys.modules[_TELEMETRY]


def is_among(device: str, seen: Iterable[str]) -> bool:
    """Whether it is one of those that OpenVINO has `seen`: where there are several of a kind, "GPU" is "GPU.0"."""
    return any(device in (name, name.partition(".")[0]) for name in seen)


def check_openvino_device(name: str) -> None:
    """Raise `BadOptionError` where OpenVINO is not installed, or does not see the device of that name, such as
    "openvino:GPU"."""
    missing = OPENVINO.missing()
    if missing:
        raise BadOptionError(f"device is {name!r:.200}: {missing}")
    seen = devices_seen()
    if not is_among(name.removeprefix(PREFIX), seen):
        told = ", ".join(f"{PREFIX}{found} ({full})" for found, full in seen.items())
        raise BadOptionError(f"device is {name!r:.200}, which OpenVINO does not see; it sees {told or 'none'}")


def full_name(name: str) -> str:
    """Which one of the devices that OpenVINO sees "openvino:GPU" is: "openvino:GPU (Intel Arc)". As it is for one that
    it does not see."""
    device = name.removeprefix(PREFIX)
    return next((f"{name} ({full})" for found, full in devices_seen().items() if is_among(device, [found])), name)


@cache
def devices_seen() -> dict[str, str]:
    """What OpenVINO calls the devices of this machine, each with what its maker calls it."""
    core = openvino_library().Core()
    return {found: core.get_property(found, "FULL_DEVICE_NAME") for found in core.available_devices}
