"""The models that ship with the pack."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from spandrel import ImageModelDescriptor

from cudaspeed.contracts import UpscaleOptions
from cudaspeed.standalone import StandaloneContext
from cudaspeed.upscale_engine import upscale
from cudaspeed.weights import DEFAULT_MODEL, load_model, resolve_model

EXAMPLE = Path(__file__).absolute().parent.parent / "examples" / "chelsea.png"
NAMES = {2: "cudaspeed-compact-x2", 4: "cudaspeed-compact-x4"}


@cache
def bundled(scale: int) -> ImageModelDescriptor:
    return load_model(resolve_model(NAMES[scale]))


def large_and_small(scale: int) -> tuple[Image.Image, Image.Image]:
    """The example picture, which the training left out, and the same shrunk by `scale`."""
    large = Image.open(EXAMPLE).convert("RGB")
    large = large.crop((0, 0, large.width // scale * scale, large.height // scale * scale))
    return large, large.resize((large.width // scale, large.height // scale), Image.Resampling.BICUBIC)


def run(scale: int, small: Image.Image, **options: object) -> np.ndarray:
    """The engine's output [h, w, 3], 0..255, not rounded. It must not have fallen back to another precision."""
    image = torch.from_numpy(np.array(small)).float()[None] / 255
    asked = UpscaleOptions(compile=False, **options)
    result = upscale(image, bundled(scale), asked, StandaloneContext("cpu"))
    assert asked.precision in ("auto", result.report.precision)
    assert not result.report.warnings
    return result.image[0].double().numpy() * 255


def psnr(a: np.ndarray, b: np.ndarray, border: int = 0) -> float:
    """Over all colours, in dB, without `border` pixels on every side."""
    error = (a - b)[border : a.shape[0] - border, border : a.shape[1] - border]
    return 10 * math.log10(255**2 / np.mean(error**2))


def test_the_default_is_one_of_them() -> None:
    assert DEFAULT_MODEL in NAMES.values()


@pytest.mark.parametrize("scale", NAMES)
def test_they_are_small_and_load(scale: int) -> None:
    assert resolve_model(NAMES[scale]).stat().st_size < 2_500_000
    assert bundled(scale).scale == scale
    assert all(value.half().isfinite().all() for value in bundled(scale).model.state_dict().values())


# Measured: see train/README.md. The example is a soft picture; sharper ones gain more.
@pytest.mark.parametrize(("scale", "least"), [(2, 1.0), (4, 0.5)])
def test_they_beat_bicubic_on_a_photograph_they_never_saw(scale: int, least: float) -> None:
    large, small = large_and_small(scale)
    truth = np.asarray(large, dtype=np.float64)
    bicubic = np.asarray(small.resize(large.size, Image.Resampling.BICUBIC), dtype=np.float64)
    ours = run(scale, small).round()
    assert psnr(ours, truth, scale) > psnr(bicubic, truth, scale) + least


@pytest.mark.parametrize("scale", NAMES)
@pytest.mark.parametrize(("precision", "decibels", "steps"), [("fp16", 60.0, 3.0), ("bf16", 45.0, 10.0)])
def test_half_precision_shows_the_same_picture(scale: int, precision: str, decibels: float, steps: float) -> None:
    small = large_and_small(scale)[1].crop((20, 20, 84, 68))
    truth, half = run(scale, small, precision="fp32"), run(scale, small, precision=precision)
    assert psnr(half, truth) > decibels
    assert np.abs(half - truth).max() < steps
