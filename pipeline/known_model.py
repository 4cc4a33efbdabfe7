"""What one run knows of its model, as far as schedules and memory depend on it, and what it would like to know."""

from __future__ import annotations

from dataclasses import replace

from spandrel import ImageModelDescriptor

from ..api.context import RunContext
from ..api.memory_use import MemoryUse
from ..api.model_info import Forward, ModelInfo
from ..api.options import UpscaleOptions
from ..images.channels import ChannelPlan
from ..models.execution import ExecutionMode
from ..models.info import model_info
from ..models.known_fields import known_receptive_field
from ..models.known_throughput import known_throughput
from ..models.operations import operations_per_pixel
from ..models.precision import usual_mode
from ..models.reach import counted_reach, reaches_no_further
from ..models.receptive_field import UNMEASURABLE, ReceptiveField, measurable
from ..models.receptive_field import study as study_of_the_field
from ..models.runner import ModelRunner
from ..models.study import Study
from ..models.throughput import UNKNOWN_THROUGHPUT, Throughput
from ..models.throughput import study as study_of_the_throughput
from ..tiling.pad import WrapPadding, wrap_padding
from ..tiling.plan import automatic_overlap
from .fallback import Step
from .memory_use import held_by_model
from .modes import place_of
from .observations import ModelObservations
from .session_cache import SessionCache
from .studies import StudyRunner
from .workload import FrameBytes, bytes_of_frame


class KnownModel:
    """`info` is what is read off the model, with what it needs at seams once that was asked for; `observations` are
    what the process has seen of its tiles, `record` what else it keeps of it. `later` are studies that the run could
    not bear, of its `run_pixels` input pixels."""

    def __init__(
        self,
        model: ImageModelDescriptor,
        options: UpscaleOptions,
        context: RunContext,
        shared: SessionCache,
        studies: StudyRunner,
    ) -> None:
        self._model, self._options, self._context, self._studies = model, options, context, studies
        self._profile, self.record = shared.profile(model, context), shared.record(model)
        self.info: ModelInfo = model_info(model)
        self.observations = ModelObservations() if options.reproducible else shared.observations(self._profile)
        self.later: list[Study] = []
        self._padding: tuple[ModelInfo | None, WrapPadding] = None, WrapPadding()
        self.run_pixels = 0

    def padding(self) -> WrapPadding:
        """What frames are extended by where their edges fit together."""
        info, found = self._padding
        if info is not self.info:
            overlap = max(self._options.overlap, automatic_overlap(self.info))
            found = wrap_padding(self._options.tiling_mode, self.info, overlap)
            self._padding = self.info, found
        return found

    def bytes_of_frame(self, size: tuple[int, int], channels: ChannelPlan) -> FrameBytes:
        """What a frame of `size` (height, width) takes where main memory is computed in."""
        whole = bool(self._options.resize) and self.observations.defer_clamp
        return bytes_of_frame(size, channels, self.info, self.padding(), whole)

    def held(self, runner: ModelRunner) -> MemoryUse:
        """What the model takes between forwards, with `runner` as our copy of it."""
        device = self._context.device
        return self.record.once(("held", runner.mode, device), lambda: held_by_model(self._model, runner, device))

    def throughput(self, mode: ExecutionMode) -> Throughput:
        """What is known of the throughput in `mode`."""
        if self._options.reproducible or self._options.level == "memory":
            return UNKNOWN_THROUGHPUT
        measured = self._measured_throughput(mode)
        if self._context.device.type != "cpu":
            return measured
        size = mode.memory_dtype.itemsize
        known = self.record.once(("throughput", size), lambda: known_throughput(self._model, size))
        return measured.held_to(known) if measured.settled else known

    def study_of_the_throughput(self, mode: ExecutionMode, most_pixels: int) -> Study | None:
        """What would measure it, at the sizes of up to `most_pixels` that forwards of these runs can have, as far as
        what was done repays it."""
        if self._options.level == "memory" or mode.backend != "eager":
            return None
        place, measured = place_of(mode, self._context.device), self._measured_throughput(mode)
        allowed = self._studies.allowed_pixels()
        return study_of_the_throughput(mode, self.info, place, measured, most_pixels, allowed)

    def look_at_seams(self, step: Step) -> bool:
        """Have in `info` what the model needs at seams: as measured, once in its life, or, until then, by its
        architecture. What is neither is measured now, in `step`'s mode, where that is little beside the run. Returns
        whether it was."""
        measured, found = False, self._measured_field()
        if found is None:
            found = self._field_by_architecture()
            tried = self._options.reproducible or self._profile.known.trials.get(UNMEASURABLE)
            if not tried and measurable(self.info):
                study = self._study_of_the_field(step.mode)
                measured = not found and self._bears(study, step)
                if measured:
                    found = self._measure_the_field(study)
                else:
                    self.later.append(study)
        self.info = _with_field(self.info, found)
        return measured

    def info_at_seams(self) -> ModelInfo:
        """`info`, with what the model needs at seams as far as that is known without measuring."""
        return _with_field(self.info, self._measured_field() or self._field_by_architecture())

    @property
    def reach(self) -> int | None:
        """How many pixels the model can see at most, by its layers; None where they do not tell."""
        return self.record.once("reach", lambda: counted_reach(self._model))

    @property
    def operations(self) -> float | None:
        """Floating point operations for a pixel of its input; None where nobody counted them."""
        return self.record.once("operations", lambda: operations_per_pixel(self._model))

    def sees_no_further(self, forward: Forward) -> bool:
        """Whether it sees no further than `reach` indeed, tried once by its `forward`."""
        reach = self.reach
        return reach is not None and self.record.once(
            "sees no further", lambda: reaches_no_further(reach, self.info, forward)
        )

    # --- details -----------------------------------------------------------------------------------------------------

    def _measured_field(self) -> ReceptiveField | None:
        known = self._profile.known
        if known.receptive_field is None or self._options.reproducible:
            return None
        return ReceptiveField(known.receptive_field, known.unbounded)

    def _field_by_architecture(self) -> ReceptiveField | None:
        return self.record.once("receptive field", lambda: known_receptive_field(self._model))

    def _measured_throughput(self, mode: ExecutionMode) -> Throughput:
        throughputs = self._profile.known.throughputs
        depends_on = mode, self._context.device, throughputs

        def find() -> Throughput:
            return Throughput(tuple(throughputs.get(place_of(mode, self._context.device), ())))

        return self.record.while_the_same("measured throughput", depends_on, find)

    def _study_of_the_field(self, mode: ExecutionMode) -> Study:
        exact = mode if mode.precision == "fp32" else usual_mode("fp32", False, self._model)
        return study_of_the_field(self.info, exact)

    def _bears(self, study: Study, step: Step) -> bool:
        """Whether the run can spend that much, and has the memory for it."""
        return self._studies.affordable(study, self.run_pixels) and step.cost.is_allowed(
            study.pixels, self._context.device
        )

    def _measure_the_field(self, study: Study) -> ReceptiveField | None:
        self._context.say("measuring how much tiles must overlap, once for this model")
        self._studies.run(study)
        self._studies.release()
        self._context.say("")
        return self._measured_field()


def _with_field(info: ModelInfo, field: ReceptiveField | None) -> ModelInfo:
    if field is None:
        return info
    return replace(info, receptive_field=field.pixels, global_context=info.global_context or field.unbounded)
