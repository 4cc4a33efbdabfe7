"""The measured receptive field: what theory says of toys; measured once, kept, and only for seams; enough for real
models."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import zoo
from clocks import new_sessions
from spandrel import SizeRequirements
from torch import Tensor, nn

from cudaspeed.api.model_info import ModelInfo
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host import StandaloneContext
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.info import model_info
from cudaspeed.models.receptive_field import ReceptiveField, measure_receptive_field, with_receptive_field
from cudaspeed.models.runner import ModelRunner
from cudaspeed.storage.profiles import Profile, ProfileStore
from cudaspeed.tiling.plan import automatic_overlap, plan_tiles
from cudaspeed.upscale_engine import upscale

CPU = torch.device("cpu")
PLENTY = None  # pixels that a forward may have
FP32 = ExecutionMode("fp32", autocast=False, channels_last=False)
CONVOLUTIONAL = ModelInfo("toy", scale=1, in_channels=3, out_channels=3, convolutional=True, small_convolutional=True)


def chain(layers: int, dilation: int = 1, kernel: int = 3) -> nn.Module:
    """Convolutions that take means of random weights, so that nothing is amplified and nothing cancels out."""
    torch.manual_seed(0)
    pad = dilation * (kernel // 2)
    network = [nn.Conv2d(3, 3, kernel, padding=pad, dilation=dilation, bias=False) for _ in range(layers)]
    for layer in network:
        layer.weight.data = torch.rand_like(layer.weight)
        layer.weight.data /= layer.weight.data.sum(dim=(1, 2, 3), keepdim=True)
    return nn.Sequential(*network)


def receptive_field_of(network: nn.Module, info: ModelInfo = CONVOLUTIONAL) -> int:
    """The measured receptive field, of the output shifted and scaled to where nothing is clamped."""
    with torch.no_grad():
        found = measure_receptive_field(lambda x: 0.5 + 0.2 * network(x), info, CPU)
    assert found is not None
    assert not found.unbounded
    return found.pixels


def shift(pixels: int) -> nn.Module:
    """Shows every place what lies `pixels` to the left and, darker, to the right: the receptive field is exactly
    that."""

    class Shift(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            padded = nn.functional.pad(x, (pixels,) * 4, value=1.0)
            return padded[:, :, pixels:-pixels, : -2 * pixels] + padded[:, :, pixels:-pixels, 2 * pixels :] / 2

    return Shift()


@pytest.mark.parametrize("layers", [1, 2, 4, 8])
def test_a_chain_of_small_convolutions_reaches_at_most_a_pixel_a_layer(layers: int) -> None:
    assert layers // 2 <= receptive_field_of(chain(layers)) <= layers


def test_dilation_reaches_further_and_single_pixels_nowhere() -> None:
    assert receptive_field_of(chain(1, dilation=5)) == 5
    assert receptive_field_of(chain(1, kernel=7)) == 3
    assert receptive_field_of(chain(3, kernel=1)) == 0


@pytest.mark.parametrize("pixels", [1, 6, 12, 13, 23, 40])
def test_the_reach_is_found_exactly_by_the_small_probe_and_by_the_large_one(pixels: int) -> None:
    assert receptive_field_of(shift(pixels)) == pixels


def test_only_what_reaches_far_costs_the_large_probe() -> None:
    sizes: list[int] = []

    class Noting(nn.Module):
        def __init__(self, pixels: int) -> None:
            super().__init__()
            self.network = shift(pixels)

        def forward(self, x: Tensor) -> Tensor:
            sizes.append(x.shape[3])
            return self.network(x)

    for pixels, computed in ((12, [80, 48]), (13, [80, 48, 160, 96])):
        sizes.clear()
        receptive_field_of(Noting(pixels))
        assert sizes == computed


def test_a_model_of_the_whole_picture_has_no_end_and_is_told_so() -> None:
    def pooled(x: Tensor) -> Tensor:
        return x - x.amax(dim=(2, 3), keepdim=True) + x.std(dim=(2, 3), keepdim=True)

    found = measure_receptive_field(lambda x: 0.5 + pooled(x), CONVOLUTIONAL, CPU)
    assert found is not None
    assert found.unbounded


def test_the_reach_is_in_pixels_of_the_input_and_tiles_start_on_the_grid() -> None:
    info = ModelInfo("toy", 4, 1, 3, alignment=24, convolutional=True)
    sizes: set[tuple[int, ...]] = set()

    def forward(x: Tensor) -> Tensor:
        sizes.add(tuple(x.shape))
        return nn.functional.interpolate(0.5 + 0.2 * shift(3)(x), scale_factor=4).expand(-1, 3, -1, -1)

    assert measure_receptive_field(forward, info, CPU) == ReceptiveField(3, unbounded=False)
    assert sizes == {(1, 1, 96, 96), (1, 1, 48, 48)}


def test_models_that_the_probe_does_not_suit_are_not_measured() -> None:
    for demands in ({"alignment": 64}, {"minimum": 512}):
        assert measure_receptive_field(lambda x: x, ModelInfo("toy", 1, 3, 3, **demands), CPU) is None
    assert measure_receptive_field(lambda x: x * torch.nan, CONVOLUTIONAL, CPU) is None


# --- kept ------------------------------------------------------------------------------------------------------------


class Counting:
    """A toy that blurs over 5 pixels, and how often it did: its copies, too."""

    def __init__(self) -> None:
        self.shapes = shapes = []

        def change(x: Tensor) -> Tensor:
            shapes.append(x.shape)
            return (x + x.roll(10, dims=3)) / 2

        self.model = zoo.toy(2, change)


def known(toy: Counting, profiles: ProfileStore, mode: ExecutionMode = FP32) -> int | None:
    """The receptive field that the engine learns, and what that takes."""
    context = StandaloneContext("cpu")
    runner = ModelRunner(toy.model, mode)
    profile = profiles.of(toy.model.model)
    return with_receptive_field(model_info(toy.model), toy.model, runner, profile, context, PLENTY).receptive_field


def test_it_is_measured_once_and_found_again_on_disk(tmp_path: Path) -> None:
    toy, profiles = Counting(), ProfileStore(tmp_path)
    assert known(toy, profiles) == 5
    assert len(toy.shapes) == 2
    assert known(toy, profiles) == 5
    assert known(toy, ProfileStore(tmp_path)) == 5
    assert len(toy.shapes) == 2
    for file in tmp_path.glob("*.json"):
        file.write_text("{}", encoding="utf-8")
    assert known(toy, ProfileStore(tmp_path)) == 5
    assert len(toy.shapes) == 4


def test_models_of_the_whole_picture_prefer_few_tiles_and_it_is_remembered(tmp_path: Path) -> None:
    model = zoo.toy(1, lambda x: x - x.amax(dim=(2, 3), keepdim=True) + 1 + x.std(dim=(2, 3), keepdim=True))
    context, info = StandaloneContext("cpu"), model_info(model)
    for _ in range(2):
        profile = ProfileStore(tmp_path).of(model.model)
        known = with_receptive_field(info, model, ModelRunner(model, FP32), profile, context, PLENTY)
        assert known.global_context
        assert automatic_overlap(known) >= 16
    assert not info.global_context


def test_half_precision_is_not_taken_for_reach(tmp_path: Path) -> None:
    model, context = zoo.compact(features=16, convs=4), StandaloneContext("cpu")
    found = set()
    for k, mode in enumerate((FP32, ExecutionMode("bf16", False, True), ExecutionMode("bf16", True, False))):
        runner = ModelRunner(model, mode)
        profile = ProfileStore(tmp_path / str(k)).of(model.model)
        found.add(with_receptive_field(model_info(model), model, runner, profile, context, PLENTY).receptive_field)
        assert next(runner.module.parameters()).dtype is mode.weight_dtype
    assert len(found) == 1


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), torch.OutOfMemoryError("no"), ValueError("no")])
def test_a_probe_that_fails_leaves_the_default(tmp_path: Path, error: Exception) -> None:
    def fail(x: Tensor) -> Tensor:
        raise error

    model = zoo.toy(2, fail)
    runner, profile = ModelRunner(model, FP32), ProfileStore(tmp_path).of(model.model)
    info = model_info(model)
    assert with_receptive_field(info, model, runner, profile, StandaloneContext("cpu"), PLENTY) == info
    assert profile.known == Profile()


@pytest.mark.parametrize(("most", "probes"), [(80 * 80 - 1, 0), (80 * 80, 2), (160 * 160, 4)])
def test_a_probe_larger_than_memory_allows_is_not_tried(tmp_path: Path, most: int, probes: int) -> None:
    seen: list[int] = []
    model = zoo.toy(2, lambda y: seen.append(y.shape[-1]) or y.roll(40, dims=3))
    runner, profile = ModelRunner(model, FP32), ProfileStore(tmp_path).of(model.model)
    found = with_receptive_field(model_info(model), model, runner, profile, StandaloneContext("cpu"), most)
    assert len(seen) == probes
    assert (found.receptive_field is None) == (profile.known.receptive_field is None) == (probes < 4)


def test_an_interrupt_goes_through(tmp_path: Path) -> None:
    class StopError(Exception):
        """As ComfyUI's own, which is an `Exception` too."""

    def stop() -> None:
        raise StopError

    context, toy, said = StandaloneContext("cpu"), Counting(), []
    context.raise_if_interrupted, context.say = stop, said.append  # type: ignore[method-assign]
    with pytest.raises(StopError):
        profile = ProfileStore(tmp_path).of(toy.model.model)
        with_receptive_field(model_info(toy.model), toy.model, ModelRunner(toy.model, FP32), profile, context, PLENTY)
    assert said[-1] == ""


