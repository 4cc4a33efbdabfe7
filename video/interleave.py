"""When packets that are copied are due, so that they lie near the pictures of their time in the file."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from av.packet import Packet

_AHEAD = Fraction(1)  # second that they may come before the pictures of their time


def is_due(packet: Packet[Any], written: Fraction) -> bool:
    """Whether it is to be written when the pictures are up to `written` seconds. One that does not say its time is."""
    time = packet.dts if packet.dts is not None else packet.pts
    return time is None or time * packet.time_base <= written + _AHEAD
