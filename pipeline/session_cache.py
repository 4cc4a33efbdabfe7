"""What a process keeps of the models that it met, from one run to the next: copies, choices, measurements."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from spandrel import ImageModelDescriptor
from torch import nn

from ..api.context import RunContext
from ..compile_cache import CompileCache
from ..devices.pinned import PINNED
from ..kernels.build import OURS, code_of
from ..kernels.timing import Clock
from ..models.runner import RunnerCache
from ..storage.fingerprint import versions_of
from ..storage.heap import TRIMMER, trim_all
from ..storage.profiles import ModelProfile, ProfileStore, profiles_folder
from .feedback import Estimated
from .holdings import Holdings, holdings_of
from .layer_knowledge import LayerKnowledge
from .learner import Learner
from .observations import ModelObservations

_FLUSHED_AGAIN = 10.0  # seconds
_OBSERVED = 64  # models
_NOT_SHORT = 0.1  # seconds: giving back what a run left takes some milliseconds

Fact = TypeVar("Fact")


@dataclass
class ModelRecord:
    """What this process found out about one model, and another one would find out anew.

    `facts`, which no measuring gave, hold for the weights of these `versions`, and so do the `latest` answers to
    questions, with what they depend on. `met` is of forwards for which this process had to get new memory
    (pipeline/feedback.py).
    """

    versions: int | None = None
    facts: dict[Hashable, Any] = field(default_factory=dict)
    met: dict[Estimated, int] = field(default_factory=dict)
    latest: dict[str, tuple[object, Any]] = field(default_factory=dict)

    def once(self, what: Hashable, find: Callable[[], Fact]) -> Fact:
        """A fact about the model that takes a moment to find, found once."""
        facts = self.facts  # of these weights: a run on another thread may meet others meanwhile
        if what not in facts:
            facts[what] = find()
        return facts[what]

    def while_the_same(self, what: str, depends_on: object, find: Callable[[], Fact]) -> Fact:
        """What follows from the model's weights and what it `depends_on`; found anew where that is no longer equal to
        what it was the last time."""
        latest = self.latest  # of these weights, as above; and what another run asks meanwhile has another answer
        known = latest.get(what)
        if known is None or known[0] != depends_on:
            known = latest[what] = depends_on, find()
        return known[1]


class MemoryLimit(NamedTuple):
    """What a run found out the hard way about a device's memory: forwards that work on more than `working` bytes ran
    out of it, when `free` bytes were told to be free."""

    working: int
    free: int


class SessionCache:
    """All of it is kept by the caller's module and gone with it, but for what lies in the context's cache folder, and
    what was seen of models, which is kept by their weights. That of a device among several is a part of a `whole`, the
    first device's.

    Everything that decides how a model is computed is measured by `clock`. `learner` finds out between runs what they
    would have liked to know; `thread_clock` tells what that takes of the processor.
    """

    def __init__(
        self,
        clock: Clock = time.perf_counter,
        learner: Learner | None = None,
        thread_clock: Clock = time.thread_time,
        whole: SessionCache | None = None,
    ) -> None:
        self.clock, self.thread_clock, self.learner = clock, thread_clock, learner or Learner()
        self.runners = RunnerCache()
        self.compiles = CompileCache()
        self._profiles: dict[Path, ProfileStore] = {}
        self._layers: dict[tuple[Path, tuple[str, ...]], LayerKnowledge] = {}
        self._flushed = time.monotonic()
        self.memory_limits: dict[str, MemoryLimit] = {}
        """By device."""
        self._observations: dict[str, ModelObservations] = {}
        self._records: weakref.WeakKeyDictionary[nn.Module, ModelRecord] = weakref.WeakKeyDictionary()
        self._latest: tuple[weakref.ref[nn.Module], float] | None = None  # whose run was the last, and its seconds
        self._whole, self._of_peers = whole or self, list[SessionCache]()
        self._lock, self._sessions = threading.Lock(), 0  # those of peers, too
        self._asked: list[Callable[[], None]] = []  # to let go of all, and whom to tell

    def record(self, model: ImageModelDescriptor) -> ModelRecord:
        """What this process has found out about the model; what it found of other weights in the same module is
        forgotten."""
        record = self._records.get(model.model)
        if record is None:
            record = self._records[model.model] = ModelRecord()
            TRIMMER.watch(model.model)
        versions = versions_of(model.model)
        if record.versions != versions:
            record.versions, record.facts, record.latest = versions, {}, {}
        return record

    @contextmanager
    def running(self, model: ImageModelDescriptor) -> Iterator[None]:
        """Within it `model` has a run. Where the one before it was another's, what that left free goes back to the
        system first, and after it what this one did: it is of other sizes, and the two would come to hold more and more
        side by side. After short runs, and after each of one model, that would be too dear (pipeline/feedback.py)."""
        latest, seconds = self._latest or (None, 0.0)
        another = latest is not None and latest() is not model.model
        if another:
            if seconds >= _NOT_SHORT:
                trim_all()
            self.record(model).met.clear()
        began = time.monotonic()
        try:
            yield
        finally:
            self._latest = weakref.ref(model.model), time.monotonic() - began
        if another and self._latest[1] >= _NOT_SHORT:
            TRIMMER.soon()

    def of_device(self, number: int) -> SessionCache:
        """What is kept for the device of this number among several that share runs, with copies of its own: this, for
        the first. Between its runs as between those of the first something is found out, never meanwhile."""
        with self._lock:
            while len(self._of_peers) < number:
                self._of_peers.append(SessionCache(self.clock, self.learner, self.thread_clock, self))
        return self._of_peers[number - 1] if number else self

    def holdings(self) -> Holdings:
        """What could be let go of."""
        return holdings_of(runner for cache in (self, *self._of_peers) for runner in cache.runners.held())

    def let_go(self, then: Callable[[], None]) -> None:
        """Let go of all that is only kept for later runs, which make it anew: copies of models, with what is compiled
        and recorded of them, studies that have begun, pinned memory. At once, or when nobody computes; then call
        `then`."""
        with self._lock:
            self._asked.append(then)
        self._let_go_if_asked()

    def begin(self) -> None:
        """A session begins, or a run of several, which may use all of it; until `end`."""
        with self._whole._lock:
            self._whole._sessions += 1

    def end(self) -> None:
        """It is over."""
        with self._whole._lock:
            self._whole._sessions -= 1
        self._whole._let_go_if_asked()

    def _let_go_if_asked(self) -> None:
        with self._lock:  # so that no session begins meanwhile
            asked = self._asked if not self._sessions else []
            if asked:
                self._asked = []
                self.learner.give_up()
                for cache in (self, *self._of_peers):
                    cache.runners.clear()
                PINNED.clear()
                TRIMMER.soon()
        for then in asked:
            then()

    def profile(self, model: ImageModelDescriptor, context: RunContext) -> ModelProfile:
        """What is known of the model with its present weights, in this session and earlier ones."""
        folder = context.cache_folder
        if folder not in self._profiles:
            self._profiles[folder] = ProfileStore(profiles_folder(folder))
        return self._profiles[folder].of(model.model)

    def observations(self, profile: ModelProfile) -> ModelObservations:
        """What this process has seen of a model with these weights. A host may load the same file anew for each prompt,
        and what looks faulty is not to be computed twice each time."""
        observed = self._observations
        if profile.content not in observed and len(observed) >= _OBSERVED:
            observed.pop(next(iter(observed)), None)  # a model that is being trained has other weights each time
        return observed.setdefault(profile.content, ModelObservations())

    def layers(self, context: RunContext) -> LayerKnowledge:
        """What layers take on this machine's CPU."""
        # what was timed is of these kernels: before they are loaded, it is of none
        known = folder, _ = context.cache_folder, tuple(map(code_of, OURS))
        if known not in self._layers:
            self._layers[known] = LayerKnowledge(folder, self.clock)
        return self._layers[known]

    def finish_learning(self) -> None:
        """Wait until all is found out that the work so far repays, and write down what is known."""
        self.learner.finish()
        self.flush()

    def flush_now_and_then(self) -> None:
        """`flush`, unless that was done some seconds ago: short runs are not to write every time."""
        now = time.monotonic()
        if now - self._flushed >= _FLUSHED_AGAIN:
            self._flushed = now
            self._flush()  # a peer's own thread flushes the peer's

    def flush(self) -> None:
        """Write down what forwards took. No run has the caches of peers."""
        for cache in (self, *self._of_peers):
            cache._flush()

    def _flush(self) -> None:
        for store in self._profiles.values():
            store.flush()
