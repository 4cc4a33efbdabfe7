"""What of a device's memory is left to other programs, the desktop's above all. Without torch: the command line checks
what it was asked for by this, too."""

from __future__ import annotations

import sys

from ..api.errors import BadOptionError

_MIB, _GIB = 1 << 20, 1 << 30
_LARGE_CARD = 15 * _GIB
_MOST = 1 << 20  # GiB; whoever means more has mistaken the unit


def usual_reserve(kind: str, total: int | None) -> int:
    """Bytes that ComfyUI leaves on a device of torch's `kind` with `total` bytes: 400 MiB, on Windows 600, and 100 more
    there with more than 15 GiB (`EXTRA_RESERVED_VRAM` in `comfy/model_management.py`, 0.33). None of a CPU's: main
    memory has other ways to be shared."""
    if kind == "cpu":
        return 0
    if sys.platform == "win32":
        return (700 if total is not None and total > _LARGE_CARD else 600) * _MIB
    return 400 * _MIB


def asked_reserve(gib: float, total: int | None = None) -> int:
    """Bytes of `gib` GiB. Raises `BadOptionError` for what is no amount, and for all of `total` bytes or more."""
    if isinstance(gib, bool) or not isinstance(gib, int | float) or not 0 <= gib <= _MOST:
        raise BadOptionError(
            f"the memory to reserve (reserve_vram, --reserve-vram) is {gib!r}; give GB, 0 to {_MOST}, such as 0.5"
        )
    reserve = int(gib * _GIB)
    if total is not None and reserve >= total:
        raise BadOptionError(
            f"the memory to reserve (reserve_vram, --reserve-vram) is {gib:g} GB, and the device has "
            f"{total / _GIB:.2f}; reserve less, or choose another device"
        )
    return reserve
