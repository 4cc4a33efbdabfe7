"""The model that ships with the pack."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cudaspeed.contracts import UpscaleOptions
from cudaspeed.standalone import StandaloneContext
from cudaspeed.upscale_engine import upscale
from cudaspeed.weights import DEFAULT_MODEL, load_model, resolve_model

EXAMPLE = Path(__file__).absolute().parent.parent / "examples" / "chelsea.png"


def test_it_is_small_and_loads() -> None:
    path = resolve_model(DEFAULT_MODEL)
    assert path.stat().st_size < 1_500_000
    assert load_model(path).scale == 2


def test_it_beats_bicubic_on_a_photograph_it_never_saw() -> None:
    """The example picture is left out of the training. It is a soft one; sharper ones gain more (README)."""
    large = Image.open(EXAMPLE).convert("RGB")
    large = large.crop((0, 0, large.width // 2 * 2, large.height // 2 * 2))
    small = large.resize((large.width // 2, large.height // 2), Image.Resampling.BICUBIC)
    truth = np.asarray(large, dtype=np.float64)

    def psnr(picture: np.ndarray) -> float:
        return 10 * math.log10(255**2 / np.mean((picture.astype(np.float64) - truth)[2:-2, 2:-2] ** 2))

    image = torch.from_numpy(np.array(small)).float()[None] / 255
    result = upscale(image, load_model(resolve_model(DEFAULT_MODEL)), UpscaleOptions(), StandaloneContext("cpu"))
    ours = (result.image[0] * 255).round().numpy()
    bicubic = np.asarray(small.resize(large.size, Image.Resampling.BICUBIC))
    assert psnr(ours) > psnr(bicubic) + 1.0
