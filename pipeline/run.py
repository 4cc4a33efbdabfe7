"""Tiles through the model: frames in, batches of tiles, rows out, and what to do when a batch does not go through.

A device that works on its own is never without work: while it computes a batch, the next frame comes in, the batch
before is looked at and put into its frames, and finished frames leave; also from one group of frames to the next.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import Tensor

from ..api.context import RunContext
from ..api.errors import ModelFailedError, OutOfMemoryError, first_line
from ..api.model_info import Forward, ModelInfo
from ..api.options import UpscaleOptions
from ..api.report import NOT_NEEDED
from ..compile_cache import CompiledForwards
from ..images.channels import ChannelPlan
from ..memory import MemoryCost, affordable_pixels, with_results, working_bytes
from ..models.runner import ModelRunner
from ..models.throughput import UNKNOWN_THROUGHPUT, Paced, Throughput
from ..postprocess import FrameVerdict
from ..tiling.pad import wrap_padding
from ..tiling.plan import automatic_overlap
from .fallback import FallbackChain, Step
from .frames import Complete, FrameGroup, Job
from .retry import ModelObservations, SuspectTile, TileRetry
from .scheduler import Scheduler
from .streams import Event, stream_device
from .tile_check import TileStats, measure_tiles
from .transfer import Transfer

logger = logging.getLogger("cudaspeed")

_AHEAD = {"cuda": 1}  # batches that are computed while an earlier one is looked at
# Frames made of several pictures are made on the device where three of them (the pictures, what becomes of them, the
# frame) take no more than this share of what is free.
_SHARE_FOR_FRAMES = 1 / 4
_TO_BLEED = 5  # frames that it takes beside one to spread its colours under what is transparent
_TELLS_THROUGHPUT = {"cpu"}  # elsewhere a session's first forwards are slower than the later ones, by far
_WAYS_TO_COMPILE = 2  # for any size, and where that fails for one


def no_room(what: str, info: ModelInfo, context: RunContext) -> OutOfMemoryError:
    """The error for a device that cannot hold even `what`."""
    return OutOfMemoryError(
        f"{context.device} has too little memory even for {what} with {info.name}; free memory (unload other "
        "models), use a smaller model, or lower the overlap if you set one"
    )


class _ForwardFailedError(ModelFailedError):
    """The model raised something on a tile batch; the cause says what."""


class _StartAgain(Exception):  # noqa: N818  # no error
    """The frames in work are better done anew: by a cheaper plan, in a better precision, or with more care."""


class _Batch(NamedTuple):
    """A tile batch of `group` that the device may still be computing: [N, C, h, w] in, [N, C', sh, sw] out, there when
    `computed` is past, and its stats, which `stats()` waits for."""

    group: FrameGroup
    jobs: list[Job]
    tiles: Tensor
    results: Tensor
    computed: Event
    stats: Callable[[], Tensor]
    step: Step
    forward: Forward
    compiled: bool
    began: float


class Run:
    """One call's state: the plan, and how far the work is."""

    def __init__(
        self,
        image: Tensor,
        output: Tensor,
        chain: FallbackChain,
        observations: ModelObservations,
        info: ModelInfo,
        channels: ChannelPlan,
        options: UpscaleOptions,
        context: RunContext,
        measured: Callable[[ModelInfo, ModelRunner], ModelInfo],
        paced: Paced,
    ) -> None:
        self._image, self._output, self.chain, self._observations = image, output, chain, observations
        self._info, self._channels, self._options, self._context = info, channels, options, context
        self._streams = stream_device(context.device)
        self._paced = paced
        self._complete: deque[Complete] = deque()
        self.retry = TileRetry(chain, observations, context)
        frames, height, width, _ = image.shape
        self._plan(pixels_ahead=frames * channels.pictures_per_frame * height * width)
        if not options.overlap and (self._padding or self.scheduler.plan.count > 1):
            # there are seams: what the model needs there is looked up, or measured once, by the model on its device
            self._info = measured(info, chain.now.runner)
            self._plan()
        self._tiles_done = 0
        self.compiled = False
        if chain.now.compiled and options.compile_mode == "wait":
            self._compile_first(chain.now.compiled)

    def _plan(self, pixels_ahead: int = 0) -> None:
        """Plan for the step that the run stands on, with its model on the device. Its throughput is measured, if it is
        not known, where there are enough `pixels_ahead`."""
        (runner, cost, compiled), context, options = self.chain.now, self._context, self._options
        # the results of batches that are computed ahead, and of those before them, which are on their way out
        cost = with_results(cost, self._info, 2 * _AHEAD.get(context.device.type, 0))
        frames, height, width, _ = self._image.shape
        context.make_resident(runner, working_bytes(cost, height * width, context.device))
        # on a device that works on its own, beside the frame in work the one before it and the next
        held = self._image[0].numel() * 4 * (3 if self._streams else 1)
        if self._streams and self._channels.has_alpha:
            held += self._image[0].numel() * 4 * _TO_BLEED
        if context.output_device.type == context.device.type:
            # allocated, but perhaps not yet touched and so not yet missing from what is free
            held += self._output.nbytes
        overlap = max(options.overlap, automatic_overlap(self._info))
        self._padding = wrap_padding(options.tiling_mode, self._info, overlap)
        free, size = context.free_bytes() - held, self._padding.around((height, width))
        made = self._bytes_to_make_frames(size)
        self._on_device = 0 < made <= _SHARE_FOR_FRAMES * free
        free = max(0, free - made * self._on_device)
        pictures = min(options.batch_size, frames) * self._channels.pictures_per_frame
        self.scheduler = Scheduler(
            size,
            pictures,
            self._info,
            options,
            cost,
            free,
            context.device,
            self._throughput(runner, pixels_ahead, min(pictures * math.prod(size), self._affordable(cost, free))),
            compiled.ready() if compiled else {},
        )

    def _throughput(self, runner: ModelRunner, pixels_ahead: int, most_pixels: int) -> Throughput:
        """The model's, where the run leaves a choice."""
        if self._options.level == "memory":
            return UNKNOWN_THROUGHPUT
        return self._paced.look_up(runner, self._info, pixels_ahead, most_pixels)

    def _affordable(self, cost: MemoryCost, free: int) -> int:
        """The most pixels that a forward may have within `free` bytes."""
        return affordable_pixels(cost, free, self._options.level, self._context.device)

    def _bytes_to_make_frames(self, size: tuple[int, int]) -> int:
        """What it takes on the device to make a frame of the model's pictures, of an input `size` (height, width); 0
        where there is nothing to make, or the device is not apart from where frames go."""
        if not self._streams or self._output.device.type != "cpu" or (self._channels.direct and not self._padding):
            return 0
        pixels = size[0] * size[1] * self._info.scale**2
        return 3 * 4 * self._channels.pictures_per_frame * self._channels.model_out * pixels

    @property
    def estimated_bytes(self) -> int:
        pixels = self.scheduler.plan.tile_pixels * self.scheduler.batch
        cost = self.chain.now.cost
        return cost.weights + working_bytes(cost, pixels, self._context.device)

    @property
    def compiling(self) -> str:
        """Where compiling stands, in a few words."""
        compiled = self.chain.now.compiled
        if compiled:
            return compiled.status(self.compiled)
        return f"{NOT_NEEDED}: {self.chain.now.mode.kernels} kernels" if self._options.compile else "off"

    @property
    def total_tiles(self) -> int:
        return self._tiles_of(self._image.shape[0])

    def _tiles_of(self, frames: int) -> int:
        return frames * self._channels.pictures_per_frame * self.scheduler.plan.count

    def all_frames(self) -> list[FrameVerdict]:
        """Upscale frame after frame; a memory error shrinks the plan and repeats only what is not complete."""
        verdicts: list[FrameVerdict] = []
        frames = self._image.shape[0]
        while len(verdicts) < frames:
            try:
                for verdict in self._stream(range(len(verdicts), frames)):
                    verdicts.append(verdict)
                    self.retry.confirm(len(verdicts) - 1)
            except _StartAgain as reason:
                logger.debug("%s: tiles of %d pixels", reason, self.scheduler.plan.tile_pixels)
            except _ForwardFailedError as error:
                if self.scheduler.batch == 1:
                    raise
                # some architectures route by the picture's content, and only one picture at a time
                logger.info("%s: going on one by one", error)
                self.scheduler.one_by_one()
            except Exception as error:  # torch has several types for it; what is not a lack of memory goes on up
                if not self._context.is_out_of_memory(error):
                    raise
                tile = f"one tile of {self.scheduler.plan.columns.tile}x{self.scheduler.plan.rows.tile}"
                if not self.scheduler.shrink():
                    raise no_room(tile, self._info, self._context) from error
                logger.info("out of memory with %s, %d at a time: going on with less", tile, self.scheduler.batch)
                self._on_device = False
                self.chain.now.runner.release_graphs()
            self.retry.discard()
            if len(verdicts) < frames:
                self._context.release_cached()  # here, where the failed forward's tensors are no longer referenced
            self._tiles_done = self._tiles_of(len(verdicts))
        return verdicts

    def _stream(self, frames: range) -> Iterator[FrameVerdict]:
        """Upscale frames, some at a time through common batches, yielding each frame's verdict when it is in its place.

        A device that works on its own has the next batch to compute while the host looks at one.
        """
        in_flight: deque[_Batch] = deque()
        ahead = _AHEAD.get(self._context.device.type, 0)
        self._last_arrival = time.perf_counter()
        self._complete.clear()
        with Transfer(self._image, self._output, self._streams) as transfer:
            try:
                for first in frames[:: self._options.batch_size]:
                    compiled = self.chain.now.compiled
                    if compiled and self.scheduler.adopt(compiled.ready()):
                        while in_flight:  # in tiles of another plan
                            yield from self._look_at(in_flight.popleft(), transfer)
                        self._tiles_done = self._tiles_of(first)
                    group = self._group(range(first, min(first + self._options.batch_size, frames.stop)), transfer)
                    while jobs := group.next_jobs(self.scheduler.batch):
                        self._context.raise_if_interrupted()
                        in_flight.append(self._compute(group, jobs, transfer))
                        if len(in_flight) > ahead:
                            yield from self._look_at(in_flight.popleft(), transfer)
                while in_flight:
                    yield from self._look_at(in_flight.popleft(), transfer)
            except Exception:  # whatever became of the rest, what is complete is kept; it goes on up
                yield from self._arrived(wait=True)
                raise
            yield from self._arrived(wait=True)

    def _group(self, frames: range, transfer: Transfer) -> FrameGroup:
        return FrameGroup(
            self._image,
            self._output,
            frames,
            self.scheduler.plan,
            self._info,
            self._channels,
            self._padding,
            transfer,
            self._context.device,
            self._observations.defer_clamp,
            self._on_device,
        )

    def _compute(self, group: FrameGroup, jobs: list[Job], transfer: Transfer) -> _Batch:
        step, began = self.chain.now, time.perf_counter()
        tiles = group.cut(jobs)
        eager = step.runner.eager(self._context.device)
        forward = (step.compiled and step.compiled.take(tiles)) or eager
        results = self._run_forward(forward, tiles)
        compiled = bool(step.compiled and step.compiled.works(forward))
        stats = measure_tiles(tiles, results)
        computed = transfer.computed()
        numbers = transfer.fetch(stats, computed)
        transfer.upload.prefetch()
        return _Batch(group, jobs, tiles, results, computed, numbers, step, forward, compiled, began)

    def _look_at(self, batch: _Batch, transfer: Transfer) -> Iterator[FrameVerdict]:
        """Wait for a batch and put it into its frames; yield the verdicts of frames that are in their places by now."""
        stats = batch.stats().tolist()  # waits for it
        began, self._last_arrival = max(batch.began, self._last_arrival), time.perf_counter()
        seconds = self._last_arrival - began
        yield from self._settle(batch, stats, transfer)
        transfer.download.throttle()
        if (
            batch.forward is batch.step.runner.eager(self._context.device)
            and self._context.device.type in _TELLS_THROUGHPUT
        ):
            pixels = len(batch.tiles) * batch.tiles[0, 0].numel()
            self._paced.note(batch.step.runner, pixels, seconds / pixels * 1e6)
        if batch.step.compiled:
            self._think_of_compiling(batch, seconds)

    def _arrived(self, wait: bool = False) -> Iterator[FrameVerdict]:
        """The verdicts of complete frames that are in their places, or, if `wait`, of all complete frames."""
        while self._complete and (wait or self._complete[0].arrived.query()):
            self._complete[0].arrived.synchronize()  # raises what went wrong on the way
            yield self._complete.popleft().verdict

    def _settle(self, batch: _Batch, stats: list[list[float]], transfer: Transfer) -> Iterator[FrameVerdict]:
        """Mend what is ill in a batch, by its stats, and put the tiles into their frames.

        Raises `_StartAgain` when what is in work had better be done another way.
        """
        for k, job in enumerate(batch.jobs):
            suspect = SuspectTile(
                batch.tiles[k],
                batch.results[k],
                TileStats(*stats[k]),
                batch.step,
                batch.forward,
                batch.compiled,
                batch.group.frame_of(job),
                (job.row, job.column),
            )
            result, left = self.retry.settle(suspect)
            if self.retry.fall_back():
                self.compiled = False
                self._plan()
                raise _StartAgain("going on in a better way")
            if self._observations.defer_clamp and not batch.group.defer_clamp:
                raise _StartAgain("the model leaves illness in the picture, whole frames are looked after")
            computed = batch.computed if result is suspect.result else transfer.computed()
            complete = batch.group.add(job, result, computed, left not in (None, "drifting colours"))
            if complete is not None:
                self._complete.append(complete)
                yield from self._arrived()
        self._tiles_done += len(batch.jobs)
        self._context.progress(self._tiles_done, self.total_tiles)

    def _compile_first(self, compiles: CompiledForwards) -> None:
        """Wait for what would make this run cheapest, and plan for it."""
        compiles.wait(self._context)
        self.scheduler.adopt(compiles.ready())
        for _ in range(_WAYS_TO_COMPILE):
            shapes = self.scheduler.worth_compiling(compiles.possible(self.scheduler.tile_to_compile()))
            if shapes:
                compiles.start(shapes)
                compiles.wait(self._context)  # also where another process was quicker to start it
            self.scheduler.adopt(compiles.ready())

    def _think_of_compiling(self, batch: _Batch, seconds: float) -> None:
        """After each batch: learn from it, start a compile that pays, change to a plan for what got ready.

        Raises `_StartAgain` when doing the whole group anew is cheaper than the share of it that is left is now.
        """
        compiles = batch.step.compiled
        assert compiles is not None
        compiles.note(batch.forward, len(batch.tiles) * batch.tiles[0, 0].numel(), seconds)
        if batch.forward is not batch.step.runner.eager(self._context.device):
            self.compiled = self.compiled or compiles.works(batch.forward)
            return
        ready = compiles.ready()
        # planning is work: not after every tile for nothing
        if ready and self.scheduler.adopt(ready, batch.group.share_left):
            self._context.say("")
            raise _StartAgain("going on compiled")
        pixels_ahead = (self.total_tiles - self._tiles_done) * self.scheduler.plan.tile_pixels
        if self._options.compile_mode == "background" or compiles.pays(pixels_ahead):
            shapes = self.scheduler.worth_compiling(compiles.possible(self.scheduler.tile_to_compile()))
            if shapes and compiles.start(shapes):
                self._context.say(f"compiling for {shapes} in the background, eager meanwhile")

    def _run_forward(self, forward: Forward, batch: Tensor) -> Tensor:
        """`forward(batch)`; its own failures, and only they, become `_ForwardFailedError`: an interrupt is none."""
        try:
            return forward(batch)
        except Exception as error:  # architectures fail in all sorts of ways
            if self._context.is_out_of_memory(error):
                raise
            raise _ForwardFailedError(
                f"{self._info.name} fails on {len(batch)} tile(s) of {batch.shape[3]}x{batch.shape[2]} "
                f"({first_line(error)}); choose another tile size, or another model"
            ) from error
