"""The films of `cudaspeed video`, from files into files, one after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spandrel import ImageModelDescriptor
from tqdm import tqdm

from ..api.errors import BadModelError, CudaspeedError, first_line
from ..api.report import UpscaleReport
from ..host.standalone import StandaloneContext
from ..images.jobs import Job, Refused
from ..images.whole import make_folder, sweep_leftovers
from ..models.loader import load_model
from ..upscale_engine import finish_learning
from ..video.frame_pattern import bytes_of
from ..video.pipeline import FilmJob, upscale_film
from ..video.report import FilmProgress, FilmReport
from ..video.segmented import FilmStopped
from .console import Console, line_of_undone
from .exit_codes import DONE, FAILED
from .records import failed
from .signals import Stopped
from .video import FilmRequest

logger = logging.getLogger("cudaspeed")


def upscale_all(request: FilmRequest, console: Console) -> int:
    """Upscale what can be upscaled; of each film a record or a line says what came of it. Ctrl-C, once something of a
    film is done, is one more way to fail, after which nothing follows."""
    model = load_model(request.model)
    _context(request)  # raises where this machine has no such device, before anything is begun
    for folder in {job.target.parent for job in request.plan.jobs}:
        sweep_leftovers(folder)
    code = DONE
    for step in request.plan.steps:
        if isinstance(step, Refused):
            record = failed(step.source, step.reason)
        elif request.is_done(step):
            record = {"input": str(step.source), "output": str(step.target), "skipped": True}
        else:
            record = _attempt(step, model, request, console)
        if "error" in record:
            code = FAILED
            logger.error(record["error"])
        if console.json or "error" not in record:
            console.tell(record, _line(record))
        if "stopped_after" in record:
            break
    finish_learning()
    return code


def _attempt(job: Job, model: ImageModelDescriptor, request: FilmRequest, console: Console) -> dict[str, Any]:
    """The record of a film, once it is done or has failed. What every other film would meet as well is raised."""
    try:
        with console.progress(job.source.name) as bar:
            display = _Display(bar, lambda line: console.complain(f"{job.source.name}: {line}"))
            context = _context(request, on_say=display.say)
            make_folder(job.target)
            film = FilmJob(job.source, job.target, request.video, restart=request.restart)
            report = upscale_film(film, model, request.options, context, display.show)
    except BadModelError:
        raise
    except FilmStopped as stop:
        if isinstance(stop.__cause__, Stopped):  # by a signal that the exit code names
            logger.warning("%s: %s", job.source, stop)
            raise stop.__cause__ from None
        partial = str(stop.partial) if stop.partial else None
        return {**failed(job.source, str(stop)), "stopped_after": stop.frames, "partial": partial}
    except CudaspeedError as error:
        return failed(job.source, str(error))
    except Exception as error:  # what breaks on one film must not cost the others
        logger.debug("%s", job.source, exc_info=True)
        return failed(job.source, f"unexpected {type(error).__name__}: {first_line(error)}")
    for warning in report.losses.warnings:
        logger.warning("%s: %s", job.source, warning)
    return record_of_film(job, request.model, report)


class _Display:
    """What a film's bar shows: what the engine says until there is a frame, then how fast these come. That it goes on
    with an earlier run is a line, which `tell` takes."""

    def __init__(self, bar: tqdm[Any], tell: Callable[[str], None]) -> None:
        self._bar, self._tell, self._runs = bar, tell, False

    def say(self, text: str) -> None:
        if not self._runs:
            self._bar.set_postfix_str(text)

    def show(self, progress: FilmProgress) -> None:
        if progress.done == progress.resumed and not self._runs:
            self._tell(f"resuming at frame {progress.done} of {progress.total}")
            return
        self._runs = True
        self._bar.total, self._bar.n = progress.total, progress.done
        self._bar.set_postfix_str(str(progress), refresh=False)
        self._bar.update(0)


def _context(request: FilmRequest, **told: Callable[..., None]) -> StandaloneContext:
    """The device that is asked for, for one film, and who is `told` of it."""
    return StandaloneContext(request.device, reserve_vram=request.reserve_vram, **told)


def record_of_film(job: Job, model: str, report: FilmReport) -> dict[str, Any]:
    """What is told of a finished film; sizes are (width, height)."""
    return {
        "input": str(job.source),
        "output": str(job.target),
        "input_size": report.input_size[::-1],
        "output_size": report.output_size[::-1],
        "frames": report.frames,
        "resumed_frames": report.resumed,
        "variable_rate": report.variable_rate,
        "damaged": report.losses.damaged,
        "missing": report.losses.missing,
        "retimed": report.losses.retimed,
        "codec": report.encoder,
        "pixel_format": report.pixel_format,
        "bytes": bytes_of(job.target),
        "model": model,
        **(_of_engine(report.upscaling) if report.upscaling else {}),
        "seconds": report.seconds,
        "warnings": [*report.warnings],
    }


def _of_engine(upscaling: UpscaleReport) -> dict[str, Any]:
    """How frames were computed, where not all of them were there already."""
    return {
        "architecture": upscaling.model,
        "scale": upscaling.scale,
        "passes": upscaling.passes,
        "precision": upscaling.precision,
        "tile": upscaling.tile[::-1],
        "tiles": upscaling.tiles,
        "still_tiles": upscaling.still_tiles,
        "still_frames": upscaling.still_frames,
        "devices": [*map(asdict, upscaling.devices)],
        "still_share": round(upscaling.still_share, 4),
        "compiled": upscaling.compiled,
        "profile": upscaling.profile,
        "peak_bytes": upscaling.peak_bytes,
    }


def _line(record: dict[str, Any]) -> str:
    undone = line_of_undone(record)
    if undone:
        return undone
    name = Path(record["input"]).name
    (width, height), (out_width, out_height) = record["input_size"], record["output_size"]
    speed = (record["frames"] - record["resumed_frames"]) / max(record["seconds"], 1e-9)
    still = f"{record['still_share']:.0%} stood still, " if record.get("still_tiles") else ""
    return (
        f"{name}: {width}x{height} -> {out_width}x{out_height}, {record['frames']} frames, {speed:.1f} frames/s, "
        f"{still}written to {record['output']}"
    )
