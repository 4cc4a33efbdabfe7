"""`cudaspeed cache`: show, empty or fill the folder of compiled models."""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import asdict
from typing import Any

from ..api.errors import BadModelError, BadOptionError, CudaspeedError, first_line
from ..api.options import UpscaleOptions
from ..models.loader import check_file, load_model
from ..storage.artifacts import ArtifactStore, Entry
from ..storage.engines_own import kept_by_engines
from ..storage.location import compiled_folder
from .console import Console
from .devices import check_device
from .exit_codes import DONE, FAILED
from .options import options_of, parse_size

logger = logging.getLogger("cudaspeed")


def show(arguments: argparse.Namespace, console: Console) -> int:
    """What is compiled, what failed and why."""
    store = ArtifactStore(compiled_folder())
    entries = sorted(store.entries().values(), key=lambda entry: entry.used, reverse=True)
    for entry in entries:
        console.tell(asdict(entry), _entry_line(entry))
    kept = [status.st_size for status in kept_by_engines(store.folder).values()]
    if kept:
        record = {"engine": "xla", "files": len(kept), "bytes": sum(kept)}
        console.tell(record, f"XLA's own code for devices here: {len(kept)} files, {sum(kept) / 1e6:.1f} MB")
    if not console.json:
        ready = sum(entry.state == "ready" for entry in entries)
        console.tell({}, f"{ready} compiled, {store.size() / 1e6:.1f} MB, in {store.folder}")
    return DONE


def clear(arguments: argparse.Namespace, console: Console) -> int:
    """Delete what is compiled, and what is known of models."""
    from ..storage.clearing import clear_all  # with torch

    folder = compiled_folder()
    freed = clear_all(folder)
    console.tell({"folder": str(folder), "freed_bytes": freed}, f"{freed / 1e6:.1f} MB freed in {folder}")
    return DONE


def warm(arguments: argparse.Namespace, console: Console) -> int:
    """Compile ahead of time, for each size, and wait for it."""
    sizes = [parse_size(text) for text in arguments.size]
    options = options_of(UpscaleOptions, arguments)
    check_device(arguments.device, arguments.reserve_vram)
    check_file(arguments.model)

    from ..api.report import NOT_NEEDED
    from ..host.standalone import StandaloneContext  # with torch, now that nothing is wrong with what was asked for
    from ..upscale_engine import warm_up

    model = load_model(arguments.model)
    code = DONE
    for height, width in sizes:
        began = time.perf_counter()
        try:
            with console.progress(f"{width}x{height}") as bar:
                context = StandaloneContext(
                    arguments.device, on_say=bar.set_postfix_str, reserve_vram=arguments.reserve_vram
                )
                status = warm_up(model, (height, width), options, context)
        except (BadOptionError, BadModelError):
            raise
        except Exception as error:  # one size must not cost the others
            logger.debug("%dx%d", width, height, exc_info=True)
            expected = isinstance(error, CudaspeedError)
            status = f"failed: {error if expected else f'unexpected {type(error).__name__}: {first_line(error)}'}"
        if not status.startswith(("compiled", NOT_NEEDED)):  # "compiled by openvino"
            code = FAILED
        record: dict[str, Any] = {
            "size": [width, height],
            "status": status,
            "seconds": time.perf_counter() - began,
        }
        console.tell(record, f"{width}x{height}: {status} ({record['seconds']:.1f} s)")
    return code


def _entry_line(entry: Entry) -> str:
    what = entry.what
    told = f"{what.get('model', '?')[:40]:<40}  {what.get('shapes', 'eager'):<34}  {what.get('precision', ''):<13}"
    told += f"  {what.get('device', ''):<5}  {entry.state:<9}"
    if entry.state == "ready":
        gain = (
            f", {entry.eager_rate / entry.compiled_rate:.2f}x eager" if entry.eager_rate and entry.compiled_rate else ""
        )
        gain += f", by {entry.engine}" if entry.engine else ""
        told += f"  {entry.bytes / 1e6:.1f} MB, {entry.compile_seconds:.0f} s, {entry.hits} hits{gain}"
    elif entry.reason:
        told += f"  {entry.reason}"
    elif entry.eager_seconds:
        told += f"  {entry.eager_seconds:.0f} s spent in eager"
    return told
