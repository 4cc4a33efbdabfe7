"""What a run tells its user: never nothing for long, never much, and nothing at all where it is quick.

The engine's parts say what they are at through the `RunContext` they are handed, which is a `Monitor` around the
host's. It speaks for them, now and then, on the run's own thread where that comes by often enough, else on the
ticker's; and an interrupt that the host raises there, or that a model swallows, is raised again where the run notices.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..api.context import RunContext, Switches
from ..kernels.timing import Clock
from .ticker import TICKER, Ticker

_QUICK = 1.0  # seconds: what is over by then says nothing
_BETWEEN_TEXTS = 0.3  # seconds at least
_BETWEEN_PICTURES = 1.0  # the same
_BEFORE_PICTURES = 1.0  # seconds from the beginning until the first
_SILENCE = 1.0  # seconds without a text after which the ticker speaks
_COUNTED = 2.0  # seconds without another text and without progress, after which it tells how many they are
_PATIENCE = 1.0  # seconds that the end of a run waits for a text that is being told
_BEFORE = "preparing"


class Status(NamedTuple):
    """How a run stands: in a few words, and `done` of `total` tiles, parts of tiles included."""

    text: str
    done: float
    total: int


class Activity(Protocol):
    """Something long that knows how far it is. Asked on any thread."""

    def status(self, now: float) -> Status:
        """How it stands at `now`, by the monitor's clock."""
        ...


class Monitor:
    """A `RunContext` for one run, around the host's; a context.

    `say` names the phase that the run is in, or, while it follows an activity, what goes on besides. `progress` never
    goes back. `summary`, if it is set, is what remains to be read at the end of a run that had to say something; and of
    every run where what the last one said would remain. Who is `looked_at` may `show` a picture when the clock has come
    to `picture_due`.
    """

    def __init__(self, context: RunContext, clock: Clock = time.monotonic, ticker: Ticker = TICKER) -> None:
        self.device, self.cache_folder = context.device, context.cache_folder
        self.output_device, self.output_dtype = context.output_device, context.output_dtype
        self.switches = getattr(context, "switches", Switches())  # contexts of others may be older than these
        self.make_resident, self.release_cached = context.make_resident, context.release_cached
        # contexts of others may be older than these two, and bring weights whole
        self.take_away = getattr(context, "take_away", lambda model: None)
        self.room_beside = getattr(context, "room_beside", lambda model, needed: None)
        self.free_bytes, self.peak_bytes = context.free_bytes, context.peak_bytes
        self.is_out_of_memory = context.is_out_of_memory
        # and older than pictures on the way, and than texts that stay
        self.looked_at, self.texts_stay = getattr(context, "looked_at", False), getattr(context, "texts_stay", False)
        self.alone: bool = getattr(context, "alone", True)
        self.peers: tuple[RunContext, ...] = getattr(context, "peers", ())
        self.clock, self.summary = clock, ""
        self._context, self._ticker = context, ticker
        self._speaking, self._closed = threading.Lock(), False
        self._began = self._spoke = self._stood_since = clock()
        self.picture_due = self._began + _BEFORE_PICTURES
        self._phase = self._text = self._said = ""
        self._activity: Activity | None = None
        self._share = 0.0
        self._error: BaseException | None = None

    def __enter__(self) -> Monitor:
        self._surroundings = contextvars.copy_context()  # by which ComfyUI knows the node; a thread has its own
        self._ticker.add(self.tick)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ticker.remove(self.tick)
        there = self._speaking.acquire(timeout=_PATIENCE)
        self._closed = True  # whatever is told from now on would be of a run that is over
        if there:
            self._speaking.release()
        kept, self._error = self._error, None  # it knows frames that know tensors
        self._activity, self._surroundings = None, contextvars.Context()  # whoever keeps this keeps nothing of the run
        well = kind is None and kept is None
        if self._said or self.texts_stay:
            with suppress(Exception):  # the run has come to its end, in whatever way
                self._context.say(self.summary if well else f"stopped after {lasting(self.clock() - self._began)}")
        if kind is None and kept is not None:
            raise kept

    # --- what the run's parts tell -----------------------------------------------------------------------------------

    def progress(self, done: float, total: int) -> None:
        """`done` of `total` tiles are finished. The host is told of what is more than it was told before."""
        there = self._speaking.acquire(timeout=_PATIENCE)  # the ticker may be telling something just now
        try:
            self._advance(done, total)
        finally:
            if there:
                self._speaking.release()

    def show(self, picture: NDArray[np.uint8]) -> None:
        """Show `picture` [H, W, 3], how the result looks so far. The next is due a second later."""
        there = self._speaking.acquire(timeout=_PATIENCE)
        try:
            self._told(self._context.show, picture)
        finally:
            self.picture_due = self.clock() + _BETWEEN_PICTURES
            if there:
                self._speaking.release()

    def say(self, text: str) -> None:
        """The run is at `text` from now on, or it goes on besides; "": no longer."""
        self._phase = text
        if self._activity is None:
            self._speak(_BETWEEN_TEXTS)

    def follow(self, activity: Activity | None) -> None:
        """Tell of `activity` from now on; None: of phases again."""
        self._activity = activity

    def raise_if_interrupted(self) -> None:
        """Raise what the host raises where the user asked to stop, now or, on whatever thread, before. Speaks, if it is
        time to."""
        self.raise_kept()
        self._told(self._context.raise_if_interrupted)
        self._speak(_BETWEEN_TEXTS)

    def raise_kept(self) -> None:
        """Raise what the host raised before, if it did: on the ticker's thread, or into a model that went on."""
        if self._error is not None:
            raise self._error

    # --- details -----------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """On the ticker's thread: speak where the run's own has not for a while."""
        with suppress(BaseException):  # which is kept, for the run's own thread
            self._surroundings.copy().run(self._speak, _SILENCE)

    def _speak(self, silence: float) -> None:
        """Tell how the run stands, if it has lasted, and there was silence for so many seconds."""
        now = self.clock()
        if now - self._began < _QUICK or now - self._spoke < silence or not self._speaking.acquire(blocking=False):
            return
        try:
            if self._closed or self._error is not None:
                return
            self._spoke = now
            before, text = self._share, self._now(now)
            if text != self._text or self._share > before:
                self._text, self._stood_since = text, now
            elif now - self._stood_since >= _COUNTED:
                text = f"{text}, {lasting(now - self._stood_since)} so far"
            if text != self._said:
                self._said = text
                self._told(self._context.say, text)
        finally:
            self._speaking.release()

    def _now(self, now: float) -> str:
        activity, phase = self._activity, self._phase
        if activity is None:
            return phase or _BEFORE
        status = activity.status(now)
        self._advance(status.done, status.total)
        return f"{status.text} ({phase})" if phase else status.text

    def _advance(self, done: float, total: int) -> None:
        if done / total > self._share:
            self._share = done / total
            self._told(self._context.progress, done, total)

    def _told(self, tell: Callable[..., None], *arguments: object) -> None:
        try:
            tell(*arguments)
        except BaseException as error:  # the host stops the run, in whatever way; it goes on up
            self._error = error
            raise


def lasting(seconds: float) -> str:
    """So many seconds in words: "8 s", "3 min 10 s", "1 h 20 min"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    units = ((hours, "h"), (minutes, "min"), (seconds, "s"))
    return " ".join(f"{count} {unit}" for count, unit in units if count) or "0 s"
