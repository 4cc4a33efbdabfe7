"""Stand-ins for engines beside torch's own, for tests of what becomes of what they make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from cudaspeed.api.model_info import Forward
from cudaspeed.backends.interface import Work


class StandIn:
    """An engine whose file names it, and whose forwards are what the model does, then `wrong`."""

    def __init__(self, name: str = "stand-in", missing: str = "") -> None:
        self.name, self.missing = name, missing
        self.works: list[Work] = []
        self.loads: list[bytes] = []
        self.fails: Exception | None = None
        self.wrong: Callable[[Tensor], Tensor] = lambda x: x
        self.module: Callable[[Tensor], Tensor] | None = None

    def version(self) -> str:
        return "" if self.missing else "1.0"

    def lacks(self, device: torch.device) -> str:
        return self.missing

    def build(self, work: Work, target: Path) -> None:
        self.works.append(work)
        if self.fails:
            raise self.fails
        self.module = work.module
        target.write_bytes(self.name.encode())

    def bytes_held(self, file_bytes: int) -> int:
        return 3 * file_bytes

    def load(self, path: Path, device: torch.device) -> Forward:
        self.loads.append(path.read_bytes())
        if self.loads[-1] != self.name.encode():
            raise RuntimeError("it is something else")

        def forward(x: Tensor) -> Tensor:
            assert self.module is not None
            return self.wrong(self.module(x))

        forward.__name__ = self.name
        return forward
