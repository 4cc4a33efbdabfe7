"""What is told of a film that was upscaled, as `last_run.py` does it of pictures."""

from __future__ import annotations

from ..api.options import UpscaleOptions
from ..api.report import UpscaleReport
from ..video.report import FilmReport
from . import last_run


def told_of_film(report: FilmReport, options: UpscaleOptions) -> str:
    """The JSON of an object, in the user's language: `summary`, `facts` and `explained`, as of a picture."""
    return last_run.told(summary(report), facts(report), explained(report, options))


def summary(report: FilmReport) -> str:
    """What remains to be read on the node that saved it."""
    (height, width), speed = report.output_size, _speed(report)
    before = f" ({report.resumed} were there)" if report.resumed else ""
    told = f"{report.frames} frames of {width}x{height}{before}, {report.encoder}, {speed} frames/s"
    return "; ".join((told, *report.warnings))


def facts(report: FilmReport) -> list[tuple[str, str]]:
    """(name, value): of the film, and of what the engine did for it."""
    (height, width), speed = report.output_size, _speed(report)
    of_engine = last_run.facts(report.upscaling) if report.upscaling else []
    return [
        ("film", f"{report.frames} frames of {width}x{height} pixels"),
        ("encoding", f"{report.encoder}, {report.pixel_format}"),
        *(fact for fact in of_engine if fact[0] != "time"),
        ("time", f"{report.seconds:.2f} s, {speed} frames/s"),
    ]


def explained(report: FilmReport, options: UpscaleOptions) -> list[str]:
    """How it went and why, in sentences of the user's language."""
    upscaling = report.upscaling
    return [
        *(last_run.explained(upscaling, options) if upscaling else ()),
        *last_run.in_sentences(_sentences(report), _beside(report, upscaling)),
    ]


def _sentences(report: FilmReport) -> list[str]:
    """In English."""
    told, speed = [], _speed(report)
    if report.resumed == report.frames:
        told.append("All frames were there from an earlier run, so nothing was computed.")
    elif report.resumed:
        told.append(f"{report.resumed} frames were there from an earlier run.")
    told.append(f"Encoded by {report.encoder} as {report.pixel_format}, at {speed} frames/s with reading and writing.")
    return told


def _beside(report: FilmReport, upscaling: UpscaleReport | None) -> tuple[str, ...]:
    """What the user should know of the film itself."""
    said = upscaling.warnings if upscaling else ()
    return tuple(warning for warning in report.warnings if warning not in said)


def _speed(report: FilmReport) -> str:
    return f"{(report.frames - report.resumed) / max(report.seconds, 1e-9):.1f}"
