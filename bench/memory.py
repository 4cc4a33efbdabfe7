"""The memory estimate against the real peak: `python bench/memory.py [--device cuda]`.

On CUDA the peak is the allocator's, on the CPU the growth of the process' resident memory, sampled, output subtracted.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable

import psutil
import torch
from spandrel import ImageModelDescriptor
from spandrel.architectures.Compact import Compact, CompactArch
from spandrel.architectures.ESRGAN import ESRGAN, ESRGANArch

from cudaspeed.contracts import UpscaleOptions
from cudaspeed.standalone import StandaloneContext
from cudaspeed.upscale_engine import Caches, upscale


def compact_x4() -> ImageModelDescriptor:
    network = Compact(num_in_ch=3, num_out_ch=3, num_feat=64, num_conv=16, upscale=4)
    return CompactArch().load(network.state_dict()).eval()


def esrgan_x4() -> ImageModelDescriptor:
    network = ESRGAN(in_nc=3, out_nc=3, num_filters=64, num_blocks=2, scale=4)
    return ESRGANArch().load(network.state_dict()).eval()


def resident_growth(work: Callable[[], None]) -> int:
    """The most that the process' resident memory grew over its start while `work` ran, sampled every 2 ms."""
    process, done = psutil.Process(), threading.Event()
    start = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, process.memory_info().rss)
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return most - start


def compare(model: ImageModelDescriptor, precision: str, side: int, device: str) -> str:
    """One row: what an upscale of a `side` x `side` picture takes, and what was estimated."""
    caches, options = Caches(), UpscaleOptions(precision=precision, compile=False)
    image = torch.rand(1, side, side, 3)
    upscale(image[:, :64, :64], model, options, StandaloneContext(device), caches)
    context = StandaloneContext(device)
    results = []
    grown = resident_growth(lambda: results.append(upscale(image, model, options, context, caches)))
    measured = context.peak_bytes()
    context.peak_bytes = lambda: None  # the report then holds the estimate
    estimate = upscale(image, model, options, context, caches).report.peak_bytes
    real = measured if measured is not None else grown - results[0].image.nbytes
    return (
        f"{precision}  {side}x{side}  {results[0].report.tiles} tile(s)  real {real / 2**20:6.0f} MiB  "
        f"estimate {estimate / 2**20:6.0f} MiB  ratio {real / estimate:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--side", type=int, default=384, help="side of the square picture, pixels")
    args = parser.parse_args()
    precisions = ("fp32", "bf16") if StandaloneContext(args.device).device.type == "cpu" else ("fp32", "fp16")
    for name, build in (("Compact x4 64x16", compact_x4), ("ESRGAN x4, 2 blocks", esrgan_x4)):
        for precision in precisions:
            print(f"{name:<20} {compare(build(), precision, args.side, args.device)}")


if __name__ == "__main__":
    main()
