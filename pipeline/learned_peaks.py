"""Which of a run's forwards are watched for what they take of memory, and what is kept of that for later runs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch

from ..memory import usual_overhead
from ..models.execution import ExecutionMode
from ..storage.fingerprint import describe_environment
from ..storage.peaks import aged, size_of, with_peak
from ..storage.profiles import ModelProfile
from .fallback import Step, place_of_peaks
from .feedback import Estimated, Feedback


class PeakLearning:
    """Of one run of a model on `device`, between its `profile` and what is seen; a context. `met` as in `Feedback`."""

    def __init__(self, profile: ModelProfile, device: torch.device, met: dict[Estimated, int]) -> None:
        self._profile, self._device, self._feedback = profile, device, Feedback(device, met)

    def __enter__(self) -> PeakLearning:
        self._feedback.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._feedback.__exit__()

    def start(self, pixels: int) -> None:
        """Begin to watch, if a run of so many input pixels is expected to last. Before, nothing is watched."""
        account = self._profile.account(describe_environment(self._device)["hardware"])
        pace = account.work_seconds / account.work_pixels if account.work_pixels else None
        self._feedback.start(None if pace is None else pace * pixels)

    def watching(self, step: Step, mode: ExecutionMode, pixels: int) -> AbstractContextManager[object]:
        """Within it a forward of `step` computes so many pixels, in `mode`: what it takes of memory is seen, where that
        is still to be learned."""
        bound = step.cost.bound(self._device)
        kind = Estimated.of(mode, rough=bound is not None)
        if not self._feedback.wants(kind):
            return nullcontext()
        cost = bound or step.cost.exact
        return self._feedback.watching(kind, cost.at(pixels) - cost.weights)

    def keep(self, seconds: float, step: Step, by_memory: bool) -> None:
        """Note what was seen in a run whose forwards took so many seconds. Where nothing was, and what is known decided
        `by_memory` how small those of `step` were, that ages: one wrong peak is not to decide for ever."""
        known, seen = self._profile.known.peaks, self._feedback.seen(seconds)
        for kind, peak in seen.items():
            place = place_of_peaks(kind.mode, kind.rough, self._device)
            peaks, size = known.get(place, ()), size_of(peak.expected)
            alike = [ratio for other, ratio in peaks if other == size]
            if peak.exact or peak.ratio > max(alike, default=usual_overhead(kind.rough, self._device)):
                self._profile.note(peaks={place: with_peak(peaks, (size, peak.ratio))})
        if seen or not by_memory:
            return
        rough, mode = step.cost.bound(self._device) is not None, step.runner.mode
        for backend in dict.fromkeys((mode.backend, "compiled")):
            place = place_of_peaks(replace(mode, backend=backend), rough, self._device)
            if place in known:
                self._profile.note(peaks={place: aged(known[place], usual_overhead(rough, self._device))})
