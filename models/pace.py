"""How a copy's forwards went so far in this process: what tells how far one is and how long it takes, and decides
nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from .execution import Backend


@dataclass
class Pace:
    """`blocks` that are listened to, by how many there may be; `steps` that a forward tells of, by how many these are;
    `seconds_per_pixel` of the newest batch, by what ran it (input pixels)."""

    blocks: dict[int, Sequence[nn.Module]] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)
    seconds_per_pixel: dict[Backend, float] = field(default_factory=dict)

    def seconds(self, backend: Backend, pixels: int) -> float | None:
        """What `pixels` input pixels took the last time; None: there was none."""
        rate = self.seconds_per_pixel.get(backend)
        return None if rate is None else rate * pixels

    def note(self, backend: Backend, pixels: int, seconds: float) -> None:
        """A batch of so many input pixels took so many seconds."""
        self.seconds_per_pixel[backend] = seconds / pixels
