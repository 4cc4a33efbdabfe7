"""What a farm's worker does with a film: splits it, makes a segment of it, or puts all of them together.

A film of one segment, or one that cannot be split, is done as a whole, by who would have split it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..images.jobs import Job
from ..scaleout.actor import Split, Task
from ..scaleout.units import WHOLE, Part
from ..video.alone import NotAloneError, SegmentPlace
from ..video.facts import PacketCount
from ..video.options import VideoOptions
from ..video.pipeline import FilmJob, plan_segments, upscale_film, upscale_segment
from ..video.reader import FilmReader
from ..video.report import FilmReport
from ..video.stages import Engine
from .films import record_of_film

logger = logging.getLogger("cudaspeed")


@dataclass(frozen=True)
class FilmWork:
    """For films that are written as `video` says, by the `engine` that is made for each run. `model` is what it is
    called in records."""

    video: VideoOptions
    engine: Callable[[], Engine]
    model: str

    def run(self, task: Task) -> dict[str, Any] | Split:
        """The record of what was done of a film, or how it is split."""
        if task.unit.part != WHOLE:
            return self._segment(task)
        job = FilmJob(task.source, task.target, self.video, parts=task.together, known_by=task.unit.made_from)
        if not task.unit.given:  # nor told to do it all at once
            places, counted = plan_segments(job, self.engine())
            if places:
                return _split(places, counted, task.target.name)
        elif task.together.is_dir():
            return self._together(task, job)
        task.together.mkdir(parents=True, exist_ok=True)
        return self._whole(job)

    def _whole(self, job: FilmJob) -> dict[str, Any]:
        """What is missing of it, and the film."""
        assert isinstance(job.source, Path)
        report = upscale_film(job, *self.engine())
        record = record_of_film(Job(job.source, job.target), self.model, report)
        return {**record, "megapixels": _megapixels(report)}

    def _together(self, task: Task, job: FilmJob) -> dict[str, Any]:
        """The film of its segments, from a folder of this worker's own: another may be at it, that was thought to be
        lost, and segments stay until the film is known to be in its place."""
        own = task.target.parent / "segments"
        own.mkdir()
        try:
            for path in task.together.iterdir():
                if path.stem.isdecimal():  # a segment or its record, whole
                    _link(path, own / path.name)
            return self._whole(replace(job, parts=own))
        finally:
            shutil.rmtree(own, ignore_errors=True)

    def _segment(self, task: Task) -> dict[str, Any]:
        """A segment, with what is known of it as the target. Where it cannot be made by itself, who puts the film
        together makes it, and is told so by an empty one."""
        given = task.unit.given
        counted = PacketCount(given["packets"], Fraction(given["seconds"]), given["variable"])
        place = SegmentPlace(**{name: given[name] for name in ("index", "first", "frames", "start", "last")})
        reader = FilmReader(task.source, deinterlace=self.video.deinterlace, counted=counted)
        # the film's own name, whose ending says how it is written
        job = FilmJob(
            reader, task.together / given["film"], self.video, parts=task.target.parent, known_by=task.unit.made_from
        )
        try:
            done = upscale_segment(job, place, self.engine())
        except NotAloneError as error:
            logger.warning("%s: segment %d is left to who puts the film together: %s", task.source, place.index, error)
            for begun in task.target.parent.iterdir():
                begun.unlink()
            task.target.write_text("{}", "utf-8")
            return {"left": str(error), "megapixels": 0.0}
        height, width = done.reports[-1].output_size
        return {"frames": place.frames, "megapixels": place.frames * height * width / 1e6}


def _link(path: Path, to: Path) -> None:
    """The same file under another name, or, where the storage has no such thing, a copy."""
    try:
        to.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, to)


def _split(places: list[SegmentPlace], counted: PacketCount, film: str) -> Split:
    """Into segments, each of which becomes a record, and a file beside it, of the film that is called so."""
    known = {"packets": counted.packets, "seconds": str(counted.seconds), "variable": counted.variable, "film": film}
    parts = [Part(place.index, f"{place.index:06}.json", {**known, **asdict(place)}) for place in places]
    return Split(tuple(parts), known)


def _megapixels(report: FilmReport) -> float:
    """Of what was computed when it was put together, and not before."""
    height, width = report.output_size
    return (report.frames - report.resumed) * height * width / 1e6
