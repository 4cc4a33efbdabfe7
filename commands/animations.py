"""Animations on the command line: all their frames through the engine, a few at a time, into one record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from spandrel import ImageModelDescriptor
from tqdm import tqdm

from ..api.context import RunContext
from ..api.options import UpscaleOptions
from ..api.report import ImageHealth, UpscaleReport
from ..images.animation import Animation, upscale_animation
from ..images.files import ENDINGS_OF_16_BITS, check_fits
from ..tiling.fit import result_size
from ..upscale_engine import upscale


class Progress:
    """One bar for `runs` of the engine, one after the other."""

    def __init__(self, bar: tqdm, runs: int = 1) -> None:
        self._bar, self._runs, self._before = bar, runs, 0

    def show(self, done: float, total: int) -> None:
        """As a `StandaloneContext` tells it of one run."""
        self._bar.total, self._bar.n = total * self._runs, total * self._before + done
        self._bar.refresh()
        self._before += done == total


def upscale_frames(
    animation: Animation, target: Path, model: ImageModelDescriptor, options: UpscaleOptions, context: RunContext
) -> tuple[UpscaleReport, tuple[str, ...]]:
    """Upscale `animation` into `target`, whose folder exists. Returns the report of all frames, and warnings about what
    the format cannot hold."""
    height, width = result_size(animation.size, model.scale, options.resize)
    check_fits(target, width, height)
    options = replace(options, alpha_mode=animation.alpha_mode(options.alpha_mode, model.scale))
    if animation.bits == 16 and options.precision == "auto" and target.suffix.lower() in ENDINGS_OF_16_BITS:
        options = replace(options, precision="fp32")  # half precision keeps 8 to 11 of them
    reports: list[UpscaleReport] = []

    def enlarge(frames: NDArray[np.float32]) -> NDArray[np.float32]:
        result = upscale(torch.from_numpy(frames), model, options, context)
        reports.append(result.report)
        return result.image.float().cpu().numpy()

    lost = upscale_animation(animation, target, enlarge, options.batch_size)
    told = dict.fromkeys(warning for report in reports for warning in report.warnings)
    report = replace(
        reports[-1],
        frames=len(animation),
        seconds=sum(report.seconds for report in reports),
        peak_bytes=max(report.peak_bytes for report in reports),
        health=ImageHealth(),
        notes=tuple(told),
    )
    return report, lost
