"""JAX as it is installed, imported where it is used, and the devices that XLA has for it. It takes no torch.

This is the one door to it. torchax, which makes a JAX function of a torch module, is imported in the process that
compiles alone (`xla.py`): it names a device type of torch's, for the whole process.
"""

from __future__ import annotations

import importlib
import os
from functools import cache
from typing import Any

from ..api.errors import BadOptionError, first_line
from ..api.installed import installed_version
from ..devices.engine_names import XLA_PREFIX
from .packages import XLA

_PLATFORMS = "JAX_PLATFORMS"


def platform_of(name: str) -> str | None:
    """What JAX calls their kind, None for the one that it takes by itself."""
    return "tpu" if name == "tpu" else name.removeprefix(XLA_PREFIX) if name.startswith(XLA_PREFIX) else None


def jax_library(part: str = "jax") -> Any:
    """JAX, or a `part` of it."""
    return importlib.import_module(part)


def check_xla_device(name: str) -> None:
    """Raise `BadOptionError` where JAX is not installed, or has no device of that name."""
    missing = XLA.missing_to_run()  # what torchax is needed for may have been done elsewhere
    if missing:
        raise BadOptionError(f"device is {name!r:.200}: {missing}")
    try:
        devices_of(name)
    except RuntimeError as error:
        found = os.environ.get(_PLATFORMS)
        limited = f" ({_PLATFORMS} is {found!r:.80}: no other kind is looked for)" if found else ""
        raise BadOptionError(
            f"device is {name!r:.200}, and JAX {XLA.version()} finds none{limited}: {first_line(error):.200}; "
            "try cpu, xla for what it does find, or install what it needs for them (TPU: pip install 'jax[tpu]')"
        ) from error


def check_xla_compiler(name: str) -> None:
    """Raise `BadOptionError` where there is not all that compiling for a device of that name takes."""
    if XLA.missing():
        raise BadOptionError(f"device is {name!r:.200}: {XLA.missing()}")


@cache
def devices_of(name: str) -> tuple[Any, ...]:
    """JAX's devices in this process that `name` means. Raises `RuntimeError` where there are none."""
    return tuple(jax_library().local_devices(backend=platform_of(name)))


def full_name(name: str) -> str:
    """Which ones they are, how many, and by which versions programs for them are made: "xla (8 x cpu, JAX 0.10.2,
    torchax 0.0.13)". As it is where there are none."""
    try:
        devices = devices_of(name)
    except (RuntimeError, ImportError):
        return name
    made_by = f"JAX {XLA.version()}, torchax {installed_version('torchax')}"
    return f"{name} ({len(devices)} x {devices[0].device_kind}, {made_by})"
