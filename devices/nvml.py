"""What NVIDIA's management library (NVML) tells of cards, through nvidia-ml-py (`pynvml`), where somebody installed it.

It asks the driver, begins no CUDA, and knows what all processes together take and do.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .reading import answer, bytes_told


@dataclass(frozen=True)
class Card:
    """`uuid` as torch writes it; `used` and `total`: bytes; `busy`: the share of the last moment, 0..1, in which it
    computed anything. None is what it does not tell."""

    name: str
    uuid: str
    used: int | None
    total: int | None
    busy: float | None


class Nvml:
    """Looked for when it is first asked; where it is not there, not again."""

    def __init__(self, find: Callable[[], Any] = lambda: importlib.import_module("pynvml")) -> None:
        self._find = find
        self._library: Any = None
        self._looked = False

    def cards(self) -> list[Card]:
        """Those of this machine, in the order of their slots; none where it does not answer."""
        self._look()
        if self._library is None:
            return []
        count = answer(self._library.nvmlDeviceGetCount)
        cards = (self._card(number) for number in range(count if type(count) is int else 0))
        return [card for card in cards if card]

    def driver(self) -> str:
        """The version of NVIDIA's driver, "" where it does not answer."""
        self._look()
        return _text(answer(self._library.nvmlSystemGetDriverVersion)) if self._library else ""

    def _look(self) -> None:
        if not self._looked:
            self._looked, self._library = True, answer(self._begun)

    def _begun(self) -> Any:
        library = self._find()
        library.nvmlInit()
        return library

    def _card(self, number: int) -> Card | None:
        library = self._library
        handle = answer(lambda: library.nvmlDeviceGetHandleByIndex(number))
        if handle is None:
            return None
        memory = answer(lambda: library.nvmlDeviceGetMemoryInfo(handle))
        used, total = used_of(lambda: memory.used, lambda: memory.total)
        return Card(
            name=_text(answer(lambda: library.nvmlDeviceGetName(handle))) or f"GPU {number}",
            uuid=_text(answer(lambda: library.nvmlDeviceGetUUID(handle))).removeprefix("GPU-").lower(),
            used=used,
            total=total,
            busy=share_told(lambda: library.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
        )


def used_of(used: Callable[[], Any], total: Callable[[], Any]) -> tuple[int | None, int | None]:
    """Bytes in use and bytes there are, both or none: less than nothing, or more than there is, is no answer."""
    taken, there = bytes_told(used), bytes_told(total)
    return (taken, there) if taken is not None and there and taken <= there else (None, None)


def share_told(ask: Callable[[], Any]) -> float | None:
    """A share, 0..1, that `ask` returns; None where that is none."""
    told = answer(ask)
    return float(told) if isinstance(told, int | float) and not isinstance(told, bool) and 0 <= told <= 1 else None


def _text(told: Any) -> str:
    """Older versions tell bytes."""
    return told.decode(errors="replace") if isinstance(told, bytes) else told if isinstance(told, str) else ""
