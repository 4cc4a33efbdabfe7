"""How far a run's tiles are, and the one that is being computed: told, and the moment to notice an interrupt.

Where the host itself computes, a forward's steps tell how far it is (models/blocks.py). A device that works on its own
is far behind them, and compiled code has none: there the time tells, by what the model took before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from ..api.report import throughput_text
from ..devices.backends import backend_of
from ..models.blocks import blocks_of, count_beats, listening
from ..models.execution import Backend
from ..models.pace import Pace
from ..models.runner import ModelRunner
from .monitor import Monitor, Status, lasting
from .preview import Durations, Preview, Spot
from .streams import Event

_SHORT = 0.25  # seconds: a shorter forward is not listened to, nor interrupted
# Blocks to be listened to: at most, and in a forward of which nobody knows how long it takes, if it is of few pixels.
_MOST_BLOCKS, _FEW_BLOCKS, _MANY_PIXELS = 500, 200, 1 << 16
# Seconds of a forward for each of them: to set a hook and to call it takes 12 to 24 microseconds, half a percent.
_A_BLOCK = 5e-3
_LOOK = 0.05  # seconds between two questions whether to stop
_FEW = 8  # blocks: fewer tell less than the clock
_ALMOST = 0.99  # of a forward that is not over
_ON_TIME = 0.8  # of a forward by the clock: beyond, it gets slower and slower
_TELLING = 0.05  # of a forward: from here on it tells how long the rest takes
_WAITING = 1 / 256  # of the time waited so far, until the next look


@dataclass
class Forward:
    """A forward of `tiles` tiles, [n] of `pixels` input pixels in all, that began at a time of the monitor's clock.

    `seconds` and `steps` are what it is expected to take; None, 0: nobody knows. `steps_done` counts them.
    """

    pace: Pace
    backend: Backend
    tiles: int
    pixels: int
    began: float
    seconds: float | None
    steps: int = 0
    steps_done: int = 0

    def fraction(self, now: float) -> float:
        """How much of it is done, by its steps, else by the time; 0 to 0.99."""
        if self.steps:
            return min(_ALMOST, self.steps_done / self.steps)
        if not self.seconds:
            return 0.0
        late = (now - self.began) / self.seconds - _ON_TIME
        rest = 1 - _ON_TIME
        return min(_ALMOST, _ON_TIME + late if late < 0 else 1 - rest * math.exp(-late / rest))


class PassShares:
    """How far several passes of the model over the same frames are in all, which take turns. `work` is what each of
    them has to do, in input pixels."""

    def __init__(self, work: Sequence[int]) -> None:
        self._work, self._done = work, [0.0] * len(work)

    def __len__(self) -> int:
        return len(self._work)

    def work(self, number: int) -> int:
        """What pass `number` has to do, in input pixels."""
        return self._work[number]

    def in_all(self, number: int, done: float, total: int) -> tuple[float, int]:
        """What is done and what there is to do of the whole run, when pass `number` has done so much of a total. Of a
        single pass: just that."""
        if len(self) == 1:
            return done, total
        self._done[number] = done / total
        return sum(work * share for work, share in zip(self._work, self._done, strict=True)), sum(self._work)


class TileProgress:
    """The tiles of one pass, `number` of a run's `shares`, as the `Activity` that its monitor tells of; a context,
    after which no forward is listened to."""

    def __init__(self, monitor: Monitor, shares: PassShares | None = None, number: int = 0) -> None:
        self.monitor, self._clock = monitor, monitor.clock
        self._shares, self._number = shares or PassShares((1,)), number
        self._done, self._total, self._tile_pixels = 0, 1, 1
        self._forward: Forward | None = None
        self._phase = ""
        self._started: float | None = None
        self._way = ""  # to compute, in words
        self._arrived = self._next_look = 0.0
        self._heard: dict[ModelRunner, Sequence[nn.Module]] = {}  # the blocks that are listened to
        self._hooks = ExitStack()
        self._preview = Preview(monitor) if monitor.looked_at else None

    def __enter__(self) -> TileProgress:
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.close()
        self.monitor.follow(None)

    def stand(self, done: int, total: int, tile_pixels: int) -> None:
        """So many of the run's tiles, of `tile_pixels` input pixels, are done."""
        self._done, self._total, self._tile_pixels = done, total, tile_pixels
        self._forward, self._phase = None, ""

    def tell(self) -> None:
        """Of the tiles that are done."""
        self.monitor.progress(*self._shares.in_all(self._number, self._done, self._total))

    def phase(self, text: str) -> None:
        """What goes on between two forwards, should it last."""
        self._phase = text
        self.monitor.follow(self)

    @contextmanager
    def computing(self, runner: ModelRunner, tiles: Tensor, backend: Backend) -> Iterator[Forward]:
        """Within it `runner` computes `tiles` [N, C, h, w]. An interrupt is raised out of the forward, and again where
        the model caught it."""
        pixels = len(tiles) * tiles[0, 0].numel()
        began, seconds = self._clock(), runner.pace.seconds(backend, pixels)
        forward = Forward(runner.pace, backend, len(tiles), pixels, began, seconds)
        blocks = self._listen(runner, seconds, pixels) if backend != "compiled" else ()
        if len(blocks) >= _FEW and tiles.device.type == "cpu":
            forward.steps = runner.pace.steps.get(len(blocks)) or count_beats(blocks)
        self._started = began if self._started is None else self._started
        self._forward, self._phase = forward, ""
        self._way = runner.mode.precision + ", compiled" * (backend == "compiled")
        self.monitor.follow(self)
        yield forward
        self.monitor.raise_kept()
        if self._clock() >= began + _SHORT:
            self.monitor.raise_if_interrupted()
        if forward.steps:
            runner.pace.steps[len(blocks)] = forward.steps_done

    def wait(self, forward: Forward, computed: Event) -> None:
        """Until `computed` is past, unless the user asks to stop; `forward` is what the device is at."""
        self._forward = forward
        forward.began = max(forward.began, self._arrived)
        wait_for(computed, self._look)

    def arrived(self, forward: Forward) -> None:
        """The results of `forward` are there."""
        began, self._arrived = max(forward.began, self._arrived), self._clock()
        forward.pace.note(forward.backend, forward.pixels, self._arrived - began)

    @property
    def is_seen(self) -> bool:
        """Whether anybody looks at what comes out."""
        return self._preview is not None

    def came_out(self, spot: Spot, tile: Tensor) -> None:
        """A tile [C, h, w] of the result is as it stays, to be seen by who looks at the run."""
        if self._preview:
            done = self._done + (self._forward.tiles if self._forward else 1)
            a_tile = (self._clock() - (self._started or 0.0)) / done
            self._preview.tile(spot, tile, Durations(a_tile * self._total, a_tile))

    def status(self, now: float) -> Status:
        """How the run stands at `now`, by the monitor's clock."""
        forward = self._forward
        done = min(self._done + (forward.tiles * forward.fraction(now) if forward else 0), self._total)
        text = self._phase or self._tiles_in_words(now, done)
        if len(self._shares) > 1:
            text = f"run {self._number + 1} of {len(self._shares)} of the model: {text}"
        return Status(text, *self._shares.in_all(self._number, done, self._total))

    # --- details -----------------------------------------------------------------------------------------------------

    def _tiles_in_words(self, now: float, done: float) -> str:
        """ "tile 14/60, bf16, compiled, 38 MP/s, 1.9 of 7.4 GB, 12 s left", as far as it is known."""
        forward, left = self._forward, self._seconds_left(now, done)
        first = min(self._done + 1, self._total)
        # a batch may hold a tile more than once, in the place of those that stand still
        last = min(first + (forward.tiles - 1 if forward else 0), self._total)
        tiles = f"tile {first}/{self._total}" if first == last else f"tiles {first}-{last}/{self._total}"
        told = (
            tiles if self._total > 1 else "one piece",
            self._way,
            self._speed(now, done),
            self._memory(),
            "" if left is None else f"{lasting(max(1.0, left))} left",
        )
        return ", ".join(filter(None, told))

    def _speed(self, now: float, done: float) -> str:
        """Of the picture's pixels, before they become more; "" until as much is done that it can be told."""
        elapsed, share = now - (self._started or now), done / self._total
        if share < _TELLING or not elapsed:
            return ""
        return throughput_text(share * self._shares.work(self._number), elapsed)

    def _memory(self) -> str:
        """How much of the memory of the device is taken, by whomever, where it is not the machine's main memory."""
        device = self.monitor.device
        backend = backend_of(device)
        memory = backend.memory(device) if backend and backend.own_memory else None
        return f"{(memory.total - memory.free) / 1e9:.1f} of {memory.total / 1e9:.1f} GB" if memory else ""

    def _seconds_left(self, now: float, done: float) -> float | None:
        """By what was done so far, and until a tile is, also by what such tiles took before; None: nobody knows."""
        forward, elapsed, share = self._forward, now - (self._started or now), done / self._total
        if not self._done and forward and forward.seconds:
            if not forward.steps and now - forward.began > forward.seconds:
                return None  # longer than before, and who knows how long
            known = forward.seconds / forward.pixels * self._total * self._tile_pixels
            return (1 - share) * ((1 - share) * known + elapsed)
        return elapsed * (1 - share) / share if done >= _TELLING else None

    def _listen(self, runner: ModelRunner, seconds: float | None, pixels: int) -> Sequence[nn.Module]:
        """Hear of the runner's steps from now on, if its forwards take long enough; the blocks that are heard."""
        if runner not in self._heard:
            if seconds is not None and seconds < _SHORT:
                return ()
            most = _FEW_BLOCKS if seconds is None and pixels < _MANY_PIXELS else _MOST_BLOCKS
            most = most if seconds is None else min(most, 1 << int(seconds / _A_BLOCK).bit_length() >> 1)
            known = runner.pace.blocks
            if most not in known:  # to look for them takes milliseconds in deep models
                known[most] = blocks_of(runner.module, most)
            self._heard[runner] = known[most]
            self._hooks.enter_context(listening(self._heard[runner], self._step))
        return self._heard[runner]

    def _step(self, steps: int) -> None:
        forward = self._forward
        if forward:
            forward.steps_done += steps
        self.monitor.raise_kept()  # into a model that went on
        if forward and self._clock() >= forward.began + _SHORT:
            self._look()

    def _look(self) -> None:
        now = self._clock()
        if now >= self._next_look:
            self._next_look = now + _LOOK
            self.monitor.raise_if_interrupted()


def wait_for(event: Event, meanwhile: Callable[[], None], sleep: Callable[[float], None] = time.sleep) -> None:
    """Until `event` is past, calling `meanwhile` now and then, and hardly later than that."""
    began = time.perf_counter()
    while not event.query():
        meanwhile()
        sleep(max(5e-5, (time.perf_counter() - began) * _WAITING))
