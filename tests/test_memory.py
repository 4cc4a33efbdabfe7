"""What a tile costs and what may be spent: the estimate against hand counts, and the pixels that a budget buys."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from itertools import pairwise

import psutil
import pytest
import torch
from torch import Tensor, nn

from cudaspeed import memory
from cudaspeed.api.model_info import ModelInfo
from cudaspeed.api.options import LEVELS
from cudaspeed.memory import (
    MemoryCost,
    affordable_pixels,
    free_device_bytes,
    free_host_bytes,
    is_out_of_memory,
    measure_cost,
    pixels_within,
    working_bytes,
)
from cudaspeed.storage.peaks import curve_of

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LINEAR = MemoryCost(weights=10**6, per_pixel=700.0)
SQUARE = MemoryCost(weights=10**6, per_pixel=700.0, per_pixel_squared=8.0)
MIB = 2**20


STRIP = 4 * 3 * 2**2  # bytes per input pixel of the x2 result in float32, which is held beside the forward


def cost_of(module: nn.Module, dtype: torch.dtype = torch.float32, **demands: int) -> MemoryCost:
    """What the forward alone costs."""
    info = ModelInfo("toy", scale=2, in_channels=3, out_channels=3, alignment=demands.get("multiple_of", 1), **demands)
    cost = measure_cost(module, lambda model, x: model(x), info, dtype)
    return replace(cost, per_pixel=cost.per_pixel - STRIP)


def convolutions(*channels: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(channels)))


class Attention(nn.Module):
    """Every pixel looks at every other."""

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2)
        return (pixels @ (pixels.transpose(1, 2) @ pixels).softmax(-1)).reshape(x.shape)


class Undecided(nn.Module):
    """Cannot run without the content of its tensors."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.mean().item() > 0 else x


class ByItsMean(nn.Module):
    """Linear layers, wide in weights, on the picture's mean: next to no memory for the pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, width), nn.Linear(width, width), nn.Linear(width, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.layers(x.mean((2, 3)))[:, :, None, None]


class Pointwise(nn.Module):
    """Steps that leave a tensor's form as it is, and some of the same names that do not."""

    def forward(self, x: Tensor) -> Tensor:
        held = [x * 2, (x + 1).relu_(), x.transpose(2, 3) * 3, x[:, :, :, :1] + x, x.double() + x, x.half().mul_(2)]
        held += [x * 2j, x[:, :, ::2, ::2] + 1, x.expand(2, -1, -1, -1) * 2, nn.functional.leaky_relu_(x + 1)]
        return torch.zeros_like(x).add_(sum(len(tensor) for tensor in held))


def test_shortcuts_of_a_trace_count_what_torch_would(monkeypatch: pytest.MonkeyPatch) -> None:
    shortened = cost_of(Pointwise())
    monkeypatch.setattr(memory, "_POINTWISE", frozenset())
    assert shortened == cost_of(Pointwise())
    floats = 1 + 1 + 1 + 1 + 2 + 1 / 2 + 2 + 1 / 4 + 2 + 1  # of the list, in that order
    assert shortened.per_pixel == pytest.approx(4 * 3 * (1 + floats + 1), rel=0.3)


@pytest.mark.parametrize(
    ("channels", "held"),
    [
        ((3, 16), 3 + 16),
        ((3, 16, 16), 3 + 16 + 16),  # the picture, which the caller holds, and the widest step's input and output
        ((3, 16, 16, 16, 16), 3 + 16 + 16),  # depth costs nothing: what is used up is freed
        ((3, 16, 48, 8, 3), 3 + 16 + 48),
    ],
)
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.float16, 2), (torch.bfloat16, 2)])
def test_the_estimate_is_the_hand_count(channels: tuple[int, ...], held: int, dtype: torch.dtype, size: int) -> None:
    cost = cost_of(convolutions(*channels), dtype)
    assert cost.per_pixel == pytest.approx(held * size, rel=0.05)
    assert cost.per_pixel_squared == 0


def test_the_output_of_an_upscaler_counts_at_its_size() -> None:
    cost = cost_of(nn.Sequential(*convolutions(3, 48), nn.PixelShuffle(4)))
    assert cost.per_pixel == pytest.approx((3 + 48 + 48) * 4, rel=0.05)


