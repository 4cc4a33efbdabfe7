"""An out-of-memory drill, CUDA only: `python -m bench.drill [--model M] [--size 1280x720]`.

The memory of this process is capped below what the picture took, without telling the scheduler, as when another program
takes memory after the plan was made. The picture must come out all the same, in smaller tiles, and look the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from spandrel import ImageModelDescriptor
from torch import Tensor

from cudaspeed.api.errors import CudaspeedError, first_line
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.upscale_engine import upscale

from .harness import Column, Record, Results, Table, command_line, give_back, megabytes, parse_size, psnr
from .model_zoo import build_fitted
from .photograph import photograph

_SHARES = (0.6, 0.3, 0.15)  # of what the upscale took
_LEAST_DB = 50.0

_TABLE = Table(
    "cap",
    6,
    (
        Column("MB", 8, lambda r: megabytes(r["cap_bytes"])),
        Column("peak MB", 8, lambda r: megabytes(r["peak_bytes"])),
        Column("tiles", 16, lambda r: r["tiles"]),
        Column("s", 8, lambda r: f"{r['seconds']:.3f}"),
        Column("dB", 6, lambda r: f"{r['psnr']:.1f}"),
    ),
)


@contextmanager
def capped(cap: int, device: torch.device) -> Iterator[None]:
    """torch gets no more than `cap` bytes of the device, in all."""
    give_back()
    torch.cuda.set_per_process_memory_fraction(cap / torch.cuda.get_device_properties(device).total_memory, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


class Drill:
    """A picture, a model, and what became of them with all the memory there is."""

    def __init__(self, model: ImageModelDescriptor, image: Tensor, precision: str, device: torch.device) -> None:
        self._model, self._image, self._device, self._sessions = model, image, device, SessionCache()
        self._options = UpscaleOptions(precision=precision, compile=False)  # type: ignore[arg-type]  # it checks it
        self._context = StandaloneContext(str(device))
        free = self._context.free_bytes()
        self._context.free_bytes = lambda: free  # type: ignore[method-assign]  # a host that does not know of the cap
        upscale(image, model, self._options, self._context, self._sessions)
        give_back()
        self._held = torch.cuda.memory_reserved(device)
        torch.cuda.reset_peak_memory_stats(device)
        self._truth = upscale(image, model, self._options, self._context, self._sessions).image
        self._took = torch.cuda.max_memory_reserved(device) - self._held

    def measure(self, share: float) -> Record:
        """A row for a cap at `share` of what the upscale took; "failure" where it failed, or looks different."""
        cap = self._held + int(share * self._took)
        with capped(cap, self._device):
            torch.cuda.reset_peak_memory_stats(self._device)
            try:
                result = upscale(self._image, self._model, self._options, self._context, self._sessions)
            except CudaspeedError as error:
                return {"share": share, "failure": first_line(error)}
        report, quality = result.report, psnr(result.image, self._truth)
        record = {
            "share": share,
            "cap_bytes": cap,
            "peak_bytes": torch.cuda.max_memory_reserved(self._device),
            "tiles": f"{report.tiles} of {report.tile[1]}x{report.tile[0]}",
            "seconds": report.seconds,
            "psnr": quality,
        }
        return record if quality >= _LEAST_DB else record | {"failure": f"{quality:.1f} dB from the uncapped result"}


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--model", default="esrgan")
    parser.add_argument("--size", default="1280x720", metavar="WIDTHxHEIGHT")
    parser.add_argument("--precision", default="auto")
    args = parser.parse_args()

    device = StandaloneContext(args.device).device
    if device.type != "cuda":
        print("no CUDA device: there is no memory to cap")
        return
    image = photograph(*parse_size(args.size))
    model = build_fitted(args.model, image.permute(0, 3, 1, 2).to(device))
    drill, results = Drill(model, image, args.precision, device), Results(device, args.json)
    print(f"{args.model}, {args.size}")
    _TABLE.head()
    for share in _SHARES:
        row = drill.measure(share)
        results.keep({"model": args.model} | row)
        _TABLE.row(f"{share:.0%}", row)
    if any("failure" in row for row in results.told["rows"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
