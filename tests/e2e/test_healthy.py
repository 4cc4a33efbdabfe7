"""Two hundred healthy runs, of all sorts: nothing is suspected, and every value is a plain clamp's."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
import zoo
from clocks import new_sessions
from spandrel import ImageModelDescriptor
from torch import Tensor, nn

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.report import ImageHealth, UpscaleResult
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.pipeline import settling
from cudaspeed.pipeline.retry import SuspectTile, TileRetry
from cudaspeed.pipeline.tile_check import measure_tiles
from cudaspeed.upscale_engine import upscale

MODELS = [
    *(zoo.compact, zoo.esrgan, zoo.swinir, zoo.span, zoo.rcan_unshuffle, zoo.fdat, zoo.realcugan, zoo.grey_denoiser),
    *(lambda: zoo.compact(scale=1), lambda: zoo.compact(scale=4, channels=1)),
]


def healthy(model: ImageModelDescriptor) -> ImageModelDescriptor:
    """With random weights, and yet a picture: the architecture's own output is the detail added to the input's.

    It leaves 0..1 as trained ones do.
    """
    call, scale = model._call_fn, model.scale

    def forward(module: nn.Module, x: Tensor) -> Tensor:
        base = F.interpolate(x, scale_factor=scale, mode="bicubic")
        detail = call(module, x)
        return 1.06 * base.to(detail.dtype) - 0.03 + 0.03 * torch.tanh(detail)

    model._call_fn = forward
    return model


class Unwatched(TileRetry):
    """Every tile is as it is."""

    def settle(self, suspect: SuspectTile) -> tuple[Tensor, None]:
        return suspect.result, None


@pytest.mark.parametrize("make", MODELS)
def test_twenty_healthy_runs_of_a_model(make, monkeypatch: pytest.MonkeyPatch) -> None:
    chance, sessions, model = random.Random(11), new_sessions(), healthy(make())
    precisions = ["fp32", "bf16"] if model.supports_bfloat16 else ["fp32"]
    most, clamped = 40 if make is zoo.realcugan else 64, 0
    monkeypatch.setattr(TileRetry, "_compute_again", lambda self, suspect: pytest.fail(f"suspected: {suspect.stats}"))
    for _ in range(20):
        size, frames = (chance.randint(16, most), chance.randint(16, most)), chance.choice([1, 1, 2])
        options = UpscaleOptions(chance.choice(precisions), tile=chance.choice([0, 0, 48]), compile=False)
        image = zoo.photograph(*size, channels=chance.choice([1, 3, 4]), frames=frames)

        def run(image: Tensor = image, options: UpscaleOptions = options) -> UpscaleResult:
            return upscale(image, model, options, StandaloneContext("cpu"), sessions)

        result, again = run(), run()
        assert again.report.profile == result.report.profile, "nothing was learned from it"
        assert torch.equal(result.image, again.image)
        assert result.report.health == ImageHealth()
        assert not any("tiles" not in warning for warning in result.report.warnings)
        with monkeypatch.context() as patched:
            patched.setattr(settling, "TileRetry", Unwatched)
            assert torch.equal(result.image, run().image)
        clamped += int((result.image == 1).sum() + (result.image == 0).sum())
    assert clamped, "they leave the range, and are clamped"


@pytest.mark.parametrize("side", [1, 2, 3, 17, 64])
@pytest.mark.parametrize("shades", ["black", "white", "two", "noise", "hatched", "steps"])
def test_pictures_of_any_kind_and_size_are_not_suspected(
    side: int, shades: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TileRetry, "_compute_again", lambda self, suspect: pytest.fail(f"suspected: {suspect.stats}"))
    ramp = torch.linspace(0, 1, side * side * 3).reshape(1, side, side, 3)
    image = {
        "black": torch.zeros(1, side, side, 3),
        "white": torch.ones(1, side, side, 3),
        "two": (ramp > 0.5).float(),
        "noise": torch.rand(1, side, side, 3, generator=torch.Generator().manual_seed(side)),
        "hatched": (torch.arange(side) % 2.0)[None, None, :, None].expand(1, side, side, 3),
        "steps": (ramp * 4).round() / 4,
    }[shades]
    report = upscale(image, zoo.toy(), UpscaleOptions("bf16", autocast=False), StandaloneContext("cpu")).report
    assert report.health == ImageHealth()
    assert not report.warnings


def test_the_stats_of_tiles_are_the_same_in_every_layout_and_type() -> None:
    batch = zoo.photograph(40, 56, frames=2).permute(0, 3, 1, 2)
    output = F.interpolate(batch, scale_factor=2)
    expected = measure_tiles(batch, output)
    assert float(expected[:, 2].max()) == 0
    for other in (output.contiguous(memory_format=torch.channels_last), output.half(), output.bfloat16()):
        torch.testing.assert_close(measure_tiles(batch, other), expected, atol=4e-3, rtol=0)
