"""What came of a run, and the report of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise

from ..api.device_share import DeviceShare
from ..api.report import NOT_NEEDED, ImageHealth, Repair, UpscaleReport
from ..postprocess import FrameVerdict
from ..tiling.fit import Pass, Resampling
from .frames import FinishedFrame
from .residency import told_of
from .scheduler import Schedule
from .session import Session

_NOTHING = FrameVerdict()


@dataclass
class Outcome:
    """Grows while frames get done, each of so many pictures for the model. `schedule` is the one that the run stands
    on, or ended with; `compiled`: compiled code computed tiles in the mode that it ended with. `found` has the verdicts
    by frame, of those that had something wrong, for a film has many frames; `last` is the last frame's. `repairs` are
    those of frames that are kept. `out_of_memory`: how often memory ran out, and the run went on. Of all `tiles`, so
    many `still_tiles` were not computed, because they are those of the frame before; `still_frames` are, as a whole."""

    pictures_per_frame: int
    frames_done: int = 0
    last: FrameVerdict = _NOTHING
    found: dict[int, FrameVerdict] = field(default_factory=dict)
    repairs: list[Repair] = field(default_factory=list)
    schedule: Schedule | None = None
    compiled: bool = False
    out_of_memory: int = 0
    tiles: int = 0
    still_tiles: int = 0
    still_frames: int = 0

    def add(self, frame: FinishedFrame) -> None:
        """One more is done."""
        self.last = frame.verdict
        if self.last != _NOTHING:
            self.found[self.frames_done] = self.last
        self.frames_done += 1
        self.tiles += frame.tiles
        self.still_tiles += frame.handed_on
        self.still_frames += frame.repeated

    def health(self, given_up: str | None) -> ImageHealth:
        """What was wrong over all frames; `given_up` is the mode that the run left for a safer one."""
        return ImageHealth(
            repairs=tuple(self.repairs),
            given_up=given_up,
            non_finite=sum(verdict.non_finite for verdict in self.found.values()),
            wild=sum(verdict.wild for verdict in self.found.values()),
            broken_frames=tuple(frame for frame, verdict in self.found.items() if verdict.broken),
            corrected_frames=tuple(frame for frame, verdict in self.found.items() if verdict.corrected),
        )


def make_report(session: Session, outcome: Outcome, frames: int, planned: Pass) -> UpscaleReport:
    """How so many `frames` were upscaled in `session`, in one pass as `planned`."""
    schedule, mode, info = outcome.schedule, session.chain.now.mode, session.known.info
    assert schedule is not None
    health = outcome.health(session.chain.given_up)
    overlap = session.schedules.overlap_warning(schedule)
    offloaded = told_of(session.context, session.chain.now.runner)
    peak, memory = session.context.peak_bytes(), session.schedules.memory_use(schedule)
    plan = schedule.plan
    return UpscaleReport(
        model=info.name,
        scale=info.scale,
        frames=frames,
        input_size=planned.size,
        output_size=planned.result,
        sizes=sizes_in_words([planned]),
        precision=mode.precision,
        autocast=mode.autocast,
        kernels=mode.kernels,
        tile=schedule.tile,
        overlap=(plan.rows.overlap, plan.columns.overlap),
        tiles=outcome.tiles,
        batch=schedule.batch,
        compiled=outcome.compiled,
        compiling=session.compiling(outcome.compiled),
        compiled_shapes=session.compiled_shapes,
        seconds=0.0,
        peak_bytes=memory.on_device if peak is None else peak,
        health=health,
        memory=memory,
        out_of_memory=outcome.out_of_memory,
        still_tiles=outcome.still_tiles,
        still_frames=outcome.still_frames,
        profile=session.told_profile(),
        notes=(*session.notes, *(told for told in (session.schedules.engine_warning, offloaded, overlap) if told)),
    )


def report_of_none(session: Session, size: tuple[int, int], result: tuple[int, int]) -> UpscaleReport:
    """Of no frames of `size`, for which nothing was chosen, measured or computed."""
    info = session.known.info
    return UpscaleReport(
        model=info.name,
        scale=info.scale,
        frames=0,
        input_size=size,
        output_size=result,
        precision="fp32",
        autocast=False,
        kernels="plain",
        tile=(0, 0),
        overlap=(0, 0),
        tiles=0,
        batch=0,
        compiled=False,
        compiling=f"{NOT_NEEDED}: no frames",
        seconds=0.0,
        peak_bytes=0,
        health=ImageHealth(),
        notes=tuple(session.notes),
    )


def joined_report(reports: Sequence[UpscaleReport], passes: Sequence[Pass]) -> UpscaleReport:
    """Of a run that went as `passes` were planned, by their `reports`: the last one's, but for what all have done."""
    if len(reports) == 1:
        return reports[0]
    healths = [report.health for report in reports]
    notes = dict.fromkeys(note for report in reports for note in report.notes)
    return replace(
        reports[-1],
        input_size=passes[0].size,
        passes=len(passes),
        sizes=sizes_in_words(passes),
        compiled=any(report.compiled for report in reports),
        peak_bytes=max(report.peak_bytes for report in reports),
        out_of_memory=sum(report.out_of_memory for report in reports),
        health=ImageHealth(
            repairs=tuple(repair for health in healths for repair in health.repairs),
            given_up=next((health.given_up for health in healths if health.given_up), None),
            non_finite=sum(health.non_finite for health in healths),
            wild=sum(health.wild for health in healths),
            broken_frames=_of_all(health.broken_frames for health in healths),
            corrected_frames=_of_all(health.corrected_frames for health in healths),
        ),
        profile=", ".join(dict.fromkeys(report.profile for report in reports)),
        notes=tuple(notes),
    )


