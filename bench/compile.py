"""What compiling gains, what it costs once and what a restart costs: `python -m bench.compile [--models M ...]`.

For each model, in one run: a tile eager and compiled, in turn; the compile as a user meets it (`warm_up`, an empty
folder); the first `upscale` of a new process that finds what was compiled, beside that of another new process that
compiles nothing. Or, with `--methods`, the ways to keep a compile: our packages, inductor's folder, saved artifacts.
Every measurement has a process of its own. Only the ratios of one run mean anything.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from spandrel import ImageModelDescriptor
from torch import Tensor

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.compiling.policy import compilable_shapes
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.models.info import model_info
from cudaspeed.models.runner import ModelRunner
from cudaspeed.pipeline.session import Session
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.storage.artifacts import ArtifactStore
from cudaspeed.storage.files import bytes_in
from cudaspeed.upscale_engine import upscale, warm_up

from .harness import ROOT, Column, Record, Results, Table, Work, command_line, seconds
from .model_zoo import NAMES, build
from .ways import settle

# New processes of each kind, in turn; the fastest counts, since what else the machine does only adds to it.
_RESTARTS = 3
_WARM_UP = 2  # forwards before those that count
_LEAST_SECONDS = 4.0  # of taking turns, so that what else the machine does for a moment is not all that is seen
_LOG_LINES = 40
# What a restart may cost: a share of the cold compile on the CPU, seconds on CUDA.
_CPU_TARGET, _CUDA_TARGET = 0.15, 2.0

_PACKAGES, _INDUCTOR, _ARTIFACTS = "packages", "inductor", "artifacts"  # in a measurement's folder


# --- in processes of their own ---------------------------------------------------------------------------------------


class Bench:
    """The model, the device, the options and a picture that is one tile, in a child process."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.model: ImageModelDescriptor = build(args.models[0])
        self.context, self.sessions, self.runs = StandaloneContext(args.device), SessionCache(), args.runs
        self.options, self.tuning = UpscaleOptions(precision=args.precision), args.tuning
        self.picture = torch.rand(1, args.side, args.side, 3, generator=torch.Generator().manual_seed(0))
        self.info = model_info(self.model)

    def seconds(self, work: Work) -> float:
        return seconds(work, self.context.device)

    def runner(self) -> ModelRunner:
        """The copy that `upscale` computes with, on the device."""
        session = Session(self.model, self.options, self.context, self.sessions)
        session.start(self.picture[..., 0].numel(), lambda: None)
        runner = session.chain.now.runner
        self.context.make_resident(runner, 0)
        return runner

    def tile(self, size: tuple[int, int]) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.rand(1, self.info.in_channels, *size, generator=generator).to(self.context.device)


def cold(bench: Bench, folder: Path) -> Record:
    """Compile into an empty folder and wait; then a tile eager and compiled, in turn."""
    status = ""

    def compile_it() -> None:
        nonlocal status
        status = warm_up(bench.model, tuple(bench.picture.shape[1:3]), bench.options, bench.context, bench.sessions)

    seconds = bench.seconds(compile_it)
    tuning = bench.seconds(lambda: settle(bench.sessions, bench.tuning))
    entries = ArtifactStore(folder / _PACKAGES).entries().values()
    ready = [entry for entry in entries if entry.state == "ready"]
    record = {
        "cold_seconds": seconds,
        "tuning_seconds": tuning,
        "worker_seconds": sum(entry.compile_seconds for entry in ready),
        "package_bytes": sum(entry.bytes for entry in ready),
        "shapes": [entry.what["shapes"] for entry in ready],
    }
    report = upscale(bench.picture, bench.model, bench.options, bench.context, bench.sessions).report
    record |= {"precision": report.precision, "tile": report.tile, "tiles": report.tiles}
    runner, tile = bench.runner(), bench.tile(report.tile)
    compiled = bench.sessions.compiles.forwards_of(runner, bench.model, bench.info, bench.context).take(tile)
    if status != "compiled" or compiled is None:
        reasons = [entry.reason for entry in entries if entry.state == "failed"] or [status]
        return record | {"failure": "; ".join(reasons), "log": _logs(folder / _PACKAGES)}
    with torch.inference_mode():
        truth, result = runner.forward(tile).float(), compiled(tile).float()
        times: dict[str, list[float]] = {"eager_seconds": [], "compiled_seconds": []}
        for _ in range(_WARM_UP):
            runner.forward(tile)
            compiled(tile)
        end = time.monotonic() + _LEAST_SECONDS
        while len(times["eager_seconds"]) < bench.runs or time.monotonic() < end:
            times["eager_seconds"].append(bench.seconds(lambda: runner.forward(tile)))
            times["compiled_seconds"].append(bench.seconds(lambda: compiled(tile)))
    size = max(1.0, float(truth.square().mean().sqrt()))  # as numerics.py counts: random weights give any range
    return record | times | {"difference": float((result - truth).abs().max()) / size}


