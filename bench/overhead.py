"""What our path costs beyond the bare model: `python -m bench.overhead [--models M ...] [--sizes 1280x720 ...]`.

For each model and size, in turn: an upscale from main memory to main memory; our copy of the model alone, on the same
tiles, which lie on the device already; and alone on the whole picture. The overhead is what the upscale takes beyond
the same tiles. Targets: 5 % on a CPU; on CUDA, 1280x720, 10 % for ESRGAN and 25 % for Compact.

Then where it goes: the parts of the path, timed in upscales of their own in which the device is waited for at every
step. Where copies otherwise hide behind the computing, the parts add up to more than the overhead.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from spandrel import ImageModelDescriptor
from torch import Tensor

from cudaspeed import upscale_engine
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.pipeline import download, frames, retry, upload
from cudaspeed.pipeline import run as run_module
from cudaspeed.pipeline.forwards import Forwards
from cudaspeed.pipeline.schedule_maker import ScheduleMaker
from cudaspeed.pipeline.session import Session
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.tiling import blend

from .harness import Column, Record, Results, Table, command_line, in_turn, parse_size, percent, synchronize
from .model_zoo import build_fitted
from .photograph import photograph

# What is timed, by the name under which the path finds it. A part's time is without that of the parts it calls.
PARTS: dict[str, tuple[tuple[Any, str], ...]] = {
    "checks, memory for the result": ((upscale_engine, "validate_image"), (upscale_engine, "allocate_output")),
    "choosing, planning": ((Session, "start"), (ScheduleMaker, "schedule")),
    "copies in": ((upload.Upload, "frame"), (upload.StreamUpload, "frame"), (frames, "to_canvas")),
    "cutting tiles": ((frames.FrameGroup, "cut"),),
    "health": ((run_module, "measure_tiles"), (retry.TileRetry, "settle")),
    "assembly, blending": ((blend.TileBlender, "add"),),
    "copies out": (
        *((download.Download, name) for name in ("write", "throttle", "close")),
        *((download.StreamDownload, name) for name in ("write", "throttle", "close")),
    ),
}
_MODEL, _REST = "the model", "everything else"

_TABLE = Table(
    "model",
    14,
    (
        Column("size", 10, lambda r: f"{r['size'][1]}x{r['size'][0]}"),
        Column("precision", 9, lambda r: r["precision"]),
        Column("tiles", 14, lambda r: f"{r['tiles']} of {r['tile'][1]}x{r['tile'][0]}"),
        Column("recomputed", 10, lambda r: percent(r["recomputed"])),
        Column("upscale s", 10, lambda r: f"{r['seconds']:.4f}"),
        Column("tiles s", 10, lambda r: f"{r['tiles_seconds']:.4f}"),
        Column("whole s", 10, lambda r: "-" if r["whole_seconds"] is None else f"{r['whole_seconds']:.4f}"),
        Column("overhead", 9, lambda r: percent(r["overhead"])),
    ),
)


class Stopwatch:
    """Adds up the seconds that functions take, each without those of the ones it calls."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: Counter[str] = Counter()
        self._device = device
        self._inner: list[float] = []

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, added to the seconds of `name` whenever it is called."""

        def call(*args: Any, **kwargs: Any) -> Any:
            synchronize(self._device)
            began = time.perf_counter()
            self._inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                synchronize(self._device)
                took = time.perf_counter() - began
                self.seconds[name] += took - self._inner.pop()
                if self._inner:
                    self._inner[-1] += took

        return call


def parts_of(work: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Seconds of the parts of one upscale by `work`, and of the rest of it."""
    watch = Stopwatch(device)
    with ExitStack() as stack:
        for part, places in PARTS.items():
            for owner, name in places:
                stack.enter_context(patch.object(owner, name, watch.timed(part, getattr(owner, name))))
        forward = Forwards._once
        stack.enter_context(patch.object(Forwards, "_once", watch.timed(_MODEL, forward)))
        watch.timed(_REST, work)()
    return {part: watch.seconds[part] for part in (_MODEL, *PARTS, _REST)}


def measure(
    model: ImageModelDescriptor, image: Tensor, options: UpscaleOptions, context: StandaloneContext, rounds: int
) -> Record:
    """A row of the table, with the parts."""
    kept, device = SessionCache(), context.device

    def work() -> None:
        upscale_engine.upscale(image, model, options, context, kept)

    work()  # the first run shows how large tiles had better be
    report = upscale_engine.upscale(image, model, options, context, kept).report
    session = Session(model, options, context, kept)
    session.start(image[..., 0].numel(), lambda: None)
    runner = session.chain.now.runner
    frames, height, width, _ = image.shape
    pictures = image.permute(0, 3, 1, 2).to(device)
    tile = torch.zeros(report.batch, pictures.shape[1], *report.tile, device=device)
    tile[:, :, :height, :width] = pictures[:1, :, : report.tile[0], : report.tile[1]]

    def tiles() -> None:
        for start in range(0, report.tiles, report.batch):
            runner.forward(tile[: report.tiles - start])

    def whole() -> None:
        for picture in pictures.split(1):
            runner.forward(picture)

    works = {"upscale": work, "tiles": tiles}
    with torch.inference_mode():
        if tile.shape[2:] != pictures.shape[2:]:  # else it is the same
            works["whole"] = whole
        for other in works.values():
            other()
        times = in_turn(works, rounds, device)
        parts = min((parts_of(work, device) for _ in range(rounds)), key=lambda found: sum(found.values()))
    best = {name: min(took) for name, took in times.items()}
    return {
        "size": [height, width],
        "frames": frames,
        "precision": report.precision,
        "tile": report.tile,
        "tiles": report.tiles,
        "batch": report.batch,
        "recomputed": report.tiles * report.tile[0] * report.tile[1] / (frames * height * width) - 1,
        "seconds": best["upscale"],
        "tiles_seconds": best["tiles"],
        "whole_seconds": best.get("whole"),
        "overhead": best["upscale"] / best["tiles"] - 1,
        "all_seconds": times,
        "parts": parts,
    }


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--models", nargs="+", default=["compact"])
    parser.add_argument("--sizes", nargs="+", default=["640x480"], metavar="WIDTHxHEIGHT")
    parser.add_argument("--frames", type=int, default=1)
    parser.add_argument("--tile", type=int, default=0)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    options = UpscaleOptions(precision=args.precision, compile=False, tile=args.tile, batch_size=min(16, args.frames))
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("CUDASPEED_CACHE_DIR", folder)
        context = StandaloneContext(args.device)
        results = Results(context.device, args.json)
        for name, size in itertools.product(args.models, args.sizes):
            image = photograph(*parse_size(size), args.frames)
            model = build_fitted(name, image[:1].permute(0, 3, 1, 2).to(context.device))
            row = {"model": name} | measure(model, image, options, context, args.rounds)
            results.keep(row)
            _TABLE.head()
            _TABLE.row(name, row)
            for part, took in row["parts"].items():
                print(f"    {part:<30} {took:10.5f} s {took / row['tiles_seconds']:8.2%}")


if __name__ == "__main__":
    main()
