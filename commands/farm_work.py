"""What a farm's worker does: pictures and films, as `cudaspeed upscale` and `video` do them."""

from __future__ import annotations

import argparse
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..api.installed import installed_version
from ..images.jobs import Job, Plan
from ..images.limits import DecodeLimits
from ..models.loader import resolve_model
from ..scaleout.actor import Split, Task, Work
from ..storage.files import sha256_of
from ..video.films import is_called_like_a_film
from ..video.options import VideoOptions
from .console import Console
from .options import options_of, upscale_options
from .request import Request

_PACKAGE = Path(__file__).parents[1]
_OURS = ("*.py", "*/*.py", "*/*/*.py", "kernels/csrc/*")
_NOT_OURS = {"tests", "bench", "train", "docs", "fuzz", "examples"}  # of a checkout


def make_work(given: Mapping[str, Any]) -> Work:
    """The work of a farm that was begun with such arguments, in a process that does nothing else. Raises as
    `cudaspeed upscale` does for a model or a device that it cannot use."""
    import torch  # here because the driver, which hands this function over, needs none of it

    from ..host.standalone import StandaloneContext
    from ..models.loader import load_model
    from ..video.stages import Engine
    from .farm_films import FilmWork
    from .reading import read
    from .upscale import Upscaling

    arguments = argparse.Namespace(**given)
    torch.set_num_threads(arguments.cpus_per_actor)
    limits, options = options_of(DecodeLimits, arguments), upscale_options(arguments)
    device, reserved = arguments.device, arguments.reserve_vram
    request = Request(Plan(()), options, limits, arguments.model, device, False, reserved)
    model = load_model(resolve_model(request.model))
    upscaling = Upscaling(model, request, functools.partial(read, limits=limits), Console())

    def engine() -> Engine:
        return Engine(model, options, StandaloneContext(device, reserve_vram=reserved))

    context = StandaloneContext(device, reserve_vram=reserved)  # raises for a device that is not there
    films = FilmWork(options_of(VideoOptions, arguments), engine, arguments.model)

    def run(task: Task) -> dict[str, Any] | Split:
        if is_called_like_a_film(task.source):
            return films.run(task)
        record = upscaling.upscale(Job(task.source, task.target))
        width, height = record["output_size"]
        return {**record, "megapixels": record["frames"] * width * height / 1e6}

    # As a film's segments are known by, of which none is used that was made elsewhere (video/manifest.py).
    return Work(run, made_by(arguments.model), context.switches.engine or str(context.device))


def made_by(model: str) -> dict[str, str]:
    """What decides the results beside the options: the pack, and the model's file."""
    return {
        "cudaspeed": f"{installed_version('cudaspeed')} {_code()}".strip(),
        "model": sha256_of(resolve_model(model)),
        **{name: installed_version(package) for name, package in (("torch", "torch"), ("PyAV", "av"))},
    }


@functools.cache
def _code() -> str:
    """A digest of the pack's own code: two checkouts of one version may differ."""
    digest = hashlib.sha256()
    files = {path for pattern in _OURS for path in _PACKAGE.glob(pattern)}
    for path in sorted(files):
        within = path.relative_to(_PACKAGE)
        if within.parts[0] not in _NOT_OURS:
            digest.update(within.as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
