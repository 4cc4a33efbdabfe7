"""Where a processor multiplies bfloat16s itself, only products are rounded to them: faster, and closer to fp32."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from clocks import new_sessions
from processors import fast_at_bf16, fast_at_bf16_products
from spandrel import ImageModelDescriptor
from torch import Tensor

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.report import UpscaleResult
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.kernels import linear, window_attention, winograd
from cudaspeed.kernels.linear import PackedLinear
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.runner import ModelRunner
from cudaspeed.upscale_engine import tune, upscale

MODELS = {"compact": zoo.compact, "esrgan": zoo.esrgan, "swinir": zoo.swinir, "fdat": zoo.fdat}


@pytest.fixture(autouse=True)
def built(tmp_path: Path) -> None:
    if not all(kernels.prepare(tmp_path / "compiled") for kernels in (winograd, linear, window_attention)):
        pytest.skip("the kernels cannot be built here: not Linux, or no C++ compiler")


def upscaled(model: ImageModelDescriptor, image: Tensor, **options: Any) -> UpscaleResult:
    """With all found out before that a run would like to know."""
    asked, sessions = UpscaleOptions(**{"precision": "auto", "compile": False, **options}), new_sessions()
    tune(model, (image.shape[1], image.shape[2]), asked, StandaloneContext("cpu"), sessions)
    return upscale(image, model, asked, StandaloneContext("cpu"), sessions)


def decibels(image: Tensor, truth: Tensor) -> float:
    return -10 * math.log10(max(float((image - truth).square().mean()), 1e-20))


@pytest.mark.parametrize("name", MODELS)
def test_the_picture_is_closer_to_fp32_than_in_half_precision(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = MODELS[name](), zoo.photograph(48, 64)
    truth = upscaled(model, image, precision="fp32").image
    fast_at_bf16(monkeypatch)
    halves = upscaled(model, image, precision="bf16", autocast=False)
    fast_at_bf16_products(monkeypatch)
    products = upscaled(model, image, precision="bf16", autocast=False)
    told = [(result.report.precision, result.report.kernels == "winograd") for result in (halves, products)]
    assert told == [("bf16", False), ("bf16", True)]
    assert not products.report.warnings
    assert decibels(products.image, truth) > max(50.0, decibels(halves.image, truth))


def test_automatic_takes_them_and_the_same_picture_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    fast_at_bf16_products(monkeypatch)
    model, image = zoo.compact(), zoo.photograph(48, 64)
    first, second = upscaled(model, image), upscaled(model, image)
    assert (first.report.precision, first.report.kernels) == ("bf16", "winograd")
    assert torch.equal(first.image, second.image)


def test_what_a_model_does_on_purpose_is_told_by_a_small_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colours beyond any picture's come of fp32, too: products do not lose them, and little is computed twice."""
    fast_at_bf16_products(monkeypatch)
    model, again, sessions = zoo.compact(), [], new_sessions()
    with torch.no_grad():
        model.model.body[-1].bias.fill_(5.0)
    asked = UpscaleOptions(precision="bf16", autocast=False, compile=False, tile=320)
    tune(model, (48, 64), asked, StandaloneContext("cpu"), sessions)
    model.model.register_forward_pre_hook(lambda _, args: again.append(args[0][0, 0].numel()))  # of copies from now on
    result = upscale(zoo.photograph(300, 300), model, asked, StandaloneContext("cpu"), sessions)
    assert (result.report.precision, result.report.kernels) == ("bf16", "winograd")
    assert 0 < sum(again) < 300 * 300 / 2


def test_linear_layers_are_taken_over_only_where_products_are_rounded() -> None:
    model, counts = zoo.fdat(), []
    for precision in ("fp32", "bf16"):
        runner = ModelRunner(model, ExecutionMode(precision, False, channels_last=True, kernels="winograd"))
        counts.append(sum(isinstance(module, PackedLinear) for module in runner.module.modules()))
        with torch.inference_mode():
            assert runner.forward(torch.rand(1, 3, 16, 24)).dtype == torch.float32
    assert counts[0] == 0 < counts[1]


def test_where_they_stray_automatic_does_not_take_them(monkeypatch: pytest.MonkeyPatch) -> None:
    fast_at_bf16_products(monkeypatch)
    convolve = winograd.Kernels.convolve

    def strays(kernels: winograd.Kernels, x: Tensor, packed: winograd.Packed, y: Tensor, *more: Any) -> None:
        convolve(kernels, x, packed, y, *more)
        if packed.weights.dtype == torch.bfloat16:
            y.mul_(1.05)

    monkeypatch.setattr(winograd.Kernels, "convolve", strays)
    model, image = zoo.compact(), zoo.photograph(48, 64)
    result = upscaled(model, image)
    assert (result.report.precision, result.report.kernels) != ("bf16", "winograd")
    assert decibels(result.image, upscaled(model, image, precision="fp32").image) > 50


def test_where_they_fail_on_a_picture_torch_computes_it_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision of all was not tried, and would be less exact."""
    fast_at_bf16_products(monkeypatch)
    convolve = winograd.Kernels.convolve

    def fails(kernels: winograd.Kernels, x: Tensor, packed: winograd.Packed, y: Tensor, *more: Any) -> None:
        if packed.weights.dtype == torch.bfloat16 and x.shape[1] > 60:
            raise RuntimeError("not on pictures")
        convolve(kernels, x, packed, y, *more)

    monkeypatch.setattr(winograd.Kernels, "convolve", fails)
    model, image = zoo.compact(), zoo.photograph(80, 64)
    result = upscaled(model, image)
    assert (result.report.precision, result.report.kernels) == ("fp32", "plain")
    assert any("winograd kernels failed on a picture" in warning for warning in result.report.warnings)
    assert torch.equal(result.image, upscaled(model, image, reproducible=True).image)
