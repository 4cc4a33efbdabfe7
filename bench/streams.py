"""Whether copies hide behind the computing, CUDA only: `python -m bench.streams [--model M] [--size 1280x720]`.

A trace by torch's profiler of an upscale of several frames, in which is told for how much of the time, from the first
thing that the device does to the last, it computes, copies in and copies out, in all and by stream; and how much of the
copying goes on while something is computed.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.upscale_engine import upscale

from .harness import Record, Results, command_line, parse_size, percent
from .model_zoo import build_fitted
from .photograph import photograph

Span = tuple[float, float]  # from, to, microseconds

_KERNELS, _IN, _OUT = "kernels", "copies in", "copies out"
_WARM_UP = 2


def spans_of(trace: Iterable[dict[str, Any]]) -> dict[tuple[str, int], list[Span]]:
    """What a device did, by kind and stream, from the events of a trace in Chrome's format as torch's profiler writes
    it. Copies within the device count as kernels; setting memory, and what the host did, do not count."""
    found: dict[tuple[str, int], list[Span]] = defaultdict(list)
    for event in trace:
        category, name = event.get("cat"), event.get("name", "")
        if category == "kernel" or (category == "gpu_memcpy" and "DtoD" in name):
            kind = _KERNELS
        elif category == "gpu_memcpy" and ("HtoD" in name or "DtoH" in name):
            kind = _IN if "HtoD" in name else _OUT
        else:
            continue
        start = float(event["ts"])
        found[kind, int(event["args"]["stream"])].append((start, start + float(event["dur"])))
    return dict(found)


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same time without overlaps, in order."""
    result: list[Span] = []
    for start, stop in sorted(spans):
        if result and start <= result[-1][1]:
            result[-1] = result[-1][0], max(stop, result[-1][1])
        else:
            result.append((start, stop))
    return result


def length(spans: Sequence[Span]) -> float:
    """Microseconds of spans that do not overlap."""
    return sum(stop - start for start, stop in spans)


def common(one: Sequence[Span], other: Sequence[Span]) -> float:
    """Microseconds that are in both, each without overlaps."""
    return length(one) + length(other) - length(merged([*one, *other]))


def summary(trace: Iterable[dict[str, Any]]) -> Record:
    """Busy shares of the device's time by kind and by stream, and the shares of the copies that are `hidden` behind
    kernels; "failure" for a trace in which the device does nothing."""
    spans = spans_of(trace)
    everything = merged(span for found in spans.values() for span in found)
    if not everything:
        return {"failure": "the trace shows no work of a device"}
    total = everything[-1][1] - everything[0][0]
    kinds = {
        kind: merged(span for (other, _), found in spans.items() if other == kind for span in found)
        for kind in (_KERNELS, _IN, _OUT)
    }
    return {
        "milliseconds": total / 1e3,
        "busy": {kind: length(found) / total for kind, found in kinds.items()},
        "hidden": {
            kind: common(found, kinds[_KERNELS]) / length(found)
            for kind, found in kinds.items()
            if found and kind != _KERNELS
        },
        "streams": {
            f"stream {stream}: {kind}": length(merged(found)) / total for (kind, stream), found in sorted(spans.items())
        },
    }


def traced(model: str, size: tuple[int, int], frames: int, precision: str, device: torch.device) -> Record:
    """What the device does in one upscale, after some to warm up."""
    image = photograph(*size, frames)
    built, sessions = build_fitted(model, image[:1].permute(0, 3, 1, 2).to(device)), SessionCache()
    options = UpscaleOptions(precision=precision, compile=False)  # type: ignore[arg-type]  # it checks it
    for _ in range(_WARM_UP):
        upscale(image, built, options, StandaloneContext(str(device)), sessions)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        report = upscale(image, built, options, StandaloneContext(str(device)), sessions).report
        torch.cuda.synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trace.json")
        profile.export_chrome_trace(str(file))
        found = summary(json.loads(file.read_text(encoding="utf-8"))["traceEvents"])
    return {
        "model": model,
        "size": size,
        "frames": frames,
        "precision": report.precision,
        "tiles": report.tiles,
    } | found


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--models", nargs="+", default=["compact"])
    parser.add_argument("--size", default="1280x720", metavar="WIDTHxHEIGHT")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--precision", default="auto")
    args = parser.parse_args()

    device = StandaloneContext(args.device).device
    if device.type != "cuda":
        print("no CUDA device: there are no streams to look at")
        return
    results = Results(device, args.json)
    for name in args.models:
        row = traced(name, parse_size(args.size), args.frames, args.precision, device)
        results.keep(row)
        print(f"{name}, {args.size}, {args.frames} frames, {row['precision']}")
        if "failure" in row:
            print(f"    {row['failure']}")
            continue
        print(f"    {row['milliseconds']:.2f} ms, busy with " + ", ".join(_told(row["busy"])))
        print("    hidden behind kernels: " + (", ".join(_told(row["hidden"])) or "nothing was copied"))
        print("    " + "; ".join(_told(row["streams"])))


def _told(shares: dict[str, float]) -> list[str]:
    return [f"{name} {percent(share)}" for name, share in shares.items()]


if __name__ == "__main__":
    main()
