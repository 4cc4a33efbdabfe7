"""What Google's `tpu_info` tells of TPUs, where somebody installed it: of chips that a process computes on, whose
runtime it asks."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from .nvml import Card, share_told, used_of
from .reading import answer


class TpuInfo:
    """Looked for when it is first asked; where it, or any chip, is not there, not again."""

    def __init__(self, import_: Callable[[str], Any] = importlib.import_module) -> None:
        self._import = import_
        self._kind: Any = None
        self._looked = False

    def cards(self) -> list[Card]:
        """The chips of this machine; none where nobody computes on them."""
        if not self._looked:
            self._looked = True
            kind, count = answer(lambda: self._import("tpu_info.device").get_local_chips()) or (None, 0)
            self._kind = kind if count else None
        if self._kind is None:
            return []
        chips = answer(lambda: [*self._import("tpu_info.metrics").get_chip_usage(self._kind)]) or []
        return [_card(number, chip) for number, chip in enumerate(chips)]


def _card(number: int, chip: Any) -> Card:
    used, total = used_of(lambda: chip.memory_usage, lambda: chip.total_memory)
    busy = share_told(lambda: chip.duty_cycle_pct / 100)
    return Card(f"TPU {number}", "", used, total, busy)
