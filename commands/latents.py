"""The latents of `cudaspeed latent`, from files into files, one after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..api.errors import BadOptionError
from ..api.report import UpscaleReport
from ..host.standalone import StandaloneContext
from ..images.jobs import Job
from ..images.whole import make_folder
from ..latents.files import read_latent, write_latent
from ..latents.loader import load_latent_model
from ..latents.model import LatentModel
from ..latents.upscale import upscale_latent
from ..upscale_engine import upscale_into
from .animations import Progress
from .batch import Batch, warn_of_unwritable_cache
from .console import Console, line_of_undone
from .latent import LatentRequest
from .records import done

logger = logging.getLogger("cudaspeed")

_LESS_MEMORY = "close other programs, upscale a smaller latent, or ask for a smaller result (--scale-by)"


def upscale_all(request: LatentRequest, console: Console) -> int:
    """Upscale what can be upscaled; of each latent a record or a line says what came of it."""
    model = load_latent_model(request.model, request.scale)
    _check_scale(model, request)
    _context(request)  # raises where this machine has no such device, before anything is begun
    warn_of_unwritable_cache()
    upscaling = _Upscaling(model, request, console)
    return Batch(request.plan, request.is_done, upscaling.upscale, _LESS_MEMORY).run(console, _line)


def _check_scale(model: LatentModel, request: LatentRequest) -> None:
    """Raise `BadOptionError` for a scale that is another than the model's: who gives it means the size of the result,
    or another file."""
    least, most = model.traits.scales
    if request.scale is not None and (request.scale, request.scale) != (least, most):
        known = f"{most:g}" if model.traits.fixed else f"{least:g} to {most:g}"
        raise BadOptionError(
            f"scale is {request.scale:g}, and {request.model} is {model.traits.family}, which enlarges by {known}; "
            "leave --scale out, and set --scale-by for another size"
        )


@dataclass(frozen=True)
class _Upscaling:
    """What all latents of one command have in common."""

    model: LatentModel
    request: LatentRequest
    console: Console

    def upscale(self, job: Job) -> dict[str, Any]:
        """The record of a latent, once it is done."""
        file = read_latent(job.source)
        with self.console.progress(job.source.name) as bar:
            context = _context(self.request, on_progress=Progress(bar).show, on_say=bar.set_postfix_str)

            def enlarge(frames: Tensor, target: Tensor, scaled: LatentModel) -> UpscaleReport:
                return upscale_into(frames, target, scaled, self.request.options, context)

            made, report = upscale_latent({"samples": file.samples}, self.model, self.request.size, enlarge)
            make_folder(job.target)
            write_latent(job.target, made["samples"], file.texts)
        warnings = [*report.warnings]
        if file.left_out:
            told = f"tensors that LoadLatent does not read are left out: {', '.join(file.left_out)}"
            logger.warning("%s: %s", job.source, told)
            warnings.append(told)
        channels = file.samples.shape[1]
        return {**done(job, self.request.model, report), "channels": channels, "warnings": warnings}


def _context(request: LatentRequest, **told: Callable[..., None]) -> StandaloneContext:
    """The device that is asked for, for one run, and who is `told` of it."""
    return StandaloneContext(request.device, reserve_vram=request.reserve_vram, **told)


def _line(record: dict[str, Any]) -> str:
    undone = line_of_undone(record)
    if undone:
        return undone
    name = Path(record["input"]).name
    (width, height), (out_width, out_height) = record["input_size"], record["output_size"]
    frames = f"{record['frames']} latents, " if record["frames"] > 1 else ""
    return (
        f"{name}: {width}x{height} -> {out_width}x{out_height}, {frames}{record['seconds']:.1f} s, "
        f"written to {record['output']}"
    )
