"""Models with random weights make pictures that can be compared."""

from __future__ import annotations

import torch
from torch import nn

from bench.harness import psnr
from bench.model_zoo import build, build_fitted
from bench.photograph import photograph


def test_a_fitted_model_makes_a_photograph_of_a_photograph() -> None:

    picture = photograph(96, 96).permute(0, 3, 1, 2)
    wanted = nn.functional.interpolate(picture, scale_factor=4, mode="bicubic").clamp(0, 1)
    with torch.inference_mode():
        fitted, random = (psnr(model(picture), wanted) for model in (build_fitted("span", picture), build("span")))
    assert fitted > 25 > random + 10
