"""What a user would pick instead, and us, on the same pictures in one process, in turn: `python -m bench.peers`.

Rows (`--rows`, patterns such as "ours-*-eager"): ComfyUI core's node, where PYTHONPATH names a checkout of ComfyUI;
plain spandrel on whole pictures in fp32 and half precision, contiguous and channels last; torch.compile on that; frames
in batches of half precision without tiles, as packs for video do; whole pictures in half precision that are quartered
when memory runs out, as chaiNNer does; TensorRT, TensorRT for RTX, onnxruntime and OpenVINO where they are installed
(the row says how); this pack at each level, in fp32 and automatic precision, eager and compiled. A row that fails tells
why.

Told are the seconds of the fastest round, what the device held at most beyond what lay there before (on a CPU the
growth of the process, the result included), the PSNR against the whole picture in plain fp32 (of the first and the
last frame), and how close to its ceilings the machine came: the model's operations over the rate of a large matrix
product in the row's precision, and the picture's bytes, in and out, over the rate of a copy. Kernels that need fewer
operations than the plain model, as Winograd's, may come above the first. "first s" went by until the first picture was
there, compiling and tuning included; "built MB" has a TensorRT engine on disk (what ours have `bench.compile` tells).

The defaults are for a CPU: eager rows, two small models, one small picture. `--short` is for a GPU and a minute,
`--full` is everything, for hours. Models other than files have random weights, their last layer fitted so that a
photograph comes out (`bench.model_zoo`).
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cudaspeed.api.errors import first_line
from cudaspeed.host.standalone import StandaloneContext

from .ceilings import Ceilings, flops_per_pixel
from .harness import (
    Column,
    Record,
    Results,
    Table,
    command_line,
    give_back,
    megabytes,
    peak_growth,
    percent,
    psnr,
    seconds,
)
from .model_zoo import PEERS, build_fitted
from .photograph import EXAMPLE, photograph
from .ways import WAYS, Made, Setting, UnavailableError, Upscaler, half_precision


class Choice(NamedTuple):
    """What is measured where nothing else is asked for."""

    models: tuple[str, ...]
    sizes: tuple[str, ...]
    rows: tuple[str, ...]
    rounds: int


_FEW = Choice(("compact", "span"), ("320x240",), ("core", "plain-*", "*-half", "ours-*-eager"), 3)
_SHORT = Choice(
    ("compact", "esrgan"),
    ("1280x720",),
    ("core", "plain-*", "*-half", "ours-balanced-*-eager", "ours-speed-auto-eager"),
    3,
)
_FULL = Choice(PEERS, ("512x512", "640x480", "1280x720", "1920x1080", "640x480x64"), ("*",), 5)

_TABLE = Table(
    "row",
    28,
    (
        Column("s", 9, lambda r: f"{r['seconds']:.4f}"),
        Column("MP/s", 8, lambda r: f"{r['megapixels_per_second']:.2f}"),
        Column("times", 7, lambda r: f"{r['times']:.2f}"),
        Column("MB", 7, lambda r: megabytes(r["peak_bytes"])),
        Column("dB", 6, lambda r: "-" if r["psnr"] is None else f"{r['psnr']:.1f}"),
        Column("compute", 8, lambda r: percent(r["compute_share"])),
        Column("copies", 7, lambda r: percent(r["copy_share"])),
        Column("precision", 10, lambda r: r["precision"]),
        Column("first s", 8, lambda r: f"{r['first_seconds']:.1f}"),
        Column("built MB", 9, lambda r: megabytes(r["compiled_bytes"])),
        Column("tiles", 14, lambda r: r["how"]),
    ),
)


_HALF = "of the rows in half precision; auto: what the device computes natively; fp32: none"


class Contender:
    """A way on its turns with one model and picture, until it fails."""

    def __init__(self, name: str, setting: Setting, image: Tensor) -> None:
        self.name, self._setting, self._image = name, setting, image
        self._upscaler: Upscaler | None = None
        self._told: Record = {}
        self._first = 0.0
        self._times: list[float] = []
        self._failure = ""

    def start(self, truth: Tensor | None) -> None:
        """Prepare, warm up, then one run that is looked at."""
        self._attempt(lambda: self._start(truth))

    def take_turn(self) -> None:
        """A run that is timed."""
        self._attempt(self._take_turn)

    def record(self, flops: float, ceilings: Ceilings) -> Record:
        """What was measured; `flops` are a pixel's. Or the "failure"."""
        if self._failure:
            return {"failure": self._failure}
        best, pixels = min(self._times), self._image[..., 0].numel()
        grown = self._setting.model.scale**2
        moved = self._image.nbytes * (1 + grown)
        return self._told | {
            "seconds": best,
            "all_seconds": self._times,
            "megapixels_per_second": pixels * grown / 1e6 / best,
            "compute_share": flops * pixels / best / ceilings.products(self._told["precision"]),
            "copy_share": moved / best / ceilings.copies(),
        }

    def _start(self, truth: Tensor | None) -> None:
        self._first = seconds(self._prepare, self._setting.device)
        upscaler = self._upscaler
        assert upscaler is not None
        made: list[Made] = []
        peak = peak_growth(lambda: made.append(upscaler(self._image)), self._setting.device)
        picture, precision, how, compiled_bytes = made[0]
        quality = None if truth is None else psnr(ends(picture), truth)
        self._told = {
            "precision": precision,
            "how": how,
            "peak_bytes": peak,
            "psnr": quality,
            "first_seconds": self._first,
            "compiled_bytes": compiled_bytes,
        }

    def _prepare(self) -> None:
        """All that goes before the first picture is there: the copy of the model, compiling, tuning."""
        self._upscaler = WAYS[self.name](self._setting)
        self._upscaler(self._image)

    def _take_turn(self) -> None:
        assert self._upscaler is not None
        upscaler = self._upscaler
        self._times.append(seconds(lambda: upscaler(self._image), self._setting.device))

    def _attempt(self, step: Callable[[], None]) -> None:
        if self._failure:
            return
        try:
            step()
        except UnavailableError as error:
            self._failure = str(error)
        except Exception as error:  # a peer may fail in any way, which is a result
            self._failure = f"failed: {first_line(error)}"
        if self._failure:
            self._upscaler = None
            give_back()  # here, where the failed run's tensors are no longer referenced


