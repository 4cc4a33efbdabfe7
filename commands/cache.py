"""`cudaspeed cache`: show, empty or fill the folder of compiled models."""

from __future__ import annotations

import argparse
import logging
import re
import time
from dataclasses import asdict
from typing import Any

from ..api.errors import BadModelError, BadOptionError, CudaspeedError, first_line
from ..api.options import UpscaleOptions
from ..api.report import NOT_NEEDED
from ..host import StandaloneContext, compiled_folder
from ..models.loader import load_model
from ..storage.artifacts import ArtifactStore, Entry
from ..storage.profiles import ProfileStore, profiles_folder
from ..upscale_engine import warm_up
from .console import Console
from .exit_codes import DONE, FAILED
from .options import options_of

logger = logging.getLogger("cudaspeed")

_LONGEST_SIDE = 1 << 16  # pixels, of a picture to compile for


def show(arguments: argparse.Namespace, console: Console) -> int:
    """What is compiled, what failed and why."""
    store = ArtifactStore(compiled_folder())
    entries = sorted(store.entries().values(), key=lambda entry: entry.used, reverse=True)
    for entry in entries:
        console.tell(asdict(entry), _entry_line(entry))
    if not console.json:
        ready = sum(entry.state == "ready" for entry in entries)
        console.tell({}, f"{ready} compiled, {store.size() / 1e6:.1f} MB, in {store.folder}")
    return DONE


def clear(arguments: argparse.Namespace, console: Console) -> int:
    """Delete what is compiled, and what is known of models."""
    store = ArtifactStore(compiled_folder())
    freed = store.clear()
    ProfileStore(profiles_folder(store.folder)).clear()
    console.tell({"folder": str(store.folder), "freed_bytes": freed}, f"{freed / 1e6:.1f} MB freed in {store.folder}")
    return DONE


def warm(arguments: argparse.Namespace, console: Console) -> int:
    """Compile ahead of time, for each size, and wait for it."""
    sizes = [parse_size(text) for text in arguments.size]
    options = options_of(UpscaleOptions, arguments)
    context, model = StandaloneContext(arguments.device), load_model(arguments.model)
    code = DONE
    for height, width in sizes:
        began = time.perf_counter()
        try:
            status = warm_up(model, (height, width), options, context)
        except (BadOptionError, BadModelError):
            raise
        except Exception as error:  # one size must not cost the others
            logger.debug("%dx%d", width, height, exc_info=True)
            expected = isinstance(error, CudaspeedError)
            status = f"failed: {error if expected else f'unexpected {type(error).__name__}: {first_line(error)}'}"
        if status != "compiled" and not status.startswith(NOT_NEEDED):
            code = FAILED
        record: dict[str, Any] = {
            "size": [width, height],
            "status": status,
            "seconds": time.perf_counter() - began,
        }
        console.tell(record, f"{width}x{height}: {status} ({record['seconds']:.1f} s)")
    return code


def parse_size(text: str) -> tuple[int, int]:
    """ "1920x1080" -> (height, width) in pixels. Raises `BadOptionError` for anything else."""
    found = re.fullmatch(r"([0-9]{1,9})[xX×]([0-9]{1,9})", text)
    if not found or not all(0 < int(side) <= _LONGEST_SIDE for side in found.groups()):
        raise BadOptionError(
            f"size is {text!r}; give width and height in pixels, 1 to {_LONGEST_SIDE} each, such as 1920x1080"
        )
    return int(found[2]), int(found[1])


def _entry_line(entry: Entry) -> str:
    what = entry.what
    told = f"{what.get('model', '?')[:40]:<40}  {what.get('shapes', 'eager'):<34}  {what.get('precision', ''):<13}"
    told += f"  {what.get('device', ''):<5}  {entry.state:<9}"
    if entry.state == "ready":
        gain = (
            f", {entry.eager_rate / entry.compiled_rate:.2f}x eager" if entry.eager_rate and entry.compiled_rate else ""
        )
        told += f"  {entry.bytes / 1e6:.1f} MB, {entry.compile_seconds:.0f} s, {entry.hits} hits{gain}"
    elif entry.reason:
        told += f"  {entry.reason}"
    elif entry.eager_seconds:
        told += f"  {entry.eager_seconds:.0f} s spent in eager"
    return told
