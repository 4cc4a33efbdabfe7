"""What `cudaspeed video` takes of time and memory, as ratios within one run: `python -m bench.video [--parts NAME...]
[--quick] [--rounds 3] [--json FILE]`. Films have 320x240 pixels, the model is the bundled one of x2, in fp32, eager.

`pipeline`: a film through the pipeline : the same frames, in memory already, through `upscale`, and the encoder alone.
`memory`: the most memory that the command ever held, for films of 60 to 1200 frames; `python docs/plot.py FILE` draws
it. `core`: memory and time of ComfyUI core's nodes for the same film of 300 frames (needs COMFYUI_DIR and
COMFYUI_PYTHON). `threes`, `head`: a film whose frames stand for three, or of which a quarter moves : one that moves
everywhere. `segments`, `resume`: work kept in segments : not, and killed in the middle and gone on with : not.
`node`: our node inside ComfyUI : the command line (needs the same two). Commands are processes of their own, in turn;
of their seconds only those of the film count, not Python's start.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.models.loader import DEFAULT_MODEL, load_model
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.upscale_engine import upscale
from cudaspeed.video.colour import ToPixels
from cudaspeed.video.copies import CopyPlan
from cudaspeed.video.facts import Frame
from cudaspeed.video.formats import plan_format
from cudaspeed.video.options import VideoOptions
from cudaspeed.video.pipeline import FilmJob, upscale_film
from cudaspeed.video.reader import FilmReader
from cudaspeed.video.writer import FilmWriter

from .film_zoo import moving, talking_head, write_film
from .harness import ROOT, Record, Results, command_line, in_turn, megabytes

_PLAIN = ("--precision", "fp32", "--no-compile", "--device", "cpu", "--json")
_TILE = 176  # of a film of 320x240 two by two
_MODEL_FILE = ROOT / "models" / "bundled" / f"{DEFAULT_MODEL}.safetensors"


class MissingError(Exception):
    """What a part needs is not here. The message says what."""


@dataclass(frozen=True)
class Setting:
    """Where films lie, how many rounds there are, and whether films are short ones, to see that all works."""

    folder: Path
    rounds: int
    quick: bool

    def film(self, name: str, pictures: Iterable[Any], codec: str = "libx264") -> Path:
        """One that is made once."""
        path = self.folder / f"{name}.mkv"
        return path if path.exists() else write_film(path, pictures, codec)

    def frames(self, usual: int) -> int:
        """Of a film that usually has so many."""
        return max(8, usual // 20) if self.quick else usual


@dataclass(frozen=True)
class Ended:
    """What a command took: `seconds` of the film, `wall` of all, and its greatest resident set."""

    seconds: float
    wall: float
    peak_bytes: int
    record: Record


def pipeline(setting: Setting) -> list[Record]:
    """In this process, in turn."""
    film = setting.film("moving", moving(setting.frames(120)))
    model, options = load_model(DEFAULT_MODEL), UpscaleOptions(precision="fp32", compile=False)
    with FilmReader(film) as reader:
        to_pixels = ToPixels(alpha=False)
        frames = [item for item in reader.items() if isinstance(item, Frame)]
        image = torch.from_numpy(np.stack([to_pixels(frame.picture) for frame in frames])).float() / 255
        times = [(frame.pts, frame.duration) for frame in frames]
        frames.clear()  # before their file is closed
        height, width = (2 * side for side in reader.facts.size)
        planned = plan_format(reader.facts, reader.first.picture, (height, width), ".mkv", VideoOptions())

        def whole() -> None:
            job = FilmJob(film, setting.folder / "whole.mkv")
            upscale_film(job, model, options, StandaloneContext("cpu"))

        def apart() -> None:
            result = upscale(image, model, options, StandaloneContext("cpu"), sessions).image
            target = setting.folder / "apart.mkv"
            with target.open("wb") as file, FilmWriter(file, reader, planned, CopyPlan()) as writer:
                for pixels, (pts, duration) in zip(result, times, strict=True):
                    writer.write(pixels.numpy(), pts, duration)
                writer.finish()

        sessions = SessionCache()
        taken = in_turn({"film": whole, "apart": apart}, setting.rounds + 1, torch.device("cpu"))
    film_seconds, apart_seconds = (statistics.median(taken[name][1:]) for name in ("film", "apart"))
    return [_row("film : frames in memory, and the encoder", film_seconds / apart_seconds, 1.10, seconds=taken)]


def memory(setting: Setting) -> list[Record]:
    """A series, and its last over its first."""
    counts = (15, 60) if setting.quick else (60, 120, 300, 600, 1200)
    peaks = []
    for count in counts:
        film = setting.film(f"moving{count}", moving(count))
        peaks.append(_video(setting, film).peak_bytes)
        print(f"  {count} frames: {megabytes(peaks[-1])} MB", flush=True)
    row = _row(f"memory, {counts[-1]} : {counts[0]} frames", peaks[-1] / peaks[0], 1.05)
    return [{**row, "frames": counts, "peak_bytes": peaks}]


def core(setting: Setting) -> list[Record]:
    """Both in processes of their own, in turn."""
    count = setting.frames(300)
    film = setting.film(f"moving{count}", moving(count))
    few = count // 5
    short = _in_comfyui(setting, "core", setting.film(f"moving{few}", moving(few)))
    ours, theirs = [], []
    for _ in range(setting.rounds):
        theirs.append(_in_comfyui(setting, "core", film))
        ours.append(_video(setting, film))
    peak = [statistics.median(one.peak_bytes for one in ended) for ended in (ours, theirs)]
    seconds = [statistics.median(one.seconds for one in ended) for ended in (ours, theirs)]
    series = {"frames": (few, count), "core_peak_bytes": (short.peak_bytes, peak[1])}
    return [
        _row(f"memory : ComfyUI core's graph, {count} frames", peak[0] / peak[1], 0.35, peak_bytes=peak, **series),
        _row(f"time : ComfyUI core's graph, {count} frames", seconds[0] / seconds[1], 0.6, seconds=seconds),
    ]


def still(setting: Setting, name: str, to_reach: float) -> list[Record]:
    """A film in which something stands still : one of as many frames in which nothing does; on a grid of two by two,
    and with the tiles that are automatic."""
    count = setting.frames(240)
    pictures = {"threes": partial(moving, held=3), "head": talking_head}[name]
    films = {
        name: setting.film(f"{name}{count}", pictures(count), "ffv1"),
        "moving": setting.film(f"exact{count}", moving(count), "ffv1"),
    }
    rows = []
    for tile in (_TILE, 0):
        taken: dict[str, list[float]] = {one: [] for one in films}
        for _ in range(setting.rounds):
            for one, film in films.items():
                taken[one].append(_video(setting, film, "--tile", str(tile)).seconds)
        ratio = statistics.median(taken[name]) / statistics.median(taken["moving"])
        told = f"tiles of {tile}" if tile else "automatic tiles"
        rows.append(_row(f"{name} : all moves, {count} frames, {told}", ratio, to_reach, seconds=taken))
    return rows


def segments(setting: Setting) -> list[Record]:
    """Of two seconds each, so that there are some."""
    _need_option("--segment-seconds")
    count = setting.frames(300)
    film = setting.film(f"moving{count}", moving(count))
    taken: dict[str, list[float]] = {"2": [], "0": []}
    for _ in range(setting.rounds):
        for length, seconds in taken.items():
            seconds.append(_video(setting, film, "--segment-seconds", length).seconds)
    ratio = statistics.median(taken["2"]) / statistics.median(taken["0"])
    return [_row(f"segments of 2 s : none, {count} frames", ratio, 1.03, seconds=taken)]


def resume(setting: Setting) -> list[Record]:
    """What a run takes that is killed in the middle of its film, and the next that goes on with it."""
    _need_option("--segment-seconds")
    count = max(200, setting.frames(1200))  # a segment is lost: there must be many
    film, length = setting.film(f"moving{count}", moving(count)), ("--segment-seconds", "1")
    whole = _video(setting, film, *length)
    target, start = setting.folder / "killed.mkv", whole.wall - whole.seconds
    began = time.perf_counter()
    killed = subprocess.Popen(_command(film, target, *length), stdout=subprocess.DEVNULL, cwd=ROOT)
    time.sleep(start + whole.seconds / 2)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    spent = time.perf_counter() - began - start
    rest = _ended(_command(film, target, *length))
    row = _row(f"killed and resumed : not, {count} frames", (spent + rest.seconds) / whole.seconds, 1.15)
    return [{**row, "seconds": {"whole": whole.seconds, "killed": spent, "rest": rest.seconds}}]


def node(setting: Setting) -> list[Record]:
    """Our node in ComfyUI, whose server is not there : the command line, in turn. Both know the model already, by an
    earlier run of the command: a process that ends with its film learns nothing after it, as ComfyUI's would."""
    count = setting.frames(300)
    film = setting.film(f"moving{count}", moving(count))
    _video(setting, film, "--segment-seconds", "0")
    inside, outside = [], []
    for _ in range(setting.rounds):
        inside.append(_in_comfyui(setting, "ours", film).seconds)
        outside.append(_video(setting, film, "--segment-seconds", "0").seconds)
    ratio = statistics.median(inside) / statistics.median(outside)
    return [_row(f"node in ComfyUI : command line, {count} frames", ratio, 1.10, seconds=[inside, outside])]


