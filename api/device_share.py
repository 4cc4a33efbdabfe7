"""What each of several devices did of a run that they shared."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DeviceShare:
    """What one of several `device`s has done of a run: `frames`, or `parts` of frames."""

    device: str
    frames: int = 0
    parts: int = 0

    def __str__(self) -> str:
        """ "cuda:0: 41 frames" """
        if self.parts:
            return f"{self.device}: {self.parts} parts" if self.parts > 1 else f"{self.device}: 1 part"
        return f"{self.device}: {self.frames} frames" if self.frames != 1 else f"{self.device}: 1 frame"
