"""`cudaspeed latent` as far as torch is not needed: what is asked for is checked."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass

from ..api.options import UpscaleOptions
from ..images.jobs import Job, Plan, refuse_unwritable
from ..latents.jobs import plan_latents
from ..latents.options import LatentSize
from ..models.loader import check_file
from .console import Console
from .devices import check_device
from .options import options_of


@dataclass(frozen=True)
class LatentRequest:
    """Which latents are to be upscaled, and how, as far as it can be told to make sense. `model` is a name or a path;
    `scale` what it enlarges by, where somebody has to tell; `device` a name, of whose memory `reserve_vram` GB are left
    to others; with `skip_existing` an output that exists counts as done."""

    plan: Plan
    options: UpscaleOptions
    size: LatentSize
    model: str
    scale: float | None
    device: str
    reserve_vram: float | None
    skip_existing: bool

    def is_done(self, job: Job) -> bool:
        """Whether there is nothing to do, because the output exists."""
        return self.skip_existing and os.path.isfile(job.target)  # noqa: PTH113  # raises nothing for odd names


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Upscale what can be upscaled; of each latent a record or a line says what came of it."""
    options, size = options_of(UpscaleOptions, arguments), options_of(LatentSize, arguments)
    plan = refuse_unwritable(plan_latents(arguments.inputs, arguments.output))
    check_file(arguments.model)
    check_device(arguments.device, arguments.reserve_vram)
    request = LatentRequest(
        plan=plan,
        options=options,
        size=size,
        model=arguments.model,
        scale=arguments.scale,
        device=arguments.device,
        reserve_vram=arguments.reserve_vram,
        skip_existing=arguments.skip_existing,
    )
    from .latents import upscale_all  # with torch and spandrel, which takes seconds

    return upscale_all(request, console)
