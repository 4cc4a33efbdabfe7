"""Frames through the model: tiles in, batches, rows out, and what to do when a batch does not go through.

A device that works on its own is never without work: while it computes a batch, the next frame comes in, the batch
before is looked at and put into its frames, and finished frames leave; also from one group of frames to the next.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import replace

from torch import Tensor

from ..images.channels import ChannelPlan
from ..models.execution import Executor
from ..tiling.fit import Resampling
from ..tiling.plan import exact_overlap
from ..tiling.resample import Resampler
from .fallback import Execution
from .forwards import ForwardFailedError, Forwards, forget_tensors
from .frame_io import FrameSink, FrameSource
from .frames import FinishedFrame, FrameGroup, FrameSetup
from .moving import MovingPart, may_move
from .outcome import Outcome
from .progress import TileProgress
from .schedule_maker import Reschedule
from .scheduler import Limits, Schedule
from .session import BatchTime, Session
from .settling import Batch, Settling, Work
from .still import StillTiles, Upcoming
from .streams import PastEvent
from .tile_check import as_pictures, measure_tiles
from .transfer import Transfer
from .workload import Workload, workload_of

logger = logging.getLogger("cudaspeed")


class Pipeline:
    """All frames of `source` through the session's model, and made another size as `resampling` says, into `sink`. The
    session has been started, with the monitor of `progress` as its context. What comes of it is in `outcome`."""

    def __init__(
        self,
        session: Session,
        channels: ChannelPlan,
        ways: tuple[FrameSource, FrameSink],
        resampling: Resampling | None,
        progress: TileProgress,
    ) -> None:
        self._session, self._context, self._options = session, progress.monitor, session.options
        self._channels, (self._source, self._sink) = channels, ways
        self._workload = workload_of(*ways, channels, self._context)
        with session.room.needed_for("the weights that make results the size that is wanted"):
            self._resampler = Resampler(resampling, self._context.device) if resampling else None
        self._progress = progress
        self.outcome = Outcome(channels.pictures_per_frame)
        self._finished: deque[FinishedFrame] = deque()
        self._tiles_done = self._batches_done = self._batches_before = 0
        self._last_arrival = self._share_written = 0.0
        self._still = StillTiles(self._options.still / 255, self._source.rate, self._moving_part())
        self._forwards = Forwards(session, self.outcome, progress, self._still)
        self._settling = Settling(session, self.outcome, progress, self._still, self._compute)

    def frames(self) -> Generator[int, None, None]:
        """Upscale frame after frame, giving the number of each that is finished. What goes wrong changes the schedule,
        the limits or the mode, and repeats only what is not finished.

        Raises `ModelFailedError` where the model fails on a picture in the safest mode, too, `OutOfMemoryError` where
        the smallest tile does not fit, and whatever the context raises for an interrupt.
        """
        with self._progress:
            yield from self._frames()

    def _frames(self) -> Iterator[int]:
        while self.outcome.frames_done < len(self._source):
            schedule, error = None, None
            try:
                self._context.follow(None)
                schedule = self.outcome.schedule = self._session.schedules.schedule(self._left(), self._forwards.limits)
                self._session.schedules.check_room(schedule, self._left())
                for frame in self._stream(schedule):
                    self._keep(frame)
                    yield frame.number
            except Reschedule as change:
                logger.debug("%s: tiles of %d pixels", change, schedule.plan.tile_pixels if schedule else 0)
            except Exception as raised:  # a lack of memory has several types; what is neither goes on up
                if not isinstance(raised, ForwardFailedError) and not self._context.is_out_of_memory(raised):
                    raise
                error = raised
            self._settling.retry.discard()
            self._still.stop()
            if error and self.outcome.frames_done < len(self._source):
                forget_tensors(error)
                self._context.release_cached()
                self._forwards.limits = self._after(error, schedule)

    def _left(self) -> Workload:
        frames, unwritten = len(self._source) - self.outcome.frames_done, 1 - self._share_written
        return replace(self._workload, frames=frames, held_bytes=int(self._workload.held_bytes * unwritten))

    def _after(self, error: Exception, schedule: Schedule | None) -> Limits:
        """The limits to go on with after the model failed, or memory ran out; perhaps in another mode. Raises what it
        comes to where there is no way on."""
        if not isinstance(error, ForwardFailedError):
            return self._less_than(schedule, error)
        if schedule and schedule.batch > 1:
            # some architectures route by the picture's content, and only one picture at a time
            self._forwards.note("one by one", f"{error}; the rest was computed one by one")
            self._batches_before = self._batches_done
            return replace(self._forwards.limits, one_by_one=True)
        self._session.fall_back_after(error)
        self.outcome.compiled = False
        # one by one stays where it helped
        helped = self._forwards.limits.one_by_one and self._batches_done > self._batches_before
        return replace(self._forwards.limits, one_by_one=helped)

    def _less_than(self, schedule: Schedule | None, error: Exception) -> Limits:
        """The limits after memory ran out. Raises `OutOfMemoryError` where less cannot be."""
        session = self._session
        if schedule is None:
            raise session.room.does_not_fit("the model and a tiny picture") from error
        tile = f"one tile of {schedule.tile[1]}x{schedule.tile[0]}"
        less = self._forwards.limits.after_out_of_memory(schedule)
        self.outcome.out_of_memory += 1
        with session.room.needed_for(tile):
            smaller = session.schedules.schedule(self._left(), less)
        if smaller.pixels >= schedule.pixels:
            needed = session.schedules.bytes_needed(schedule, self._left())
            raise session.room.does_not_fit(tile, needed) from error
        self._forwards.note_lack_of_memory(schedule.tile, schedule.batch)
        session.room.remember_limit(session.chain.now.cost, smaller.pixels)
        session.chain.now.runner.release_graphs()
        return less

    def _keep(self, frame: FinishedFrame) -> None:
        """A finished frame is never done again."""
        self.outcome.add(frame)
        self._settling.retry.confirm(frame.number)
        (self._sink.repeat if frame.repeated else self._sink.finish)(frame.number)
        self._source.release(frame.number)

    def _stream(self, schedule: Schedule) -> Iterator[FinishedFrame]:
        """Upscale what is left, some frames at a time through common batches, yielding each frame when it is in its
        place. Ends early where another schedule has become better for the frames to come.

        A device that works on its own has the next batch to compute while the host looks at one.
        """
        session, limits = self._session, self._forwards.limits
        first = start = self.outcome.frames_done
        session.room.reserve(session.chain.now.cost, schedule.pixels)
        upcoming, in_flight = Upcoming(self._source, self._still, self._options.batch_size), deque[Work]()
        self._finished.clear()
        self._still.begin(schedule.keeps_tiles)
        self._tiles_done = first * self._tiles_of_frame(schedule)
        self._progress.stand(self._tiles_done, self._total_tiles(schedule), schedule.plan.tile_pixels)
        self._last_arrival = session.clock()
        with Transfer(self._source, self._sink, session.streams) as transfer:
            try:
                while first < len(self._source):  # it may turn out to have fewer
                    if upcoming.repeats(first):
                        self._context.raise_if_interrupted()
                        while in_flight:
                            yield from self._look_at(in_flight.popleft(), transfer)
                        yield from self._repeat(first, schedule)
                        first += 1
                        continue
                    if first > start and self._is_over(schedule, limits, len(self._source) - first):
                        break
                    group = FrameGroup(upcoming.group(first), self._setup(schedule), transfer, self._still)
                    first = group.stop
                    while group.share_left:
                        self._context.raise_if_interrupted()
                        self._progress.phase("preparing the picture")
                        part = group.next_part(session.schedules.batch(schedule, self._forwards.limits))
                        batch = self._compute(group.cut(part), transfer) if part.seats else None
                        in_flight.append(Work(group, part, batch))
                        if len(in_flight) > session.schedules.batches_ahead:
                            yield from self._look_at(in_flight.popleft(), transfer)
                while in_flight:
                    yield from self._look_at(in_flight.popleft(), transfer)
            except Exception:  # whatever became of the rest, what is finished is kept; it goes on up
                yield from self._arrived(wait=True)
                raise
            yield from self._arrived(wait=True)

    def _is_over(self, schedule: Schedule, limits: Limits, frames_left: int) -> bool:
        """Whether another schedule has become better for so many frames to come."""
        moving = self._still.moving
        if moving and schedule.keeps_tiles and moving.moves_on(schedule.plan, frames_left):
            if self._session.known.sees_no_further(self._forward):
                self._forwards.limits = replace(self._forwards.limits, moving=moving.around)
            else:
                self._still.moving = None
        return self._forwards.limits != limits or self._session.schedules.has_better(schedule, limits)

    def _moving_part(self) -> MovingPart | None:
        """Where tiles may lie around what moves, because the user leaves it to us how they lie."""
        known, device = self._session.known, self._context.device
        chosen = self._options.tile or self._options.level == "memory" or known.padding()
        if chosen or known.reach is None or not may_move(known.info, self._source.size, device):
            return None
        return MovingPart(known.info, max(self._options.overlap, exact_overlap(known.reach)))

    def _forward(self, tiles: Tensor) -> Tensor:
        """Tiles [N, C, h, w] through the model, eagerly."""
        step = self._session.chain.now
        return self._forwards.run(step, step.runner.executor(self._context.device), tiles)[1]

    def _setup(self, schedule: Schedule) -> FrameSetup:
        known, device, resampler = self._session.known, self._context.device, self._resampler
        padding, defer_clamp = known.padding(), known.observations.defer_clamp
        return FrameSetup(schedule, known.info, self._channels, padding, device, defer_clamp, resampler)

    def _compute(self, tiles: Tensor, transfer: Transfer) -> Batch:
        step, began = self._session.chain.now, self._session.clock()
        executor: Executor | None = step.compiled.take(tiles) if step.compiled else None
        if executor is None or not executor.accepts(tiles.shape):
            executor = step.runner.executor(self._context.device, self._context.switches.cuda_graphs)
        if executor.mode.backend == "compiled":
            self._context.say("")  # that it is being compiled
        limits = self._forwards.limits
        forward, results = self._forwards.run(step, executor, tiles)
        if self._forwards.limits != limits:
            self.outcome.schedule = self._session.schedules.schedule(self._left(), self._forwards.limits)
        execution = Execution(step, executor, executor.mode)  # asked now: it tells how this was computed
        stats = measure_tiles(*as_pictures(tiles, results, self._channels.samples))
        computed = transfer.computed()
        fetched = transfer.fetch(stats, computed)
        transfer.upload.prefetch()
        return Batch(tiles, results, computed, fetched, execution, forward, began)

    def _look_at(self, work: Work, transfer: Transfer) -> Iterator[FinishedFrame]:
        """Wait for a batch and put it into its frames; yield those that are in their places by now."""
        group, batch = work.group, work.batch
        if batch is None:
            yield from self._settle(work, [], transfer)
            return
        if self._context.device.type == "cuda":  # others do not wait, or cannot be asked
            self._progress.wait(batch.forward, batch.computed)
        stats = batch.stats().tolist()  # waits for it
        self._progress.arrived(batch.forward)
        self._progress.phase("looking at the result")
        began, self._last_arrival = max(batch.began, self._last_arrival), self._session.clock()
        seconds = self._last_arrival - began
        self._session.room.trim_where_scarce(self._session.chain.now.cost, group.setup.schedule.pixels)
        yield from self._settle(work, stats, transfer)
        transfer.download.throttle()
        self.outcome.compiled |= batch.execution.mode.backend == "compiled"
        self._batches_done += 1
        schedule = group.setup.schedule
        pixels_left = (self._total_tiles(schedule) - self._tiles_done) * schedule.plan.tile_pixels
        told = BatchTime(batch.execution, batch.pixels, seconds, group.share_left, pixels_left)
        change = self._session.after_batch(told, schedule, self._forwards.limits)
        if change:
            try:
                raise change
            finally:
                del change  # an error that knows the frame that knows it would keep the batch's tensors alive

    def _settle(self, work: Work, stats: list[list[float]], transfer: Transfer) -> Iterator[FinishedFrame]:
        schedule, tiles = work.group.setup.schedule, len(work.part.jobs)
        for finished in self._settling.settle(work, stats, transfer):
            self._finished.append(finished)
            tiles += finished.repeated * self._tiles_of_frame(schedule)
        self._went_on(tiles, schedule)
        yield from self._arrived()

    def _arrived(self, wait: bool = False) -> Iterator[FinishedFrame]:
        """The finished frames that are in their places, or, if `wait`, all finished frames."""
        while self._finished and (wait or self._finished[0].arrived.query()):
            self._finished[0].arrived.synchronize()  # raises what went wrong on the way
            yield self._finished.popleft()

    def _repeat(self, number: int, schedule: Schedule) -> Iterator[FinishedFrame]:
        """A frame is the one before, which is finished."""
        verdict = self._finished[-1].verdict if self._finished else self.outcome.last
        tiles = self._tiles_of_frame(schedule)
        self._finished.append(FinishedFrame(number, verdict, PastEvent(), tiles, tiles, repeated=True))
        self._went_on(tiles, schedule)
        yield from self._arrived()

    def _went_on(self, tiles: int, schedule: Schedule) -> None:
        """So many more tiles are done."""
        self._tiles_done += tiles
        total = self._total_tiles(schedule)
        self._share_written = max(self._share_written, self._tiles_done / total)  # what is done anew was written, too
        self._progress.stand(self._tiles_done, total, schedule.plan.tile_pixels)
        self._progress.tell()

    def _total_tiles(self, schedule: Schedule) -> int:
        return len(self._source) * self._tiles_of_frame(schedule)

    def _tiles_of_frame(self, schedule: Schedule) -> int:
        return self._channels.pictures_per_frame * schedule.plan.count
