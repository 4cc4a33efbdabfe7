"""A picture upscaled in a process that may be killed by what it loads, under limits, and what came of it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import shutil
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_SERVER = multiprocessing.get_context("forkserver")  # torch is imported once for all of them
_SERVER.set_forkserver_preload(["cudaspeed.upscale_engine", "cudaspeed.host.standalone", "zoo"])


@dataclass(frozen=True)
class Outcome:
    """How its process ended (0: well), and, if it told, the kernels, how far off the picture is, and what it took:
    seconds, and bytes beside what it had before."""

    code: int | None
    kernels: str = ""
    error: float = 1.0
    seconds: float = 0.0
    bytes: int = 0
    logged: list[str] = field(default_factory=list)


def upscaled(
    folder: Path, limit: float = 90.0, swapped_for: Path | None = None, patience: float = 0.0, **settings: Any
) -> Outcome:
    """With the cache in `folder`, whose libraries are `swapped_for` another at the moment when one is loaded.
    Kernels
    that are being built are waited for `patience` seconds. `settings` are of `kernels.build`, and environment
    variables."""
    ours, theirs = _SERVER.Pipe(duplex=False)
    process = _SERVER.Process(target=_upscale, args=(str(folder), swapped_for, patience, settings, theirs))
    process.start()
    theirs.close()
    told = None
    try:
        if ours.poll(limit):
            told = ours.recv()
    except EOFError:  # it died
        pass
    process.join(10)
    if process.exitcode is None:
        process.kill()
        process.join()
        return Outcome(None)
    return Outcome(process.exitcode, *told) if told else Outcome(process.exitcode)


def _upscale(
    folder: str, swapped_for: Path | None, patience: float, settings: dict[str, Any], result: Connection
) -> None:
    import logging

    import torch
    import zoo
    from clocks import new_sessions

    from cudaspeed.api.options import UpscaleOptions
    from cudaspeed.host.standalone import StandaloneContext
    from cudaspeed.kernels import build, winograd
    from cudaspeed.upscale_engine import upscale

    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())
    logging.getLogger("cudaspeed").addHandler(handler)
    logging.getLogger("cudaspeed").setLevel(logging.INFO)
    os.environ["CUDASPEED_CACHE_DIR"] = folder
    for name, value in settings.items():
        if name.isupper() and not name.startswith("_"):
            os.environ[name] = str(value)
        else:
            setattr(build, name, value)
    if swapped_for:
        _swap(Path(folder), swapped_for)
    image, model = zoo.photograph(40, 48), zoo.compact(2, features=16)
    with torch.no_grad():
        truth = model(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).clamp(0, 1)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    options = UpscaleOptions(precision="fp32", compile=False)
    winograd.prepare(Path(folder), patience)
    found = upscale(image, model, options, StandaloneContext("cpu"), new_sessions())
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = float((found.image - truth).abs().max())
    result.send((found.report.kernels, error, seconds, (after - before) * 1024, logged))


def _swap(folder: Path, evil: Path) -> None:
    """From now on, whenever a library is loaded, somebody has just put theirs in the place of each in `folder`."""
    load = ctypes.CDLL

    def swap_and_load(name: str | None, *how: Any) -> ctypes.CDLL:
        for number, file in enumerate(folder.rglob("*.pt2")):
            new = evil.with_name(f"new{number}")
            shutil.copyfile(evil, new)
            new.replace(file)
        return load(name, *how)

    ctypes.CDLL = swap_and_load  # type: ignore[misc]
