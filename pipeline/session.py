"""One run's hold on a model: in which mode it computes, by which schedule, and what is learned from it on the way."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import TracebackType

from spandrel import ImageModelDescriptor

from ..api.context import RunContext
from ..api.errors import CudaspeedError, ModelFailedError, OutOfMemoryError, first_line
from ..api.memory_use import MemoryUse
from ..api.model_info import ModelInfo
from ..api.options import UpscaleOptions
from ..api.report import NOT_NEEDED
from ..compile_cache import CompiledForwards
from ..images.channels import ChannelPlan
from ..memory import (
    MemoryCost,
    affordable_pixels,
    allowed_bytes,
    pixels_within,
    weights_bytes,
    with_results,
    working_bytes,
)
from ..models.execution import ExecutionMode
from ..models.info import model_info
from ..models.known_fields import known_receptive_field
from ..models.known_throughput import known_throughput
from ..models.precision import Choice, usual_mode
from ..models.receptive_field import UNMEASURABLE, ReceptiveField, measurable
from ..models.receptive_field import study as study_of_the_field
from ..models.runner import ModelRunner
from ..models.study import Study
from ..models.throughput import UNKNOWN_THROUGHPUT, Throughput
from ..models.throughput import study as study_of_the_throughput
from ..storage.fingerprint import describe_environment
from ..storage.profiles import Account
from ..tiling.pad import WrapPadding, wrap_padding
from ..tiling.plan import automatic_overlap
from .fallback import Execution, FallbackChain, Step, StepMaker
from .learned_peaks import PeakLearning
from .memory_use import Setting, held_by_model, memory_use
from .modes import ModeChooser, Piece, place_of
from .observations import ModelObservations
from .residency import DoesNotFitError, bring, told_of
from .scheduler import Budget, Compiled, Limits, Schedule, Scheduler, least_pixels
from .session_cache import MemoryLimit, SessionCache
from .streams import stream_device
from .studies import StudyRunner
from .workload import FrameBytes, Workload, bytes_of_frame

_AHEAD = {"cuda": 1}  # batches that are computed while an earlier one is looked at
# Frames made of several pictures are made on the device where three of them (the pictures, what becomes of them, the
# frame) take no more than this share of what is free.
_SHARE_FOR_FRAMES = 1 / 4
_TO_BLEED = 5  # frames that it takes beside one to spread its colours under what is transparent
_LARGEST_REPRODUCIBLE = 512  # side of tiles, in pixels, where free memory is not to decide
_MUCH_MORE = 2.0  # times what was free when memory ran out: what was found out then says nothing now
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

    `info` is what is known of the model, `chain` where the run stands, `notes` what the user is to be told of that;
    `revisions` are the profile's while it runs, the first and every one after it. `observations` are what the process
    has seen of the model, `peaks` what is learned of its forwards' memory. `streams` is the device as one that works on
    its own; None where it does not. `batches_ahead`: how many batches are computed while the host looks at an earlier
    one. A `thorough` one spends whatever it takes to find something out.
    """

    chain: FallbackChain

    def __init__(
        self,
        model: ImageModelDescriptor,
        options: UpscaleOptions,
        context: RunContext,
        shared: SessionCache,
        thorough: bool = False,
    ) -> None:
        options = _reproducible(options) if options.reproducible else options
        self._model, self.options, self.context, self._shared = model, options, context, shared
        self._profile, self._record = shared.profile(model, context), shared.record(model)
        self._studies = StudyRunner(model, context, shared, thorough)
        self._modes = ModeChooser(model, options, context, shared, self._studies)
        self.info, self.clock = model_info(model), shared.clock
        self._steps = StepMaker(model, self.info, options, context, shared)
        self.peaks = PeakLearning(self._profile, context.device)
        self._scheduler: Scheduler | None = None
        self._scheduled: Step | None = None
        self._pixels, self._most_pixels, self._work = 0, 0, Account()
        self._workload: Workload | None = None
        self._later: list[Study] = []
        self._failures: list[tuple[ExecutionMode, ModelFailedError]] = []
        self._ready: Compiled = {}
        self._noted: list[str] = []
        self.revisions: list[int] = []
        self._limited = False
        self.observations = ModelObservations() if options.reproducible else self._record.observations
        self.streams = stream_device(context.device) if context.switches.pinned_memory else None
        self.batches_ahead = _AHEAD.get(context.device.type, 0)
        self.notes: list[str] = []

    def __enter__(self) -> Session:
        self._standing_back = self._shared.learner.standing_back(self.context.raise_if_interrupted)
        self._standing_back.__enter__()
        self.peaks.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if hasattr(self, "chain"):
                self._keep_what_was_learned(well=kind is None)
        finally:
            self.peaks.__exit__()
            self._standing_back.__exit__(None, None, None)
        if kind is None and self.context.device.type == "cpu":
            self._shared.learner.wake()

    def start(self, pixels: int, piece: Piece) -> None:
        """Choose the mode for a run of so many `pixels`, of whose first picture there is a `piece`. Raises what the
        model raises in fp32, and `OutOfMemoryError` where it does not fit the device."""
        self.choose(pixels, piece)
        self.revisions = [self._modes.keep_choice(self.chain.now.mode, self._noted)]
        if not self.options.reproducible:
            self.peaks.start(pixels)

    def choose(self, pixels: int, piece: Piece) -> None:
        """As `start`, of which nothing is noted."""
        self._pixels = pixels
        with self.room_for("the model and a tiny picture"):
            left = allowed_bytes(self.context.device)
            if left is not None and weights_bytes(self._model.model) > left:
                raise MemoryError(f"a copy of the model takes more than the {left} bytes that are allowed")
            self.chain = self._first_chain(self._chosen(self._modes.choose(pixels, piece)))
        compiled = self.chain.now.compiled
        self._noted = compiled.told() if compiled else []

    def _first_chain(self, mode: ExecutionMode) -> FallbackChain:
        """From `mode`, or from one that a copy of the model can be made in."""
        while True:
            try:
                return FallbackChain(mode, self._modes, self._steps)
            except Exception as raised:  # a network may fail in any way in another layout, or with other modules
                if isinstance(raised, CudaspeedError) or self.context.is_out_of_memory(raised):
                    raise
                error = ModelFailedError(f"{self.info.name} cannot be copied for {mode}: {first_line(raised)}")
                self._failures.append((mode, error))
                mode = self._chosen(self._modes.after_failure(mode, error))

    def fall_back_after(self, error: ModelFailedError) -> None:
        """Go on without the mode that failed on a picture with `error`. Raises `error` where nothing is left."""
        failed = self.chain.now.mode
        with self.room_for("the model and a tiny picture"):
            self.chain.restart(self._chosen(self._modes.after_failure(failed, error)))
        self._failures.append((failed, error))
        self._scheduled = None  # what is measured and compiled before a run is, for this mode

    # --- schedules ---------------------------------------------------------------------------------------------------

    def schedule(self, workload: Workload, limits: Limits) -> Schedule:
        """The schedule for `workload` in the mode that the run stands on.

        For a mode that is new to the run its model is brought to the device. For the run's first, and after an error,
        compiling is waited for, if that is asked for. Raises `BadOptionError` for a tile or overlap that cannot be.
        """
        scheduler = self._scheduler
        self._workload = self._workload or workload
        if scheduler is None or self._scheduled is not self.chain.now:
            first = self._scheduled is None
            scheduler = self._new_scheduler(workload, limits)
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
        held = self.bytes_of_frame(workload.size, workload.channels).held + workload.held_bytes
        cost = self.chain.now.cost.enough_for(schedule.pixels, left - held, "speed", self.context.device)
        if working_bytes(cost, schedule.pixels, self.context.device) > left - held:
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

    def bytes_of_frame(self, size: tuple[int, int], channels: ChannelPlan) -> FrameBytes:
        """What a frame of `size` (height, width) takes where main memory is computed in."""
        whole = bool(self.options.resize) and self.observations.defer_clamp
        return bytes_of_frame(size, channels, self.info, self.padding(), whole)

    def memory_use(self, schedule: Schedule) -> MemoryUse:
        """What all of the run's first workload takes by a schedule."""
        context, workload, runner = self.context, self._workload, self.chain.now.runner
        assert workload is not None
        held = self._record.once(("held", runner.mode), lambda: held_by_model(self._model, runner, context.device))
        forward, frames = working_bytes(self._cost, schedule.pixels, context.device), self._bytes_of_frames(workload)
        if schedule.frames_on_device:
            frames += workload.bytes_to_make_frames(self.info, self.padding())
        setting = Setting(context.device, self.streams is not None, forward, frames)
        return memory_use(held, runner, self.info, schedule, workload, setting)

    def does_not_fit(self, what: str, pixels: int = 0) -> OutOfMemoryError:
        """The error for a device that cannot hold even `what`, which takes a forward of so many input pixels."""
        device, numbers = self.context.device, ""
        if pixels and hasattr(self, "chain"):
            needed = working_bytes(self.chain.now.cost.at_hand(device), pixels, device)
            numbers = (
                f": about {needed / 2**20:.0f} MiB are needed and {self.context.free_bytes() / 2**20:.0f} are free"
            )
        return OutOfMemoryError(
            f"{device} has too little memory even for {what} with {self.info.name}{numbers}; free memory (unload other "
            "models), use a smaller model, set precision to fp16 or bf16, or lower overlap or batch_size if you set it"
        )

    def limits(self) -> Limits:
        """What an earlier run of this session found out about the device's memory, for this one."""
        device, reproducible = self.context.device, self.options.reproducible
        known = self._shared.memory_limits.get(str(device))
        if known is None or reproducible or self.context.free_bytes() > _MUCH_MORE * known.free:
            return Limits()
        self._limited = True
        return Limits(max_pixels=pixels_within(self.chain.now.cost.at_hand(device), known.working, device))

    def remember_limit(self, pixels: int) -> None:
        """Forwards of more input pixels than that ran out of memory; kept in bytes, since other models and precisions
        need more or less."""
        device = self.context.device
        working = working_bytes(self.chain.now.cost.at_hand(device), pixels, device)
        self._shared.memory_limits[str(device)] = MemoryLimit(working, self.context.free_bytes())
        self._limited = True

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
        (_, _, compiled), executor, mode = batch.execution
        eager = mode.backend != "compiled"
        self._work += Account(work_pixels=batch.pixels, work_seconds=max(0.0, batch.seconds))
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

    def told_profile(self) -> str:
        """What was known when the run began, and what came on the way: for the report."""
        revisions = dict.fromkeys([*self.revisions, *self.chain.revised])
        told = f"rev {' to '.join(map(str, revisions))}"
        bound = self._limited or (self._scheduler and self._scheduler.bound_by_memory)
        return f"{told}, tiles as memory allowed" if bound else told

    def compiling(self, used: bool) -> str:
        """Where compiling stands, in a few words; `used`: compiled code computed tiles."""
        now = self.chain.now
        if now.compiled:
            return now.compiled.status(used)
        if now.runner.offload is not None:
            return f"{NOT_NEEDED}: weights come layer by layer" if self.options.compile else "off"
        return f"{NOT_NEEDED}: {now.mode.kernels} kernels" if self.options.compile else "off"

    def _keep_what_was_learned(self, well: bool) -> None:
        """What the run took, what it saw of compiled code, and, if it went `well`, in what modes it could not be
        computed; and what later runs would like to know."""
        self.chain.save()
        self._profile.spend(describe_environment(self.context.device)["hardware"], self._work)
        for failed, error in self._failures if well else ():
            self._modes.remember_failure(failed, error)
        if well:
            bound = self._scheduler is not None and self._scheduler.bound_by_memory
            by_memory = bound and not self._limited and not self.options.reproducible
            self.peaks.keep(self._work.work_seconds, self.chain.now, by_memory)
        self._shared.flush_now_and_then()
        if well and not self.options.reproducible:
            model, context, shared = self._model, self.context, self._shared
            place = f"{self._profile.content} on {context.device}, in {context.cache_folder}"
            alone = context.device.type == "cpu"
            subject = shared.learner.subject(model.model, place, lambda: StudyRunner(model, context, shared), alone)
            subject.offer(self._studies_left(), self._work.work_pixels)
            if self.context.device.type != "cpu":  # the host's other nodes have it next
                subject.work_off(self._studies.spent)

    def find_out_all(self, workload: Workload) -> None:
        """Make all studies, now, for pictures of this kind."""
        self._scheduler_for(workload)
        self.info = self._with_receptive_field()
        for study in self._studies_left():
            self.context.say("finding out what suits the model on this machine")
            self._studies.run(study)
            self._studies.release()
        self.context.say("")
        self._modes.studies, self._later = [], []

    def _studies_left(self) -> list[Study]:
        """What this run would have liked to know, as far as it fits the memory that this process is allowed. Where not
        even the model fits, nothing."""
        if self.chain.now.runner.offload is not None:
            return []
        return [
            study for study in (*self._modes.studies, *self._later, *self._throughput_studies()) if self._fits(study)
        ]

    def _throughput_studies(self) -> list[Study]:
        """At the sizes that forwards of these runs can have, as far as what was done repays it."""
        mode, device = self.chain.now.mode, self.context.device
        if self.options.level == "memory" or mode.backend != "eager":
            return []
        place = place_of(mode, device)
        known = Throughput(tuple(self._profile.known.throughputs.get(place, ())))
        allowed = self._studies.allowed_pixels()
        found = study_of_the_throughput(mode, self.info, place, known, self._most_pixels, allowed)
        return [found] if found else []

    # --- details -----------------------------------------------------------------------------------------------------

    def _fits(self, study: Study) -> bool:
        """Whether a forward of all its pixels would fit what this process is allowed of main memory, where that is
        limited: beyond it nothing is told, but the process ended."""
        left = allowed_bytes(self.context.device)
        cost = self.chain.now.cost.exact if left is not None else None
        return left is None or cost is None or working_bytes(cost, study.pixels, self.context.device) <= left

    def _chosen(self, choice: Choice) -> ExecutionMode:
        if choice.warning:
            self.notes.append(choice.warning)
        return choice.mode

    def _look_for_compiled(self) -> None:
        """What is ready now; where that is other than before, it is another revision of what is known."""
        compiled = self.chain.now.compiled
        self._ready = compiled.ready() if compiled else {}
        noted = compiled.told() if compiled else []
        if noted != self._noted:
            self._noted = noted
            self.revisions.append(self._modes.keep_choice(self.chain.now.mode, noted))

    def _new_scheduler(self, workload: Workload, limits: Limits) -> Scheduler:
        """For the step that the run stands on."""
        scheduler = self._scheduler_for(workload)
        self._look_for_compiled()
        seams = self.padding() or scheduler.schedule(self._ready, limits).plan.count > 1
        if self.options.overlap or not seams or self.info.receptive_field is not None:
            return scheduler
        self.info = self._with_receptive_field()
        return self._scheduler_for(workload)

    def _with_receptive_field(self) -> ModelInfo:
        """What is known of the model, with what it needs at seams: as measured, once in its life, or, until then, by
        its architecture. What is neither is measured now where that is little beside the run."""
        known = self._profile.known
        if known.receptive_field is not None and not self.options.reproducible:
            found = ReceptiveField(known.receptive_field, known.unbounded)
        else:
            found = self._record.once("receptive field", lambda: known_receptive_field(self._model))
            if not self.options.reproducible and not known.trials.get(UNMEASURABLE) and measurable(self.info):
                found = self._measured_or(found)
        if found is None:
            return self.info
        unbounded = self.info.global_context or found.unbounded
        return replace(self.info, receptive_field=found.pixels, global_context=unbounded)

    def _measured_or(self, found: ReceptiveField | None) -> ReceptiveField | None:
        """The receptive field that is `found` already, else measured now, if the run can bear that; what it cannot is
        left for later."""
        mode = self.chain.now.mode
        exact = mode if mode.precision == "fp32" else usual_mode("fp32", False, self._model)
        study = study_of_the_field(self.info, exact)
        if found or not (self._studies.affordable(study, self._pixels) and self._fits(study)):
            self._later.append(study)
            return found
        self.context.say("measuring how much tiles must overlap, once for this model")
        self._studies.run(study)
        self._studies.release()
        self.context.say("")
        known = self._profile.known
        self.revisions[-1] = known.revision
        return None if known.receptive_field is None else ReceptiveField(known.receptive_field, known.unbounded)

    def _scheduler_for(self, workload: Workload) -> Scheduler:
        (runner, costs, _), context, options = self.chain.now, self.context, self.options
        padding = self.padding()
        size = padding.padded_size(workload.size)
        pictures = min(options.batch_size, workload.frames) * workload.channels.pictures_per_frame
        pixels = pictures * math.prod(size)
        free = context.free_bytes() - self.bytes_of_frame(workload.size, workload.channels).held
        exact_or_bound = costs.enough_for(pixels, free - workload.held_bytes, options.level, context.device)
        # the results of batches that are computed ahead, and of those before them, which are on their way out
        self._cost = with_results(exact_or_bound, self.info, 2 * self.batches_ahead)
        self._bring(runner, math.prod(workload.size))
        budget = self._budget(workload, self._cost, padding)
        self._most_pixels = min(pixels, affordable_pixels(self._cost, budget.free_bytes, options.level, context.device))
        known = UNKNOWN_THROUGHPUT if options.level == "memory" else self._throughput(runner.mode)
        return Scheduler(size, pictures, self.info, options, budget, known)

    def _bring(self, runner: ModelRunner, pixels: int) -> None:
        """The model to the device, with room for a forward of so many input pixels, if there can be; what came of it is
        noted. What is compiled knows where weights lie, and is left out where they come and go."""
        wanted, least = (
            working_bytes(self._cost, some, self.context.device)
            for some in (pixels, min(pixels, least_pixels(self.info)))
        )
        try:
            bring(self.context, runner, wanted, least)
        except DoesNotFitError as error:
            raise OutOfMemoryError(str(error)) from error
        told = told_of(self.context, runner)
        if told:
            self.chain.leave_out_compiled()
            self.notes += [] if told in self.notes else [told]

    def _budget(self, workload: Workload, cost: MemoryCost, padding: WrapPadding) -> Budget:
        """What is free for forwards, beside what the run holds."""
        free = self.context.free_bytes() - self._bytes_of_frames(workload) - workload.held_bytes
        if self.context.device.type == "cpu" and not self.streams:
            return Budget(cost, max(0, free), self.context.device)
        made = workload.bytes_to_make_frames(self.info, padding) if self.streams else 0
        on_device = 0 < made <= _SHARE_FOR_FRAMES * free
        return Budget(cost, max(0, free - made * on_device), self.context.device, on_device)

    def _bytes_of_frames(self, workload: Workload) -> int:
        """What the frames in work take where the model computes, unless they are made there."""
        if self.context.device.type == "cpu" and not self.streams:
            return self.bytes_of_frame(workload.size, workload.channels).held
        # on a device that works on its own, beside the frame in work its clamped copy, the one before it and the next
        frames = 4 if self.streams else 1
        if self.streams and workload.channels.has_alpha:
            frames += _TO_BLEED
        return frames * workload.frame_bytes

    def _throughput(self, mode: ExecutionMode) -> Throughput:
        """What is known of the throughput in `mode`."""
        if self.options.reproducible:
            return UNKNOWN_THROUGHPUT
        measured = Throughput(tuple(self._profile.known.throughputs.get(place_of(mode, self.context.device), ())))
        if self.context.device.type != "cpu":
            return measured
        size = mode.memory_dtype.itemsize
        known = self._record.once(("throughput", size), lambda: known_throughput(self._model, size))
        return measured.held_to(known) if measured.settled else known

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


def _reproducible(options: UpscaleOptions) -> UpscaleOptions:
    """With nothing in them whose outcome depends on time or on free memory."""
    precision = "fp32" if options.precision == "auto" else options.precision
    return replace(options, precision=precision, compile=False, tile=options.tile or _LARGEST_REPRODUCIBLE)
