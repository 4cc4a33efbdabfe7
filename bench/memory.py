"""What a run takes of memory, against what was estimated: `python -m bench.memory [--models NAME...] [--sides 160 256
384]`, and `python -m bench.memory frames` or `sampling`.

Every run is in a process of its own, after a picture of 64x64 by the same model, which loads what is loaded once. The
peak is the resident set's growth, sampled every 2 ms, without the result; on CUDA the allocator's. `estimates` has for
each model and side the ratio estimate : peak before anything was measured of the model and after one run of feedback
(to reach: 0.85 to 1.7, and 0.95 to 1.25; only runs of half a second are watched); `frames` the peak of 64 frames over
that of 8 (1.05); `sampling` what a run takes with feedback over what it takes without (1.005), in turn in one process.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from functools import partial

import torch
from spandrel import ImageModelDescriptor
from torch import Tensor

from cudaspeed import upscale_engine
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.kernels import linear, transformer_block, window_attention, winograd
from cudaspeed.pipeline.feedback import LEAST_SECONDS, Feedback
from cudaspeed.pipeline.output import allocate_output
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.storage.heap import trim_all
from cudaspeed.storage.location import compiled_folder
from cudaspeed.storage.profiles import profiles_folder
from cudaspeed.upscale_engine import upscale

from .harness import (
    ROOT,
    Column,
    Record,
    Results,
    Table,
    command_line,
    forget_the_peak,
    in_turn,
    megabytes,
    peak_growth,
)
from .model_zoo import ARCHITECTURES, build
from .photograph import EXAMPLE
from .seams import random_model, read

_WARM = 64  # side, pixels
_FRAMES = (8, 64)
_FRAME_SIDE = 160
_PATIENCE = 300.0  # seconds for kernels that are built, once
_TABLE = Table(
    "model",
    14,
    (
        Column("side", 5, lambda r: str(r["side"])),
        Column("tiles", 5, lambda r: str(r["before"]["tiles"])),
        Column("peak MB", 8, lambda r: megabytes(r["before"]["peak_bytes"])),
        Column("before", 7, lambda r: f"{r['before']['ratio']:.2f}"),
        Column("peak MB", 8, lambda r: megabytes(r["after"]["peak_bytes"])),
        Column("after", 7, lambda r: f"{r['after']['ratio']:.2f}"),
        Column("seconds", 8, lambda r: f"{r['before']['seconds']:.1f}"),
    ),
)


def model_named(name: str) -> ImageModelDescriptor:
    """One of `model_zoo`'s, or a small random one of an architecture of spandrel's by its id, which has capitals."""
    return build(name) if name.islower() else random_model(name, read(EXAMPLE, 128)[..., :64, :64])


def _touched(*arguments: object) -> Tensor:
    """As `allocate_output`, all of whose pages are there: how many are while a forward computes would be chance."""
    return allocate_output(*arguments).zero_()  # type: ignore[arg-type]


def run_once(model: str, side: int, frames: int, device: str, precision: str) -> Record:
    """In this process: what upscaling `frames` of `side` x `side` takes beside model and result, and the estimate."""
    descriptor, sessions = model_named(model), SessionCache()
    options = UpscaleOptions(precision=precision, compile=False)  # type: ignore[arg-type]  # checked there
    image = torch.rand(frames, side, side, 3, generator=torch.Generator().manual_seed(0))
    upscale(image[:1, :_WARM, :_WARM], descriptor, options, StandaloneContext(device), sessions)
    sessions.learner.stop()  # whose forwards take memory, too, in between
    upscale_engine.allocate_output = _touched
    context, results = StandaloneContext(device), []
    trim_all()  # what the first picture left free would hide a part of this one's
    forget_the_peak()
    grown = peak_growth(lambda: results.append(upscale(image, descriptor, options, context, sessions)), context.device)
    sessions.flush()
    report, use = results[0].report, results[0].report.memory
    beside = use.weights * (not use.apart) + use.copy + use.transformed + use.result * (not use.apart)
    on_cpu = context.device.type == "cpu"
    peak = None if grown is None else grown - results[0].image.nbytes * on_cpu
    estimate = use.on_device - beside
    return {
        "tiles": report.tiles,
        "kernels": report.kernels,
        "precision": report.precision,
        "profile": report.profile,
        "seconds": report.seconds,
        "peak_bytes": peak,
        "estimated_bytes": estimate,
        "ratio": estimate / peak if peak else math.nan,
    }


def in_process(*arguments: object) -> Record:
    """`run_once`, in a process of its own."""
    command = [sys.executable, "-m", "bench.memory", "once", "--once", json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        return {"failure": (done.stderr.strip().splitlines() or ["?"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def estimates(models: list[str], sides: list[int], device: str, precision: str, results: Results) -> None:
    """One row for each model and side, then what to reach."""
    _TABLE.head()
    before, after, watched = [], [], []
    for name in models:
        for side in sides:
            shutil.rmtree(profiles_folder(compiled_folder()), ignore_errors=True)
            first, second = (in_process(name, side, 1, device, precision) for _ in range(2))
            failure = first.get("failure") or second.get("failure")
            row = {"model": name, "side": side, "before": first, "after": second}
            row |= {"failure": failure} if failure else {"ratio": second["ratio"]}
            results.keep(row)
            _TABLE.row(name, row)
            if not failure:
                before.append(first["ratio"])
                after.append(second["ratio"])
                watched += [second["ratio"]] * (first["seconds"] >= LEAST_SECONDS)
    rows = [("before", before, (0.85, 1.7)), ("after", after, (0.95, 1.25))]
    rows += [("after one that was watched", watched, (0.95, 1.25))] if watched else []
    for told, ratios, bounds in rows:
        met = sum(bounds[0] <= ratio <= bounds[1] for ratio in ratios)
        print(
            f"{told}: {min(ratios):.2f} to {max(ratios):.2f}, mean {statistics.mean(ratios):.2f}; {met} of "
            f"{len(ratios)} within {bounds[0]} to {bounds[1]}"
        )


def many_frames(models: list[str], device: str, precision: str, results: Results) -> None:
    """The peak beside the result of many frames over that of few."""
    for name in models:
        few, many = (in_process(name, _FRAME_SIDE, frames, device, precision) for frames in _FRAMES)
        ratio = many["peak_bytes"] / few["peak_bytes"]
        results.keep({"model": name, "frames": _FRAMES, "few": few, "many": many, "ratio": ratio})
        print(
            f"{name}: {_FRAMES[1]} frames : {_FRAMES[0]} frames, {ratio:.3f} of the memory beside the result "
            f"({megabytes(many['peak_bytes'])} : {megabytes(few['peak_bytes'])} MB)"
        )


def sampling(model: str, side: int, rounds: int, device: str, results: Results) -> None:
    """Runs with feedback over runs without, of as long as one forward takes."""
    descriptor, sessions, context = model_named(model), SessionCache(), StandaloneContext(device)
    image, options = torch.rand(1, side, side, 3), UpscaleOptions(precision="fp32", compile=False)
    really = Feedback.wants

    def work(watched: bool) -> None:
        Feedback.wants = really if watched else (lambda self, kind: False)
        upscale(image, descriptor, options, context, sessions)

    times = in_turn({"with": partial(work, True), "without": partial(work, False)}, rounds + 1, context.device)
    Feedback.wants = really
    pairs = [a / b for a, b in zip(times["with"][1:], times["without"][1:], strict=True)]
    ratio = statistics.median(times["with"][1:]) / statistics.median(times["without"][1:])
    row = {"model": model, "side": side, "ratio": ratio, "pairs": statistics.median(pairs), "seconds": times}
    results.keep(row)
    print(
        f"{model} {side}x{side}, {statistics.median(times['without']):.2f} s: with feedback {ratio:.4f} of the time "
        f"without (medians), {row['pairs']:.4f} (median of pairs), {min(times['with']) / min(times['without']):.4f} "
        "(least)"
    )


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("what", nargs="?", choices=("estimates", "frames", "sampling", "once"), default="estimates")
    parser.add_argument("--models", nargs="+", default=[*ARCHITECTURES])
    parser.add_argument("--sides", type=int, nargs="+", default=[160, 256, 384], help="of the square pictures, pixels")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=15, help="of `sampling`")
    parser.add_argument("--once", help="what `once` runs, as JSON")
    args = parser.parse_args()
    if args.what == "once":
        print(json.dumps(run_once(*json.loads(args.once))))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CUDASPEED_CACHE_DIR"] = folder  # whose profiles are deleted
        for kernels in (winograd, window_attention, linear, transformer_block):
            kernels.prepare(compiled_folder(), _PATIENCE)
        results = Results(StandaloneContext(args.device).device, args.json)
        if args.what == "estimates":
            estimates(args.models, args.sides, args.device, args.precision, results)
        elif args.what == "frames":
            many_frames(args.models, args.device, args.precision, results)
        else:
            for model in args.models:
                sampling(model, args.sides[0], args.rounds, args.device, results)


if __name__ == "__main__":
    main()
