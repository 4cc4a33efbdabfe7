"""A farm by Ray beside one process: `python -m bench.farm [--parts rate kills listing] [--pictures 200]`.

"rate": pictures of 64x64 by the bundled x2 model, by one process with two threads and by two workers of one thread, in
turn. Counted from the twentieth result on, when all have started, to the last. "ratio" is the farm's time over the
process's (to reach: 1.0), "beyond" what a picture takes of a worker beyond the engine's own seconds (10 ms; reading and
writing the files is in it, as it is for the process, whose number stands beside it). "kills": the same farm with a
worker killed after every twenty results beside an undisturbed one, and whether all pictures are the same; nearly all of
the difference is workers being started, for which Ray and torch are imported. "listing": so many pictures (`--listed`)
found, named and put into the manifest (100 000 in 3 s and 300 MB).

`--simulate` has a thousand workers do ten million pictures (`farm_simulation.py`), of `--unit-seconds` each, by a
driver that takes `--driver-ms` for each: the "driver" of "rate", its process's own processor time.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from .farm_simulation import Farm, simulate, write_seconds
from .harness import ROOT, Record, Results, command_line

_SIDE = 64
_STARTED = 20  # results after which all have started
_WORKERS = 2
_EVERY = 20  # results between two kills


def make_pictures(folder: Path, count: int) -> None:
    """Noise of one seed."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        pixels = random.integers(0, 256, (_SIDE, _SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05}.png")


def results_of(output: Path) -> list[Path]:
    return sorted(output.glob("*.png"), key=lambda path: path.stat().st_mtime_ns)


def seconds_of(output: Path) -> float:
    """From the twentieth result to the last."""
    times = [path.stat().st_mtime for path in results_of(output)]
    return times[-1] - times[_STARTED - 1]


def one_process(pictures: Path, output: Path) -> Record:
    command = [sys.executable, "-m", "cudaspeed.cli", "upscale", str(pictures), "-o", f"{output}/", *_OPTIONS]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=_environment(2))
    engine = [json.loads(line)["seconds"] for line in done.stdout.splitlines()][_STARTED:]
    seconds = seconds_of(output)
    return {"seconds": seconds, "beyond": (seconds - sum(engine)) / len(engine)}


def farm(pictures: Path, output: Path, kills: bool = False) -> Record:
    command = [sys.executable, "-m", "cudaspeed.cli", "farm", "run", str(pictures), "-o", str(output), *_OPTIONS]
    command += ["--actors", str(_WORKERS), "--cpus-per-actor", "1"]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=_environment(1))
    killed = _kill_workers(driver, output) if kills else []
    of_driver = _busy_seconds(driver, output)
    if driver.wait():
        raise RuntimeError("the farm failed")
    units = json.loads((output / "report.json").read_text())
    there = {path.name for path in results_of(output)[_STARTED:]}
    engine = [unit["record"]["seconds"] for unit in units if Path(unit["target"]).name in there]
    seconds = seconds_of(output)
    return {
        "seconds": seconds,
        "beyond": (seconds * _WORKERS - sum(engine)) / len(engine),
        "driver": of_driver / max(1, len(there)),
        "of_worker": sum(unit["seconds"] for unit in units) / len(units),
        "killed": killed,
        "workers": len({unit["worker"] for unit in units}),
    }


def _busy_seconds(driver: subprocess.Popen[bytes], output: Path) -> float:
    """Processor time of the driver from the twentieth result on."""
    process, first, last = None, None, 0.0
    while driver.poll() is None:  # it has ended already where workers were killed
        process = process or psutil.Process(driver.pid)
        try:
            last = sum(process.cpu_times()[:2])
        except psutil.Error:  # it ended
            break
        if first is None and len(results_of(output)) >= _STARTED:
            first = last
        time.sleep(0.02)
    return 0.0 if first is None else last - first


def _kill_workers(driver: subprocess.Popen[bytes], output: Path) -> list[float]:
    """Kill a worker after every twenty results, until all are there; when each was."""
    killed: list[float] = []
    while driver.poll() is None:
        if len(results_of(output)) >= _EVERY * (len(killed) + 1):
            workers = [
                int(path.parent.name)
                for path in Path("/proc").glob("[0-9]*/cmdline")
                if _text(path).startswith(b"ray::Worker")
            ]
            if workers:
                os.kill(workers[len(killed) % len(workers)], signal.SIGKILL)
                killed.append(time.time())
        time.sleep(0.02)
    return killed


def _text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it ended
        return b""


