"""The measured receptive field: what theory says of toys; measured once, kept, and only for seams; enough for real
models."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
import zoo
from clocks import new_sessions
from spandrel import SizeRequirements
from studies import found_by
from torch import Tensor, nn

from cudaspeed.api.model_info import ModelInfo
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.info import model_info
from cudaspeed.models.receptive_field import UNMEASURABLE, ReceptiveField, measurable, measure_receptive_field, study
from cudaspeed.pipeline.scheduler import Limits
from cudaspeed.pipeline.session import Session
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.pipeline.studies import StudyRunner
from cudaspeed.pipeline.workload import workload_of_one
from cudaspeed.storage.profiles import Profile
from cudaspeed.tiling.plan import automatic_overlap, plan_tiles
from cudaspeed.upscale_engine import upscale

CPU = torch.device("cpu")
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
        assert not measurable(ModelInfo("toy", 1, 3, 3, **demands))
    assert measurable(CONVOLUTIONAL)
    assert measure_receptive_field(lambda x: x * torch.nan, CONVOLUTIONAL, CPU) is None


# --- kept ------------------------------------------------------------------------------------------------------------


class Counting:
    """A toy that blurs over 5 pixels, and how often it did: its copies, too."""

    def __init__(self) -> None:
        self.shapes = shapes = []

        def change(x: Tensor) -> Tensor:
            if not x.is_meta:  # where memory is reckoned
                shapes.append(x.shape)
            return (x + x.roll(10, dims=3)) / 2

        self.model = zoo.toy(2, change)


def finish(model, mode: ExecutionMode = FP32, sessions: SessionCache | None = None, context=None) -> Profile:
    """What is kept of the study, made by the engine in a session of its own."""
    context, sessions = context or StandaloneContext("cpu"), sessions or new_sessions()
    StudyRunner(model, context, sessions, unlimited=True).run(study(model_info(model), mode))
    return sessions.profile(model, context).known


@pytest.mark.parametrize("alignment", [1, 8, 16, 24, 32])
@pytest.mark.parametrize("pixels", [5, 40])
def test_it_costs_no_more_than_it_says_and_one_trip_where_that_shows_its_end(alignment: int, pixels: int) -> None:
    info = replace(CONVOLUTIONAL, alignment=alignment)
    found = found_by(study(info, FP32), lambda mode, picture: 0.5 + 0.2 * shift(pixels)(picture))
    assert found == {"receptive_field": pixels, "unbounded": False}


def test_it_is_measured_once_and_found_again_on_disk() -> None:
    """By runs that bear it: a tenth of what they compute."""
    toy, image = Counting(), zoo.photograph(1000, 1000)
    tiles = UpscaleOptions(precision="fp32", tile=500, compile=False)

    def probes(sessions: SessionCache) -> int:
        toy.shapes.clear()
        upscale(image, toy.model, tiles, StandaloneContext("cpu"), sessions)
        return sum(shape[-1] < 400 for shape in toy.shapes)

    sessions = new_sessions()
    assert [probes(sessions), probes(sessions), probes(new_sessions())] == [2, 0, 0]
    assert sessions.profile(toy.model, StandaloneContext("cpu")).known.receptive_field == 5
    for file in (StandaloneContext("cpu").cache_folder / "profiles").glob("*.json"):
        file.write_text("{}", encoding="utf-8")
    assert probes(new_sessions()) == 2


def test_models_of_the_whole_picture_prefer_few_tiles_and_it_is_remembered() -> None:
    model = zoo.toy(1, lambda x: x - x.amax(dim=(2, 3), keepdim=True) + 1 + x.std(dim=(2, 3), keepdim=True))
    context, options = StandaloneContext("cpu"), UpscaleOptions(precision="fp32", tile=64)
    assert not model_info(model).global_context
    assert finish(model).unbounded
    with Session(model, options, context, new_sessions()) as session:
        session.start(0, lambda: None)
        session.schedules.schedule(workload_of_one((90, 100), session.known.info, context), Limits())
    assert session.known.info.global_context
    assert automatic_overlap(session.known.info) >= 16


@pytest.mark.parametrize("error", [RuntimeError("not this size"), ValueError("no")])
def test_a_probe_that_fails_is_remembered_and_leaves_the_default(error: Exception) -> None:
    def fail(x: Tensor) -> Tensor:
        raise error

    known = finish(zoo.toy(2, fail))
    assert known.receptive_field is None
    assert str(error) in known.trials[UNMEASURABLE]


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), torch.OutOfMemoryError("no"), MemoryError()])
def test_one_for_which_memory_is_too_little_says_nothing_of_the_model(error: Exception) -> None:
    def fail(x: Tensor) -> Tensor:
        raise error

    assert finish(zoo.toy(2, fail)) == Profile()


def test_an_interrupt_goes_through() -> None:
    class StopError(Exception):
        """As ComfyUI's own, which is an `Exception` too."""

    def stop() -> None:
        raise StopError

    context, toy, sessions = StandaloneContext("cpu"), Counting(), new_sessions()
    context.raise_if_interrupted = stop  # type: ignore[method-assign]
    with pytest.raises(StopError):
        finish(toy.model, FP32, sessions, context)
    assert sessions.profile(toy.model, context).known == Profile()


# --- in the engine ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("plain_kernels")
def test_only_seams_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And only where the user does not say how much is shared, of a model whose architecture tells nothing."""
    monkeypatch.setattr("cudaspeed.pipeline.known_model.known_receptive_field", lambda model: None)
    asked = []
    for more in ({}, {"tile": 48, "overlap": 8}, {"tile": 48}):
        model, context, sessions = zoo.compact(), StandaloneContext("cpu"), new_sessions()
        options = UpscaleOptions(precision="fp32", **more)
        session = Session(model, options, context, sessions, thorough=True)
        session.start(90 * 100, lambda: None)
        session.schedules.schedule(workload_of_one((90, 100), session.known.info, context), Limits())
        asked.append(sessions.profile(model, context).known.receptive_field is not None)
    assert asked == [False, False, True]


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


def test_what_computes_in_half_precision_is_measured_in_fp32() -> None:
    """In bf16 a value may be off by 1/255 for no other reason than another tile size."""
    seen: set[torch.dtype] = set()
    computed = lambda y: y.is_meta or seen.add(y.dtype)  # noqa: E731  # what it takes of memory is traced in bf16
    model = zoo.toy(2, lambda y: (computed(y), (y + y.roll(10, dims=3)) / 2)[1])
    context, sessions = StandaloneContext("cpu"), new_sessions()
    options = UpscaleOptions(precision="bf16", autocast=False, tile=48)
    session = Session(model, options, context, sessions, thorough=True)
    session.start(90 * 100, lambda: None)
    assert session.chain.now.mode.precision == "bf16"
    session.schedules.schedule(workload_of_one((90, 100), session.known.info, context), Limits())
    assert session.known.info.receptive_field == 5
    assert seen == {torch.float32}
