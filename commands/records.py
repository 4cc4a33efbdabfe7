"""What is told of an input in `--json`, and of one that failed on standard error, whatever the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..api.report import UpscaleReport
from ..images.jobs import Job


def failed(source: Path, reason: str, target: Path | None = None) -> dict[str, Any]:
    """The record of an input of which nothing came; the reason names it."""
    named = any(str(path) in reason for path in (source, target) if path)
    return {"input": str(source), "error": reason if named else f"{source}: {reason}"}


def done(job: Job, model: str, report: UpscaleReport) -> dict[str, Any]:
    """What is told of a finished input, and of how it was computed; sizes are (width, height)."""
    return {
        "input": str(job.source),
        "output": str(job.target),
        "input_size": report.input_size[::-1],
        "output_size": report.output_size[::-1],
        "frames": report.frames,
        "model": model,
        "architecture": report.model,
        "precision": report.precision,
        "autocast": report.autocast,
        "tile": report.tile[::-1],
        "overlap": report.overlap[::-1],
        "tiles": report.tiles,
        "compiled": report.compiled,
        "compiling": report.compiling,
        "compiled_shapes": report.compiled_shapes,
        "profile": report.profile,
        "seconds": report.seconds,
        "peak_bytes": report.peak_bytes,
    }