def joined_over_time(
    reports: Sequence[UpscaleReport], frames: Sequence[Sequence[int]] | None = None
) -> UpscaleReport | None:
    """Of runs of the engine, one after the other or side by side, by their `reports`: the last one's, but for what is
    counted; None of none. `frames` are the numbers of each one's frames, where they do not follow on one another: runs
    may share one."""
    if len(reports) < 2 and frames is None:
        return reports[0] if reports else None
    numbers = _one_after_the_other(reports) if frames is None else frames
    healths = [*zip(numbers, (report.health for report in reports), strict=True)]
    return replace(
        reports[-1],
        frames=len({number for some in numbers for number in some}),
        tiles=sum(report.tiles for report in reports),
        still_tiles=sum(report.still_tiles for report in reports),
        still_frames=sum(report.still_frames for report in reports),
        compiled=any(report.compiled for report in reports),
        seconds=sum(report.seconds for report in reports),
        peak_bytes=max(report.peak_bytes for report in reports),
        out_of_memory=sum(report.out_of_memory for report in reports),
        health=ImageHealth(
            repairs=tuple(
                replace(repair, frame=some[repair.frame]) for some, health in healths for repair in health.repairs
            ),
            given_up=next((health.given_up for _, health in healths if health.given_up), None),
            non_finite=sum(health.non_finite for _, health in healths),
            wild=sum(health.wild for _, health in healths),
            broken_frames=_of_all(tuple(some[at] for at in health.broken_frames) for some, health in healths),
            corrected_frames=_of_all(tuple(some[at] for at in health.corrected_frames) for some, health in healths),
        ),
        devices=_of_all_devices(report.devices for report in reports),
        notes=tuple(dict.fromkeys(note for report in reports for note in report.notes)),
    )


def _of_all_devices(shares: Iterable[tuple[DeviceShare, ...]]) -> tuple[DeviceShare, ...]:
    """What each has done in all."""
    found: dict[str, DeviceShare] = {}
    for share in (share for some in shares for share in some):
        before = found.get(share.device, DeviceShare(share.device))
        found[share.device] = DeviceShare(share.device, before.frames + share.frames, before.parts + share.parts)
    return tuple(found.values())


def _one_after_the_other(reports: Sequence[UpscaleReport]) -> list[range]:
    starts = [0, *accumulate(report.frames for report in reports)]
    return [range(start, stop) for start, stop in pairwise(starts)]


def sizes_in_words(passes: Sequence[Pass]) -> str:
    """How a picture comes to its size: "320x240, model 1280x960, lanczos 640x480"."""
    told = [_size(passes[0].size)]
    for planned in passes:
        resampling = planned.resampling
        told.append(f"model {_size(planned.result if resampling is None else resampling.given)}")
        if resampling:
            told.append(f"{_way(resampling)} {_size(planned.result)}")
    return ", ".join(told)


def _way(resampling: Resampling) -> str:
    """By what a picture becomes another size: by a filter, or by pixels that go or come."""
    if not resampling.moves_only:
        return resampling.resample
    ways = [word for word, it in (("cut", resampling.cuts), ("padded", resampling.pads)) if it]
    return " and ".join(ways)


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _of_all(frames: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(sorted({index for some in frames for index in some}))
