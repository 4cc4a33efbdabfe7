"""Makes the schedules of one run: by the mode that it stands on, what is known of its model, and what is free."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from ..api.context import RunContext
from ..api.errors import BadOptionError, OutOfMemoryError
from ..api.memory_use import MemoryUse
from ..api.options import UpscaleOptions
from ..backends.offer import takes_one_size
from ..compile_cache import CompiledForwards
from ..compiling.policy import MOST_SHAPES
from ..devices.backends import has_own_memory
from ..memory import MemoryCost, affordable_pixels, allowed_forward_bytes, free_for, with_results, working_bytes
from ..models.runner import ModelRunner
from ..tiling.pad import WrapPadding
from ..tiling.plan import automatic_overlap
from .engine_memory import engine_memory
from .fallback import FallbackChain, Step
from .known_model import KnownModel
from .memory_use import Setting, memory_use
from .residency import DoesNotFitError, bring
from .revisions import Revisions
from .scheduler import Budget, Compiled, Limits, Schedule, Scheduler, enough_pixels, least_pixels
from .workload import Workload

_AHEAD = {"cuda": 1}  # batches that are computed while an earlier one is looked at
# Frames made of several pictures are made on the device where three of them (the pictures, what becomes of them, the
# frame) take no more than this share of what is free.
_SHARE_FOR_FRAMES = 1 / 4
# What came of a frame's tiles is kept where that takes no more than this share.
_SHARE_FOR_STILL = 1 / 8
_TO_BLEED = 5  # frames that it takes beside one to spread its colours under what is transparent
# What a pixel beyond the picture counts besides being computed, where tiles of one size are all that there is: it is
# lost, while what tiles share makes seams better. So a folder of mixed sizes has few of them
# (docs/backends.md#which-tiles).
BEYOND = 3.0
_UNBOUNDED = 1 << 62  # bytes
_WAYS_TO_COMPILE = 2  # for any size, and where that fails for one


class Reschedule(Exception):  # noqa: N818  # no error
    """The frames in work are better done anew: by a cheaper schedule, in a safer mode, or with more care."""


class _Plan(NamedTuple):
    """`scheduler`, by what a forward takes (`cost`) and the bytes that are free; `most_pixels`: of its forwards."""

    scheduler: Scheduler
    cost: MemoryCost
    most_pixels: int


class ScheduleMaker:
    """Of the run that `chain` belongs to. `batches_ahead`: how many batches are computed while the host looks at an
    earlier one; `most_pixels`: of the largest forward that the workload has use for, once it was scheduled. `streams`:
    the device works on its own. `engine_warning`: why what the engine of the device should compute is not, where that
    is allowed."""

    def __init__(
        self,
        chain: FallbackChain,
        known: KnownModel,
        revisions: Revisions,
        options: UpscaleOptions,
        context: RunContext,
        streams: bool,
    ) -> None:
        self._chain, self._known, self._revisions = chain, known, revisions
        self._options, self._context, self._streams = options, context, streams
        self._scheduler: Scheduler | None = None
        self._scheduled: Step | None = None
        self._workload: Workload | None = None
        self._limits = Limits()
        self._ready: Compiled = {}
        self.batches_ahead = _AHEAD.get(context.device.type, 0)
        self.most_pixels = 0
        self.engine_warning: str | None = None

    def schedule(self, workload: Workload, limits: Limits) -> Schedule:
        """The schedule for `workload` in the mode that the run stands on.

        For a mode that is new to the run its model is brought to the device. For the run's first, and after an error,
        compiling is waited for, if that is asked for; so it is where an engine's device had no room for its tiles.
        Raises `BadOptionError` for a tile or overlap that cannot be, and where the engine that is asked for cannot
        compute the model.
        """
        scheduler, self._limits = self._scheduler, limits
        self._workload = self._workload or workload
        if scheduler is None or self._scheduled is not self._chain.now:
            first = self._scheduled is None
            scheduler = self._new_scheduler(workload)
            waits = self._options.compile_mode == "wait" or self._context.switches.engine
            if first and self._chain.now.compiled and waits:
                self._compile_first(scheduler, self._chain.now.compiled)
            if self._scheduler is None and self._context.switches.engine:  # what is finished is never lost to it
                self._check_engine(self._context.switches.engine, scheduler)
            self._scheduler, self._scheduled = scheduler, self._chain.now
        elif self._context.switches.engine and self._chain.now.compiled and not self._fits(scheduler):
            self._compile_first(scheduler, self._chain.now.compiled)
        self._look_for_compiled()
        return scheduler.schedule(self._ready, limits)

    def start_over(self) -> None:
        """The next schedule is the run's first: what is measured and compiled before a run is, for the mode that it now
        stands on."""
        self._scheduled = None

    def learn_about(self, workload: Workload) -> None:
        """Have the model know what it needs at seams, and `most_pixels`, for a workload that is not computed."""
        self._scheduler_for(workload)
        self._look_at_seams()

    def check_room(self, schedule: Schedule, workload: Workload) -> None:
        """Raise `MemoryError` where a forward of the schedule takes more main memory than this process is allowed,
        beside what `workload` holds. The system would not say that memory ran out, but end the process."""
        device = self._context.device
        left = allowed_forward_bytes(device)
        if left is None:
            return
        held = self._known.bytes_of_frame(workload.size, workload.channels).held + workload.held_bytes
        cost = self._chain.now.cost.enough_for(schedule.pixels, left - held, "speed", device)
        if working_bytes(cost, schedule.pixels, device) > left - held:
            raise MemoryError(f"a forward of {schedule.pixels} pixels does not fit the {left} bytes that are allowed")

    def bytes_needed(self, schedule: Schedule, workload: Workload) -> int:
        """What a forward of one tile of the schedule takes where the model computes, and the frames in work beside."""
        device = self._context.device
        cost = self._chain.now.cost.at_hand(device)
        return working_bytes(cost, schedule.plan.tile_pixels, device) + self._bytes_of_frames(workload)

    def memory_use(self, schedule: Schedule) -> MemoryUse:
        """What all of the run's first workload takes by a schedule."""
        known, workload, runner, device = self._known, self._workload, self._chain.now.runner, self._context.device
        assert workload is not None
        forward, frames = working_bytes(self._cost, schedule.pixels, device), self._bytes_of_frames(workload)
        if schedule.frames_on_device:
            frames += workload.bytes_to_make_frames(known.info, known.padding())
        if schedule.keeps_tiles:
            frames += workload.bytes_to_keep_tiles(known.info, known.padding())
        compiled, shape = self._chain.now.compiled, (1, known.info.in_channels, *schedule.tile)
        held = compiled.bytes_held(shape) if compiled else 0
        setting = Setting(device, self._streams, forward, frames, held)
        return memory_use(known.held(runner), runner, known.info, schedule, workload, setting)

    def batch(self, schedule: Schedule, limits: Limits) -> int:
        """How many tiles the next forward gets: what is compiled for the schedule's tiles may take fewer at once."""
        assert self._scheduler is not None
        if schedule is self._scheduler.schedule(self._ready, limits):
            return schedule.batch
        return min(schedule.batch, self._scheduler.batch(schedule.plan, self._ready, limits))

    def overlap_warning(self, schedule: Schedule) -> str | None:
        """Tells when tiles turned out too small for the overlap that suits the model."""
        return self._scheduler.overlap_warning(schedule.plan) if self._scheduler else None

    @property
    def bound_by_memory(self) -> bool:
        """Whether more free memory might have made another schedule."""
        return self._scheduler is not None and self._scheduler.bound_by_memory

    @property
    def limited(self) -> bool:
        """Whether memory that ran out, in this run or an earlier one, limits forwards."""
        return self._limits.max_pixels is not None

    # --- what is compiled on the way ---------------------------------------------------------------------------------

    def has_better(self, schedule: Schedule, limits: Limits) -> bool:
        """Whether another schedule has become cheaper for all frames to come: something was compiled."""
        if self._scheduler is None or self._chain.now.compiled is None:
            return False
        self._look_for_compiled()
        return self._scheduler.improves(schedule, self._ready, limits)

    def reschedule(self, schedule: Schedule, limits: Limits, share_left: float) -> Reschedule | None:
        """Why to change the schedule now, if that is cheaper even though the frames in work, of whose work so much is
        left, begin anew."""
        self._look_for_compiled()
        assert self._scheduler is not None
        # planning is work: not after every tile for nothing
        if self._ready and self._scheduler.improves(schedule, self._ready, limits, share_left):
            self._context.say("")
            return Reschedule("going on compiled")
        return None

    def start_compile(self, compiled: CompiledForwards, schedule: Schedule, limits: Limits) -> None:
        """In the background, for what would make the run cheapest, if anything would."""
        assert self._scheduler is not None
        possible = self._possible(self._scheduler, compiled, limits)
        shapes = self._scheduler.worth_compiling(schedule, possible, self._ready, limits)
        if shapes and compiled.start(shapes):
            self._context.say(f"compiling for {shapes} in the background, eager meanwhile")

    def _compile_first(self, scheduler: Scheduler, compiled: CompiledForwards) -> None:
        """Wait for what would make this run cheapest; nothing where the model came with a program for its tiles."""
        compiled.wait(self._context)
        if compiled.came_compiled and self._fits(scheduler):
            return
        self._look_for_compiled()
        for _ in range(_WAYS_TO_COMPILE):
            schedule = scheduler.schedule(self._ready, self._limits)
            possible = self._possible(scheduler, compiled, self._limits)
            shapes = scheduler.worth_compiling(schedule, possible, self._ready, self._limits)
            if not shapes:
                return
            compiled.start(shapes)
            compiled.wait(self._context)  # also where another process was quicker to start it
            self._look_for_compiled()
            if shapes in self._ready:
                return

    def _possible(self, scheduler: Scheduler, compiled: CompiledForwards, limits: Limits) -> Compiled:
        """What could be compiled for the tiles of this run."""
        longest = compiled.longest_side(self._overlap)
        return compiled.possible(scheduler.tile_to_compile(limits, compiled.at_once, longest))

    def _fits(self, scheduler: Scheduler) -> bool:
        """Whether what is compiled can be used within the limits: its device's memory may have run out."""
        self._look_for_compiled()
        tile = scheduler.schedule(self._ready, self._limits).tile
        return any(shapes.fit((1, 1, *tile)) for shapes in self._ready)

    def _check_engine(self, name: str, scheduler: Scheduler) -> None:
        """Raise `BadOptionError` where the engine that is asked for has compiled nothing: whoever names a device does
        not mean that torch computes on the CPU in its place, unless that is said, too. Where what it has compiled fits
        no picture of this size, that is told."""
        model = self._known.info.name
        if not self._ready:
            compiled = self._chain.now.compiled
            why = (compiled and compiled.failure()) or "it could not be compiled"
            if not self._options.fallback:
                raise BadOptionError(
                    f"device is {name}, which cannot compute {model}: {why}; "
                    "take cpu, or on the command line --fallback"
                )
            self.engine_warning = f"device is {name}, which cannot compute {model}: {why}; torch computed it on the CPU"
        elif not self._fits(scheduler):
            self.engine_warning = (
                f"device is {name}, and none of the {len(self._ready)} sizes of tiles that {model} is compiled for "
                f"there (at most {MOST_SHAPES} are kept) fits in this picture; torch computed it on the CPU; "
                "`cudaspeed cache clear` makes room for others"
            )

    @property
    def _overlap(self) -> int:
        """Pixels that tiles share."""
        return self._options.overlap or automatic_overlap(self._known.info)

    def _look_for_compiled(self) -> None:
        compiled = self._chain.now.compiled
        self._ready = compiled.ready() if compiled else {}
        self._revisions.look()

    # --- details -----------------------------------------------------------------------------------------------------

    def _new_scheduler(self, workload: Workload) -> Scheduler:
        """For the step that the run stands on."""
        scheduler, known = self._scheduler_for(workload), self._known
        self._look_for_compiled()
        seams = known.padding() or scheduler.schedule(self._ready, self._limits).plan.count > 1
        # what is compiled for one picture in one piece may cut it, and others, into tiles
        seams = seams or takes_one_size(self._context.switches.engine)
        if self._options.overlap or not seams or known.info.receptive_field is not None:
            return scheduler
        self._look_at_seams()
        return self._scheduler_for(workload)

    def _look_at_seams(self) -> None:
        if self._known.look_at_seams(self._chain.now):
            self._revisions.found_out()

    def _scheduler_for(self, workload: Workload) -> Scheduler:
        runner, context = self._chain.now.runner, self._context
        plan = self._plan(workload, context.free_bytes())
        self._bring(runner, plan.cost, math.prod(workload.size))
        # of main memory a copy has taken what it takes, but others may have given way
        if context.device.type != "cpu" or plan.scheduler.bound_by_memory:
            plan = self._plan(workload, context.free_bytes())
        self._cost, self.most_pixels = plan.cost, plan.most_pixels
        return plan.scheduler

    def _bring(self, runner: ModelRunner, cost: MemoryCost, pixels: int) -> None:
        """The model to the device, with room for a forward of so many input pixels, if there can be. What is compiled
        knows where weights lie, and is left out where they come and go."""
        wanted, least = (
            working_bytes(cost, some, self._context.device)
            for some in (pixels, min(pixels, least_pixels(self._known.info)))
        )
        try:
            bring(self._context, runner, wanted, least)
        except DoesNotFitError as error:
            raise OutOfMemoryError(str(error)) from error
        if runner.offload is not None:
            self._chain.leave_out_compiled()

    def _plan(self, workload: Workload, free: int) -> _Plan:
        """For so many `free` bytes, of which more than enough are as good as enough; mostly that of the run before."""
        (runner, costs, compiled), known, device = self._chain.now, self._known, self._context.device
        held = known.bytes_of_frame(workload.size, workload.channels).held + workload.held_bytes
        memory = engine_memory(self._chain.now, self._context.switches.engine)
        tile_pixels = memory.tile_pixels(self._options.level) if memory else None
        throughput, padding, rough = known.throughput(runner.mode), known.padding(), costs.at_hand(device)
        size, level = padding.padded_size(workload.size), self._options.level
        pictures = min(self._options.batch_size, workload.frames) * workload.channels.pictures_per_frame
        pixels = pictures * math.prod(size)

        def enough() -> int:
            most = enough_pixels(size, pictures, known.info, self._options)
            kept = workload.bytes_to_keep_tiles(known.info, padding)
            otherwise = device.type != "cpu" or self._streams or compiled  # what is compiled may be for larger tiles
            if most is None or otherwise:
                return _UNBOUNDED
            return max(free_for(rough, most, level, device) + kept, int(kept / _SHARE_FOR_STILL)) + held

        def plan() -> _Plan:
            exact_or_rough = costs.enough_for(pixels, available - held, level, device)
            # the results of batches that are computed ahead, and of those before them, which are on their way out
            cost = with_results(exact_or_rough, known.info, 2 * self.batches_ahead)
            budget = replace(self._budget(workload, cost, padding, available), tile_pixels=tile_pixels, beyond=beyond)
            most = affordable_pixels(cost, budget.free_bytes, level, device)
            scheduler = Scheduler(size, pictures, known.info, self._options, budget, throughput)
            return _Plan(scheduler, cost, min(pixels, most))

        beyond = BEYOND if takes_one_size(self._context.switches.engine) else 0.0
        way = runner.mode, device, self._streams, compiled is not None, beyond
        depends_on = workload, self._options, known.info, throughput, rough, held, padding, way, tile_pixels
        available = min(free, known.record.while_the_same("enough memory", depends_on, enough))
        return known.record.while_the_same("plan", (available, depends_on), plan)

    def _budget(self, workload: Workload, cost: MemoryCost, padding: WrapPadding, free: int) -> Budget:
        """What is left of `free` bytes for forwards, beside what the run holds."""
        free -= self._bytes_of_frames(workload) + workload.held_bytes
        kept = workload.bytes_to_keep_tiles(self._known.info, padding)
        keeps = 0 < kept <= _SHARE_FOR_STILL * free
        free -= kept * keeps
        if self._context.device.type == "cpu" and not self._streams:
            return Budget(cost, max(0, free), self._context.device, keeps_tiles=keeps)
        made = workload.bytes_to_make_frames(self._known.info, padding) if self._streams else 0
        on_device = 0 < made <= _SHARE_FOR_FRAMES * free
        return Budget(cost, max(0, free - made * on_device), self._context.device, on_device, keeps)

    def _bytes_of_frames(self, workload: Workload) -> int:
        """What the frames in work take where the model computes, unless they are made there."""
        in_main_memory = self._known.bytes_of_frame(workload.size, workload.channels).held
        if self._context.device.type == "cpu" and not self._streams:
            return in_main_memory
        if not self._streams and not has_own_memory(self._context.device):
            return in_main_memory + workload.frame_bytes
        # on a device that works on its own, beside the frame in work its clamped copy, the one before it and the next
        frames = 4 if self._streams else 1
        if self._streams and workload.channels.has_alpha:
            frames += _TO_BLEED
        return frames * workload.frame_bytes