def first_compiled(bench: Bench, folder: Path) -> Record:
    """The first picture of a process that finds a package: it is loaded, and its first tile checked against eager."""
    return _first(bench, compiled=True)


def first_eager(bench: Bench, folder: Path) -> Record:
    """The first picture of a process that compiles nothing and looks for nothing compiled."""
    return _first(bench, compiled=False)


def _first(bench: Bench, compiled: bool) -> Record:
    options = UpscaleOptions(precision=bench.options.precision, compile=compiled)
    reports = []

    def work() -> None:
        reports.append(upscale(bench.picture, bench.model, options, bench.context, bench.sessions).report)

    seconds = bench.seconds(work)
    return {"seconds": seconds, "compiled": reports[0].compiled, "status": reports[0].compiling}


def by_nothing(bench: Bench, folder: Path) -> Record:
    """Eager, for comparison."""
    forward = bench.runner().forward
    return _first_output(bench, lambda: forward)


def by_package(bench: Bench, folder: Path) -> Record:
    """Ours: looked up, made by the worker where it is not there, loaded, and checked with its first tile."""
    runner = bench.runner()

    def get() -> Callable[[Tensor], Tensor]:
        forwards = bench.sessions.compiles.forwards_of(runner, bench.model, bench.info, bench.context)
        tile = bench.tile(bench.picture.shape[1:3])
        if not forwards.take(tile):
            forwards.start(compilable_shapes(bench.info, tuple(tile.shape[2:]))[0])
            forwards.wait(bench.context)
        bench.sessions.compiles.stop()  # it would go on to tune it
        compiled = forwards.take(tile)
        if not compiled:
            raise RuntimeError(forwards.status(used=False))
        return compiled

    return _first_output(bench, get)


def by_inductor(bench: Bench, folder: Path) -> Record:
    """`torch.compile` with its folder of generated code, as it is by default.

    On a CPU most of its restart is inductor's test of compiler and instruction sets, in processes that import torch;
    TORCHINDUCTOR_VEC_ISA_OK=1 in the environment spares some of it, as our worker does for itself.
    """
    runner = bench.runner()
    return _first_output(bench, lambda: _just_in_time(bench, runner))


def by_artifacts(bench: Bench, folder: Path) -> Record:
    """`torch.compile` with what it keeps saved to one file, and loaded from it by a process whose folder is empty."""
    runner, file = bench.runner(), folder / _ARTIFACTS / "saved"

    def get() -> Callable[[Tensor], Tensor]:
        if file.exists():
            torch.compiler.load_cache_artifacts(file.read_bytes())
        return _just_in_time(bench, runner)

    record = _first_output(bench, get)
    if not file.exists():
        file.parent.mkdir()
        record["first_seconds"] += bench.seconds(lambda: file.write_bytes(torch.compiler.save_cache_artifacts()[0]))
    return record


def _just_in_time(bench: Bench, runner: ModelRunner) -> Callable[[Tensor], Tensor]:
    """For the sizes that our package takes: any, or one."""
    shapes = compilable_shapes(bench.info, tuple(bench.picture.shape[1:3]))[0]
    return torch.compile(runner.forward, dynamic=not shapes.fixed)


