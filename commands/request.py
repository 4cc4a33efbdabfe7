"""`cudaspeed upscale` as far as torch is not needed: what is asked for is checked, and the first picture is being read
while torch is imported."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..api.errors import BadOptionError
from ..api.options import UpscaleOptions
from ..images.folders import is_picture
from ..images.jobs import Job, Plan, Refused, plan_jobs, refuse_unwritable
from ..images.limits import DecodeLimits
from ..images.naming import FolderOptions
from ..models.loader import check_file
from ..video.films import holds_films, is_called_like_a_film
from .console import Console
from .devices import check_device
from .options import options_of, upscale_options

VIDEO_UPSCALES = "'cudaspeed video' upscales films"


@dataclass(frozen=True)
class Request:
    """What is to be upscaled, and how, as far as it can be told to make sense. `model` is a name or a path, `device` a
    name, of whose memory `reserve_vram` GB are left to others; with `skip_existing` an output that exists counts as
    done."""

    plan: Plan
    options: UpscaleOptions
    limits: DecodeLimits
    model: str
    device: str
    skip_existing: bool
    reserve_vram: float | None = None

    def is_done(self, job: Job) -> bool:
        """Whether there is nothing to do, because the output exists."""
        return self.skip_existing and _exists(job.target)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Upscale what can be upscaled; of each picture a record or a line says what came of it."""
    request = _checked(arguments)
    from .reading import ReadAhead  # with numpy and Pillow

    first = next((job for job in request.plan.jobs if not request.is_done(job)), None)
    with ReadAhead(first, request.limits) as read:
        from .upscale import upscale_all  # with torch and spandrel, which takes seconds

        return upscale_all(request, read, console)


def _checked(arguments: argparse.Namespace) -> Request:
    """Raises `BadOptionError` and `BadModelError` for what makes no sense; changes nothing on disk."""
    options = upscale_options(arguments)
    if is_called_like_a_film(Path(arguments.output)) and not os.path.isdir(arguments.output):  # noqa: PTH112
        raise BadOptionError(f"{arguments.output} is called like a film; 'cudaspeed video' writes films")
    limits = options_of(DecodeLimits, arguments)
    with _hinting_at_films(arguments.inputs):
        plan = plan_jobs(arguments.inputs, arguments.output, options_of(FolderOptions, arguments))
    plan = _without_films(refuse_unwritable(plan))
    check_file(arguments.model)
    check_device(arguments.device, arguments.reserve_vram)
    return Request(
        plan, options, limits, arguments.model, arguments.device, arguments.skip_existing, arguments.reserve_vram
    )


@contextmanager
def _hinting_at_films(inputs: Sequence[str]) -> Iterator[None]:
    """Where nothing can be done of `inputs`, and a folder among them holds films, say who takes these."""
    try:
        yield
    except BadOptionError as error:
        if any(map(holds_films, map(Path, inputs))):
            raise BadOptionError(f"{error}; {VIDEO_UPSCALES}") from error
        raise


def _without_films(plan: Plan) -> Plan:
    """The plan, with films refused that were named. Raises `BadOptionError` where nothing else is left."""
    steps = [_without_film(step) for step in plan.steps]
    refused = [step for step in steps if isinstance(step, Refused)]
    if len(refused) == len(steps) and refused:
        raise BadOptionError(refused[0].reason)
    return replace(plan, steps=tuple(steps))


def _without_film(step: Job | Refused) -> Job | Refused:
    if isinstance(step, Job):
        is_film = is_called_like_a_film(step.source) and not is_picture(step.source)
        return Refused(step.source, f"{step.source} is a film; {VIDEO_UPSCALES}") if is_film else step
    return replace(step, reason=f"{step.reason}; {VIDEO_UPSCALES}") if holds_films(step.source) else step


def _exists(target: Path) -> bool:
    """As a file, by os.path's functions: for a name that is too long, those of paths raise."""
    return os.path.exists(target) and not os.path.isdir(target)  # noqa: PTH110, PTH112
