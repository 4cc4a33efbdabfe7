"""The models that ship with the pack."""

from __future__ import annotations

import copy
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from spandrel import ImageModelDescriptor

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.models.loader import DEFAULT_MODEL, load_model, resolve_model
from cudaspeed.upscale_engine import upscale

EXAMPLE = Path(__file__).absolute().parent.parent.parent / "examples" / "chelsea.png"
NAMES = {2: "cudaspeed-compact-x2", 4: "cudaspeed-compact-x4"}


@cache
def bundled(scale: int) -> ImageModelDescriptor:
    return load_model(resolve_model(NAMES[scale]))


def large_and_small(scale: int) -> tuple[Image.Image, Image.Image]:
    """The example picture, which the training left out, and the same shrunk by `scale`."""
    large = Image.open(EXAMPLE).convert("RGB")
    large = large.crop((0, 0, large.width // scale * scale, large.height // scale * scale))
    return large, large.resize((large.width // scale, large.height // scale), Image.Resampling.BICUBIC)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Over all colours, in dB, without the four pixels on every side."""
    error = (a - b)[4:-4, 4:-4]
    return 10 * math.log10(255**2 / np.mean(error**2))


def test_the_default_is_one_of_them() -> None:
    assert DEFAULT_MODEL in NAMES.values()


@pytest.mark.parametrize("scale", NAMES)
def test_they_are_small_and_load(scale: int) -> None:
    assert resolve_model(NAMES[scale]).stat().st_size < 2_500_000
    assert bundled(scale).scale == scale
    assert all(value.half().isfinite().all() for value in bundled(scale).model.state_dict().values())


# 1.33 and 0.52 dB were measured. The example is a soft picture; sharper ones gain more (train/README.md).
@pytest.mark.parametrize(("scale", "least"), [(2, 1.2), (4, 0.4)])
def test_they_beat_bicubic_on_a_photograph_they_never_saw(scale: int, least: float) -> None:
    large, small = large_and_small(scale)
    truth = np.asarray(large, dtype=np.float64)
    bicubic = np.asarray(small.resize(large.size, Image.Resampling.BICUBIC), dtype=np.float64)
    image = torch.from_numpy(np.array(small)).float()[None] / 255
    result = upscale(image, bundled(scale), UpscaleOptions(compile=False), StandaloneContext("cpu"))
    assert not result.report.warnings
    ours = (result.image[0].double().numpy() * 255).round()
    assert psnr(ours, truth) > psnr(bicubic, truth) + least


@pytest.mark.parametrize("scale", NAMES)
@pytest.mark.parametrize(("dtype", "decibels", "steps"), [(torch.float16, 65.0, 1.0), (torch.bfloat16, 50.0, 4.0)])
@torch.inference_mode()
def test_half_precision_shows_the_same_picture(scale: int, dtype: torch.dtype, decibels: float, steps: float) -> None:
    """Outright, without the engine, which on a CPU refuses fp16. 76 and 57 dB, 0.3 and 1.5 of 255 were measured."""
    small = np.array(large_and_small(scale)[1].crop((20, 20, 68, 52)))
    image = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255
    network = bundled(scale).model
    truth, half = network(image), copy.deepcopy(network).to(dtype)(image.to(dtype))
    truth, half = (t[0].permute(1, 2, 0).double().clamp(0, 1).numpy() * 255 for t in (truth, half))
    assert psnr(half, truth) > decibels
    assert np.abs(half - truth).max() < steps


@pytest.mark.parametrize("scale", NAMES)
def test_dither_and_stripes_stay_within_range(scale: int) -> None:
    """What no camera makes: single pixels of black and white. An overshoot would be taken for a broken range."""
    row, column = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    noise = torch.rand(48, 48, generator=torch.Generator().manual_seed(0)) < 0.5
    frames = torch.stack([row % 2 == 0, (row + column) % 2 == 0, noise]).float()[..., None].expand(-1, -1, -1, 3)
    report = upscale(frames, bundled(scale), UpscaleOptions(compile=False), StandaloneContext("cpu")).report
    assert not report.health.broken_frames
    assert not report.warnings
