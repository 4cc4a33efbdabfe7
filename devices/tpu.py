"""What Google's `tpu_info` tells of TPUs, where somebody installed it: which chips there are, and, of those that a
process computes on, whose runtime it asks, how busy they are. Without it, what JAX tells of those that runs of ours
compute on: their memory."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from .nvml import Card, share_told, used_of
from .reading import answer

COMPUTING: dict[Any, None] = {}
"""JAX's devices that runs in this process have computed on, in their order: nobody else's are asked for anything, which
might begin to use them."""


@dataclass(frozen=True)
class Chips:
    """So many chips of a kind, each with so many bytes of memory of its own (HBM); None where that is not told."""

    name: str
    count: int
    bytes: int | None


class TpuInfo:
    """Looked for when it is first asked; where it, or any chip, is not there, not again. `computing`: JAX's devices
    that runs of ours compute on."""

    def __init__(
        self, import_: Callable[[str], Any] = importlib.import_module, computing: Collection[Any] | None = None
    ) -> None:
        self._import = import_
        self._computing = COMPUTING if computing is None else computing
        self._kind: Any = None
        self._count = 0
        self._looked = False

    def chips(self) -> Chips | None:
        """Those of this machine, whether anybody computes on them or not; None where there are none."""
        self._look()
        if self._kind is None:
            return None
        about = self._kind.value if hasattr(self._kind, "value") else self._kind
        gigabytes = answer(lambda: int(about.hbm_gib))
        return Chips(f"TPU {getattr(about, 'name', about)}", self._count, gigabytes << 30 if gigabytes else None)

    def cards(self) -> list[Card]:
        """The chips of this machine; none where nobody computes on them."""
        self._look()
        chips: list[Any] = []
        if self._kind is not None:
            chips = answer(lambda: [*self._import("tpu_info.metrics").get_chip_usage(self._kind)]) or []
        if chips:
            return [_card(number, chip) for number, chip in enumerate(chips)]
        return [card for device in self._computing if (card := _card_of_jax(device))]

    def _look(self) -> None:
        if not self._looked:
            self._looked = True
            kind, self._count = answer(lambda: self._import("tpu_info.device").get_local_chips()) or (None, 0)
            self._kind = kind if self._count else None


def bytes_left(device: Any) -> int | None:
    """What JAX's `device` can still give of memory of its own; None where it does not tell, or has none."""
    told = answer(device.memory_stats)
    if not isinstance(told, dict):
        return None
    used, total = used_of(lambda: told["bytes_in_use"], lambda: told["bytes_limit"])
    return None if used is None or total is None else total - used


def _card_of_jax(device: Any) -> Card | None:
    """What `Device.memory_stats` tells, where the device has memory of its own (https://docs.jax.dev/en/latest/jax.html)."""
    told = answer(device.memory_stats)
    if not isinstance(told, dict):
        return None
    used, total = used_of(lambda: told["bytes_in_use"], lambda: told["bytes_limit"])
    return Card(f"{device.device_kind} {device.id}", "", used, total, None)


def _card(number: int, chip: Any) -> Card:
    used, total = used_of(lambda: chip.memory_usage, lambda: chip.total_memory)
    busy = share_told(lambda: chip.duty_cycle_pct / 100)
    return Card(f"TPU {number}", "", used, total, busy)
