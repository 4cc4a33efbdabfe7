"""The pictures of `cudaspeed upscale`, from files into files, one after the other."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from spandrel import ImageModelDescriptor

from ..api.context import RunContext
from ..api.errors import OutOfMemoryError
from ..api.report import UpscaleReport
from ..host.standalone import StandaloneContext
from ..images.animation import Animation
from ..images.codecs.picture import Picture
from ..images.files import ENDINGS_OF_16_BITS, check_fits, write_image
from ..images.jobs import Job, PassedOver
from ..images.whole import make_folder
from ..memory import free_host_bytes
from ..models.loader import load_model
from ..pipeline.monitor import Monitor
from ..tiling.fit import result_size
from ..upscale_engine import upscale
from ..video.films import is_called_like_a_film
from .animations import Progress, upscale_frames
from .batch import Batch, warn_of_unwritable_cache
from .console import Console, line_of_undone
from .reading import Read
from .records import done
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
    warn_of_unwritable_cache()
    for others in request.plan.passed_over:
        _tell_passed_over(others, console)
    upscaling = Upscaling(model, request, read, console)
    return Batch(request.plan, request.is_done, upscaling.upscale, _LESS_MEMORY).run(console, _line)


def _tell_passed_over(others: PassedOver, console: Console) -> None:
    count, names = len(others.names), others.names[:_MOST_NAMES]
    more = f" and {count - len(names)} more" if count > len(names) else ""
    films = f"; {VIDEO_UPSCALES}" if any(is_called_like_a_film(Path(name)) for name in others.names) else ""
    logger.warning("%s: %d passed over: %s%s%s", others.folder, count, ", ".join(names), more, films)
    if console.json:
        console.tell({"input": str(others.folder), "passed_over": count, "names": names}, "")


@dataclass(frozen=True)
class Upscaling:
    """What all pictures of one command have in common. Of `request` the plan is not asked for."""

    model: ImageModelDescriptor
    request: Request
    read: Read
    console: Console

    def upscale(self, job: Job) -> dict[str, Any]:
        """The record of a picture, once it is done."""
        with self.console.progress(job.source.name) as bar:
            options, ending = self.request.options, job.target.suffix.lower()
            say = bar.set_postfix_str
            with _telling(_context(self.request, on_say=say), "reading"):
                picture = self.read(job)
            frames = len(picture) if isinstance(picture, Animation) else 1
            show = Progress(bar, runs=-(-frames // options.batch_size)).show
            context = _context(self.request, on_progress=show, on_say=say)
            if isinstance(picture, Animation):
                make_folder(job.target)
                report, lost = upscale_frames(picture, job.target, self.model, options, context)
                return self._told(job, report, (*picture.warnings, *lost))
            height, width = result_size(picture.pixels.shape[:2], self.model.scale, options.resize)
            check_fits(job.target, width, height)
            _check_room(picture, (height, width), ending)
            if picture.bits >= 16 and options.precision == "auto" and ending in ENDINGS_OF_16_BITS:
                options = replace(options, precision="fp32")  # half precision keeps 8 to 11 of them
            result = upscale(torch.from_numpy(picture.pixels)[None], self.model, options, context)
            make_folder(job.target)
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


def _record(job: Job, model: str, report: UpscaleReport) -> dict[str, Any]:
    """What is told of a finished job."""
    return {
        **done(job, model, report),
        "scale": report.scale,
        "sizes": report.sizes,
        "passes": report.passes,
        "still_tiles": report.still_tiles,
        "still_frames": report.still_frames,
        "devices": [*map(asdict, report.devices)],
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
