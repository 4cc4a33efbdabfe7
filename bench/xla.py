"""What XLA computes, beside torch, and what its compiles cost: `python -m bench.xla [--models NAME...] [--device tpu]
[--json FILE]`, in an environment that has JAX and torchax (`make xla-env`).

Each in processes of its own, by itself on JAX's CPU backend, whose processor is made to look like one device or
several; a first run waits until the model is compiled, and so does the first after a restart, by what is kept on the
disk. A folder of pictures of odd sizes tells how often it compiles, how much of what it computes lies beyond them, and
how much it computes in all.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .harness import ROOT, Results, command_line, in_turn
from .model_zoo import build
from .photograph import photograph

_MANY = 8  # devices
_ODD = ((150, 200), (131, 97), (240, 180), (199, 201), (96, 250), (177, 143), (222, 118), (128, 128))  # pixels
_PROCESSOR = "xla:cpu"
_TILE = 128  # the side of a square one, pixels
_RUNS = 3
_PROGRAM = "program"
_CPU = torch.device("cpu")


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--models", nargs="+", default=["compact", "esrgan-short", "swinir"])
    parser.add_argument("--once", help="what a process of its own does, as JSON")
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(_once(**json.loads(arguments.once))))
        return
    device = _PROCESSOR if arguments.device == "auto" else arguments.device
    results = Results(_CPU, arguments.json)
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            runs = partial(_child, 1, folder, what="runs", name=name, device=device)
            cold, restarted = runs(), runs()
        with tempfile.TemporaryDirectory() as folder:
            odd = _child(1, folder, what="odd", name=name, device=device)
        with tempfile.TemporaryDirectory() as folder:
            _child(1, folder, what="build", name=name, device=_PROCESSOR)
            one = _child(1, folder, what="forwards", name=name, device=device, batch=4)
            many = _devices(folder, name) if device == _PROCESSOR else float("nan")
        row = {
            "model": name,
            "apart": cold["apart"],
            "second : first": cold["seconds"][1] / cold["seconds"][0],
            "compiled for a folder": odd["compiled"],
            "padding": odd["padding"],
            "computed : pictures": odd["computed"],
            "left to torch": odd["left"],
            "restarted : cold": restarted["seconds"][0] / cold["seconds"][0],
            "XLA : torch, 4 tiles": one["xla"] / one["torch"],
            f"{_MANY} devices : 1, {_MANY} tiles": many,
        }
        results.keep(row)
        print(
            ", ".join(f"{key}: {value:.3g}" if isinstance(value, float) else str(value) for key, value in row.items())
        )


def _devices(folder: str, name: str) -> float:
    """What a batch of tiles takes on as many devices, one each, by what they take on one; processes in turn."""
    taken: dict[int, list[float]] = {1: [], _MANY: []}
    for _ in range(_RUNS):
        for devices, seconds in taken.items():
            work = {"what": "forwards", "name": name, "device": _PROCESSOR}
            told = _child(devices, folder, **work, batch=_MANY, beside_torch=False)
            seconds.append(told["xla"])
    return min(taken[_MANY]) / min(taken[1])


def _child(devices: int, folder: str, **work: Any) -> dict[str, Any]:
    """What a process says that has so many devices, and keeps what it compiles in `folder`."""
    environment = {**os.environ, "CUDASPEED_CACHE_DIR": folder}
    if work["device"] == _PROCESSOR:
        flags = f"--xla_force_host_platform_device_count={devices}"
        environment |= {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "bench.xla", "--once", json.dumps({"folder": folder, **work})]
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(ended.stderr)
    return json.loads(ended.stdout.splitlines()[-1])


def _once(what: str, name: str, folder: str, device: str, **more: Any) -> dict[str, Any]:
    if what == "runs":
        return _runs(name, device)
    if what == "odd":
        return _odd(name, device)
    return _build(name, Path(folder)) if what == "build" else _forwards(name, Path(folder), device, **more)


def _runs(name: str, device: str) -> dict[str, Any]:
    """Seconds of the first run in this process and of the next, and how far its picture is from torch's."""
    from cudaspeed.api.options import UpscaleOptions
    from cudaspeed.host.standalone import StandaloneContext
    from cudaspeed.upscale_engine import upscale

    model, picture = build(name), photograph(_TILE, _TILE)
    seconds, results = [], []
    for _ in range(2):
        began = time.perf_counter()
        results.append(upscale(picture, model, UpscaleOptions(precision="fp32"), StandaloneContext(device)))
        seconds.append(time.perf_counter() - began)
    usual = UpscaleOptions(precision="fp32", compile=False)
    truth = upscale(picture, model, usual, StandaloneContext("cpu"))
    if not all(result.report.compiling == f"compiled by {device}" for result in results):
        raise SystemExit(f"{name}: {results[-1].report.compiling}")
    return {"seconds": seconds, "apart": (results[0].image - truth.image).abs().max().item()}


def _odd(name: str, device: str) -> dict[str, Any]:
    """How many shapes of tiles were compiled for pictures of odd sizes, one after the other; which share of what these
    were filled up to lies beyond them; how many times their pixels all tiles have; and how many torch computed, as none
    of the shapes fits them."""
    from cudaspeed.api.options import UpscaleOptions
    from cudaspeed.host.standalone import StandaloneContext
    from cudaspeed.upscale_engine import upscale

    model, canvases, computed, within, compiled, left = build(name), 0, 0, 0, 0, 0
    for size in _ODD:
        report = upscale(photograph(*size), model, UpscaleOptions(), StandaloneContext(device)).report
        left += not report.compiled
        if not report.compiled:
            continue
        within += math.prod(size)
        canvases += math.prod(map(max, size, report.tile))
        computed += report.tiles * math.prod(report.tile)
        compiled = report.compiled_shapes
    return {
        "compiled": compiled,
        "padding": 1 - within / canvases,
        "computed": computed / within,
        "left": left,
    }


def _forwards(name: str, folder: Path, device: str, batch: int, beside_torch: bool = True) -> dict[str, float]:
    """Median seconds of a forward of `batch` tiles by XLA on all devices, a tile each where there are several, and by
    the plain model in torch, in turn."""
    from cudaspeed.backends.xla_file import XlaPrograms
    from cudaspeed.backends.xla_forward import XlaForward
    from cudaspeed.backends.xla_library import devices_of

    model, x = build(name), photograph(_TILE, _TILE).permute(0, 3, 1, 2).repeat(batch, 1, 1, 1)
    forward = XlaForward(XlaPrograms.read(folder / _PROGRAM), devices_of(device), folder / "xla")

    def by_xla() -> None:
        forward(x)

    def by_torch() -> None:
        with torch.inference_mode():
            model.model(x)

    works = {"xla": by_xla, **({"torch": by_torch} if beside_torch else {})}
    in_turn(works, 1, _CPU)
    return {work: statistics.median(taken) for work, taken in in_turn(works, 5, _CPU).items()}


def _build(name: str, folder: Path) -> dict[str, Any]:
    """The programs for one tile and several, in a process of its own, as everywhere: what makes them takes hold of
    torch."""
    from cudaspeed.backends.interface import Work
    from cudaspeed.backends.shapes import TileShapes
    from cudaspeed.backends.xla import Xla

    shapes = TileShapes.one(_TILE, _TILE)
    work = Work(build(name).model.eval(), torch.rand(1, 3, _TILE, _TILE), shapes, "fp32", _CPU, folder)
    Xla("xla", folder / "xla").build(work, folder / _PROGRAM)
    return {}


if __name__ == "__main__":
    main()
