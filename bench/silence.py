"""How long a run leaves its user without a word, and how late it notices that he asks to stop:
`python -m bench.silence [--models NAME...] [--size 480x320] [--tile 0]`; on a machine that has other things to do,
`python -m bench.busy python -m bench.silence`.

Each model is a new one to the engine, with a fresh folder for what is found out about it: the first run is what is
looked at. One goes through to its end, and another first one is asked to stop after half that time.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from spandrel import ImageModelDescriptor
from torch import Tensor

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.upscale_engine import upscale

from .harness import Results, command_line, parse_size
from .model_zoo import ARCHITECTURES, build_fitted
from .photograph import photograph


class Stopped(Exception):  # noqa: N818
    """As ComfyUI's own, it is an `Exception`."""


class Listener(StandaloneContext):
    """Notes when it was told something new, from `began` on, and stops the run `stop_after` so many seconds of it."""

    def __init__(self, device: str, cache_folder: Path, stop_after: float | None = None) -> None:
        super().__init__(device)
        self.cache_folder = cache_folder
        self.began = time.perf_counter()
        self.stop_at = None if stop_after is None else self.began + stop_after
        self.told: list[tuple[float, str]] = []

    def progress(self, done: float, total: int) -> None:
        self.told.append((time.perf_counter() - self.began, f"{done / total:.1%}"))

    def say(self, text: str) -> None:
        self.told.append((time.perf_counter() - self.began, text))

    def raise_if_interrupted(self) -> None:
        if self.stop_at is not None and time.perf_counter() >= self.stop_at:
            raise Stopped


@dataclass(frozen=True)
class Silence:
    """`seconds` of the run, the `longest` of them without a new text or a bar that moved, which came after the text
    `after`; `noticed`: how long after it was asked to stop the other run ended; NaN: it was quicker."""

    seconds: float
    longest: float
    after: str
    noticed: float
    told: list[tuple[float, str]] = field(repr=False)


def silence(
    model: Callable[[], ImageModelDescriptor], picture: Tensor, options: UpscaleOptions, device: str = "auto"
) -> Silence:
    """What a first run of the model that `model` makes is like for who waits, and how it takes being stopped."""
    descriptors, noticed = (model(), model()), math.nan
    with tempfile.TemporaryDirectory() as folder:
        context = Listener(device, Path(folder))
        upscale(picture, descriptors[0], options, context, SessionCache())
        seconds = time.perf_counter() - context.began
    with tempfile.TemporaryDirectory() as folder:
        stopping = Listener(device, Path(folder), seconds / 2)
        try:
            upscale(picture, descriptors[1], options, stopping, SessionCache())
        except Stopped:
            noticed = time.perf_counter() - stopping.began - seconds / 2
    longest, after = longest_silence(context.told, seconds)
    return Silence(seconds, longest, after, noticed, context.told)


def longest_silence(told: list[tuple[float, str]], seconds: float) -> tuple[float, str]:
    """The longest time within so many seconds in which nothing was told that differs from what was before, and what
    that was."""
    times = [(0.0, "")]
    for at, text in told:
        if text != times[-1][1]:
            times.append((at, text))
    ends = [*(at for at, _ in times[1:]), seconds]
    return max((end - at, text) for (at, text), end in zip(times, ends, strict=True))


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--models", nargs="+", default=ARCHITECTURES)
    parser.add_argument("--size", default="480x320", help="WIDTHxHEIGHT of the picture")
    parser.add_argument("--tile", type=int, default=0)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--texts", action="store_true", help="what was told, too")
    args = parser.parse_args()
    picture = photograph(*parse_size(args.size))
    options = UpscaleOptions(precision=args.precision, tile=args.tile, compile=False)
    results = Results(StandaloneContext(args.device).device, args.json)
    for name in args.models:
        build = partial(build_fitted, name, picture.permute(0, 3, 1, 2))
        found = silence(build, picture, options, args.device)
        results.keep({"model": name, "size": args.size, "seconds": found.seconds, "longest": found.longest,
                      "noticed": found.noticed})  # fmt: skip
        print(f"{name} {args.size}: {found.seconds:.1f} s, longest silence {found.longest:.1f} s (after "
              f"{found.after!r}), an interrupt noticed after {found.noticed:.2f} s", flush=True)  # fmt: skip
        if args.texts:
            for at, text in found.told:
                print(f"  {at:8.2f} {text}")


if __name__ == "__main__":
    main()
