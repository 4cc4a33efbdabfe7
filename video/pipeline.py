"""A film from its file through the engine into a file: opened, planned, taken through its stages, reported.

open_frames -> plan_film -> Stages.run, into one file or into segments that are joined -> FilmReport
"""

from __future__ import annotations

import errno
import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from spandrel import ImageModelDescriptor

from ..api.context import RunContext
from ..api.errors import OutputError
from ..api.options import UpscaleOptions
from ..api.report import UpscaleReport
from ..api.resize import Resize
from ..pipeline.outcome import joined_over_time
from ..tiling.fit import result_size
from . import pixel_formats
from .alone import SegmentFrames, SegmentPlace, places_of
from .copies import CopyPlan
from .deinterlace import AS_IT_IS
from .ends import (
    FrameFiles,
    FrameReader,
    OutputFormat,
    exactly,
    open_frames,
    open_writer,
    plan_copied,
    plan_output,
    write_output,
)
from .facts import FilmFacts, PacketCount
from .formats import FilmFormat
from .inputs import FilmInput
from .join import Joining
from .manifest import Manifest, of_input, of_work
from .options import VideoOptions
from .parts import Parts, parts_of
from .reader import FilmReader
from .report import FilmReport, FilmResult, Tell
from .resume import Grouping
from .segmented import SegmentedWork, write_in_segments
from .segments import SegmentWriter
from .stages import Engine, Stages

logger = logging.getLogger("cudaspeed")


_Ends = tuple[FrameReader, OutputFormat, CopyPlan]  # what reads, how it is written, and what is copied


@dataclass(frozen=True)
class FilmJob:
    """A film to upscale from `source`, a file or what reads a film that is not open yet, into `target`, whose ending
    says in which container, and how it is written: `tags` are added to the film's own. Segments are kept in the folder
    `parts` (None: beside the target, called like it with ".parts" behind); with `restart`, those that are there are not
    gone on with. `known_by` tells the source from others, where somebody knows better than by what its file is like
    here."""

    source: Path | FilmInput
    target: Path
    video: VideoOptions = field(default_factory=VideoOptions)
    tags: Mapping[str, str] = field(default_factory=dict)
    parts: Path | None = None
    restart: bool = False
    known_by: str | None = None


def upscale_film(
    job: FilmJob,
    model: ImageModelDescriptor,
    options: UpscaleOptions,
    context: RunContext,
    tell: Tell = lambda progress: None,
) -> FilmReport:
    """Upscale the film of `job` by `model`, and write it with everything that is in its file. Memory does not grow with
    its length. `tell` hears of every frame, on this thread.

    What is there at the target is replaced once the film is whole; a failure, or an interrupt, leaves it as it was.
    Segments are kept of films in files, and not of frames that are pictures, each of which is kept anyway. Raises
    `BadFilmError`, `BadOptionError` where it cannot be written as asked, `OutputError`, and what `upscale` raises.
    """
    began = time.perf_counter()
    with _opened(job, Engine(model, options, context)) as (ends, engine):
        reader, planned, copies = ends
        facts = reader.facts
        notes = [*planned.notes, *copies.notes, *([AS_IT_IS] if facts.interlaced else [])]
        _warn(facts.path, notes)
        stages, work = Stages(reader, planned, engine, tell), _in_segments(job, ends, engine)
        done = write_in_segments(work, stages.run) if work else _write_at_once(job, stages, ends)
        late = [note for note in dict.fromkeys((*reader.notes, *done.notes)) if note not in notes]
        upscaling = joined_over_time(done.reports)
        _warn(facts.path, [*late, *(upscaling.warnings if upscaling else ())])
        return FilmReport(
            frames=done.frames,
            input_size=facts.size,
            output_size=planned.stored,
            encoder=planned.name,
            pixel_format=planned.pixel_format,
            variable_rate=facts.count.variable,
            losses=done.losses,
            seconds=time.perf_counter() - began,
            upscaling=upscaling,
            notes=(*notes, *stages.notes, *late),
            resumed=done.resumed,
        )


def plan_segments(job: FilmJob, engine: Engine) -> tuple[list[SegmentPlace], PacketCount]:
    """The segments of the film of `job` that can be computed by themselves, by `upscale_segment`, if it has several,
    and what its packets tell, for readers to come. Raises what `upscale_film` does before it computes."""
    with _opened(job, engine) as (ends, engine):
        work, reader = _in_segments(job, ends, engine), ends[0]
        # with alpha, a film is as it begins
        places = places_of(work.reader, work.grouping.segment_seconds) if work and not work.grouping.alpha else []
        return places if len(places) > 1 else [], reader.facts.count


