"""What texts and pictures on the way take of a run: `python -m bench.telling [--models NAME...] [--size 960x720]
[--tile 128]`.

Each run is looked at by a page that has every picture made into a JPEG, at once and on the run's own thread, which
ComfyUI does later and on another. What telling takes is timed within the run, and told as a share of it: no other run
is compared, which a busy machine would make slower or faster by more than that. On a device that works on its own it
is also what waiting for it takes.

"hooks" is a forward of one tile that is listened to, step by step, over one that is not: the median of so many pairs
(`--pairs`), who is first by turns. Shorter forwards than a quarter of a second are not listened to. Target: 1.005.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from spandrel import ImageModelDescriptor
from torch import Tensor

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.models.precision import usual_mode
from cudaspeed.models.runner import ModelRunner
from cudaspeed.pipeline.monitor import Monitor
from cudaspeed.pipeline.preview import Preview
from cudaspeed.pipeline.progress import TileProgress
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.upscale_engine import upscale

from .harness import Column, Results, Table, command_line, parse_size, synchronize
from .model_zoo import build
from .photograph import photograph

_TABLE = Table(
    "model",
    12,
    (
        Column("seconds", 8, lambda r: f"{r['seconds']:.2f}"),
        Column("texts", 6, lambda r: str(r["texts"])),
        Column("pictures", 8, lambda r: str(r["pictures"])),
        Column("of texts", 8, lambda r: f"{r['share_of_texts']:.3%}"),
        Column("of pictures", 11, lambda r: f"{r['share_of_pictures']:.3%}"),
        Column("hooks", 6, lambda r: f"{r['hooks']:.4f}"),
    ),
)


class Page(StandaloneContext):
    """Somebody who looks."""

    looked_at = texts_stay = True

    def __init__(self, device: str, cache_folder: Path) -> None:
        super().__init__(device)
        self.cache_folder = cache_folder
        self.texts: list[bytes] = []
        self.pictures: list[bytes] = []

    def say(self, text: str) -> None:
        self.texts.append(text.encode())

    def show(self, picture: NDArray[np.uint8]) -> None:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG")
        self.pictures.append(file.getvalue())


class Timed:
    """A method that notes how long its calls take, in all, in seconds."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self._method, self.seconds = method, 0.0

    def __get__(self, instance: object, owner: type) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return self._method(instance, *arguments)
            finally:
                self.seconds += time.perf_counter() - began

        return call


def cost_of_hooks(model: ImageModelDescriptor, tile: Tensor, context: StandaloneContext, pairs: int) -> float:
    """Of a forward of `tile` [1, C, h, w], hooks set and taken away included, over one without."""
    runner = ModelRunner(model, usual_mode("fp32", False, model))
    runner.module.to(tile.device)

    def heard() -> None:
        with Monitor(context) as monitor, TileProgress(monitor) as progress:
            with progress.computing(runner, tile, "eager") as forward:
                runner.forward(tile)
                synchronize(tile.device)
            progress.arrived(forward)

    def alone() -> None:
        runner.forward(tile)
        synchronize(tile.device)

    ratios = []
    with torch.inference_mode():
        for _ in range(2):  # by now it is known how long it takes
            heard()
        for number in range(pairs):
            times = {}
            for way in (heard, alone) if number % 2 else (alone, heard):
                began = time.perf_counter()
                way()
                times[way] = time.perf_counter() - began
            ratios.append(times[heard] / times[alone])
    return statistics.median(ratios)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--models", nargs="+", default=["compact-x2", "compact"])
    parser.add_argument("--size", default="960x720", help="WIDTHxHEIGHT of the picture")
    parser.add_argument("--tile", type=int, default=128)
    parser.add_argument("--frames", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=10)
    args = parser.parse_args()
    picture = photograph(*parse_size(args.size)).repeat(args.frames, 1, 1, 1)
    for number, frame in enumerate(picture):  # none stands still
        frame.copy_(frame.roll(number, 0))
    options = UpscaleOptions(tile=args.tile, compile=False)
    results = Results(StandaloneContext(args.device).device, args.json)
    _TABLE.head()
    for name in args.models:
        texts, pictures = Timed(Monitor._speak), Timed(Preview.tile)
        with (
            tempfile.TemporaryDirectory() as folder,
            patch.object(Monitor, "_speak", texts),
            patch.object(Preview, "tile", pictures),
        ):
            page, model = Page(args.device, Path(folder)), build(name)
            began = time.perf_counter()
            upscale(picture, model, options, page, SessionCache())
            seconds = time.perf_counter() - began
        tile = picture[:1, : args.tile, : args.tile].movedim(-1, 1).to(page.device)
        record = {
            "model": name,
            "size": args.size,
            "seconds": seconds,
            "texts": len(page.texts),
            "pictures": len(page.pictures),
            "share_of_texts": texts.seconds / seconds,
            "share_of_pictures": pictures.seconds / seconds,
            "hooks": cost_of_hooks(model, tile, page, args.pairs),
        }
        results.keep(record)
        _TABLE.row(name, record)


if __name__ == "__main__":
    main()
