"""What a call costs beyond the model's forward, on small pictures: `python -m bench.per_call [--models M ...]`.

All models in one process, one after the other, after their first calls. Processor time of the calling thread, so that
other processes disturb little; on a CPU, with one thread. Target: 1.5 ms.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from typing import Any
from unittest.mock import patch

import torch

from cudaspeed import upscale_engine
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.pipeline.forwards import Forwards
from cudaspeed.pipeline.session_cache import SessionCache

from .caller import build_kernels
from .harness import Column, Record, Results, Table, command_line, parse_size
from .model_zoo import build_fitted
from .photograph import photograph

_WARM_UP = 6  # calls, by which all is known that a first run finds out
_TABLE = Table(
    "model",
    14,
    (
        Column("size", 10, lambda r: f"{r['size'][1]}x{r['size'][0]}"),
        Column("how", 16, lambda r: r["how"]),
        Column("forward ms", 10, lambda r: f"{1000 * r['forward']:.2f}"),
        Column("beyond ms", 10, lambda r: f"{1000 * r['beyond']:.2f}"),
        Column("least ms", 10, lambda r: f"{1000 * r['least']:.2f}"),
    ),
)


class _Stopwatch:
    """Adds up the processor seconds of forwards."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._forward = Forwards._once

    def timed(self, forwards: Forwards, *given: Any) -> torch.Tensor:
        began = time.thread_time()
        try:
            return self._forward(forwards, *given)
        finally:
            self.seconds += time.thread_time() - began


def measure(name: str, size: tuple[int, int], calls: int) -> Record:
    """A row of the table."""
    image, context, kept = photograph(*size, 1), StandaloneContext("cpu"), SessionCache()
    model = build_fitted(name, image.permute(0, 3, 1, 2))
    for _ in range(_WARM_UP):
        report = upscale_engine.upscale(image, model, UpscaleOptions(), context, kept).report
        upscale_engine.finish_learning()
    watch, beyond, within = _Stopwatch(), [], []
    with patch.object(Forwards, "_once", lambda one, *given: watch.timed(one, *given)):
        for _ in range(calls):
            watch.seconds, began = 0.0, time.thread_time()
            report = upscale_engine.upscale(image, model, UpscaleOptions(), context, kept).report
            beyond.append(time.thread_time() - began - watch.seconds)
            within.append(watch.seconds)
    return {
        "size": list(size),
        "how": f"{report.precision} {report.kernels}",
        "forward": statistics.median(within),
        "beyond": statistics.median(beyond),
        "least": min(beyond),
        "all_seconds": beyond,
    }


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--models", nargs="+", default=["compact", "bundled", "esrgan", "swinir", "span"])
    parser.add_argument("--sizes", nargs="+", default=["64x64"], metavar="WIDTHxHEIGHT")
    parser.add_argument("--calls", type=int, default=50)
    args = parser.parse_args()

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("CUDASPEED_CACHE_DIR", folder)
        build_kernels()
        results = Results(torch.device("cpu"), args.json)
        _TABLE.head()
        for name in args.models:
            for size in args.sizes:
                row = measure(name, parse_size(size), args.calls)
                results.keep({"model": name} | row)
                _TABLE.row(name, row)


if __name__ == "__main__":
    main()
