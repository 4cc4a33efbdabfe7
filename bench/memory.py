"""The memory estimate against the real peak: `python -m bench.memory [--device cuda]`.

On CUDA the peak is the allocator's, on the CPU the growth of the process' resident memory, sampled, output subtracted.
"""

from __future__ import annotations

import os
import tempfile

import torch
from spandrel import ImageModelDescriptor

from cudaspeed.api.options import Precision, UpscaleOptions
from cudaspeed.host import StandaloneContext
from cudaspeed.models.precision import fast_precisions
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.upscale_engine import upscale

from .harness import Column, Record, Results, Table, command_line, give_back, megabytes, resident_growth
from .model_zoo import build

_TABLE = Table(
    "model",
    14,
    (
        Column("precision", 9, lambda r: r["precision"]),
        Column("side", 6, lambda r: str(r["side"])),
        Column("tiles", 6, lambda r: str(r["tiles"])),
        Column("real MB", 9, lambda r: megabytes(r["peak_bytes"])),
        Column("estimated", 9, lambda r: megabytes(r["estimated_bytes"])),
        Column("ratio", 6, lambda r: f"{r['ratio']:.2f}"),
    ),
)


def compare(model: ImageModelDescriptor, precision: Precision, side: int, device: str) -> Record:
    """One row: what an upscale of a `side` x `side` picture takes, and what was estimated."""
    sessions, options = SessionCache(), UpscaleOptions(precision=precision, compile=False)
    image = torch.rand(1, side, side, 3)
    upscale(image[:, :64, :64], model, options, StandaloneContext(device), sessions)
    give_back()
    context = StandaloneContext(device)
    results = []
    grown = resident_growth(lambda: results.append(upscale(image, model, options, context, sessions)))
    measured = context.peak_bytes()
    context.peak_bytes = lambda: None  # the report then holds the estimate
    estimate = upscale(image, model, options, context, sessions).report.peak_bytes
    real = measured if measured is not None else grown - results[0].image.nbytes
    return {
        "precision": results[0].report.precision,
        "side": side,
        "tiles": results[0].report.tiles,
        "peak_bytes": real,
        "estimated_bytes": estimate,
        "ratio": real / estimate,
    }


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--models", nargs="+", default=["compact", "esrgan-short"])
    parser.add_argument("--side", type=int, default=384, help="side of the square picture, pixels")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("CUDASPEED_CACHE_DIR", folder)
        device = StandaloneContext(args.device).device
        results = Results(device, args.json)
        _TABLE.head()
        for name in args.models:
            for precision in ("fp32", *fast_precisions(device)[:1]):
                row = compare(build(name), precision, args.side, args.device)
                results.keep({"model": name} | row)
                _TABLE.row(name, row)


if __name__ == "__main__":
    main()