def _first_output(bench: Bench, get: Callable[[], Callable[[Tensor], Tensor]]) -> Record:
    """How long it takes to get a forward and the first tile through it; then what a tile takes."""
    forward: Callable[[Tensor], Tensor] | None = None
    tile = bench.tile(bench.picture.shape[1:3])

    def first() -> None:
        nonlocal forward
        forward = get()
        forward(tile)

    with torch.inference_mode():
        seconds = bench.seconds(first)
        steady = [bench.seconds(lambda: forward(tile)) for _ in range(_WARM_UP + bench.runs)]
    return {"first_seconds": seconds, "steady_seconds": steady[_WARM_UP:]}


def _logs(folder: Path) -> list[str]:
    """What failed compiles left behind: the ends, and the lines before them that tell of errors."""
    kept = []
    for log in folder.glob("*.log"):
        lines = log.read_text(errors="replace").splitlines()
        kept += [line for line in lines[:-_LOG_LINES] if "rror:" in line][:_LOG_LINES] + lines[-_LOG_LINES:]
    return kept


_PARTS: dict[str, Callable[[Bench, Path], Record]] = {
    part.__name__: part
    for part in (cold, first_compiled, first_eager, by_nothing, by_package, by_inductor, by_artifacts)
}


def run_part(args: argparse.Namespace) -> None:
    """The child's side: what was measured, as the last line on the standard output."""
    part, folder = args.child[0], Path(args.child[1])
    os.environ["CUDASPEED_CACHE_DIR"] = str(folder / _PACKAGES)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / _INDUCTOR)
    # where our kernels win, nothing would be compiled
    with (
        patch("cudaspeed.pipeline.modes.by_our_kernels", return_value=[]),
        patch("cudaspeed.pipeline.modes.to_be_measured", return_value=[]),
    ):
        print(json.dumps(_PARTS[part](Bench(args), folder)))