_LIST = """
import json, sys, tempfile, time
from pathlib import Path
from cudaspeed.commands.farm_listing import Naming, list_units
from cudaspeed.images.naming import FolderOptions
from cudaspeed.scaleout.manifest import open_manifest
from cudaspeed.video.options import VideoOptions

with tempfile.TemporaryDirectory() as name:
    folder, output = Path(name, "in"), Path(name, "out")
    folder.mkdir()
    for number in range(int(sys.argv[1])):
        (folder / f"{number:07}.png").touch()
    began = time.perf_counter()
    naming = Naming(FolderOptions(), VideoOptions())
    with open_manifest(output) as manifest:
        manifest.merge(list_units([str(folder)], output, naming, manifest.targets()).units)
    seconds = time.perf_counter() - began
peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]  # getrusage has this one's parent in it
print(json.dumps({"seconds": seconds, "megabytes": int(peak) / 1024}))
"""  # in a process of its own, as the driver's: torch is not in it


def listing(count: int) -> Record:
    """Of so many empty files in one folder."""
    command = [sys.executable, "-c", _LIST, str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=_environment(1))
    return json.loads(done.stdout)


_OPTIONS = ("--model", "cudaspeed-compact-x2", "--precision", "fp32", "--no-compile", "--json")


def _environment(threads: int) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT.parent)}


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument(
        "--parts", nargs="+", choices=("rate", "kills", "listing"), default=["rate", "kills", "listing"]
    )
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--listed", type=int, default=100_000)
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--units", type=int, default=10**7, help="of the simulation")
    parser.add_argument("--workers", type=int, default=1000, help="of the simulation")
    parser.add_argument("--unit-seconds", type=float, default=5.0)
    parser.add_argument("--driver-ms", type=float, default=3.0)
    args = parser.parse_args()
    if args.simulate:
        _simulate(Farm(args.units, args.workers, args.unit_seconds, args.driver_ms / 1000))
        return
    results = Results(torch.device("cpu"), args.json)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["CUDASPEED_CACHE_DIR"] = str(folder / "cache")
        if "listing" in args.parts:
            row = listing(args.listed)
            results.keep({"part": "listing", "pictures": args.listed, **row})
            print(f"listing {args.listed}: {row['seconds']:.2f} s, {row['megabytes']:.0f} MB")
        if {"rate", "kills"} & {*args.parts}:
            make_pictures(folder / "in", args.pictures)
            _rate_and_kills(folder, args.parts, args.rounds, results)


def _simulate(farm: Farm) -> None:
    outlook = simulate(farm)
    rows = max(1, round(outlook.units_per_second))
    writes, size = write_seconds(min(farm.units, 10**6), rows)
    print(
        f"{farm.units} pictures of {farm.unit_seconds:g} s by {farm.workers} workers: {outlook.hours:.1f} h, "
        f"{outlook.units_per_second:.0f} pictures/s, {outlook.of_ideal:.2f} of what the workers could do; driver busy "
        f"{outlook.busy:.0%}; {outlook.lost} workers lost, a picture computed again for each; the manifest is written "
        f"once a second, {rows} rows in {1000 * writes:.0f} ms here, and takes {size * farm.units / 1e9:.1f} GB"
    )


def _rate_and_kills(folder: Path, parts: list[str], rounds: int, results: Results) -> None:
    one_process(folder / "in", folder / "first")  # kernels are built, the model is learned
    quiet = folder / "farm"
    for _ in range(rounds):
        for name in ("one", "farm"):
            shutil.rmtree(folder / name, ignore_errors=True)
        by_one, by_farm = one_process(folder / "in", folder / "one"), farm(folder / "in", quiet)
        row = {"part": "rate", "one": by_one, "farm": by_farm, "ratio": by_farm["seconds"] / by_one["seconds"]}
        results.keep(row)
        print(
            f"rate: farm {by_farm['seconds']:.2f} s, one process {by_one['seconds']:.2f} s, ratio {row['ratio']:.2f}; "
            f"beyond the engine {1000 * by_farm['beyond']:.1f} and {1000 * by_one['beyond']:.1f} ms a picture, "
            f"driver {1000 * by_farm['driver']:.1f} ms"
        )
    if "kills" in parts:
        by_farm = farm(folder / "in", quiet) if not quiet.exists() else by_farm
        disturbed = farm(folder / "in", folder / "killed", kills=True)
        same = all(path.read_bytes() == (quiet / path.name).read_bytes() for path in results_of(folder / "killed"))
        row = {"part": "kills", "quiet": by_farm, "killed": disturbed, "same": same}
        results.keep(row)
        print(
            f"kills: {len(disturbed['killed'])} workers killed, {disturbed['seconds']:.1f} s instead of "
            f"{by_farm['seconds']:.1f}; {'every picture equal' if same else 'PICTURES DIFFER'}"
        )


if __name__ == "__main__":
    main()
