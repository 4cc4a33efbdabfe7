"""Which precision runs: what was asked for, what the model and the device can, and what is said when they differ."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
import zoo
from clocks import new_sessions
from processors import fast_at_bf16
from torch import Tensor

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.models.info import model_info
from cudaspeed.models.trial import piece_sides
from cudaspeed.upscale_engine import tune, upscale

IMAGE = zoo.photograph(40, 40)


def used(model, options: UpscaleOptions):
    return upscale(IMAGE, model, options, StandaloneContext("cpu"), new_sessions()).report


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


@pytest.fixture
def bf16_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU that computes bfloat16 natively, whatever runs the tests."""
    fast_at_bf16(monkeypatch)


@pytest.mark.usefixtures("plain_kernels")
@pytest.mark.usefixtures("bf16_is_fast")
def test_automatic_takes_half_precision_where_it_stays_close() -> None:
    model, sessions, context = zoo.compact(), new_sessions(), StandaloneContext("cpu")
    assert upscale(IMAGE, model, UpscaleOptions(), context, sessions).report.precision == "fp32", "nothing is known yet"
    tune(model, (40, 40), UpscaleOptions(), context, sessions)
    result = upscale(IMAGE, model, UpscaleOptions(), context, sessions)
    truth = model(IMAGE.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert result.report.precision == "bf16"
    assert psnr(result.image, truth) >= 50


@pytest.mark.usefixtures("bf16_is_fast")
def test_automatic_stays_in_fp32_where_half_strays() -> None:
    def delicate(x: Tensor) -> Tensor:  # a difference of large numbers: bfloat16 keeps 8 bits of them
        return x if x.dtype == torch.float32 else x + 100 - 100

    model, options = zoo.toy(2, delicate), UpscaleOptions(autocast=False)
    assert tune(model, (40, 40), options, StandaloneContext("cpu"), new_sessions()).startswith("fp32")
    assert used(model, options).precision == "fp32"


@pytest.mark.usefixtures("bf16_is_fast")
@pytest.mark.parametrize("asked", ["auto", "bf16"])
def test_a_model_that_fails_in_what_it_declares_runs_in_fp32(asked: str, caplog: pytest.LogCaptureFixture) -> None:
    def only_fp32(x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise RuntimeError("not implemented for this type")
        return x

    model, options = zoo.toy(2, only_fp32), UpscaleOptions(precision=asked, autocast=False)
    if asked == "auto":
        tune(model, (40, 40), options, StandaloneContext("cpu"), new_sessions())
    with caplog.at_level(logging.WARNING, "cudaspeed"):
        report = used(model, options)
    assert report.precision == "fp32"
    if asked == "auto":
        assert not report.warnings
    else:
        assert len(report.warnings) == 1
        assert "half precision failed on a picture and fp32 is used" in report.warnings[0]
        assert "not implemented for this type" in report.warnings[0]


def test_a_model_that_overflows_in_half_runs_in_fp32() -> None:
    def overflows(x: Tensor) -> Tensor:
        return x if x.dtype == torch.float32 else x / 0

    model, options = zoo.toy(2, overflows), UpscaleOptions(precision="bf16", autocast=False)
    result = upscale(IMAGE, model, options, StandaloneContext("cpu"), new_sessions())
    assert {repair.after for repair in result.report.health.repairs} == {"fp32"}
    assert torch.equal(result.image, IMAGE.repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_fp16_on_a_cpu_falls_one_step_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "cudaspeed"):
        report = used(zoo.compact(), UpscaleOptions(precision="fp16"))
    assert report.precision == "bf16"
    assert [record.message for record in caplog.records] == list(report.warnings)
    assert report.warnings == ("fp16 was asked for, bf16 is used: CPUs emulate it, slowly",)


def test_what_spandrel_does_not_declare_is_not_used() -> None:
    report = used(zoo.toy(half=False), UpscaleOptions(precision="bf16"))
    assert report.precision == "fp32"
    assert "does not support it" in report.warnings[0]


@pytest.mark.usefixtures("bf16_is_fast")
def test_explicit_fp32_is_fp32() -> None:
    model = zoo.compact()
    result = upscale(IMAGE, model, UpscaleOptions(precision="fp32"), StandaloneContext("cpu"), new_sessions())
    assert result.report.precision == "fp32"
    assert not result.report.autocast
    assert psnr(result.image, model(IMAGE.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)) > 120


def test_autocast_keeps_weights_in_fp32_and_disable_does_not() -> None:
    seen: list[torch.dtype] = []
    model = zoo.toy(2, lambda x: seen.append(x.dtype) or x)
    used(model, UpscaleOptions(precision="bf16", autocast=True))
    assert seen[-1] == torch.float32
    used(model, UpscaleOptions(precision="bf16", autocast=False))
    assert seen[-1] == torch.bfloat16


@pytest.mark.parametrize("asked", ["auto", "bf16", "fp32"])
def test_a_small_picture_is_tried_with_nothing(asked: str) -> None:
    """Neither the first one, nor what comes after it."""
    calls: list[int] = []
    model, sessions = zoo.toy(2, lambda x: calls.append(x.is_meta) or x), new_sessions()
    for _ in range(2):
        calls.clear()
        upscale(IMAGE, model, UpscaleOptions(precision=asked), StandaloneContext("cpu"), sessions)
        assert calls.count(False) == 1, "the picture itself"


@pytest.mark.parametrize(
    ("multiple", "most_pixels", "sides"),
    [
        (1, 3000, (48, 49)),
        (8, 1 << 20, (48, 56)),
        (8, 2560, (40, 48)),
        (8, 1300, (32, 40)),
        (8, 100, (32, 40)),
        (16, 2560, (32, 48)),
        (16, 1280, (32, 32)),
        (64, 100, (64, 128)),
    ],
)
def test_a_model_is_tried_on_a_piece_that_a_small_run_bears(
    multiple: int, most_pixels: int, sides: tuple[int, int]
) -> None:
    """In multiples of what the model takes, down to where there is too little to compare by."""
    info = replace(model_info(zoo.toy()), alignment=multiple)
    assert piece_sides(info, most_pixels) == sides
