"""What a farm's worker does: a picture, as `cudaspeed upscale` does it."""

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
from ..scaleout.actor import Work
from ..storage.files import sha256_of
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

    from ..models.loader import load_model
    from .reading import read
    from .upscale import Upscaling

    arguments = argparse.Namespace(**given)
    torch.set_num_threads(arguments.cpus_per_actor)
    limits = options_of(DecodeLimits, arguments)
    request = Request(
        Plan(()), upscale_options(arguments), limits, arguments.model, arguments.device, False, arguments.reserve_vram
    )
    model = load_model(resolve_model(request.model))
    upscaling = Upscaling(model, request, functools.partial(read, limits=limits), Console())

    def run(source: Path, target: Path) -> dict[str, Any]:
        record = upscaling.upscale(Job(source, target))
        width, height = record["output_size"]
        return {**record, "megapixels": record["frames"] * width * height / 1e6}

    return Work(run, made_by(arguments.model))


def made_by(model: str) -> dict[str, str]:
    """What decides the results beside the options: the pack, and the model's file."""
    return {
        "cudaspeed": f"{installed_version('cudaspeed')} {_code()}".strip(),
        "model": sha256_of(resolve_model(model)),
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
