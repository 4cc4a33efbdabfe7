"""`cudaspeed video` as far as torch is not needed: what is asked for is checked."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass

from ..api.options import UpscaleOptions
from ..images.jobs import Job, Plan, refuse_unwritable
from ..models.loader import check_file
from ..video.encoders import ENCODERS
from ..video.films import plan_films
from ..video.frame_pattern import frame_pattern
from ..video.options import AUTOMATIC, VideoOptions
from ..video.pyav import load_av
from .console import Console
from .devices import check_device
from .options import options_of, upscale_options


@dataclass(frozen=True)
class FilmRequest:
    """Which films are to be upscaled, and how, as far as it can be told to make sense. `model` is a name or a path,
    `device` a name, of whose memory `reserve_vram` GB are left to others; unless `overwrite`, an output that exists
    counts as done; on a `restart` what is done of others does not."""

    plan: Plan
    options: UpscaleOptions
    video: VideoOptions
    model: str
    device: str
    reserve_vram: float | None
    overwrite: bool
    restart: bool

    def is_done(self, job: Job) -> bool:
        """Whether there is nothing to do, because the output exists."""
        return not self.overwrite and os.path.isfile(job.target)  # noqa: PTH113  # raises nothing for odd names


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Upscale what can be upscaled; of each film a record or a line says what came of it."""
    options, video = upscale_options(arguments), options_of(VideoOptions, arguments)
    plan = refuse_unwritable(plan_films(arguments.inputs, arguments.output, video, arguments.overwrite))
    check_file(arguments.model)
    check_device(arguments.device, arguments.reserve_vram)
    os.environ.setdefault("SVT_LOG", "1")  # errors only: SVT-AV1 tells a page of settings otherwise
    if not all(frame_pattern(job.source) and frame_pattern(job.target) for job in plan.jobs):
        load_av()
        if video.codec != AUTOMATIC:
            from ..video.formats import check_opens  # with numpy

            check_opens(ENCODERS[video.codec])
    request = FilmRequest(
        plan=plan,
        options=options,
        video=video,
        model=arguments.model,
        device=arguments.device,
        reserve_vram=arguments.reserve_vram,
        overwrite=arguments.overwrite,
        restart=arguments.restart,
    )
    from .films import upscale_all  # with torch and spandrel, which takes seconds

    return upscale_all(request, console)
