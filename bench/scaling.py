"""Whether cost grows linearly with pixels and frames: `python -m bench.scaling [--model M]`.

Square pictures of 1, 4, 16, 64 megapixels of output, then 1, 4, 16, 64, 256 small frames, up to `--most-megapixels`
and `--most-frames`. Told are the seconds for a megapixel of output, which should stay the same, and the most memory
that was held beyond what lay there before (on a CPU the growth of the process, the result included). The last line of
each is the dearest megapixel over the cheapest.
"""

from __future__ import annotations

import math
import os
import tempfile

from spandrel import ImageModelDescriptor

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.report import UpscaleReport
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.upscale_engine import upscale

from .harness import Column, Record, Results, Table, command_line, megabytes, peak_growth, seconds
from .model_zoo import build_fitted
from .photograph import photograph

_FRAME = {"cuda": (240, 320), "cpu": (60, 80)}  # (height, width)

_TABLE = Table(
    "",
    12,
    (
        Column("input", 10, lambda r: f"{r['size'][1]}x{r['size'][0]}"),
        Column("frames", 6, lambda r: f"{r['frames']}"),
        Column("MP out", 8, lambda r: f"{r['megapixels']:.2f}"),
        Column("s", 9, lambda r: f"{r['seconds']:.4f}"),
        Column("s/MP", 9, lambda r: f"{r['seconds_per_megapixel']:.5f}"),
        Column("s/frame", 9, lambda r: f"{r['seconds'] / r['frames']:.5f}"),
        Column("MB", 7, lambda r: megabytes(r["peak_bytes"])),
        Column("tiles", 16, lambda r: r["tiles"]),
    ),
)


class Scale:
    """A model at any size, in one process."""

    def __init__(self, model: ImageModelDescriptor, device: str, precision: str, rounds: int) -> None:
        self._model, self._rounds, self._sessions = model, rounds, SessionCache()
        self._context = StandaloneContext(device)
        self._options = UpscaleOptions(precision=precision, compile=False, batch_size=16)  # type: ignore[arg-type]

    def measure(self, size: tuple[int, int], frames: int) -> Record:
        """A row: the fastest of some runs after the one whose memory was watched."""
        image = photograph(*size, frames)
        reports: list[UpscaleReport] = []

        def work() -> None:
            reports.append(upscale(image, self._model, self._options, self._context, self._sessions).report)

        peak = peak_growth(work, self._context.device)
        took = min(seconds(work, self._context.device) for _ in range(self._rounds))
        out = frames * size[0] * size[1] * self._model.scale**2 / 1e6
        tile = reports[-1].tile
        return {
            "size": size,
            "frames": frames,
            "megapixels": out,
            "seconds": took,
            "seconds_per_megapixel": took / out,
            "peak_bytes": peak,
            "tiles": f"{reports[-1].tiles} of {tile[1]}x{tile[0]}",
            "precision": reports[-1].precision,
        }


def powers_of_four(most: int) -> list[int]:
    """1, 4, 16, ... up to `most`."""
    return [4**k for k in range(20) if 4**k <= most]


def side_for(megapixels: float, scale: int) -> int:
    """The side of the square picture that becomes so many megapixels, pixels, a multiple of 8."""
    return max(8, round(math.sqrt(megapixels * 1e6) / scale / 8) * 8)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--most-megapixels", type=int, default=16, help="of one picture's output")
    parser.add_argument("--most-frames", type=int, default=64)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("CUDASPEED_CACHE_DIR", folder)
        device = StandaloneContext(args.device).device
        model = build_fitted(args.model, photograph(64, 64).permute(0, 3, 1, 2).to(device))
        scale, results = Scale(model, args.device, args.precision, args.rounds), Results(device, args.json)
        frame = _FRAME.get(device.type, (240, 320))
        squares = [(side_for(megapixels, model.scale),) * 2 for megapixels in powers_of_four(args.most_megapixels)]
        series = {
            "megapixels": [(size, 1) for size in squares],
            "frames": [(frame, frames) for frames in powers_of_four(args.most_frames)],
        }
        scale.measure(frame, 1)  # what is found out once about the model
        for name, works in series.items():
            print(f"\n{args.model}, {name}")
            _TABLE.head()
            costs = []
            for size, frames in works:
                row = scale.measure(size, frames)
                results.keep({"model": args.model, "series": name} | row)
                _TABLE.row(name, row)
                costs.append(row["seconds_per_megapixel"])
            print(f"the dearest megapixel costs {max(costs) / min(costs):.2f} times the cheapest")


if __name__ == "__main__":
    main()
