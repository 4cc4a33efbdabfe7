"""What is told of a run on the node that made it: in a line, in facts for a table, and explained.

All of it goes to the page as a node's output under a key of ours, as JSON in a string: what else reads outputs, to
count files or to show pictures, passes strings by.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..api.memory_use import gigabytes
from ..api.options import UpscaleOptions
from ..api.report import NOT_NEEDED, UpscaleReport, throughput_text
from ..host.language import in_users_language

KEY = "cudaspeed"


def with_last_run(result: object, report: UpscaleReport, options: UpscaleOptions) -> dict[str, Any]:
    """What a node returns for what was upscaled with these options, an IMAGE or a LATENT: that, and what the page shows
    of the run."""
    return {"ui": {KEY: (told_of(report, options),)}, "result": (result,)}


def told_of(report: UpscaleReport, options: UpscaleOptions) -> str:
    """The JSON of an object, in the user's language: `summary`, a line; `facts`, names and values; `explained`,
    sentences."""
    return told(report.summary, facts(report), explained(report, options))


def told(summary: str, facts: Sequence[tuple[str, str]], explained: Sequence[str]) -> str:
    """The same of what is known: all but `explained` in English."""
    content = {
        "summary": in_users_language(summary),
        "facts": [tuple(map(in_users_language, fact)) for fact in facts],
        "explained": explained,
    }
    return json.dumps(content, ensure_ascii=False)


def facts(report: UpscaleReport) -> list[tuple[str, str]]:
    """(name, value) of what is worth a line in a table."""
    if not report.frames:
        return []
    (height, width), health = report.input_size, report.health
    speed = throughput_text(report.frames * height * width, report.seconds)
    wrong = len(health.repairs) + health.non_finite + health.wild + len(health.broken_frames)
    found = [
        ("plan", _plan(report)),
        ("precision", f"{report.precision}{' with autocast' if report.autocast else ''}"),
        ("kernels", report.kernels if report.kernels != "plain" else ""),
        ("compilation", report.compiling),
        ("health", "; ".join(report.warnings) if wrong else "nothing to repair"),
        ("peak memory", gigabytes(report.peak_bytes)),
        ("shared by", ", ".join(map(str, report.devices))),
        ("time", f"{report.seconds:.2f} s" + f", {speed}" * bool(speed)),
        ("known of the model", report.profile),
    ]
    return [(name, value) for name, value in found if value]


def explained(report: UpscaleReport, options: UpscaleOptions) -> list[str]:
    """How the run went and why, in sentences of the user's language that need no other knowledge."""
    said = _sentences(report, options)
    return [*in_sentences(said[:-1], report.warnings), *in_sentences(said[-1:])]


def in_sentences(sentences: Sequence[str], warnings: Sequence[str] = ()) -> list[str]:
    """Both, one after the other, in the user's language."""
    return [*map(in_users_language, sentences), *map(_as_sentence, warnings)]


def _sentences(report: UpscaleReport, options: UpscaleOptions) -> list[str]:
    """In English; what had to be repaired is said before the last one."""
    if not report.frames:
        return ["There were no frames to upscale, so nothing was computed."]
    told = [_sizes(report), _tiles(report, options), _precision(report, options), _compiling(report)]
    if report.still_tiles:
        told.append(
            f"{report.still_share:.0%} of the tiles show what the frame before shows, and were not computed again."
        )
    if report.devices:
        told.append(
            f"{len(report.devices)} devices shared the work, as each got done: {', '.join(map(str, report.devices))}."
        )
    if report.out_of_memory:
        count, on = report.out_of_memory, "the run went on with less at once."
        told.append(f"Memory ran out once; {on}" if count == 1 else f"Memory ran out {count} times; {on}")
    if not report.warnings:
        told.append("Nothing had to be repaired.")
    told.append(
        f"It took {report.seconds:.1f} s and {gigabytes(report.peak_bytes)} of the device's memory at most. What is "
        f"known of this model here: {report.profile}; runs of one revision give the same picture to the last bit."
    )
    return told


def _as_sentence(warning: str) -> str:
    """A warning, which begins small and ends with nothing, as a sentence of the user's language."""
    told = in_users_language(warning)
    return f"{warning[0].upper()}{warning[1:]}." if told == warning else f"{told}。"


def _plan(report: UpscaleReport) -> str:
    if report.tiles == report.frames:
        return "one piece"
    (height, width), (rows, columns) = report.tile, report.overlap
    overlap = f"{columns}" if rows == columns or not rows else f"{rows}" if not columns else f"{columns}x{rows}"
    at_once = f", {report.batch} at once" if report.batch > 1 else ""
    return f"{report.tiles} tiles of {width}x{height}, overlap {overlap}{at_once}"


def _sizes(report: UpscaleReport) -> str:
    (height, width), (rows, columns) = report.input_size, report.output_size
    what = f"{report.frames} frames of {width}x{height} pixels" if report.frames > 1 else f"{width}x{height} pixels"
    way = f": {report.sizes}" if report.sizes.count(", ") > 1 else ""
    if report.passes > 1:
        return f"{what} became {columns}x{rows}, which {report.model} was run {report.passes} times for{way}."
    return f"{what} became {columns}x{rows} by {report.model}{way}."


def _tiles(report: UpscaleReport, options: UpscaleOptions) -> str:
    if report.tiles == report.frames:
        return "The picture went through the model in one piece: it fits, and that is the least work."
    if "as memory allowed" in report.profile or report.out_of_memory:
        at_level = "" if options.level == "speed" else f" at optimization_level {options.level}"
        why = f"as large as free memory allowed{at_level}"
    elif options.tile:
        why = f"no larger because tile_size is {options.tile}"
    elif options.level == "memory":
        why = "small because optimization_level is memory"
    else:
        why = "of the size that is expected to be fastest for this model here"
    return (
        f"The model saw {_plan(report)}: {why}. Tiles overlap by as much as the model looks around, so that no seam "
        "shows, and are blended there."
    )


def _precision(report: UpscaleReport, options: UpscaleOptions) -> str:
    left = report.health.given_up
    if left:
        return f"It began in {left} and went on in {report.precision}, because tiles came out faulty."
    if options.precision != "auto":
        asked = options.precision == report.precision
        return f"It was computed in {report.precision}{', as asked for' if asked else f', not in {options.precision}'}."
    if report.precision == "fp32":
        return (
            "It was computed in fp32, the most exact: half precision is taken only where the device is fast at it and "
            "a trial stays close to fp32."
        )
    delicate = ", delicate operations in fp32" if report.autocast else ""
    return (
        f"It was computed in {report.precision}{delicate}: the device is fast at it, and a trial with this model "
        "stayed close to fp32."
    )


def _compiling(report: UpscaleReport) -> str:
    if report.compiled:
        return "Compiled code computed tiles."
    if report.compiling == "off":
        return "Nothing was compiled, because enable_compile is disable."
    if report.compiling.startswith(NOT_NEEDED):
        return f"Nothing was compiled: {report.compiling}, which are as fast."
    return f"Nothing compiled was used: {report.compiling}."
