"""One run's hold on a model: in which mode it computes, by which schedule, and what is learned from it on the way."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

from spandrel import ImageModelDescriptor

from ..api.context import RunContext
from ..api.errors import CudaspeedError, ModelFailedError, OutOfMemoryError
from ..api.options import UpscaleOptions
from ..api.report import NOT_NEEDED
from ..compile_cache import CompiledForwards
from ..kernels.timing import reproduced
from ..memory import MemoryCost, affordable_pixels, allowed_bytes, weights_bytes, with_results, working_bytes
from ..models.execution import ExecutionMode
from ..models.info import model_info
from ..models.precision import Choice
from ..models.receptive_field import with_receptive_field
from ..models.runner import ModelRunner
from ..models.throughput import UNKNOWN_THROUGHPUT, Throughput, ThroughputProbe, size_class
from ..tiling.pad import WrapPadding, wrap_padding
from ..tiling.plan import automatic_overlap
from .fallback import Execution, FallbackChain, Step, StepMaker
from .modes import ModeChooser, place_of
from .observations import ModelObservations
from .scheduler import Budget, Compiled, Limits, Schedule, Scheduler
from .session_cache import SessionCache
from .streams import stream_device
from .workload import Workload, bytes_of_frame

_AHEAD = {"cuda": 1}  # batches that are computed while an earlier one is looked at
# Frames made of several pictures are made on the device where three of them (the pictures, what becomes of them, the
# frame) take no more than this share of what is free.
_SHARE_FOR_FRAMES = 1 / 4
_TO_BLEED = 5  # frames that it takes beside one to spread its colours under what is transparent
_ALIKE = 0.25  # batches of real work, which take long, and among other things
_TELLS_THROUGHPUT = {"cpu"}  # elsewhere a process's first forwards are slower than the later ones, by far
_WAYS_TO_COMPILE = 2  # for any size, and where that fails for one


class Reschedule(Exception):  # noqa: N818  # no error
    """The frames in work are better done anew: by a cheaper schedule, in a safer mode, or with more care."""


@dataclass(frozen=True)
class BatchTime:
    """A batch of `pixels` input pixels, computed by `execution`, took so many `seconds`. `share_left` of its
    group's work and `pixels_left` of the run's are still to come."""

    execution: Execution
    pixels: int
    seconds: float
    share_left: float
    pixels_left: int


class Session:
    """Begins with `start`; a context that keeps what was learned when it is left, however that is.

    `info` is what is known of the model, `chain` where the run stands, `notes` what the user is to be told of that.
    `observations` are what the process has seen of the model. `streams` is the device as one that works on its own;
    None where it does not. `batches_ahead`: how many batches are computed while the host looks at an earlier one.
    """

    chain: FallbackChain

    def __init__(
        self, model: ImageModelDescriptor, options: UpscaleOptions, context: RunContext, shared: SessionCache
    ) -> None:
        self._model, self.options, self.context, self._shared = model, options, context, shared
        self._record, self._profile = shared.record(model), shared.profile(model, context)
        self._modes = ModeChooser(model, options, context, shared)
        self.info, self.clock = model_info(model), shared.clock
        self._steps = StepMaker(model, self.info, options, context, shared)
        self._scheduler: Scheduler | None = None
        self._scheduled: Step | None = None
        self._ready: Compiled = {}
        self.observations: ModelObservations = self._record.observations
        self.streams, self.batches_ahead = stream_device(context.device), _AHEAD.get(context.device.type, 0)
        self.notes: list[str] = []

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if hasattr(self, "chain"):
            self.chain.save()

    def start(self, pixels: int | None = None) -> None:
        """Choose the mode for a run of so many `pixels`; None: for more than enough to be worth any measuring. Raises
        what the model raises in fp32, and `OutOfMemoryError` where it does not fit the device."""
        with self.room_for("the model and a tiny picture"):
            left, copy = allowed_bytes(self.context.device), weights_bytes(self._model.model)
            if left is not None and copy > left:
                raise MemoryError(f"a copy of the model takes {copy} bytes, and {left} are allowed")
            self.chain = FallbackChain(self._chosen(self._modes.choose(pixels)), self._modes, self._steps)

    def fall_back_after(self, error: ModelFailedError) -> None:
        """Go on without the mode that failed on a picture with `error`. Raises `error` where nothing is left."""
        with self.room_for("the model and a tiny picture"):
            self.chain.restart(self._chosen(self._modes.after_failure(self.chain.now.mode, error)))
        self._scheduled = None  # what is measured and compiled before a run is, for this mode

    # --- schedules ---------------------------------------------------------------------------------------------------

    def schedule(self, workload: Workload, limits: Limits) -> Schedule:
        """The schedule for `workload` in the mode that the run stands on.

        For a mode that is new to the run its model is brought to the device. For the run's first, and after an error,
        it may take a while: how fast the model is at which size is measured, and compiling is waited for, if that is
        asked for. How much tiles must overlap is measured once in a model's life. Raises `BadOptionError` for a tile or
        overlap that cannot be.
        """
        scheduler = self._scheduler
        if scheduler is None or self._scheduled is not self.chain.now:
            first = self._scheduled is None
            scheduler = self._new_scheduler(workload, limits, first)
            if first and self.chain.now.compiled and self.options.compile_mode == "wait":
                self._compile_first(scheduler, self.chain.now.compiled, limits)
            self._scheduler, self._scheduled = scheduler, self.chain.now
        self._look_for_compiled()
        return scheduler.schedule(self._ready, limits)

    def check_room(self, schedule: Schedule, workload: Workload) -> None:
        """Raise `MemoryError` where a forward of the schedule takes more main memory than this process is allowed,
        beside what `workload` holds. The system would not say that memory ran out, but end the process."""

        left = allowed_bytes(self.context.device)
        if left is None:
            return
        held = bytes_of_frame(workload.size, workload.channels, self.info, self.padding()).held + workload.held_bytes
        if working_bytes(self.chain.now.cost, schedule.pixels, self.context.device) > left - held:
            raise MemoryError(f"a forward of {schedule.pixels} pixels does not fit the {left} bytes that are allowed")

    def has_better_schedule(self, schedule: Schedule, limits: Limits) -> bool:
        """Whether another schedule has become cheaper for all frames to come: something was compiled."""
        if self._scheduler is None or self.chain.now.compiled is None:
            return False
        self._look_for_compiled()
        return self._scheduler.improves(schedule, self._ready, limits)

    def batch(self, schedule: Schedule, limits: Limits) -> int:
        """How many tiles the next forward gets: what is compiled for the schedule's tiles may take fewer at once."""
        assert self._scheduler is not None
        return min(schedule.batch, self._scheduler.batch(schedule.plan, self._ready, limits))

    def overlap_warning(self, schedule: Schedule) -> str | None:
        """Tells when tiles turned out too small for the overlap that suits the model."""
        return self._scheduler.overlap_warning(schedule.plan) if self._scheduler else None

    def padding(self) -> WrapPadding:
        """What frames are extended by where their edges fit together."""
        overlap = max(self.options.overlap, automatic_overlap(self.info))
        return wrap_padding(self.options.tiling_mode, self.info, overlap)

    def estimated_bytes(self, schedule: Schedule) -> int:
        """What a forward of the schedule is taken to need on the device, weights included."""
        cost = self.chain.now.cost
        return cost.weights + working_bytes(cost, schedule.pixels, self.context.device)

    def does_not_fit(self, what: str) -> OutOfMemoryError:
        """The error for a device that cannot hold even `what`."""
        return OutOfMemoryError(
            f"{self.context.device} has too little memory even for {what} with {self.info.name}; free memory (unload "
            "other models), use a smaller model, or lower the overlap if you set one"
        )

    @contextmanager
    def room_for(self, what: str) -> Iterator[None]:
        """Within it, a lack of memory is our `OutOfMemoryError`: the device cannot hold even `what`."""
        try:
            yield
        except Exception as error:  # torch has several types for it; what is not a lack of memory goes on up
            if isinstance(error, CudaspeedError) or not self.context.is_out_of_memory(error):
                raise
            raise self.does_not_fit(what) from error

    # --- what is learned -------------------------------------------------------------------------------------------

    def after_batch(self, batch: BatchTime, schedule: Schedule, limits: Limits) -> Reschedule | None:
        """Learn from a batch and start a compile that pays; why to change the schedule now, if that is cheaper even
        though the batch's group of frames begins anew."""
        (runner, _, compiled), executor, mode = batch.execution
        eager = mode.backend != "compiled"
        if eager and self.context.device.type in _TELLS_THROUGHPUT:
            self._note_rate(runner.mode, batch.pixels, batch.seconds / batch.pixels * 1e6)
        if compiled is None:
            return None
        compiled.note(executor, batch.pixels, batch.seconds)
        if not eager:
            return None
        self._look_for_compiled()
        assert self._scheduler is not None
        # planning is work: not after every tile for nothing
        if self._ready and self._scheduler.improves(schedule, self._ready, limits, batch.share_left):
            self.context.say("")
            return Reschedule("going on compiled")
        if self.options.compile_mode == "background" or compiled.pays(batch.pixels_left):
            possible = compiled.possible(self._scheduler.tile_to_compile(limits))
            shapes = self._scheduler.worth_compiling(schedule, possible, self._ready, limits)
            if shapes and compiled.start(shapes):
                self.context.say(f"compiling for {shapes} in the background, eager meanwhile")
        return None

    def compiling(self, used: bool) -> str:
        """Where compiling stands, in a few words; `used`: compiled code computed tiles."""
        now = self.chain.now
        if now.compiled:
            return now.compiled.status(used)
        return f"{NOT_NEEDED}: {now.mode.kernels} kernels" if self.options.compile else "off"

    # --- details -----------------------------------------------------------------------------------------------------

    def _chosen(self, choice: Choice) -> ExecutionMode:
        if choice.warning:
            self.notes.append(choice.warning)
        return choice.mode

    def _look_for_compiled(self) -> None:
        compiled = self.chain.now.compiled
        self._ready = compiled.ready() if compiled else {}

    def _new_scheduler(self, workload: Workload, limits: Limits, first: bool) -> Scheduler:
        """For the step that the run stands on. The `first` one may measure the throughput of what is ahead."""
        scheduler = self._scheduler_for(workload, workload.pixels if first else 0)
        self._look_for_compiled()
        seams = self.padding() or scheduler.schedule(self._ready, limits).plan.count > 1
        if self.options.overlap or not seams:
            return scheduler
        # what the model needs at seams is looked up, or measured once, by the model on its device
        step = self.chain.now
        most = None
        if allowed_bytes(self.context.device) is not None:
            free = self._budget(workload, step.cost, self.padding()).free_bytes
            most = (
                affordable_pixels(step.cost, free, "speed", self.context.device) * step.mode.memory_dtype.itemsize // 4
            )
        self.info = with_receptive_field(self.info, self._model, step.runner, self._profile, self.context, most)
        return self._scheduler_for(workload, 0)

    def _scheduler_for(self, workload: Workload, pixels_ahead: int) -> Scheduler:
        (runner, cost, _), context, options = self.chain.now, self.context, self.options
        # the results of batches that are computed ahead, and of those before them, which are on their way out
        cost = with_results(cost, self.info, 2 * self.batches_ahead)
        context.make_resident(runner, working_bytes(cost, math.prod(workload.size), context.device))
        padding = self.padding()
        size = padding.padded_size(workload.size)
        budget = self._budget(workload, cost, padding)
        pictures = min(options.batch_size, workload.frames) * workload.channels.pictures_per_frame
        throughput = UNKNOWN_THROUGHPUT
        if options.level != "memory":
            affordable = affordable_pixels(cost, budget.free_bytes, options.level, context.device)
            throughput = self._throughput(runner, pixels_ahead, min(pictures * math.prod(size), affordable))
        return Scheduler(size, pictures, self.info, options, budget, throughput)

    def _budget(self, workload: Workload, cost: MemoryCost, padding: WrapPadding) -> Budget:
        """What is free for forwards, beside what the run holds."""
        if self.context.device.type == "cpu" and not self.streams:
            held = bytes_of_frame(workload.size, workload.channels, self.info, padding).held + workload.held_bytes
            return Budget(cost, max(0, self.context.free_bytes() - held), self.context.device)
        # on a device that works on its own, beside the frame in work its clamped copy, the one before it and the next
        frames = 4 if self.streams else 1
        if self.streams and workload.channels.has_alpha:
            frames += _TO_BLEED
        free = self.context.free_bytes() - frames * workload.frame_bytes - workload.held_bytes
        made = workload.bytes_to_make_frames(self.info, padding) if self.streams else 0
        on_device = 0 < made <= _SHARE_FOR_FRAMES * free
        return Budget(cost, max(0, free - made * on_device), self.context.device, on_device)

    def _throughput(self, runner: ModelRunner, pixels_ahead: int, most_pixels: int) -> Throughput:
        """The runner's, as known and seen so far; measured where it is unknown and `pixels_ahead` are enough for it."""
        place, record = place_of(runner.mode, self.context.device), self._record
        known = Throughput(tuple(self._profile.known.throughputs.get(place, ())))
        found = known
        if pixels_ahead > 2 * record.probed.get(place, 0):  # else it comes to the same, or the machine is as busy
            probe = ThroughputProbe(runner.forward, self.info, self.context, self.clock)
            found = probe.measure(known, pixels_ahead, most_pixels)
            record.probed[place] = pixels_ahead
        if found != known:
            self._profile.keep(throughputs={**self._profile.known.throughputs, place: found.points})
        seen = record.rates.get(place, {})
        return found.with_points({size: min(times) for size, times in seen.items() if reproduced(times, _ALIKE)})

    def _note_rate(self, mode: ExecutionMode, pixels: int, seconds: float) -> None:
        """A forward of so many pixels took so many seconds a megapixel: for later runs of this process."""
        if not seconds:  # a clock that stands still tells nothing
            return
        place = place_of(mode, self.context.device)
        times = self._record.rates.setdefault(place, {}).setdefault(size_class(pixels), [])
        times[:] = sorted([*times, seconds])[:2]

    def _compile_first(self, scheduler: Scheduler, compiled: CompiledForwards, limits: Limits) -> None:
        """Wait for what would make this run cheapest."""
        compiled.wait(self.context)
        for _ in range(_WAYS_TO_COMPILE):
            self._look_for_compiled()
            schedule = scheduler.schedule(self._ready, limits)
            possible = compiled.possible(scheduler.tile_to_compile(limits))
            shapes = scheduler.worth_compiling(schedule, possible, self._ready, limits)
            if shapes:
                compiled.start(shapes)
                compiled.wait(self.context)  # also where another process was quicker to start it
