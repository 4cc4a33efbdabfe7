"""The rough cost is no less than the traced one, and of some use: a few times as much at most."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import zoo
from spandrel import ImageModelDescriptor

from bench import model_zoo
from bench.photograph import EXAMPLE
from bench.seams import random_model, read
from cudaspeed.api.model_info import Kernels
from cudaspeed.kernels import transformer_block, window_attention
from cudaspeed.memory import measure_cost
from cudaspeed.models import known_memory
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.info import model_info
from cudaspeed.models.known_memory import rough_cost
from cudaspeed.models.runner import call_of

OFTEN = 8  # times the traced cost
SIZES = (
    "bundled",
    "compact",
    "compact-x2",
    "span",
    "realcugan",
    "esrgan-short",
    "swinir",
    "swinir-m",
    "dctlsa",
    "dat",
    "hat",
)


@pytest.fixture(autouse=True)
def built(tmp_path: Path) -> None:
    window_attention.prepare(tmp_path / "compiled")


def assert_rough(model: ImageModelDescriptor, kernels: Kernels, dtype: torch.dtype) -> None:
    info = model_info(model)
    mode = ExecutionMode("fp32", autocast=False, channels_last=False, kernels=kernels)
    exact, rough = measure_cost(model.model, call_of(model, mode), info, dtype), rough_cost(model, kernels, dtype)
    assert rough is not None
    assert rough.weights == exact.weights
    for side in (64, 128):  # what is traced; what grows with the square between them is not there beyond
        least, most = (cost.at(side * side) - cost.weights for cost in (exact, rough))
        assert least <= most <= OFTEN * least, (side, kernels, most / least)


@pytest.mark.parametrize("name", [name for name in known_memory._LIVE if name != "ESRGAN"])
def test_it_bounds_what_is_traced(name: str) -> None:
    model = random_model(name, read(EXAMPLE, 128)[..., :64, :64])
    for kernels in ("plain", "attention"):
        assert_rough(model, kernels, torch.float32)


@pytest.mark.parametrize("name", SIZES)
def test_it_bounds_it_for_models_of_the_sizes_that_people_use(name: str) -> None:
    assert_rough(model_zoo.build(name), "plain", torch.float32)


@pytest.mark.parametrize("build", [zoo.compact, zoo.esrgan, zoo.span, zoo.realcugan, zoo.grey_denoiser])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_bounds_it_for_narrow_models_too(build, dtype: torch.dtype) -> None:
    assert_rough(build(), "plain", dtype)


def test_nothing_is_said_of_toys_and_of_what_has_levels() -> None:
    assert rough_cost(zoo.toy(), "plain", torch.float32) is None
    assert rough_cost(zoo.toy_attention(), "plain", torch.float32) is None


def test_rows_of_our_convolutions_take_more_than_torch_s_operations() -> None:
    costs = [rough_cost(zoo.esrgan(), kernels, torch.float32) for kernels in ("plain", "winograd")]
    plain, in_rows = (cost.per_pixel for cost in costs if cost)
    assert in_rows > 1.3 * plain


def test_span_s_blocks_in_one_pass_take_less_than_torch_s_operations() -> None:
    costs = [rough_cost(zoo.span(), kernels, torch.float32) for kernels in ("plain", "winograd")]
    plain, in_one_pass = (cost.per_pixel for cost in costs if cost)
    assert 0.3 * plain < in_one_pass < 0.7 * plain


@pytest.mark.parametrize("name", ["swinir", "hat"])
def test_blocks_as_wholes_take_less_than_layer_by_layer(name: str, tmp_path: Path, monkeypatch) -> None:
    if not transformer_block.prepare(tmp_path / "compiled", patience=60.0):
        pytest.skip("this machine cannot build kernels: no compiler, or not Linux")
    model = model_zoo.build(name)
    as_wholes = rough_cost(model, "winograd", torch.float32)
    monkeypatch.setattr(transformer_block, "ready", lambda: False)
    layer_by_layer = rough_cost(model, "winograd", torch.float32)
    assert as_wholes is not None
    assert layer_by_layer is not None
    assert as_wholes.per_pixel < 0.9 * layer_by_layer.per_pixel
