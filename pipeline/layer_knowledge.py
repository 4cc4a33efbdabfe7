"""What layers take on this machine, by each way to compute them, for all models: shipped, or timed once and kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch

from ..kernels.build import OURS, code_of
from ..kernels.layer_table import shipped_times
from ..kernels.layer_times import LayerTimes, Timing, Way, missing, predicted, timings
from ..kernels.layers import LayerKind, LayerName
from ..kernels.timing import Clock
from ..models.execution import ExecutionMode
from ..models.study import Pause, Steps, Study
from ..storage.fingerprint import describe_environment
from ..storage.layer_times import LayerTimesStore
from ..storage.profiles import profiles_folder

# What another way's sum has to be less than, times torch's own. Of 39 networks on AVX2 (2026-11-26), those without
# attention that had 0.80 took 1.07 to 1.17 times as long as torch, for what lies between layers; all up to 0.72, less.
_CLEARLY, _CLEARLY_WITH_ATTENTION = 0.75, 0.9  # by our attention, more is gained than the sum tells
_SECONDS = 0.04  # that it takes to time a kind of layer in one way


class LayerKnowledge:
    """The CPU's `times`, from the table that ships and the file in `cache_folder`. What is timed is known at once, and
    to later processes; `clock` times it."""

    def __init__(self, cache_folder: Path, clock: Clock) -> None:
        around = describe_environment(torch.device("cpu"))
        codes = {name: code_of(name) for name in OURS}
        self._store = LayerTimesStore(
            profiles_folder(cache_folder), {"hardware": around["hardware"], "torch": around["torch"], **codes}
        )
        times: dict[tuple[LayerKind, Way], float] = dict(shipped_times().seconds)
        for (name, sizes, way), seconds in self._store.get().items():  # a name that is none is never asked for
            times[LayerKind(cast(LayerName, name), sizes), cast(Way, way)] = seconds
        self.times = LayerTimes(times)
        self._clock, self._place = clock, f"{around['hardware']}, torch {around['torch']} {codes}"

    def seconds(self, kinds: Mapping[LayerKind, float], mode: ExecutionMode) -> float | None:
        """What a megapixel of a model's input takes in its layers, `layers_of` it, in `mode`; None where that is not
        known."""
        way = way_of(mode)
        return predicted(kinds, self.times, way) if way else None

    def study(self, kinds: Mapping[LayerKind, float], modes: Sequence[ExecutionMode]) -> Study | None:
        """Times what is not known of these layers in these modes, some milliseconds at a time; None where nothing is
        missing."""
        what = missing(kinds, self.times, [way for way in map(way_of, modes) if way])
        name = f"layers {what} on {self._place}"
        return Study(name, 0, self._steps(what), _SECONDS * len(what)) if what else None

    def _steps(self, what: Iterable[tuple[LayerKind, Way]]) -> Steps:
        found: list[Timing] = []
        for timing in timings(what, self._clock):
            found.append(timing)
            yield Pause()
        self.times = self.times.with_timings(found)
        least = LayerTimes().with_timings(found).seconds
        self._store.add({(kind.name, kind.sizes, way): seconds for (kind, way), seconds in least.items()})
        return {}


def way_of(mode: ExecutionMode) -> Way | None:
    """What layers are timed as in `mode`; None where they are not."""
    if mode.precision == "bf16":
        return "bf16 winograd" if mode.only_products else "bf16 channels last"
    if mode.precision != "fp32" or mode.kernels == "fused":
        return None
    if mode.kernels != "plain":
        return mode.kernels
    return "plain channels last" if mode.channels_last else "plain"


def by_seconds(
    modes: Sequence[ExecutionMode], knowledge: LayerKnowledge, kinds: Mapping[LayerKind, float]
) -> list[ExecutionMode]:
    """The modes, fastest first; as they are where one of them is not known. The last of them, torch's own way, is left
    for what is clearly faster only: a sum over layers does not count what lies between them."""
    seconds = {mode: knowledge.seconds(kinds, mode) for mode in modes}
    if None in seconds.values():
        return list(modes)
    clearly = _CLEARLY_WITH_ATTENTION if any(kind.attended for kind in kinds) else _CLEARLY
    return sorted(modes, key=lambda mode: (seconds[mode] or math.inf) * (clearly if mode == modes[-1] else 1.0))
