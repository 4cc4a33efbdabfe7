"""A x4 model's results at half their size against whole ones, one row a filter: `python -m bench.resize`.

Runs take turns in one process, the first of each uncounted; the time ratio is the median over the rounds, as a busy
machine meets both. `result` is the memory of the result, `peak` what the process grew by while it was made, with it.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable

import torch

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.report import UpscaleResult
from cudaspeed.api.resize import MODELS_SIZE, RESAMPLES, Resize
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.upscale_engine import upscale

from .harness import Column, Results, Table, command_line, in_turn, megabytes, parse_size, peak_growth
from .model_zoo import build

_TABLE = Table(
    "scale_by 2",
    12,
    (
        Column("result MB", 9, lambda r: megabytes(r["result_bytes"])),
        Column("of whole", 8, lambda r: f"{r['result_ratio']:.3f}"),
        Column("peak MB", 8, lambda r: megabytes(r["peak_bytes"])),
        Column("seconds", 8, lambda r: f"{r['seconds']:.3f}"),
        Column("of whole", 8, lambda r: f"{r['time_ratio']:.3f}"),
    ),
)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--model", default="compact", help="of bench/model_zoo.py, one that enlarges four times")
    parser.add_argument("--size", default="320x240", metavar="WxH")
    parser.add_argument("--frames", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("CUDASPEED_CACHE_DIR", folder)
        device = StandaloneContext(args.device).device
        model, sessions, results = build(args.model), SessionCache(), Results(device, args.json)
        image = torch.rand(args.frames, *parse_size(args.size), 3)

        def work(resize: Resize) -> Callable[[], UpscaleResult]:
            options = UpscaleOptions(precision="fp32", compile=False, resize=resize)
            return lambda: upscale(image, model, options, StandaloneContext(args.device), sessions)

        halves = {name: Resize(scale_by=model.scale / 2, resample=name) for name in RESAMPLES}
        works = {name: work(resize) for name, resize in {"whole": MODELS_SIZE, **halves}.items()}
        taken = {name: one().image.nbytes for name, one in works.items()}
        times = in_turn(works, args.rounds, device)
        _TABLE.head()
        for name, one in works.items():
            row = {
                "result_bytes": taken[name],
                "result_ratio": taken[name] / taken["whole"],
                "peak_bytes": peak_growth(one, device),
                "seconds": statistics.median(times[name]),
                "time_ratio": statistics.median(a / b for a, b in zip(times[name], times["whole"], strict=True)),
            }
            results.keep({"resample": name} | row)
            _TABLE.row(name, row)


if __name__ == "__main__":
    main()
