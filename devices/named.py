"""Devices by the names that users give them, one or several."""

from __future__ import annotations

import torch

from ..api.errors import BadOptionError, first_line
from .backends import automatic_kind, backend_of

_MOST = 64  # devices that share a run


def devices_named(names: str, usual: torch.device | None = None) -> tuple[torch.device, ...]:
    """The devices that `names` means: a name, several with commas between, or "all" of the kind of the `usual` one,
    which is also meant by nothing at all, and comes first; None: the one that "auto" means.

    The CPU may be named more than once, for as many workers. Raises `BadOptionError` for what this machine does not
    have, and for any other device that is named twice.
    """
    given = [name.strip() for name in names.split(",")]
    if given == [""]:
        return (usual or _device("auto"),)
    if given == ["all"]:
        first = usual or _device("auto")
        backend = backend_of(first)
        of_a_kind = backend.devices() if backend else []
        return (first, *(other for other in of_a_kind if (other.index or 0) != (first.index or 0)))
    if len(given) > _MOST or "" in given or ("all" in given and len(given) > 1):
        raise BadOptionError(
            f"devices is {names!r:.200}; give names with commas between them, at most {_MOST}, as cuda:0,cuda:1, or all"
        )
    devices = tuple(map(_device, given))
    own = [(device.type, device.index or 0) for device in devices if device.type != "cpu"]
    if len({*own}) < len(own):
        raise BadOptionError(f"devices is {names!r:.200}, where one is named twice; name each once")
    return devices


def _device(name: str) -> torch.device:
    """The device that `name` means. Raises `BadOptionError` for one that this machine does not have."""
    if name == "auto":
        # by our own table: torch.accelerator of torch 2.6 names what torch is built for, there or not
        return torch.device(automatic_kind())
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it holds no values")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:  # of the last, where a kind wants a package of its own
        raise BadOptionError(
            f"device is {name!r:.200}, which this machine does not offer ({first_line(error):.200}); try auto or cpu"
        ) from error
    return device