def in_child(part: Callable[[Bench, Path], Record], model: str, folder: Path, args: argparse.Namespace) -> Record:
    """What `part` measures in a new process; a record with a "failure" where it died."""
    command = [sys.executable, "-m", "bench.compile", "--child", part.__name__, str(folder), "--models", model]
    for name in ("precision", "device", "side", "runs", "tuning"):
        command += [f"--{name}", str(getattr(args, name))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        return {"failure": f"{part.__name__} ended with {done.returncode}: {said[-1]}", "log": said[-_LOG_LINES:]}
    return json.loads(done.stdout.splitlines()[-1])


# --- a table of models -----------------------------------------------------------------------------------------------


_MODELS = Table(
    "model",
    12,
    (
        Column("precision", 9, lambda r: r["precision"]),
        Column("eager s", 8, lambda r: f"{statistics.median(r['eager_seconds']):.4f}"),
        Column("compiled s", 10, lambda r: f"{statistics.median(r['compiled_seconds']):.4f}"),
        Column("ratio", 6, lambda r: f"{r['ratio']:.2f}"),
        Column("of best", 7, lambda r: f"{r['ratio_of_best']:.2f}"),
        Column("largest diff", 12, lambda r: f"{r['difference']:.1e}"),
        Column("cold s", 7, lambda r: f"{r['cold_seconds']:.1f}"),
        Column("first on s", 10, lambda r: f"{r['first_compiled_seconds']:.2f}"),
        Column("first off s", 11, lambda r: f"{r['first_eager_seconds']:.2f}"),
        Column("restart s", 9, lambda r: f"{r['restart_seconds']:.2f}"),
        Column("share", 6, lambda r: f"{r['restart_share']:.1%}"),
        Column("MB", 6, lambda r: f"{r['package_bytes'] / 1e6:.1f}"),
    ),
)


def measure_model(name: str, args: argparse.Namespace) -> Record:
    """One model's row, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        record = {"model": name} | in_child(cold, name, Path(folder), args)
        if "failure" in record:
            return record
        firsts: dict[str, list[float]] = {}
        for _ in range(_RESTARTS):
            for part in (first_compiled, first_eager):
                told = in_child(part, name, Path(folder), args)
                if "failure" not in told and told["compiled"] is not (part is first_compiled):
                    told["failure"] = f"{part.__name__}: {told['status']}"
                if "failure" in told:
                    return record | told
                firsts.setdefault(part.__name__, []).append(told["seconds"])
    on, off = min(firsts["first_compiled"]), min(firsts["first_eager"])
    eager, compiled = record["eager_seconds"], record["compiled_seconds"]
    return record | {
        "ratio": statistics.median(eager) / statistics.median(compiled),
        "ratio_of_best": min(eager) / min(compiled),
        "firsts": firsts,
        "first_compiled_seconds": on,
        "first_eager_seconds": off,
        "restart_seconds": on - off,
        "restart_share": (on - off) / record["cold_seconds"],
    }


def model_table(args: argparse.Namespace, keep: Callable[[Record], None]) -> None:
    _MODELS.head()
    records = []
    for name in args.models:
        record = measure_model(name, args)
        keep(record)
        _MODELS.row(Path(name).stem, record)
        if "failure" not in record:
            records.append(record)
    if StandaloneContext(args.device).device.type == "cuda":
        good = sum(record["restart_seconds"] <= _CUDA_TARGET for record in records)
        target = f"{_CUDA_TARGET:g} s"
    else:
        good = sum(record["restart_share"] <= _CPU_TARGET for record in records)
        target = f"{_CPU_TARGET:.0%} of the cold compile"
    print(f"a restart costs at most {target} for {good} of the {len(records)} models compiled")


# --- a table of methods ----------------------------------------------------------------------------------------------

_METHODS = (
    ("nothing: eager", by_nothing, None),
    ("AOTInductor package (ours)", by_package, _PACKAGES),
    ("torch.compile, its folder", by_inductor, _INDUCTOR),
    ("torch.compile, saved artifacts", by_artifacts, _ARTIFACTS),
)


def measure_method(part: Callable[[Bench, Path], Record], kept: str | None, args: argparse.Namespace) -> Record:
    """The first output of a process that has to compile, and of those after it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, told = Path(temporary), []
        for _ in range(1 + _RESTARTS):
            told.append(in_child(part, args.models[0], folder, args))
            if "failure" in told[-1]:
                return told[-1]
            if kept != _INDUCTOR:  # whose folder is all that it has
                shutil.rmtree(folder / _INDUCTOR, ignore_errors=True)
        return {
            "cold_seconds": told[0]["first_seconds"],
            "restart_seconds": [one["first_seconds"] for one in told[1:]],
            "steady_seconds": told[-1]["steady_seconds"],
            "bytes": bytes_in(folder / kept) if kept else 0,
        }


def method_table(args: argparse.Namespace, keep: Callable[[Record], None]) -> None:
    print(f"{args.models[0]}: seconds to the first output\n{'':<32} {'cold':>7} {'restart':>8} {'a tile':>8} {'MB':>7}")
    for title, part, kept in _METHODS:
        record = measure_method(part, kept, args)
        keep({"model": args.models[0], "method": title} | record)
        if "failure" in record:
            print(f"{title:<32} failed: {record['failure']}", flush=True)
            continue
        restart, steady = min(record["restart_seconds"]), statistics.median(record["steady_seconds"])
        megabytes = record["bytes"] / 1e6
        print(f"{title:<32} {record['cold_seconds']:7.2f} {restart:8.2f} {steady:8.4f} {megabytes:7.2f}", flush=True)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--models", nargs="+", help=f"of {', '.join(NAMES)}, or files; for --methods one, else bundled")
    parser.add_argument("--precision", default="fp32", choices=("auto", "fp32", "bf16", "fp16"))
    parser.add_argument("--side", type=int, default=128, help="of the square picture, pixels: one tile")
    parser.add_argument("--runs", type=int, default=7, help="forwards whose median counts, at least")
    parser.add_argument("--tuning", type=float, default=600.0, help="seconds that a compile may go on for faster code")
    parser.add_argument("--methods", action="store_true", help="compare the ways to keep a compile")
    parser.add_argument("--child", nargs=2, metavar=("PART", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        run_part(args)
        return

    args.models = args.models or (["bundled"] if args.methods else list(NAMES))
    results = Results(StandaloneContext(args.device).device, args.json)
    told = results.told
    where = told["environment"]
    print(f"{where['hardware']}, {told['threads']} threads, torch {where['torch']}, {args.side}x{args.side}")
    (method_table if args.methods else model_table)(args, results.keep)


if __name__ == "__main__":
    main()
