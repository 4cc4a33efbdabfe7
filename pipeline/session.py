"""One run's hold on a model: in which mode it computes, and what is learned on the way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import TracebackType

from spandrel import ImageModelDescriptor

from ..api.context import RunContext
from ..api.errors import BadOptionError, CudaspeedError, ModelFailedError, first_line
from ..api.options import UpscaleOptions
from ..api.report import NOT_NEEDED
from ..backends.offer import check_compiler, check_device
from ..devices.peak_rates import peak_rate_of
from ..models.execution import ExecutionMode
from ..models.exported import exported_of
from ..models.precision import Choice
from ..models.study import Study
from ..storage.fingerprint import describe_environment
from ..storage.profiles import Account
from .achieved import ACHIEVED
from .engine_memory import engine_memory
from .fallback import Execution, FallbackChain, StepMaker
from .known_model import KnownModel
from .learned_peaks import PeakLearning
from .modes import ModeChooser, Piece
from .parted import PartOfRun
from .revisions import Revisions
from .room import Room
from .schedule_maker import Reschedule, ScheduleMaker
from .scheduler import Limits, Schedule, least_pixels
from .session_cache import SessionCache
from .streams import stream_device
from .studies import StudyRunner
from .workload import Workload

_LARGEST_REPRODUCIBLE = 512  # side of tiles, in pixels, where free memory is not to decide


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

    `known` is what is known of the model, `room` the device's memory, `notes` what the user is to be told; from `start`
    on, `chain` is where the run stands, `schedules` makes its schedules, and `revisions` are the profile's. `peaks` is
    what is learned of its forwards' memory. `streams` is the device as one that works on its own; None where it does
    not. As a `part` of a run it decides as the others do, for all of it. A `thorough` one spends whatever it takes to
    find something out.
    """

    chain: FallbackChain
    schedules: ScheduleMaker
    revisions: Revisions

    def __init__(
        self,
        model: ImageModelDescriptor,
        options: UpscaleOptions,
        context: RunContext,
        shared: SessionCache,
        part: PartOfRun | None = None,
        thorough: bool = False,
    ) -> None:
        options = _reproducible(options) if options.reproducible else options
        if context.switches.engine:
            _check_engine(context.switches.engine, options, came_compiled=exported_of(model.model) is not None)
        self._model, self.options, self.context, self._shared = model, options, context, shared
        self._profile, self.clock = shared.profile(model, context), shared.clock
        self._studies = StudyRunner(model, context, shared, thorough)
        self._modes = ModeChooser(model, options, context, shared, self._studies)
        self.known = KnownModel(model, options, context, shared, self._studies)
        self.room = Room(self.known.info.name, options, context, shared)
        self.peaks = PeakLearning(self._profile, context.device, shared.record(model).met)
        self.streams = stream_device(context.device) if context.switches.pinned_memory else None
        self._part = part or PartOfRun()
        self._kind = describe_environment(context.device)["hardware"]
        self._work = Account()
        self._failures: list[tuple[ExecutionMode, ModelFailedError]] = []
        self.notes: list[str] = []

    def __enter__(self) -> Session:
        self._standing_back = self._shared.learner.standing_back(self.context.raise_if_interrupted)
        self._standing_back.__enter__()
        self.peaks.__enter__()
        self._shared.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if hasattr(self, "chain"):
                self._keep_what_was_learned(well=kind is None)
        finally:
            self.room.give_back()
            self.peaks.__exit__()
            self._standing_back.__exit__(None, None, None)
            self._shared.end()
        if kind is None and self.context.device.type == "cpu":
            self._shared.learner.wake()

    def start(self, pixels: int, piece: Piece) -> None:
        """Choose the mode for a run of so many `pixels`, of whose first picture there is a `piece`. Raises what the
        model raises in fp32, and `OutOfMemoryError` where it does not fit the device."""
        self.choose(pixels, piece)
        self.revisions.begin()
        if self.context.alone and not self.options.reproducible:
            self.peaks.start(pixels)

    def choose(self, pixels: int, piece: Piece) -> None:
        """As `start`, of which nothing is noted."""
        pixels += self._part.pixels_after
        self.known.run_pixels = pixels
        with self.room.needed_for("the model and a tiny picture"):
            self.room.check_copy(self._model.model)
            choice = self._part.modes.first(self._kind, self._modes.choose(pixels, piece))
            chain = self._first_chain(self._chosen(choice))
            memory = engine_memory(chain.now, self.context.switches.engine)
            if memory and not self.options.fallback:  # before it compiles for a minute
                self.room.check_engine(memory, min(pixels, least_pixels(self.known.info)))
        self.revisions = Revisions(chain, self._modes, self._profile)
        streams = self.streams is not None
        self.schedules = ScheduleMaker(chain, self.known, self.revisions, self.options, self.context, streams)
        self.chain = chain

    def fall_back_after(self, error: ModelFailedError) -> None:
        """Go on without the mode that failed on a picture with `error`. Raises `error` where nothing is left."""
        failed = self.chain.now.mode
        with self.room.needed_for("the model and a tiny picture"):
            self.chain.restart(self._chosen(self._modes.after_failure(failed, error)))
        self._failures.append((failed, error))
        self.schedules.start_over()

    def after_batch(self, batch: BatchTime, schedule: Schedule, limits: Limits) -> Reschedule | None:
        """Learn from a batch and start a compile that pays; why to change the schedule now, if that is cheaper even
        though the batch's group of frames begins anew."""
        (_, _, compiled), executor, mode = batch.execution
        self._work += Account(work_pixels=batch.pixels, work_seconds=max(0.0, batch.seconds))
        self._note_share_of_peak(batch, mode)
        if compiled is None:
            return None
        compiled.note(executor, batch.pixels, batch.seconds)
        if mode.backend == "compiled":
            return None
        change = self.schedules.reschedule(schedule, limits, batch.share_left)
        left = batch.pixels_left + self._part.pixels_after
        if not change and (self.options.compile_mode == "background" or compiled.pays(left)):
            self.schedules.start_compile(compiled, schedule, limits)
        return change

    def find_out_all(self, workload: Workload) -> None:
        """Make all studies, now, for pictures of this kind."""
        self.schedules.learn_about(workload)
        for study in self._studies_left():
            self.context.say("finding out what suits the model on this machine")
            self._studies.run(study)
            self._studies.release()
        self.context.say("")
        self._modes.studies, self.known.later = [], []

    def told_profile(self) -> str:
        """What was known when the run began, and what came on the way: for the report."""
        bound = self.schedules.limited or self.schedules.bound_by_memory
        return self.revisions.in_words() + ", tiles as memory allowed" * bound

    def compiling(self, used: bool) -> str:
        """Where compiling stands, in a few words; `used`: compiled code computed tiles."""
        now = self.chain.now
        if now.compiled:
            return now.compiled.status(used)
        if now.runner.offload is not None:
            return f"{NOT_NEEDED}: weights come layer by layer" if self.options.compile else "off"
        return f"{NOT_NEEDED}: {now.mode.kernels} kernels" if self.options.compile else "off"

    @property
    def compiled_shapes(self) -> int:
        """For how many shapes of tiles the model is compiled."""
        compiled = self.chain.now.compiled
        return len(compiled.ready()) if compiled else 0

    # --- details -----------------------------------------------------------------------------------------------------

    def _note_share_of_peak(self, batch: BatchTime, mode: ExecutionMode) -> None:
        peak = peak_rate_of(self.context.device, mode.precision)
        operations = self.known.operations if peak else None
        if peak and operations and not self.context.switches.engine:
            ACHIEVED.note(self.context.device, batch.pixels * operations / peak, batch.seconds)

    def _first_chain(self, mode: ExecutionMode) -> FallbackChain:
        """From `mode`, or from one that a copy of the model can be made in."""
        steps = StepMaker(self._model, self.known.info, self.options, self.context, self._shared)
        while True:
            try:
                return FallbackChain(mode, self._modes, steps)
            except Exception as raised:  # a network may fail in any way in another layout, or with other modules
                self.context.raise_if_interrupted()
                if isinstance(raised, CudaspeedError) or self.context.is_out_of_memory(raised):
                    raise
                error = ModelFailedError(f"{self.known.info.name} cannot be copied for {mode}: {first_line(raised)}")
                self._failures.append((mode, error))
                mode = self._chosen(self._modes.after_failure(mode, error))

    def _chosen(self, choice: Choice) -> ExecutionMode:
        if choice.warning:
            self.notes.append(choice.warning)
        return choice.mode

    def _keep_what_was_learned(self, well: bool) -> None:
        """What the run took, what it saw of compiled code, and, if it went `well`, in what modes it could not be
        computed; and what later runs would like to know."""
        self.chain.save()
        self._profile.spend(self._kind, self._work)
        if self._failures or self.chain.given_up:
            self._part.modes.forget(self._kind)
        for failed, error in self._failures if well else ():
            self._modes.remember_failure(failed, error)
        if well:
            bound = self.schedules.bound_by_memory and not self.schedules.limited
            self.peaks.keep(self._work.work_seconds, self.chain.now, bound and not self.options.reproducible)
            self._look_for_faster_code()
        self._shared.flush_now_and_then()
        if well and not self.options.reproducible:
            model, context, shared = self._model, self.context, self._shared
            place = f"{self._profile.content} on {context.device}, in {context.cache_folder}"
            alone = context.device.type == "cpu"
            subject = shared.learner.subject(model.model, place, lambda: StudyRunner(model, context, shared), alone)
            subject.offer(self._studies_left(), self._work.work_pixels)
            if not alone:  # the host's other nodes have it next
                subject.work_off(self._studies.spent)

    def _look_for_faster_code(self) -> None:
        """Where it is not known whether there is any, and the work that was done is enough for it."""
        compiled = self.chain.now.compiled
        seconds = compiled.look_again(self._studies.allowed_seconds()) if compiled else 0.0
        if seconds:
            self._profile.spend(self._kind, Account(learning_seconds=seconds))

    def _studies_left(self) -> list[Study]:
        """What this run would have liked to know, as far as it fits the memory that this process is allowed. Where not
        even the model fits, nothing."""
        if self.chain.now.runner.offload is not None:
            return []
        now, device = self.chain.now, self.context.device
        throughput = self.known.study_of_the_throughput(now.mode, self.schedules.most_pixels)
        studies = [*self._modes.studies, *self.known.later, *([throughput] if throughput else [])]
        return [study for study in studies if now.cost.is_allowed(study.pixels, device)]


def _check_engine(name: str, options: UpscaleOptions, came_compiled: bool) -> None:
    """Raise `BadOptionError` where a run cannot be computed by the engine that is asked for; a model that came with a
    program need not be compiled."""
    check_device(name)
    if not came_compiled:
        check_compiler(name)
    if not options.compile:
        raise BadOptionError(f"device is {name}, which computes what is compiled: let it compile, and not reproducibly")


def _reproducible(options: UpscaleOptions) -> UpscaleOptions:
    """With nothing in them whose outcome depends on time or on free memory."""
    precision = "fp32" if options.precision == "auto" else options.precision
    return replace(options, precision=precision, compile=False, tile=options.tile or _LARGEST_REPRODUCIBLE)