# --- in the engine ---------------------------------------------------------------------------------------------------


def profiles_kept() -> int:
    return len(list((StandaloneContext("cpu").cache_folder / "profiles").glob("*.json")))


@pytest.mark.usefixtures("plain_kernels")
def test_only_seams_ask_for_it() -> None:
    image, model = zoo.photograph(90, 100), zoo.compact()
    for options in (UpscaleOptions(precision="fp32"), UpscaleOptions(precision="fp32", tile=48, overlap=8)):
        upscale(image, model, options, StandaloneContext("cpu"), new_sessions())
        assert profiles_kept() == 0
    upscale(image, model, UpscaleOptions(precision="fp32", tile=48), StandaloneContext("cpu"), new_sessions())
    assert profiles_kept() == 1


@pytest.mark.parametrize("build", [zoo.compact, zoo.esrgan, zoo.span, zoo.grey_denoiser, zoo.rcan_unshuffle])
def test_convolutional_models_are_within_two_255ths_of_the_whole_picture(build) -> None:
    model = build()
    image = zoo.photograph(112, 160, channels=model.input_channels)
    context, sessions = StandaloneContext("cpu"), new_sessions()
    whole, tiled = (
        upscale(image, model, UpscaleOptions(precision="fp32", tile=tile), context, sessions) for tile in (0, 64)
    )
    assert whole.report.tiles == 1
    assert tiled.report.tiles > 1
    off = (tiled.image - whole.image).abs()
    assert float(off.max()) <= 2 / 255
    assert float(off.square().mean()) <= 1e-6, "60 dB"