def ends(pictures: Tensor) -> Tensor:
    """The first and the last of the frames [B, H, W, C]: the others are alike, and a truth takes long."""
    return pictures if len(pictures) < 3 else pictures[[0, -1]]


def truth_of(setting: Setting, image: Tensor) -> Tensor | None:
    """The whole pictures in plain fp32, or None where they do not fit."""
    try:
        return WAYS["plain-fp32"](setting)(ends(image)).picture
    except Exception as error:  # torch has several types for a lack of memory, and some models fail at some sizes
        print(f"no PSNR: {first_line(error)}")
        return None


def compare(setting: Setting, image: Tensor, names: list[str], rounds: int, ceilings: Ceilings) -> dict[str, Record]:
    """A record for every row, with how many `times` it is as fast as the first that ran."""
    truth = truth_of(setting, image)
    contenders = [Contender(name, setting, image) for name in names]
    with torch.inference_mode():  # as ComfyUI runs its nodes
        for contender in contenders:
            contender.start(truth)
        for _ in range(rounds):
            for contender in contenders:
                contender.take_turn()
    flops = flops_per_pixel(setting.model)
    records = {contender.name: contender.record(flops, ceilings) for contender in contenders}
    baseline = next((record["seconds"] for record in records.values() if "failure" not in record), None)
    for record in records.values():
        if "failure" not in record:
            record["times"] = baseline / record["seconds"]
    return records


def parse_work(text: str, frames: int) -> tuple[int, int, int]:
    """(height, width, frames) of "WIDTHxHEIGHT" or "WIDTHxHEIGHTxFRAMES". Raises `ValueError` for any other text."""
    width, height, *more = text.split("x")
    (count,) = more or [frames]
    return int(height), int(width), int(count)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--models", nargs="+", help=f"of {', '.join(PEERS)}, the others of bench.model_zoo, or files")
    parser.add_argument("--sizes", nargs="+", metavar="SIZE", help="WIDTHxHEIGHT, or WIDTHxHEIGHTxFRAMES")
    parser.add_argument("--frames", type=int, default=1, help="where a size does not say")
    parser.add_argument("--rows", nargs="+", metavar="PATTERN", help=f"of {', '.join(WAYS)}")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--precision", default="auto", choices=("auto", "fp16", "bf16", "fp32"), help=_HALF)
    parser.add_argument("--picture", type=Path, default=EXAMPLE)
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--short", action="store_const", const=_SHORT, dest="choice")
    extent.add_argument("--full", action="store_const", const=_FULL, dest="choice")
    args = parser.parse_args()

    choice: Choice = args.choice or _FEW
    patterns = args.rows or choice.rows
    names = [name for name in WAYS if any(fnmatch(name, pattern) for pattern in patterns)]
    if not names:
        parser.error(f"no row is named so; there are {', '.join(WAYS)}")
    works = [parse_work(size, args.frames) for size in args.sizes or choice.sizes]
    device = StandaloneContext(args.device).device
    half, ceilings, results = half_precision(args.precision, device), Ceilings(device), Results(device, args.json)
    where = results.told["environment"]
    print(f"{where['hardware']}, {results.told['threads']} threads, torch {where['torch']}, half: {half or 'none'}")

    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("CUDASPEED_CACHE_DIR", folder)  # what is compiled here does not stay
        for name, (height, width, frames) in itertools.product(args.models or choice.models, works):
            image = photograph(height, width, frames, args.picture)
            setting = Setting(build_fitted(name, image[:1].permute(0, 3, 1, 2).to(device)), device, half)
            print(f"\n{name} x{setting.model.scale}, {width}x{height}, {frames} frame(s)")
            _TABLE.head()
            for row, record in compare(setting, image, names, args.rounds or choice.rounds, ceilings).items():
                what = {"model": name, "scale": setting.model.scale, "size": [height, width], "frames": frames}
                results.keep(what | {"row": row} | record)
                _TABLE.row(row, record)
            torch.compiler.reset()  # or what was compiled for one size makes the next one dynamic


if __name__ == "__main__":
    main()
