"""What it costs that memory runs out on the way: `python -m bench.lack [--model M] [--size 480x320] [--tile 160]`.

A forward at the beginning, in the middle or at the end fails as a device's would: once, or, from there on, whenever it
has more than half of a tile's pixels. Told are seconds in multiples of an undisturbed run, in turn in one process (to
reach: 1.5), and how far the picture is from that run's (1e-5).
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.pipeline.forwards import Forwards
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.upscale_engine import upscale

from .harness import Column, Results, Table, command_line, in_turn, parse_size
from .model_zoo import build_fitted
from .photograph import photograph

_PLACES = {"first": 0.0, "middle": 0.5, "last": 1.0}
_TABLE = Table(
    "fails",
    14,
    (
        Column("seconds", 8, lambda r: f"{r['seconds']:.3f}"),
        Column("times", 6, lambda r: f"{r['ratio']:.2f}"),
        Column("furthest", 9, lambda r: f"{r['furthest']:.1e}"),
        Column("tile", 10, lambda r: r["tile"]),
    ),
)


class _Device:
    """Fails at forward number `at`, if that is one: once, or in all forwards of more than `most` pixels from there."""

    def __init__(self, at: int | None, most: float | None) -> None:
        self._at, self._most, self.asked = at, most, 0
        self._forward = Forwards._once

    def run(self, forwards: Forwards, *given: Any) -> Any:
        pixels, number = len(given[2]) * given[2][0, 0].numel(), self.asked
        self.asked += 1
        lasting = self._most is not None and pixels > self._most
        if self._at is not None and (number == self._at if self._most is None else number >= self._at and lasting):
            raise torch.OutOfMemoryError("out of memory, as a device would say")
        return self._forward(forwards, *given)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--size", default="480x320", metavar="WIDTHxHEIGHT")
    parser.add_argument("--tile", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("CUDASPEED_CACHE_DIR", folder)
        context = StandaloneContext(args.device)
        image = photograph(*parse_size(args.size))
        model = build_fitted(args.model, image.permute(0, 3, 1, 2).to(context.device))
        options, sessions = UpscaleOptions(precision="fp32", compile=False, tile=args.tile), SessionCache()
        made: dict[str, Tensor] = {}
        tiles: dict[str, str] = {}

        def run(name: str, at: int | None = None, most: float | None = None) -> int:
            device = _Device(at, most)
            with patch.object(Forwards, "_once", lambda forwards, *given: device.run(forwards, *given)):
                result = upscale(image, model, options, context, sessions)
            sessions.memory_limits.clear()  # or the next one would begin with what this one found out
            made[name], tiles[name] = result.image, f"{result.report.tile[1]}x{result.report.tile[0]}"
            return device.asked

        for _ in range(2):
            forwards = run("never")
        half = args.tile**2 / 2
        works: dict[str, Callable[[], object]] = {"never": lambda: run("never")}
        for place, share in _PLACES.items():
            at = round(share * (forwards - 1))
            works[f"once, {place}"] = lambda at=at, place=place: run(f"once, {place}", at)
            works[f"on, {place}"] = lambda at=at, place=place: run(f"on, {place}", at, half)
        times, results = in_turn(works, args.rounds, context.device), Results(context.device, args.json)
        print(f"{args.model}, {args.size}, {forwards} forwards, {tiles['never']}")
        _TABLE.head()
        for name, seconds in times.items():
            row = {
                "seconds": statistics.median(seconds),
                "ratio": statistics.median(a / b for a, b in zip(seconds, times["never"], strict=True)),
                "furthest": float((made[name] - made["never"]).abs().max()),
                "tile": tiles[name],
            }
            results.keep({"fails": name} | row)
            _TABLE.row(name, row)


if __name__ == "__main__":
    main()
