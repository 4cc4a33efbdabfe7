"""Layer times that ship: for processors on which they were measured, by the instructions that torch finds in them.

`measured/` has a file for each, made by `python -m bench.layer_table`: seconds for a megapixel of a layer. Only ways
are compared by it, so that it holds for processors of other speeds. One thread, the least of 12 calls in the
processor's own time, torch 2.11. AVX2: an AMD EPYC of Zen 3 (512 KiB of second-level cache), beside eight other
processes on two cores, 2026-11-26; its blocks on one of Zen 4 that was left AVX2's instructions (by which it computes
convolutions 1.2 to 1.5 times as fast). AVX512: one of Zen 4 (1 MiB), which knows bfloat16, idle, 2026-11-27.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast, get_args

import torch

from .layer_times import LayerTimes, Way
from .layers import LayerKind, LayerName

_MEASURED = Path(__file__).parent / "measured"
_WAYS: tuple[Way, ...] = get_args(Way)


@functools.cache
def shipped_times() -> LayerTimes:
    """The times that ship for this processor's instructions; none at all where there was no such processor to measure
    on."""
    file = _MEASURED / f"{torch.backends.cpu.get_cpu_capability()}.csv"
    if not file.is_file():
        return LayerTimes()
    with file.open(encoding="utf-8", newline="") as lines:
        return LayerTimes(dict(_read(csv.DictReader(lines))))


def _read(rows: Iterable[dict[str, str]]) -> Iterator[tuple[tuple[LayerKind, Way], float]]:
    for row in rows:
        kind = LayerKind(cast(LayerName, row["layer"]), tuple(map(int, row["sizes"].split("x"))))
        for way in _WAYS:
            if row[way]:
                yield (kind, way), float(row[way])
