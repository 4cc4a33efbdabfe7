"""The pictures of `cudaspeed upscale`, from files into files, one after the other."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from spandrel import ImageModelDescriptor

from ..api.context import RunContext
from ..api.errors import BadModelError, BadOptionError, CudaspeedError, OutOfMemoryError, OutputError, first_line
from ..api.report import UpscaleReport
from ..host.standalone import StandaloneContext
from ..images.animation import Animation
from ..images.codecs.picture import Picture
from ..images.files import ENDINGS_OF_16_BITS, check_fits, write_image
from ..images.folders import Identity, identity
from ..images.jobs import Job, PassedOver, Refused, why_unwritable
from ..images.naming import folded
from ..images.whole import sweep_leftovers
from ..memory import free_host_bytes
from ..models.loader import load_model
from ..pipeline.monitor import Monitor
from ..storage.location import compiled_folder
from ..tiling.fit import result_size
from ..upscale_engine import finish_learning, upscale
from ..video.films import is_called_like_a_film
from .animations import Progress, upscale_frames
from .console import Console, line_of_undone
from .exit_codes import DONE, FAILED
from .reading import Read
from .request import VIDEO_UPSCALES, Request

logger = logging.getLogger("cudaspeed")

_MOST_NAMES = 10  # of what is passed over
_COPIES_TO_WRITE = 4  # of the result in the file's type: for the encoder, in it, out of it, and in the file's format
_BYTES_A_PIXEL_TO_WRITE = {".webp": 48, ".gif": 48}  # what their encoders take was measured: 29 to 42
_LESS_MEMORY = (
    "close other programs, upscale a smaller picture, ask for a smaller result (--scale-by, --resize), or use a model "
    "of a smaller scale"
)


def upscale_all(request: Request, read: Read, console: Console) -> int:
    """Upscale what can be upscaled; of each picture a record or a line says what came of it."""
    model = load_model(request.model)
    _context(request)  # raises where this machine has no such device, before anything is begun
    _warn_of_unwritable_cache()
    for others in request.plan.passed_over:
        _tell_passed_over(others, console)
    for folder in {job.target.parent for job in request.plan.jobs}:
        sweep_leftovers(folder)
    code = DONE
    for record in _Batch(model, request, read, console).records():
        if "error" in record:
            code = FAILED
            logger.error(record["error"])
        if console.json or "error" not in record:
            console.tell(record, _line(record))
    with console.progress("what suits the model here") as bar:
        bar.set_postfix_str("is being found out, for a twentieth of the work at most", refresh=False)
        finish_learning()
    return code


def _warn_of_unwritable_cache() -> None:
    reason = why_unwritable(compiled_folder())
    if reason:
        logger.warning(
            "what is compiled and found out about models is not kept: %s; set CUDASPEED_CACHE_DIR to a folder of "
            "your own",
            reason,
        )


def _tell_passed_over(others: PassedOver, console: Console) -> None:
    count, names = len(others.names), others.names[:_MOST_NAMES]
    more = f" and {count - len(names)} more" if count > len(names) else ""
    films = f"; {VIDEO_UPSCALES}" if any(is_called_like_a_film(Path(name)) for name in others.names) else ""
    logger.warning("%s: %d passed over: %s%s%s", others.folder, count, ", ".join(names), more, films)
    if console.json:
        console.tell({"input": str(others.folder), "passed_over": count, "names": names}, "")


@dataclass(frozen=True)
class _Batch:
    """What all pictures of one command have in common."""

    model: ImageModelDescriptor
    request: Request
    read: Read
    console: Console

    def records(self) -> Iterator[dict[str, Any]]:
        """Of each step the JSON record, once it is done, skipped or has failed. What every other picture would meet as
        well is raised."""
        there: dict[str, tuple[Identity | None, Path]] = {}
        for step in self.request.plan.steps:
            if isinstance(step, Refused):
                yield _failed(step.source, step.reason)
                continue
            # Where letter case makes no other name, two targets can turn out to be one file.
            known, writer = there.get(folded(step.target), (None, step.source))
            if known and known == identity(step.target):
                yield _failed(step.source, f"{writer} became {step.target} already; use two outputs")
                continue
            if self.request.is_done(step):
                record = {"input": str(step.source), "output": str(step.target), "skipped": True}
            else:
                record = self._attempt(step)
            if "error" not in record:
                there[folded(step.target)] = identity(step.target), step.source
            yield record

    def _attempt(self, job: Job) -> dict[str, Any]:
        try:
            return self._upscale(job)
        except (BadOptionError, BadModelError):
            raise
        except CudaspeedError as error:
            return _failed(job.source, str(error), job.target)
        except MemoryError as error:
            logger.debug("%s", job.source, exc_info=True)
            free = f"{free_host_bytes() / 2**30:.2f} GiB are free; {_LESS_MEMORY}"
            return _failed(job.source, f"the memory ran out ({first_line(error)}), {free}", job.target)
        except Exception as error:  # what breaks inside torch on one picture must not cost the others
            logger.debug("%s", job.source, exc_info=True)
            return _failed(job.source, f"unexpected {type(error).__name__}: {first_line(error)}", job.target)

    def _upscale(self, job: Job) -> dict[str, Any]:
        with self.console.progress(job.source.name) as bar:
            options, ending = self.request.options, job.target.suffix.lower()
            say = bar.set_postfix_str
            with _telling(_context(self.request, on_say=say), "reading"):
                picture = self.read(job)
            frames = len(picture) if isinstance(picture, Animation) else 1
            show = Progress(bar, runs=-(-frames // options.batch_size)).show
            context = _context(self.request, on_progress=show, on_say=say)
            if isinstance(picture, Animation):
                _make_folder(job.target)
                report, lost = upscale_frames(picture, job.target, self.model, options, context)
                return self._told(job, report, (*picture.warnings, *lost))
            height, width = result_size(picture.pixels.shape[:2], self.model.scale, options.resize)
            check_fits(job.target, width, height)
            _check_room(picture, (height, width), ending)
            if picture.bits >= 16 and options.precision == "auto" and ending in ENDINGS_OF_16_BITS:
                options = replace(options, precision="fp32")  # half precision keeps 8 to 11 of them
            result = upscale(torch.from_numpy(picture.pixels)[None], self.model, options, context)
            _make_folder(job.target)
            with _telling(context, "writing"):
                lost = write_image(job.target, replace(picture, pixels=result.image[0].float().cpu().numpy()))
        return self._told(job, result.report, (*picture.warnings, *lost))

    def _told(self, job: Job, report: UpscaleReport, lost: Sequence[str]) -> dict[str, Any]:
        """The record of a finished job; `lost` is logged, too, as the engine has logged its own warnings."""
        for warning in lost:
            logger.warning("%s: %s", job.source, warning)
        return {**_record(job, self.request.model, report), "warnings": [*report.warnings, *lost]}


def _context(request: Request, **told: Callable[..., None]) -> StandaloneContext:
    """The device that is asked for, for one run, and who is `told` of it."""
    return StandaloneContext(request.device, reserve_vram=request.reserve_vram, **told)


@contextmanager
def _telling(context: RunContext, what: str) -> Iterator[None]:
    """Show what is being done, if that lasts."""
    with Monitor(context) as monitor:
        monitor.say(what)
        yield


def _check_room(picture: Picture, size: tuple[int, int], ending: str) -> None:
    """Raise `OutOfMemoryError`, before any work, unless there is room for the result, of `size`, and for writing it."""
    channels = picture.pixels.shape[2]
    sample = max(_COPIES_TO_WRITE * picture.bits // 8, _BYTES_A_PIXEL_TO_WRITE.get(ending, 0) // channels)
    needed = math.prod(size) * channels * (4 + sample)
    free = free_host_bytes()
    if needed > free:
        raise OutOfMemoryError(
            f"the result and writing it take {needed / 2**30:.2f} GiB of memory and {free / 2**30:.2f} GiB are free; "
            + _LESS_MEMORY
        )


def _make_folder(target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{target}: its folder cannot be made: {error.strerror or error}") from error


def _failed(source: Path, reason: str, target: Path | None = None) -> dict[str, Any]:
    """The record of a picture of which nothing came; the reason names it."""
    named = any(str(path) in reason for path in (source, target) if path)
    return {"input": str(source), "error": reason if named else f"{source}: {reason}"}


def _record(job: Job, model: str, report: UpscaleReport) -> dict[str, Any]:
    """What is told of a finished job; sizes are (width, height)."""
    return {
        "input": str(job.source),
        "output": str(job.target),
        "input_size": report.input_size[::-1],
        "output_size": report.output_size[::-1],
        "frames": report.frames,
        "model": model,
        "architecture": report.model,
        "scale": report.scale,
        "sizes": report.sizes,
        "passes": report.passes,
        "precision": report.precision,
        "autocast": report.autocast,
        "tile": report.tile[::-1],
        "overlap": report.overlap[::-1],
        "tiles": report.tiles,
        "still_tiles": report.still_tiles,
        "still_frames": report.still_frames,
        "compiled": report.compiled,
        "compiling": report.compiling,
        "profile": report.profile,
        "seconds": report.seconds,
        "peak_bytes": report.peak_bytes,
    }


def _line(record: dict[str, Any]) -> str:
    undone = line_of_undone(record)
    if undone:
        return undone
    name = Path(record["input"]).name
    (width, height), (out_width, out_height) = record["input_size"], record["output_size"]
    speed = record["frames"] * out_width * out_height / 1e6 / max(record["seconds"], 1e-9)
    frames = f"{record['frames']} frames, " if record["frames"] > 1 else ""
    return (
        f"{name}: {width}x{height} -> {out_width}x{out_height}, {frames}"
        f"{speed:.2f} megapixels/s, written to {record['output']}"
    )
