"""How a copy's forwards went so far in this process: what tells how far one is and how long it takes, and decides
nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from .execution import Backend


@dataclass
class Pace:
    """`steps` that a forward tells of, by how many of its blocks are listened to; `seconds_per_pixel` of the newest
    batch, by what ran it (input pixels)."""

    steps: dict[int, int] = field(default_factory=dict)
    seconds_per_pixel: dict[Backend, float] = field(default_factory=dict)

    def seconds(self, backend: Backend, pixels: int) -> float | None:
        """What `pixels` input pixels took the last time; None: there was none."""
        rate = self.seconds_per_pixel.get(backend)
        return None if rate is None else rate * pixels

    def note(self, backend: Backend, pixels: int, seconds: float) -> None:
        """A batch of so many input pixels took so many seconds."""
        self.seconds_per_pixel[backend] = seconds / pixels
