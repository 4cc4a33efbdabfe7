"""What would become of a farm of a thousand workers: a simulation for `python -m bench.farm --simulate`.

Time is simulated, unit by unit. Workers take a time for a unit that varies by half around a mean; a tenth of them take
three times that; some are lost every hour, and with them the unit that they were at. One driver handles results one
after the other, and takes a time for each that was measured on a real farm. The manifest is real.
"""

from __future__ import annotations

import heapq
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from cudaspeed.scaleout.manifest import open_manifest
from cudaspeed.scaleout.units import Listed, Outcome

_SLOW_SHARE, _SLOWER = 0.1, 3.0
_LOST_AN_HOUR = 0.01
_STARTING = 30.0  # seconds until another worker stands in for a lost one
_HOUR = 3600.0


@dataclass(frozen=True)
class Farm:
    """So many `units` by so many `workers`, `unit_seconds` each on average; the driver takes `driver_seconds` each."""

    units: int
    workers: int
    unit_seconds: float
    driver_seconds: float


@dataclass(frozen=True)
class Outlook:
    """`hours` until all is done; `of_ideal`, the throughput over what the workers could do without a driver and losses;
    the share of the time that the driver is `busy`; workers that were `lost`, each with a unit."""

    hours: float
    units_per_second: float
    of_ideal: float
    busy: float
    lost: int


def simulate(farm: Farm, seed: int = 0) -> Outlook:
    """Every unit once, and what is lost again."""
    draw = random.Random(seed)
    slow = int(farm.workers * _SLOW_SHARE)
    speeds = [1.0 / _SLOWER] * slow + [1.0] * (farm.workers - slow)
    lives = [draw.expovariate(_LOST_AN_HOUR / _HOUR) for _ in speeds]

    def takes(worker: int) -> float:
        return farm.unit_seconds * draw.uniform(0.5, 1.5) / speeds[worker]

    ends = [(takes(worker), worker) for worker in range(farm.workers)]
    heapq.heapify(ends)
    driver_free = now = 0.0
    done = lost = 0
    while done < farm.units:
        now, worker = ends[0]
        if now > lives[worker]:
            lost += 1
            lives[worker] = now + _STARTING + draw.expovariate(_LOST_AN_HOUR / _HOUR)
            heapq.heapreplace(ends, (now + _STARTING + takes(worker), worker))
            continue
        done += 1
        driver_free = max(driver_free, now) + farm.driver_seconds
        # It has one more unit, and goes on at once, unless the driver is behind by more than that takes.
        taken = takes(worker)
        heapq.heapreplace(ends, (max(now + taken, driver_free), worker))
    now = max(now, driver_free)
    ideal = sum(speeds) / farm.unit_seconds
    rate = farm.units / now
    return Outlook(now / _HOUR, rate, rate / ideal, farm.units * farm.driver_seconds / now, lost)


def write_seconds(units: int, rows: int, folder: Path | None = None) -> tuple[float, float]:
    """What it takes to note `rows` outcomes in a manifest of so many `units`, in seconds, and its bytes a unit."""
    with tempfile.TemporaryDirectory(dir=folder) as name, open_manifest(Path(name)) as manifest:
        manifest.merge(Listed(f"/pictures/{number:08}.png", f"{number:08}.png", "0" * 16) for number in range(units))
        times, after = [], -1
        record = {"output_size": [128, 128], "seconds": 0.01, "warnings": [], "output": "x" * 40}
        for _ in range(5):
            waiting = manifest.waiting(after, rows)
            after = waiting[-1].number
            began = time.perf_counter()
            manifest.settle([Outcome(unit.number, unit.made_from, worker="host:1", record=record) for unit in waiting])
            times.append(time.perf_counter() - began)
        size = (Path(name) / ".farm" / "manifest.sqlite").stat().st_size
    return sorted(times)[len(times) // 2], size / units
