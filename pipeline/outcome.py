"""What came of a run, and the report of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..api.report import NOT_NEEDED, ImageHealth, Repair, UpscaleReport
from ..postprocess import FrameVerdict
from .frame_io import FrameSource
from .scheduler import Schedule
from .session import Session


@dataclass
class Outcome:
    """Grows while frames get done, each of so many pictures for the model. `schedule` is the one that the run stands
    on, or ended with; `compiled`: compiled code computed tiles in the mode that it ended with. `repairs` are those of
    frames that are kept."""

    pictures_per_frame: int
    verdicts: list[FrameVerdict] = field(default_factory=list)
    repairs: list[Repair] = field(default_factory=list)
    schedule: Schedule | None = None
    compiled: bool = False

    @property
    def frames_done(self) -> int:
        return len(self.verdicts)

    def health(self, given_up: str | None) -> ImageHealth:
        """What was wrong over all frames; `given_up` is the mode that the run left for a safer one."""
        verdicts = self.verdicts
        return ImageHealth(
            repairs=tuple(self.repairs),
            given_up=given_up,
            non_finite=sum(verdict.non_finite for verdict in verdicts),
            wild=sum(verdict.wild for verdict in verdicts),
            broken_frames=tuple(i for i, verdict in enumerate(verdicts) if verdict.broken),
            corrected_frames=tuple(i for i, verdict in enumerate(verdicts) if verdict.corrected),
        )


def make_report(session: Session, outcome: Outcome, source: FrameSource, seconds: float) -> UpscaleReport:
    """How `source` was upscaled in `session`, in so many seconds."""
    schedule, mode, info = outcome.schedule, session.chain.now.mode, session.info
    assert schedule is not None
    health = outcome.health(session.chain.given_up)
    overlap = session.overlap_warning(schedule)
    peak, memory = session.context.peak_bytes(), session.memory_use(schedule)
    frames, plan = len(source), schedule.plan
    return UpscaleReport(
        model=info.name,
        scale=info.scale,
        frames=frames,
        input_size=source.size,
        output_size=(source.size[0] * info.scale, source.size[1] * info.scale),
        precision=mode.precision,
        autocast=mode.autocast,
        kernels=mode.kernels,
        tile=schedule.tile,
        overlap=(plan.rows.overlap, plan.columns.overlap),
        tiles=frames * outcome.pictures_per_frame * plan.count,
        batch=schedule.batch,
        compiled=outcome.compiled,
        compiling=session.compiling(outcome.compiled),
        seconds=seconds,
        peak_bytes=memory.on_device if peak is None else peak,
        health=health,
        memory=memory,
        profile=session.told_profile(),
        notes=(*session.notes, *([overlap] if overlap else [])),
    )


def report_of_none(session: Session, source: FrameSource, seconds: float) -> UpscaleReport:
    """Of a `source` without frames, for which nothing was chosen, measured or computed."""
    info = session.info
    return UpscaleReport(
        model=info.name,
        scale=info.scale,
        frames=0,
        input_size=source.size,
        output_size=(source.size[0] * info.scale, source.size[1] * info.scale),
        precision="fp32",
        autocast=False,
        kernels="plain",
        tile=(0, 0),
        overlap=(0, 0),
        tiles=0,
        batch=0,
        compiled=False,
        compiling=f"{NOT_NEEDED}: no frames",
        seconds=seconds,
        peak_bytes=0,
        health=ImageHealth(),
        notes=tuple(session.notes),
    )