def upscale_segment(job: FilmJob, place: SegmentPlace, engine: Engine) -> FilmResult:
    """Upscale the segment at `place` of the film of `job` into the folder of its parts, where nothing else is: a file,
    and beside it, afterwards, what is known of it. `upscale_film` takes both for its own. Raises `NotAloneError` where
    what it made might differ, and what `upscale_film` does."""
    with _opened(job, engine) as (ends, engine):
        work = _in_segments(job, ends, engine)
        assert work is not None
        frames = SegmentFrames(work.reader, place, work.grouping.segment_seconds)
        parts = Parts(work.parts, work.target, work.made_from.digest)
        writer = SegmentWriter(parts, work.joining.planned, frames)
        reports = Stages(ends[0], ends[1], engine, lambda progress: None).run(writer, frames.items, 0)
        return FilmResult(place.frames, reports, frames.losses)


@contextmanager
def _opened(job: FilmJob, engine: Engine) -> Iterator[tuple[_Ends, Engine]]:
    """The film, how it is written and what is copied, and the engine, told of its frames as they are stored."""
    model, options, context = engine
    with open_frames(job.source, job.video) as reader:
        options = replace(options, resize=as_stored(options.resize, reader.facts))
        planned = plan_film(reader, model.scale, options.resize, job.target, job.video)
        copies = plan_copied(reader, planned, tagged=bool(job.tags))
        yield (reader, planned, copies), Engine(model, exactly(options, planned), context)


def plan_film(reader: FrameReader, scale: int, resize: Resize, target: Path, video: VideoOptions) -> OutputFormat:
    """How the film that is open in `reader` is written into `target`, by a model of this `scale` and in a size that is
    wanted of its frames as they are stored. Raises what `plan_output` does."""
    facts = reader.facts
    size = result_size(facts.size, scale, resize)
    shaped = replace(facts, pixel_aspect=_pixel_aspect(facts, size, resize))
    return plan_output(shaped, reader, size, target, video)


def as_stored(resize: Resize, facts: FilmFacts) -> Resize:
    """The size that is wanted, of frames as they are stored: those of a film that is shown lying are turned."""
    if facts.rotation % 180 == 90:
        return replace(resize, width=resize.height, height=resize.width)
    return resize


def _in_segments(job: FilmJob, ends: _Ends, engine: Engine) -> SegmentedWork | None:
    """How the work is kept; None where it is not wanted, or it is not that of a film's file into another."""
    reader, planned, copies = ends
    if not job.video.segment_seconds or not isinstance(planned, FilmFormat) or not isinstance(reader, FilmReader):
        return None
    if not isinstance(reader.file, Path):
        return None
    has_alpha = planned.has_alpha and pixel_formats.has_alpha(reader.facts.pixel_format)
    return SegmentedWork(
        reader=reader,
        target=job.target,
        joining=Joining(reader, planned, copies, job.tags),
        made_from=Manifest({**_of_source(reader.file, reader, job), **of_work(planned, *engine, job.video)}),
        grouping=Grouping(job.video.segment_seconds, engine.options.batch_size, has_alpha),
        parts=job.parts or parts_of(job.target),
        restart=job.restart,
    )


def _of_source(file: Path, reader: FilmReader, job: FilmJob) -> dict[str, Any]:
    return {"the input": job.known_by} if job.known_by else of_input(file, reader.window)


def _write_at_once(job: FilmJob, stages: Stages, ends: _Ends) -> FilmResult:
    """All of the film into the target, which is replaced once it is whole."""
    written, notes = [0], []

    def write(file: BinaryIO | FrameFiles) -> list[UpscaleReport]:
        writer = open_writer(file, *ends, job.tags)
        try:
            return stages.run(writer, stages.all_items, 0)
        finally:
            written[0] = file.tell()
            notes.extend(writer.notes)

    reader = ends[0]
    try:
        reports = write_output(job.target, write)
    except OutputError as error:
        if getattr(error.__cause__, "errno", None) != errno.ENOSPC:
            raise
        share = stages.done / max(1, reader.facts.count.packets)
        raise OutputError(f"{error}; {_room_needed(job.target, written[0], share)}") from error
    return FilmResult(stages.done, reports, reader.losses, notes=tuple(notes))


def _room_needed(target: Path, written: int, share: float) -> str:
    """What is free at the target, now that what was written is gone, and what the film would take: `share` of it took
    so many bytes."""
    free, needed = shutil.disk_usage(target.absolute().parent).free, written / max(share, 1e-9)
    return (
        f"the film takes about {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free there; make room, name "
        "another folder, or ask for less (a larger crf, a smaller size)"
    )


def _warn(film: Path, notes: Iterable[str]) -> None:
    for note in notes:
        logger.warning("%s: %s", film, note)


def _pixel_aspect(facts: FilmFacts, size: tuple[int, int], resize: Resize) -> Fraction:
    """The shape of a pixel afterwards: the film's. Where its pixels are not square, and it is stretched to a size, what
    makes it look as it did."""
    if facts.pixel_aspect == 1 or not (resize.width and resize.height) or resize.fit != "stretch":
        return facts.pixel_aspect
    (height, width), (rows, columns) = facts.size, size
    return (facts.pixel_aspect * width * rows / (height * columns)).limit_denominator(1000)
