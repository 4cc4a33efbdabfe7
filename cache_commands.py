"""`cudaspeed cache`: what is compiled, emptying it, and compiling ahead of time."""

from __future__ import annotations

import argparse
import json
import re
import time
from dataclasses import asdict

from .contracts import NOT_NEEDED, PRECISION_CHOICES, BadOptionError, UpscaleOptions
from .models.loader import load_model, resolve_model
from .standalone import StandaloneContext, compiled_folder
from .storage.artifacts import ArtifactStore, Entry
from .storage.profiles import Profiles, profiles_folder
from .upscale_engine import warm_up

_LONGEST_SIDE = 1 << 16


def add_cache_parser(commands: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    """The parser of `cudaspeed cache list | clear | warm MODEL --size WxH ...`."""
    cache = commands.add_parser("cache", help="show, empty or fill the folder of compiled models")
    actions = cache.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", parents=[shared], help="what is compiled, what failed and why")
    actions.add_parser("clear", parents=[shared], help="delete what is compiled, and what is known of models")
    warm = actions.add_parser("warm", parents=[shared], help="compile ahead of time, and wait for it")
    warm.add_argument("model", metavar="MODEL", help="a name that 'cudaspeed models' lists, or a model file")
    warm.add_argument("--size", nargs="+", required=True, metavar="WxH", help="sizes of the pictures to come")
    warm.add_argument("--precision", choices=PRECISION_CHOICES, default="auto", help="number type (default: auto)")
    warm.add_argument(
        "--autocast", action=argparse.BooleanOptionalAction, default=True, help="as for upscale (default: yes)"
    )
    warm.add_argument("--tile", type=int, default=0, metavar="N", help="longest tile side in pixels, 0 = automatic")
    warm.add_argument("--device", default="auto", help="auto, cpu, cuda:0, ... (default: auto)")


def run_cache(arguments: argparse.Namespace) -> int:
    """Carry out `cudaspeed cache ...`; 0: done, 1: what was to be compiled could not be."""
    store = ArtifactStore(compiled_folder())
    if arguments.action == "warm":
        return _warm(arguments)
    if arguments.action == "clear":
        freed = store.clear()
        Profiles(profiles_folder(store.folder)).clear()
        told = {"folder": str(store.folder), "freed_bytes": freed}
        print(json.dumps(told) if arguments.json else f"{freed / 1e6:.1f} MB freed in {store.folder}", flush=True)
        return 0
    entries = sorted(store.entries().values(), key=lambda entry: entry.used, reverse=True)
    for entry in entries:
        print(json.dumps(asdict(entry)) if arguments.json else _line(entry), flush=True)
    if not arguments.json:
        ready = sum(entry.state == "ready" for entry in entries)
        print(f"{ready} compiled, {store.size() / 1e6:.1f} MB, in {store.folder}", flush=True)
    return 0


def parse_size(text: str) -> tuple[int, int]:
    """ "1920x1080" -> (height, width) in pixels. Raises `BadOptionError` for anything else."""
    found = re.fullmatch(r"(\d+)[xX×](\d+)", text)
    if not found or not all(0 < int(side) <= _LONGEST_SIDE for side in found.groups()):
        raise BadOptionError(
            f"size is {text!r}; give width and height in pixels, 1 to {_LONGEST_SIDE} each, such as 1920x1080"
        )
    return int(found[2]), int(found[1])


def _warm(arguments: argparse.Namespace) -> int:
    sizes = [parse_size(text) for text in arguments.size]
    options = UpscaleOptions(precision=arguments.precision, autocast=arguments.autocast, tile=arguments.tile)
    context, model = StandaloneContext(arguments.device), load_model(resolve_model(arguments.model))
    code = 0
    for height, width in sizes:
        began = time.perf_counter()
        status = warm_up(model, (height, width), options, context)
        record = {"size": [width, height], "status": status, "seconds": time.perf_counter() - began}
        line = f"{width}x{height}: {status} ({record['seconds']:.1f} s)"
        print(json.dumps(record) if arguments.json else line, flush=True)
        code = code or int(status != "compiled" and not status.startswith(NOT_NEEDED))
    return code


def _line(entry: Entry) -> str:
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