def test_weights_are_counted_apart() -> None:
    model = nn.Sequential(convolutions(3, 8), nn.BatchNorm2d(8))
    bytes_ = 4 * (3 * 8 * 9 + 8) + 4 * (8 + 8) + 4 * (8 + 8) + 8  # convolution, scale and shift, statistics, a counter
    assert cost_of(model).weights == bytes_
    assert cost_of(model).at(0) == bytes_


@pytest.mark.parametrize("width", [4, 500])
def test_the_weights_of_linear_layers_are_not_counted_with_the_pixels(width: int) -> None:
    assert cost_of(ByItsMean(width)).per_pixel == pytest.approx((3 + 3) * 4, rel=0.1)


def test_attention_over_all_pixels_grows_with_their_square() -> None:
    cost = cost_of(Attention())
    assert cost.per_pixel_squared == pytest.approx(2 * 4, rel=0.05)  # the products and their softmax, all pairs each
    assert cost.at(10_000) == pytest.approx(2 * 4 * 10_000**2, rel=0.05)


@pytest.mark.parametrize(
    "demands",
    [
        {},
        {"minimum": 100},
        {"minimum": 300},
        {"multiple_of": 128},
        {"multiple_of": 9, "minimum": 18},  # SwinIR that first folds 3 x 3 pixels into one
        {"multiple_of": 128, "minimum": 256},
    ],
)
def test_a_models_demands_on_sizes_do_not_change_the_estimate(demands: dict[str, int]) -> None:

    class Picky(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            for side in x.shape[2:]:
                assert side >= demands.get("minimum", 1)
                assert side % demands.get("multiple_of", 1) == 0
            return super().forward(x)

    assert cost_of(Picky(3, 16, 1), **demands).per_pixel == pytest.approx((3 + 16) * 4, rel=0.05)


@pytest.mark.parametrize("mode", [True, False])
def test_measuring_leaves_the_model_as_it_is(mode: bool) -> None:
    model = nn.Sequential(convolutions(3, 8, 3), nn.BatchNorm2d(3)).train(mode)
    attributes = set(vars(model))
    before, storages = copy.deepcopy(model.state_dict()), [p.data_ptr() for p in model.parameters()]
    cost_of(model, torch.float16)
    assert [p.data_ptr() for p in model.parameters()] == storages
    assert (model.training, set(vars(model))) == (mode, attributes)
    for name, tensor in model.state_dict().items():
        assert (tensor.device, tensor.dtype) == (CPU, before[name].dtype)
        assert torch.equal(tensor, before[name])
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 1), (torch.float16, 2)])
def test_a_model_that_cannot_be_traced_gets_a_rule_of_thumb_and_a_line_in_the_log(
    dtype: torch.dtype, share: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "cudaspeed"):
        cost = cost_of(Undecided(), dtype)
    assert cost.at(1000) + 1000 * STRIP == 1000 * 3 * 4 * 384 * 2 // share  # as ComfyUI's own node, at scale 2
    (record,) = caplog.records
    assert "memory of toy estimated by rule of thumb" in record.getMessage()


SEEN = replace(LINEAR, seen=curve_of([{64: 1.6, 128: 1.4, 1024: 0.7}, {128: 1.1, 8192: 0.8}]))
FLAT = replace(SQUARE, seen=curve_of([{64: 2.0, 128: 0.6, 512: 0.3}]))
COSTS = {"linear": LINEAR, "square": SQUARE, "as seen": SEEN, "as seen, level in parts": FLAT}


@pytest.mark.parametrize("device", [CPU, CUDA])
@pytest.mark.parametrize("cost", [LINEAR, SQUARE, SEEN], ids=["linear", "square", "as seen"])
@pytest.mark.parametrize("level", LEVELS)
def test_what_is_affordable_fits_and_one_percent_more_does_not(
    level: str, cost: MemoryCost, device: torch.device
) -> None:
    share = {"speed": 0.85, "balanced": 0.5, "memory": 0.5}[level]
    for free in (10 * MIB, 3000 * MIB, 80_000 * MIB):
        pixels = affordable_pixels(cost, free, level, device)
        assert working_bytes(cost, pixels, device) <= free * share
        assert working_bytes(cost, pixels * 1.01 + 1, device) > free * share


@pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS)
def test_more_memory_and_a_bolder_level_never_buy_fewer_pixels(cost: MemoryCost) -> None:
    frees = [0, 1, 1000, *(2**power for power in range(10, 40))]
    for level in LEVELS:
        bought = [affordable_pixels(cost, free, level, CPU) for free in frees]
        assert bought == sorted(bought)
        assert bought[0] == 1, "with no memory at all there is still something to try"
        assert bought[-1] > 10_000
    for free in frees[5:]:
        speed, balanced, memory = (affordable_pixels(cost, free, lv, CPU) for lv in ("speed", "balanced", "memory"))
        assert speed > balanced >= memory or free < 1e5


def test_what_was_seen_of_forwards_of_some_size_holds_for_that_size() -> None:
    for estimate, factor in ((1 << 20, 1.6), (50 << 20, 1.6), (100 << 20, 1.4), (900 << 20, 0.7), (1 << 40, 0.8)):
        pixels = round(estimate / LINEAR.per_pixel)
        assert working_bytes(SEEN, pixels, CUDA) == pytest.approx(factor * estimate, rel=0.05)
    assert 0.7 < working_bytes(SEEN, round((300 << 20) / LINEAR.per_pixel), CUDA) / (300 << 20) < 1.4, "between"


def test_what_a_cpu_s_process_was_seen_to_take_is_not_what_another_takes_exactly() -> None:
    pixels = round((100 << 20) / LINEAR.per_pixel)
    takes = working_bytes(SEEN, pixels, CPU)
    assert takes == pytest.approx(1.05 * working_bytes(SEEN, pixels, CUDA), rel=1e-6)
    assert pixels_within(SEEN, takes, CPU) == pytest.approx(pixels, rel=1e-3)


@pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS)
def test_no_forward_takes_less_than_a_smaller_one(cost: MemoryCost) -> None:
    taken = [working_bytes(cost, round(1.1**step), CPU) for step in range(20, 200)]
    assert taken == sorted(taken)


@pytest.mark.parametrize("square", [0.0, 1.0])
def test_where_what_is_held_takes_more_than_is_free_one_pixel_is_left(square: float) -> None:
    cost = MemoryCost(0, 1000.0, square)
    assert affordable_pixels(cost, -(1 << 30), "speed", CPU) == pixels_within(cost, -1e9, CPU) == 1


def test_a_free_model_does_not_divide_by_zero() -> None:
    assert affordable_pixels(MemoryCost(0, 0.0), 1000, "speed", CPU) > 0


def test_weights_are_already_there_and_do_not_count_as_work() -> None:
    assert working_bytes(LINEAR, 1000, CPU) == working_bytes(MemoryCost(0, 700.0), 1000, CPU)
    assert 700_000 < working_bytes(LINEAR, 1000, CUDA) < working_bytes(LINEAR, 1000, CPU) < 1_400_000


@pytest.mark.parametrize(
    ("left", "free"), [(None, 8000 * MIB), (9000 * MIB, 8000 * MIB), (2000 * MIB, 2000 * MIB), (0, 0)]
)
def test_free_memory_is_what_the_machine_has_or_its_limits_leave(
    monkeypatch: pytest.MonkeyPatch, left: int | None, free: int
) -> None:
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: type("Memory", (), {"total": 9000 * MIB, "available": 8000 * MIB})
    )
    monkeypatch.setattr(memory, "memory_bytes_left", lambda: left)
    assert free_host_bytes() == free_device_bytes(CPU) == free


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GiB)"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (
            RuntimeError("[enforce fail] data. DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
            True,
        ),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("NPU out of memory. Tried to allocate 52.00 MiB (NPU 0; 60.96 GiB total capacity)"), True),
        (RuntimeError("MLU out of memory. Tried to allocate 1.17 GiB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx`"), False),
        (RuntimeError("level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"), True),
        (RuntimeError("Native API failed. Native API returns: -5 (PI_ERROR_OUT_OF_RESOURCES)"), True),
        (RuntimeError("level_zero backend failed with error: 40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)"), False),
        (RuntimeError("Invalid buffer size: 12.51 GiB"), True),
        (
            RuntimeError("Could not allocate tensor with 8 bytes. There is not enough GPU video memory available!"),
            True,
        ),
        (RuntimeError("expected scalar type Half but found Float"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_a_lack_of_memory_is_known_by_its_type_or_its_words(error: Exception, known: bool) -> None:
    assert is_out_of_memory(error) is known
