"""How much of the machine is in use now: processor, main memory, and each device's memory and time.

Asking costs a millisecond. It begins nothing: a device that torch has not begun to use is told of by its driver's
library, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import psutil
import torch

from .backends import BACKENDS, Backend
from .nvml import Card, Nvml
from .reading import DeviceMemory, answer, bytes_told, main_memory
from .tpu import TpuInfo


@dataclass(frozen=True)
class DeviceUsage:
    """Of one device. `device` is what torch calls it, where it uses it; `used` of `total` bytes are taken, by whomever;
    it computes for a share `busy` of the time, 0..1. None: nobody tells."""

    name: str
    device: torch.device | None = None
    used: int | None = None
    total: int | None = None
    busy: float | None = None


class Library(Protocol):
    """What tells of cards without beginning to compute on them."""

    def cards(self) -> list[Card]: ...


class _Known(NamedTuple):
    """A device that torch uses. `uuid`: "" where torch does not tell it."""

    device: torch.device
    name: str
    uuid: str
    backend: Backend


class UsageReader:
    """Keeps from one question to the next what shares of time are taken of. Raises nothing. One thread at a time."""

    def __init__(
        self,
        libraries: Sequence[Library] | None = None,
        backends: Sequence[Backend] = BACKENDS,
        cpu_times: Callable[[], Any] = psutil.cpu_times,
    ) -> None:
        self._libraries = (Nvml(), TpuInfo()) if libraries is None else libraries
        self._backends = [backend for backend in backends if backend.own_memory]
        self._cpu_times = cpu_times
        self._before: tuple[float, float] | None = None
        self._begun: dict[str, list[_Known]] = {}  # by kinds
        self._used: set[torch.device] = set()

    def cpu(self) -> float | None:
        """The share of all cores' time, 0..1, since the last question; None at the first."""
        now, before = answer(lambda: _spent(self._cpu_times())), self._before
        self._before = now
        if now is None or before is None or now[1] <= before[1]:
            return None
        share = (now[0] - before[0]) / (now[1] - before[1])
        return share if 0 <= share <= 1 else None

    def ram(self) -> DeviceMemory | None:
        """The machine's main memory."""
        return main_memory()

    def devices(self) -> list[DeviceUsage]:
        """Those that torch uses; where it has not begun to use any, those that their drivers tell of."""
        cards = [card for library in self._libraries for card in answer(library.cards) or []]
        ours = [known for backend in self._backends for known in self._known(backend)]
        if not ours:
            return [_of_card(card) for card in cards]
        return [self._usage(known, _card_of(known, cards, ours)) for known in ours]

    def _usage(self, known: _Known, card: Card | None) -> DeviceUsage:
        if card is not None:
            return _of_card(card, known.device)
        memory = self._memory(known)
        used = memory.total - memory.free if memory else None
        return DeviceUsage(known.name, known.device, used, memory.total if memory else None)

    def _known(self, backend: Backend) -> list[_Known]:
        """The devices of a kind, once torch has begun to use it."""
        if not self._begun.get(backend.name):
            interface = answer(backend.interface)
            if interface is None or answer(lambda: interface.is_initialized()) is not True:
                return []
            found = [_Known(device, *_names(interface, device), backend) for device in backend.devices()]
            self._begun[backend.name] = found
        return self._begun[backend.name]

    def _memory(self, known: _Known) -> DeviceMemory | None:
        """As the driver tells it through torch, which would take memory on a device that nobody computes on: only where
        torch has some already, or had."""
        device, backend = known.device, known.backend
        if device not in self._used and not bytes_told(lambda: backend.interface().memory_reserved(device)):
            return None
        self._used.add(device)
        return backend.memory(device)


def _spent(times: Any) -> tuple[float, float]:
    """Seconds that all cores worked, and seconds there were. On Linux, a guest's are its host's, too."""
    told = times._asdict()
    total = sum(told.values()) - told.get("guest", 0.0) - told.get("guest_nice", 0.0)
    return total - told["idle"] - told.get("iowait", 0.0), total


def _names(interface: Any, device: torch.device) -> tuple[str, str]:
    properties = answer(lambda: interface.get_device_properties(device))
    name, uuid = getattr(properties, "name", None), getattr(properties, "uuid", "")
    return name if isinstance(name, str) else str(device), str(uuid or "").lower()


def _card_of(known: _Known, cards: Sequence[Card], ours: Sequence[_Known]) -> Card | None:
    """What a driver's library tells of a device of torch's, by its UUID; where torch tells none, the only one by its
    name."""
    if known.uuid:
        return next((card for card in cards if card.uuid == known.uuid), None)
    alike = [card for card in cards if card.name == known.name]
    alone = len(alike) == 1 and [other.name for other in ours].count(known.name) == 1
    return alike[0] if alone else None


def _of_card(card: Card, device: torch.device | None = None) -> DeviceUsage:
    return DeviceUsage(card.name, device, card.used, card.total, card.busy)