PARTS: dict[str, Callable[[Setting], list[Record]]] = {
    "pipeline": pipeline,
    "memory": memory,
    "core": core,
    "threes": partial(still, name="threes", to_reach=0.45),
    "head": partial(still, name="head", to_reach=0.40),
    "segments": segments,
    "resume": resume,
    "node": node,
}


def _row(what: str, ratio: float, to_reach: float, **more: Any) -> Record:
    return {"what": what, "ratio": ratio, "to_reach": to_reach, **more}


def _command(film: Path, target: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "cudaspeed", "video", str(film), "-o", str(target), *_PLAIN, *options]


def _video(setting: Setting, film: Path, *options: str) -> Ended:
    return _ended(_command(film, setting.folder / "out" / film.name, "--overwrite", *options))


def _in_comfyui(setting: Setting, whose: str, film: Path) -> Ended:
    """By its own nodes ("core"), or by "ours"."""
    comfyui = os.environ.get("COMFYUI_DIR")
    if not comfyui:
        raise MissingError("COMFYUI_DIR names no checkout of ComfyUI")
    python, target = os.environ.get("COMFYUI_PYTHON", sys.executable), setting.folder / f"{whose}.mp4"
    command = [python, str(ROOT / "bench" / "comfyui_film.py"), whose, str(_MODEL_FILE), str(film), str(target)]
    return _ended(command, {"PYTHONPATH": comfyui})


