"""NVIDIA's cards, by what its driver's own program tells: for who has imported no torch, and begins no CUDA."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

_SECONDS = 10.0  # it takes a tenth where the driver is loaded, and some where it has to be
_ROW = re.compile(r"(.+), *(\d+)\.(\d+) *")


@dataclass(frozen=True)
class NvidiaCard:
    """Its name as torch has it, and its compute capability."""

    name: str
    capability: tuple[int, int]


def nvidia_cards() -> list[NvidiaCard]:
    """Those of this machine, in the driver's order; none where it does not answer."""
    program = shutil.which("nvidia-smi")
    if not program:
        return []
    ask = [program, "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        told = subprocess.run(ask, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = map(_ROW.fullmatch, told.stdout.splitlines())
    return [NvidiaCard(row[1], (int(row[2]), int(row[3]))) for row in rows if row]