# --- what the plan makes of it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("receptive_field", [*range(12), 20, 31, 60])
def test_seams_of_convolutional_models_lie_out_of_reach_of_every_cut(receptive_field: int) -> None:
    info = replace(CONVOLUTIONAL, receptive_field=receptive_field)
    axis = plan_tiles(2000, 400, info, max_side=400).rows
    for i, (start, stop) in enumerate(axis.seams):
        assert start - axis.origins[i + 1] >= receptive_field
        assert axis.origins[i] + axis.tile - stop >= receptive_field


def test_shallow_models_share_less_than_before_and_there_is_a_limit() -> None:
    small, deep = CONVOLUTIONAL, replace(CONVOLUTIONAL, small_convolutional=False)
    window = ModelInfo("toy", 2, 3, 3, alignment=16)
    assert [automatic_overlap(info) for info in (small, deep, window)] == [16, 32, 32]
    shares = [
        automatic_overlap(replace(small, receptive_field=receptive_field)) for receptive_field in (0, 3, 4, 6, 12, 500)
    ]
    assert shares == [8, 8, 10, 15, 31, 128]
    assert [
        automatic_overlap(replace(window, receptive_field=receptive_field)) for receptive_field in (0, 12, 24, 48)
    ] == [8, 24, 48, 64]
    whole = replace(window, global_context=True)
    assert [automatic_overlap(replace(whole, receptive_field=receptive_field)) for receptive_field in (0, 24)] == [
        32,
        48,
    ]


def test_windows_that_run_round_the_picture_see_its_other_side(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.toy(1, lambda x: (x + x.roll((6, -6), dims=(2, 3))) / 2)
    image = zoo.photograph(200, 230)
    context, off = StandaloneContext("cpu"), []
    for wraparound in (0, 16):
        monkeypatch.setattr(sys.modules[model_info.__module__], "_WRAPAROUND", {model.architecture.id: wraparound})
        whole, tiled = (
            upscale(
                image, model, UpscaleOptions(precision="fp32", tile=tile, overlap=64), context, new_sessions()
            ).image
            for tile in (0, 128)
        )
        off.append(float((whole - tiled).abs().max()))
    assert off[0] > 0.05
    assert off[1] <= 1e-6


def test_size_requirements_hold_for_the_probe_too() -> None:
    seen: set[tuple[int, int]] = set()

    def note(x: Tensor) -> Tensor:
        seen.add((x.shape[2], x.shape[3]))
        return x

    model = zoo.toy(1, note, size=SizeRequirements(minimum=16, multiple_of=20, square=True))
    upscale(
        zoo.photograph(80, 130),
        model,
        UpscaleOptions(precision="fp32", tile=60),
        StandaloneContext("cpu"),
        new_sessions(),
    )
    assert seen
    assert all(side % 20 == 0 for size in seen for side in size)


@pytest.mark.parametrize("kernels", ["plain", "fused"])
def test_a_copy_that_computes_in_half_precision_is_measured_in_fp32(kernels: str, tmp_path: Path) -> None:
    model = zoo.compact(2, features=16)
    reaches = {}
    for mode in (FP32, ExecutionMode("bf16", autocast=True, channels_last=True, kernels=kernels)):
        profile, runner = ProfileStore(tmp_path / mode.precision).of(model.model), ModelRunner(model, mode)
        info = with_receptive_field(model_info(model), model, runner, profile, StandaloneContext("cpu"), PLENTY)
        reaches[mode.precision] = info.receptive_field
    assert reaches["bf16"] is not None
    assert reaches["bf16"] == reaches["fp32"]