def _ended(command: list[str], environment: dict[str, str] | None = None) -> Ended:
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.json"
        done = subprocess.run(
            [sys.executable, str(ROOT / "bench" / "peak.py"), str(told), *command],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            check=False,
        )
        if done.returncode:
            raise MissingError((done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1])
        taken, record = json.loads(told.read_text(encoding="utf-8")), json.loads(done.stdout.splitlines()[-1])
    return Ended(record["seconds"], taken["seconds"], taken["peak_bytes"], record)


def _need_option(name: str) -> None:
    command = [sys.executable, "-m", "cudaspeed", "video", "--help"]
    if name not in subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False).stdout:
        raise MissingError(f"there is no {name}")


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="short films, to see that all works; ratios mean nothing")
    args = parser.parse_args()
    results = Results(torch.device("cpu"), args.json)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CUDASPEED_CACHE_DIR"] = str(Path(folder) / "cache")
        setting = Setting(Path(folder), 1 if args.quick else args.rounds, args.quick)
        for name in args.parts:
            try:
                rows = PARTS[name](setting)
            except MissingError as error:
                rows = [{"what": name, "failure": str(error)}]
            for row in rows:
                results.keep({"part": name, **row})
                told = row.get("failure") or f"{row['ratio']:.3f} (to reach: at most {row['to_reach']:.2f})"
                print(f"{row['what']}: {told}", flush=True)


if __name__ == "__main__":
    main()
