"""The workers of a farm: who is there, what each has before it, and what is lost when one dies."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..api.errors import CudaspeedError
from .cluster import Cluster
from .shipping import Shipper
from .units import Outcome, Unit

logger = logging.getLogger("cudaspeed")

_AHEAD = 2  # units that a worker has, the one that it is at among them: it never waits for the driver
_DEATHS = 5  # in a row, and three for each worker, without anything done in between
_VAIN = 3  # units that fail one after the other, for no fault of theirs that is known: it is the worker's


class FarmError(CudaspeedError, RuntimeError):
    """The farm cannot go on: no worker is left, or all of them die. What is done is done."""


@dataclass(frozen=True)
class Lost:
    """What a worker had that is no more: the unit that it was `at`, if any, those that it had not begun, and `why`.
    `blamed`: it may have died of that unit."""

    at: Unit | None
    others: tuple[Unit, ...]
    why: str
    blamed: bool = True


@dataclass(eq=False)
class _Member:
    """A worker. `asked` is what it was asked for who it is by; `name`: "" until it told. `flight`: what it has, in the
    order that it does it in. `in_vain`: how many failed in a row."""

    handle: Any
    asked: Any
    name: str = ""
    flight: dict[Any, Unit] = field(default_factory=dict)
    in_vain: int = 0


class Crew:
    """Workers of a `cluster`, hired with `arguments`, whose results are decided by what is `made_by`. Where they do not
    see the farm's folders, a `shipper` packs what they get, and unpacks what comes of it. `alike`: parts are put
    together, so that all are to compute on the kind of device that the first of them does."""

    def __init__(
        self,
        cluster: Cluster,
        arguments: tuple[Any, ...],
        made_by: Mapping[str, str],
        shipper: Shipper | None = None,
        alike: bool = False,
    ) -> None:
        self._cluster, self._arguments, self._made_by, self._shipper = cluster, arguments, made_by, shipper
        self._alike, self._device = alike, ""
        self._refused_units: list[tuple[Unit, Outcome]] = []
        self._ray = cluster.ray
        self._members: list[_Member] = []
        self._deaths = self._refused = 0
        self._reason = ""

    @property
    def ready(self) -> int:
        """Workers that are there."""
        return sum(bool(member.name) for member in self._members)

    @property
    def in_flight(self) -> int:
        """Units that workers have, or had for a moment."""
        return sum(len(member.flight) for member in self._members) + len(self._refused_units)

    def hire(self) -> None:
        """As many as there is room for. Raises `FarmError` where there is room for none, or none is left."""
        for _ in range(self._cluster.places(self._refused) - len(self._members)):
            handle = self._cluster.hire(*self._arguments)
            self._members.append(_Member(handle, handle.about.remote()))
        if not self._members:
            raise FarmError(self._reason or f"there is no room for a worker: Ray has {self._cluster.told()}")

    def hungry(self) -> Iterator[Callable[[Unit], None]]:
        """Ways to give a unit to a worker that has few, those first that have the fewest."""
        for having in range(_AHEAD):
            for member in self._members:
                if member.name and len(member.flight) == having:
                    yield lambda unit, member=member: self._give(member, unit)

    def dismiss(self) -> None:
        """End all of them."""
        for member in self._members:
            self._cluster.dismiss(member.handle)
        self._members.clear()

    def arrived(self, seconds: float) -> tuple[list[tuple[Unit, Outcome]], list[Lost]]:
        """Wait for something, so long at most: units and what came of them, and what was lost. Raises `FarmError` where
        workers do nothing but die."""
        of = {ref: member for member in self._members for ref in (*member.flight, member.asked) if ref is not None}
        outcomes, self._refused_units = self._refused_units, list[tuple[Unit, Outcome]]()
        lost: list[Lost] = []
        if not of:
            time.sleep(0 if outcomes else seconds)
            return outcomes, lost
        seconds = 0 if outcomes else seconds
        self._ray.wait([*of], num_returns=1, timeout=seconds)
        there, _ = self._ray.wait([*of], num_returns=len(of), timeout=0)
        for ref in there:
            member = of[ref]
            if member not in self._members:
                continue  # it was lost with one before
            try:
                answer = self._ray.get(ref)
            except self._ray.exceptions.RayError as error:
                lost.append(self._dead(member, error))
                continue
            if ref is member.asked:
                self._joined(member, answer)
            else:
                unit = member.flight.pop(ref)
                outcome = self._shipper.unpack(unit, answer) if self._shipper else answer
                outcomes.append((unit, outcome))
                lost += self._judged(member, outcome)
        return outcomes, lost

    def _give(self, member: _Member, unit: Unit) -> None:
        packed = self._shipper.pack(unit) if self._shipper else (unit,)
        if isinstance(packed, Outcome):
            self._refused_units.append((unit, packed))
        else:
            member.flight[member.handle.do.remote(*packed)] = unit

    def _joined(self, member: _Member, about: Mapping[str, Any]) -> None:
        """Let it work, unless what it makes would differ from what the others make."""
        member.asked = None
        differing = [
            f"{name} {about['made_by'].get(name)} there, {here} here"
            for name, here in self._made_by.items()
            if about["made_by"].get(name) != here
        ]
        if differing:
            self._refuse(member, f"{about['name']} is refused, its results would differ: {', '.join(differing)}")
            return
        self._device = self._device or about["device"]
        if self._alike and about["device"] != self._device:
            self._refuse(
                member,
                f"{about['name']} is refused: it computes on {about['device']}, the first one on {self._device}, and "
                "parts of one film are to be of one kind; name one by --device, or leave films out",
            )
            return
        member.name = about["name"]

    def _refuse(self, member: _Member, why: str) -> None:
        """It goes, and its place is taken by no other: that would be the same."""
        self._reason = f"the worker {why}"
        logger.warning(self._reason)
        self._refused += 1
        self._drop(member)

    def _judged(self, member: _Member, outcome: Outcome) -> list[Lost]:
        """What is lost with the worker, if it is to go: one whose device is broken fails faster than others work."""
        if not outcome.again:
            member.in_vain = 0
            self._deaths = 0
            return []
        member.in_vain += 1
        if member.in_vain < _VAIN:
            return []
        self._count(f"workers fail: {outcome.error}")
        return [Lost(None, self._drop(member), self._reason)]

    def _dead(self, member: _Member, error: Exception) -> Lost:
        why = self._cluster.why(error)
        self._count(f"workers die: {why}")
        had = self._drop(member)
        return Lost(had[0] if had else None, had[1:], why, not getattr(error, "preempted", False))

    def _count(self, reason: str) -> None:
        """One more that went."""
        self._reason = reason
        self._deaths += 1
        if self._deaths > _DEATHS + 3 * len(self._members):
            raise FarmError(reason)

    def _drop(self, member: _Member) -> tuple[Unit, ...]:
        """It goes: what it had."""
        self._members.remove(member)
        self._cluster.dismiss(member.handle)  # that it seems to be dead may be the network's fault
        return (*member.flight.values(),)
