"""Our path against the plain model, in one process and in turn: `python bench/speed.py [--model M] [--size 640x480]`.

Rows: spandrel's own call on the whole picture in fp32 (what a script without this pack does), our path in fp32, our
path in automatic precision, each the median of some runs after a first. Only the ratios of one run mean anything.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from cudaspeed.contracts import UpscaleOptions, UpscaleReport
from cudaspeed.standalone import StandaloneContext
from cudaspeed.upscale_engine import upscale
from cudaspeed.weights import DEFAULT_MODEL, load_model, resolve_model


def seconds_of(work: Callable[[], object], runs: int, device: torch.device) -> float:
    """The median of `runs` timings, after one run to warm up."""
    work()
    times = []
    for _ in range(runs):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--size", default="640x480", help="WIDTHxHEIGHT of the picture")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()

    width, height = map(int, args.size.split("x"))
    model = load_model(resolve_model(args.model))
    context = StandaloneContext(args.device)
    image = torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(0))
    reports: dict[str, UpscaleReport] = {}

    def ours(name: str, options: UpscaleOptions) -> Callable[[], object]:
        def work() -> None:
            reports[name] = upscale(image, model, options, context).report

        return work

    def plain() -> torch.Tensor:
        return model(image.permute(0, 3, 1, 2).to(context.device)).cpu()

    rows = {
        "spandrel, whole picture, fp32": plain,
        "cudaspeed, fp32": ours("cudaspeed, fp32", UpscaleOptions(precision="fp32", compile=False)),
        "cudaspeed, automatic": ours("cudaspeed, automatic", UpscaleOptions(compile=False)),
    }
    model.to(context.device)
    megapixels = width * height * model.scale**2 / 1e6
    print(f"{args.model}, {width}x{height}, {context.device}, torch {torch.__version__}, {args.runs} runs")
    base = None
    for name, work in rows.items():
        seconds = seconds_of(work, args.runs, context.device)
        base = base or seconds
        how = f"{reports[name].precision}, {reports[name].tiles} tile(s)" if name in reports else ""
        print(f"{name:<32} {seconds:7.3f} s  {megapixels / seconds:7.2f} MP/s  {base / seconds:5.2f}x  {how}")


if __name__ == "__main__":
    main()
