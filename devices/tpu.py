"""What Google's `tpu_info` tells of TPUs, where somebody installed it: which chips there are, and, of those that a
process computes on, whose runtime it asks, how busy they are."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .nvml import Card, share_told, used_of
from .reading import answer


@dataclass(frozen=True)
class Chips:
    """So many chips of a kind, each with so many bytes of memory of its own (HBM); None where that is not told."""

    name: str
    count: int
    bytes: int | None


class TpuInfo:
    """Looked for when it is first asked; where it, or any chip, is not there, not again."""

    def __init__(self, import_: Callable[[str], Any] = importlib.import_module) -> None:
        self._import = import_
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
        if self._kind is None:
            return []
        chips = answer(lambda: [*self._import("tpu_info.metrics").get_chip_usage(self._kind)]) or []
        return [_card(number, chip) for number, chip in enumerate(chips)]

    def _look(self) -> None:
        if not self._looked:
            self._looked = True
            kind, self._count = answer(lambda: self._import("tpu_info.device").get_local_chips()) or (None, 0)
            self._kind = kind if self._count else None


def _card(number: int, chip: Any) -> Card:
    used, total = used_of(lambda: chip.memory_usage, lambda: chip.total_memory)
    busy = share_told(lambda: chip.duty_cycle_pct / 100)
    return Card(f"TPU {number}", "", used, total, busy)
