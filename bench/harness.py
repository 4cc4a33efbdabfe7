"""What the benchmarks share: taking turns, timing, peak memory, PSNR, a table, and the file of results."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import datetime
import gc
import importlib
import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor

from cudaspeed.storage.fingerprint import describe_environment

Record = dict[str, Any]
Work = Callable[[], object]

ROOT = Path(__file__).absolute().parent.parent
"""The repository's folder, from which benchmarks are started."""

_EQUAL_DB = 200.0
_PACKAGES = (
    "spandrel",
    "triton",
    "tensorrt",
    "tensorrt-rtx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
)


# --- time and memory -------------------------------------------------------------------------------------------------


def synchronize(device: torch.device) -> None:
    """Wait until `device` has done all it was asked for."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def seconds(work: Work, device: torch.device) -> float:
    """What one run takes, the device's work included."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


def seconds_of(work: Work, runs: int, device: torch.device) -> float:
    """The median of `runs` runs, after one to warm up."""
    work()
    return statistics.median(seconds(work, device) for _ in range(runs))


def in_turn(works: Mapping[str, Work], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every work in each of `rounds` rounds. What else the machine does meets all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(seconds(work, device))
    return times


def give_back() -> None:
    """Return what was freed to the system, so that the next work's memory is seen to grow."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # another C library than GNU's
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def resident_growth(work: Work) -> int:
    """The most that the process' resident memory grew over its start while `work` ran, bytes: sampled every 2 ms; where
    it never was as much before, as the system tells it."""
    # here: this file also starts processes of an older checkout, which has no such module
    from cudaspeed.pipeline.memory_counters import most_resident_bytes

    process, done = psutil.Process(), threading.Event()
    ever = most_resident_bytes()
    start = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, process.memory_info().rss)
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    now = most_resident_bytes()
    return (max(most, now) if now > ever else most) - start


def forget_the_peak() -> None:
    """Let this process's greatest resident set be the present one (proc(5), clear_refs): what it rises to after that is
    the peak, which samples may miss on a busy machine."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_growth(work: Work, device: torch.device) -> int | None:
    """The most bytes that `work` held at once on `device` beyond what lay there; None where nothing tells.

    On CUDA torch's allocator counts (not the private pools of CUDA graphs); on the CPU the system, the result included.
    """
    give_back()
    if device.type == "cpu":
        return resident_growth(work)
    if device.type != "cuda":
        work()
        return None
    start = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) - start


# --- pictures --------------------------------------------------------------------------------------------------------


def psnr(result: Tensor, truth: Tensor) -> float:
    """Of pictures 0..1 of one shape, in dB, at most 200: JSON knows no infinity for those that are equal."""
    error = float((result.double() - truth.double()).square().mean())
    return min(-10 * math.log10(error), _EQUAL_DB) if error else _EQUAL_DB


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of "WIDTHxHEIGHT". Raises `ValueError` for any other text."""
    width, height = map(int, text.split("x"))
    return height, width


# --- telling ---------------------------------------------------------------------------------------------------------


def command_line(doc: str | None) -> argparse.ArgumentParser:
    """A parser with what every benchmark is asked: the device, and where the numbers go."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there, too")
    return parser


class Column(NamedTuple):
    title: str
    width: int
    text: Callable[[Record], str]


class Table(NamedTuple):
    """Prints rows as they come: a name, then columns, or why there are none."""

    first: str
    width: int
    columns: Sequence[Column]

    def head(self) -> None:
        print(" ".join([f"{self.first:<{self.width}}", *(f"{c.title:>{c.width}}" for c in self.columns)]), flush=True)

    def row(self, name: str, record: Record) -> None:
        failure = record.get("failure")
        cells = [failure] if failure else [f"{c.text(record):>{c.width}}" for c in self.columns]
        print(" ".join([f"{name:<{self.width}}", *cells]), flush=True)


def megabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.0f}"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


class Results:
    """Machine, versions, date, command and rows, written to `file` after every row: a run takes long and may be cut."""

    def __init__(self, device: torch.device, file: Path | None) -> None:
        self._file = file
        self.told: Record = {"bench": Path(sys.argv[0]).stem, **describe_run(device), "rows": []}

    def keep(self, row: Record) -> None:
        self.told["rows"].append(row)
        if self._file:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(json.dumps(self.told, indent=1) + "\n", encoding="utf-8")


def describe_run(device: torch.device) -> Record:
    """Where, when, with what and how this process was started."""
    # Not above: older checkouts, which `bench.caller` runs with `synchronize` of this file, lack it.
    from cudaspeed.api.installed import installed_version

    return {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "environment": describe_environment(device),
        "driver": _driver() if device.type == "cuda" else "",
        "versions": {name: installed_version(name) for name in _PACKAGES} | {"comfyui": _comfyui()},
    }


def _driver() -> str:
    """The NVIDIA driver's version, which torch does not tell."""
    ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(ask, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _comfyui() -> str:
    """The version of the checkout that PYTHONPATH names, empty where it names none."""
    try:
        return importlib.import_module("comfyui_version").__version__
    except ImportError:
        return ""
