"""What forwards take of memory at most, seen while they compute, so that the estimates of later runs are right.

On a CPU the resident set is sampled while a forward computes: within it nothing is written to the result, and whatever
is held besides was there before it. On other devices torch's allocator tells, which counts at once what a forward asks
for, though the device computes it later.

What cannot be trusted is no answer: a forward that is over within some samples, or so small that other things count as
much; one beside another run; a growth that no forward has. Then estimates stay what they are.

In what the C library holds of freed memory a part of a forward may come to lie unseen. Giving that back before costs a
tenth of a run, for all of it must be had again, page by page. So this is done where a process has to get its pages
anyway: for the first forward of a kind, and for one that is clearly larger than those before. What is seen of others is
the least that they take.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from ..models.execution import ExecutionMode
from ..storage.heap import trim_all
from ..storage.memory_limits import has_own_limits
from ..storage.peaks import PLAUSIBLE
from .memory_counters import AllocatorPeak, most_resident_bytes, resident_bytes
from .ticker import Ticker

_PERIOD = 0.02  # seconds between two samples
_LEAST_SAMPLES = 3  # within a forward
LEAST_SECONDS = 0.5  # of a run's forwards
_LEAST_BYTES = 32 << 20  # expected of a forward: what libraries load and threads take at its side is a few
_MOST_TRIED = 4  # forwards of a kind that are watched in vain
_LARGER = 1.5  # times what was expected of those before

SAMPLER = Ticker(_PERIOD)
"""The process's."""


@dataclass(frozen=True)
class Estimated:
    """A kind of forwards: in a `mode`, whose memory was estimated by the widths of its layers (`rough`), or traced."""

    mode: ExecutionMode
    rough: bool

    @classmethod
    def of(cls, mode: ExecutionMode, rough: bool) -> Estimated:
        """Of forwards that are computed in `mode` now: what is recorded of eager ones is one kind with them, since
        estimates begin with these."""
        return cls(mode if mode.backend == "compiled" else replace(mode, backend="eager"), rough)


@dataclass(frozen=True)
class Seen:
    """What a forward took over the bytes that were expected; not `exact`: at least."""

    expected: int
    ratio: float
    exact: bool


class _Running:
    """The runs of this process, in whatever session. Those of one thread are passes of one run: they take turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: Counter[int] = Counter()  # by thread
        self._begun = 0

    def begin(self) -> int:
        """A session of this thread's run begins; for `end`, which may come on another thread."""
        thread = threading.get_ident()
        with self._lock:
            self._begun += thread not in self._sessions
            self._sessions[thread] += 1
        return thread

    def end(self, thread: int) -> None:
        with self._lock:
            self._sessions[thread] -= 1
            self._sessions = +self._sessions

    def alone_since(self) -> int | None:
        """A number that stays the same until another run begins; None where there is another one now."""
        with self._lock:
            return self._begun if len(self._sessions) == 1 else None


_RUNNING = _Running()


class _Watch:
    """One forward, from now on; `exact`: of which no part is to lie unseen."""

    def __init__(self, exact: bool) -> None:
        if exact:
            trim_all()
        self.samples, self.alone = 0, _RUNNING.alone_since()
        self._ever = most_resident_bytes()
        self._before = self._most = resident_bytes()

    def sample(self) -> None:
        """On the sampler's thread."""
        now = resident_bytes()
        if now is not None and self._most is not None:
            self._most = max(self._most, now)
        self.samples += 1

    def grown(self) -> int | None:
        """The most bytes that the process held over what it held before; None where that cannot be trusted."""
        if self._before is None or self._most is None or self.samples < _LEAST_SAMPLES:
            return None
        ever = most_resident_bytes()  # where that rose, it tells what samples on a busy machine came too late for
        grown = (max(self._most, ever) if ever > self._ever else self._most) - self._before
        alone = self.alone is not None and self.alone == _RUNNING.alone_since()
        return grown if alone else None


class Feedback:
    """Of one run on `device`, from `begin` to `end`; a context. Watches nothing before `start`, of a run that is
    expected to last. `met` are the bytes that were expected of the largest forwards which this process had to get new
    pages for, by kinds; it is kept from run to run."""

    def __init__(self, device: torch.device, met: dict[Estimated, int], sampler: Ticker = SAMPLER) -> None:
        self._device, self._met, self._sampler, self._started = device, met, sampler, False
        self._tried: dict[Estimated, int] = {}
        self._seen: dict[Estimated, Seen] = {}

    def __enter__(self) -> Feedback:
        self._thread = _RUNNING.begin()
        return self

    def __exit__(self, *_: object) -> None:
        _RUNNING.end(self._thread)

    def start(self, expected_seconds: float | None) -> None:
        """A run begins whose forwards will take so many seconds; None: nobody knows."""
        lasts = expected_seconds is None or expected_seconds >= LEAST_SECONDS
        self._started = lasts and not has_own_limits()  # the sampler's thread counts against them

    def wants(self, kind: Estimated) -> bool:
        """Whether a forward of this kind would be watched."""
        return self._started and kind not in self._seen and self._tried.get(kind, 0) < _MOST_TRIED

    @contextmanager
    def watching(self, kind: Estimated, expected: int) -> Iterator[None]:
        """Within it a forward of this `kind` computes, of which so many bytes are `expected`, by the bare estimate."""
        self._tried[kind] = _MOST_TRIED if expected < _LEAST_BYTES else self._tried.get(kind, 0) + 1
        if expected < _LEAST_BYTES:
            yield
            return
        if self._device.type != "cpu":
            peak = AllocatorPeak(self._device)
            yield
            self._note(kind, peak.grown(), expected)
            return
        exact = expected > _LARGER * self._met.get(kind, 0)
        watch = _Watch(exact)
        self._sampler.add(watch.sample)
        try:
            yield
        finally:
            self._sampler.remove(watch.sample)
        self._note(kind, watch.grown(), expected, exact)
        if exact and not self.wants(kind):
            self._met[kind] = expected

    def seen(self, seconds: float) -> dict[Estimated, Seen]:
        """By kinds, in a run whose forwards took so many seconds."""
        return dict(self._seen) if seconds >= LEAST_SECONDS else {}

    def _note(self, kind: Estimated, grown: int | None, expected: int, exact: bool = True) -> None:
        least, most = PLAUSIBLE
        if grown is not None and least * expected <= grown <= most * expected:
            self._seen[kind] = Seen(expected, grown / expected, exact)
