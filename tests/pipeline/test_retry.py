"""What becomes of a run whose tiles come out faulty: of its frames, of later runs, of the memory, of the report."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import zoo
from clocks import new_sessions
from compilers import Compilers
from torch import Tensor

from cudaspeed import compile_cache
from cudaspeed.api.errors import ModelFailedError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.report import UpscaleResult
from cudaspeed.compile_cache import CompileCache
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.models import precision
from cudaspeed.pipeline import schedule_maker
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.upscale_engine import tune, upscale

TILE = 32
HALF = (torch.float16, torch.bfloat16)


def run(image: Tensor, model, asked: str = "bf16", sessions: SessionCache | None = None, **options) -> UpscaleResult:
    context = options.pop("context", None) or StandaloneContext("cpu")
    options = {"tile": TILE, "overlap": 8, "compile": False, "autocast": False, **options}
    return upscale(image, model, UpscaleOptions(precision=asked, **options), context, sessions or new_sessions())


def enlarged(image: Tensor) -> Tensor:
    return image.repeat_interleave(2, 1).repeat_interleave(2, 2)


def in_half(change: Callable[[Tensor], Tensor], dtypes: tuple[torch.dtype, ...] = HALF) -> Callable[[Tensor], Tensor]:
    """Only in tiles of the picture, not of the picture that precisions are tried with."""
    return lambda y: change(y) if y.dtype in dtypes and y.shape[-1] == 2 * TILE and y.shape[-2] == 2 * TILE else y


def holes_where_white(y: Tensor) -> Tensor:
    return torch.where(y.amax(dim=(1, 2, 3), keepdim=True) > 0.995, torch.nan, y)


@pytest.fixture
def fp16_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "emulated", lambda precision, device: False)


def spotted(*places: tuple[int, int, int], frames: int = 1, size: tuple[int, int] = (100, 110)) -> Tensor:
    """A picture with white spots at (frame, row, column), and no other white."""
    image = 0.9 * zoo.photograph(*size, frames=frames)
    for frame, row, column in places:
        image[frame, row : row + 2, column : column + 2] = 1.0
    return image


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_tiles_that_looked_well_before_the_illness_was_found_are_done_again(
    ahead: int, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three times as bright is nothing to see in a dark strip, and would be beside the rest."""
    monkeypatch.setitem(schedule_maker._AHEAD, "cpu", ahead)
    image = zoo.photograph(100, 110, frames=3)
    image[:, :30] *= 0.02
    result = run(image, zoo.toy(2, in_half(lambda y: 3 * y)), batch_size=batch_size)
    assert float((result.image - enlarged(image)).abs().max()) < 0.01
    assert result.report.precision == "fp32"
    assert result.report.health.given_up == "bf16"
    assert "; the rest was computed without bf16" in result.report.warnings[0]


def test_each_frame_gets_its_own_repairs() -> None:
    image = spotted((1, 60, 60), frames=3)
    result = run(image, zoo.toy(2, in_half(holes_where_white)), batch_size=3)
    assert {repair.frame for repair in result.report.health.repairs} == {1}
    assert float((result.image - enlarged(image)).abs().max()) < 0.01
    assert result.image.isfinite().all()


def test_a_repair_fits_its_place() -> None:
    """Rows and columns are not mixed up: the tile in the report is the one that was faulty."""
    image = spotted((0, 12, 95))
    (repair,) = run(image, zoo.toy(2, in_half(holes_where_white))).report.health.repairs
    assert repair.tile[0] == 0
    assert repair.tile[1] >= 3


class OneModelHost(StandaloneContext):
    """A device that holds one model: making one resident takes the other away, as ComfyUI may."""

    inside = None

    def make_resident(self, model, bytes_wanted: int) -> None:
        if self.inside is not None and self.inside is not model:
            self.inside.module.away = True
        model.module.away = False
        self.inside = model


def at_home(change: Callable[[Tensor], Tensor]):
    model = zoo.toy(2, change)
    call = model._call_fn

    def checked(module, x: Tensor) -> Tensor:
        assert not getattr(module, "away", False), "the model is not on the device"
        return call(module, x)

    model._call_fn = checked
    return model


def test_what_a_repair_pushed_out_comes_back() -> None:
    image = spotted((0, 12, 12))
    result = run(image, at_home(in_half(holes_where_white)), context=OneModelHost("cpu"))
    assert result.report.precision == "bf16"
    assert len(result.report.health.repairs) == 1


def test_memory_that_runs_out_in_a_repair_costs_smaller_tiles_and_no_precision() -> None:
    state = {"full": True}

    def change(y: Tensor) -> Tensor:
        if y.dtype == torch.float32 and y.shape[-1] == 2 * TILE and state.pop("full", False):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return in_half(holes_where_white)(y) if y.shape[-1] <= 2 * TILE else y

    image, sessions = spotted((0, 12, 12)), new_sessions()
    model = at_home(change)
    result = run(image, model, sessions=sessions, context=OneModelHost("cpu"))
    assert float((result.image - enlarged(image)).abs().max()) < 0.01
    assert result.report.precision == "bf16"


def test_a_tile_that_is_computed_again_in_a_frame_done_again_is_one_tile() -> None:
    state = {"full": True}

    def change(y: Tensor) -> Tensor:
        y = in_half(holes_where_white)(y)
        late = y.dtype == torch.bfloat16 and y.shape[-1] == 2 * TILE and bool((y[..., -1, -1] == 0).any())
        if late and state.pop("full", False):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return y

    image = spotted((0, 12, 12))
    image[:, -1, -1] = 0
    result = run(image, zoo.toy(2, change))
    assert not state
    assert result.report.precision == "bf16"
    assert len(result.report.health.repairs) == 1


def test_automatic_does_not_climb_to_what_automatic_would_not_take(
    fp16_runs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "fast_precisions", lambda device: ("fp16", "bf16"))

    def coarse_in_bf16(y: Tensor) -> Tensor:
        y = in_half(holes_where_white, (torch.float16,))(y)
        return y + 20 - 20 if y.dtype == torch.bfloat16 else y

    image = spotted((0, 12, 12), (0, 60, 60), (0, 90, 90))
    model, options = zoo.toy(2, coarse_in_bf16), UpscaleOptions(compile=False, autocast=False)
    assert tune(model, (100, 110), options, StandaloneContext("cpu"), new_sessions()).startswith("fp16")
    result = run(image, model, "auto")
    assert result.report.precision == "fp32"
    assert {repair.after for repair in result.report.health.repairs} == {"fp32"}


def test_a_later_session_begins_where_the_last_climb_ended_and_autocast_is_another_matter(fp16_runs: None) -> None:
    """First fp16 fails, in another run bf16 does: from then on nothing begins in either."""
    ill = {"dtypes": (torch.float16,)}
    model = zoo.toy(2, lambda y: in_half(lambda y: y * torch.nan, ill["dtypes"])(y))
    image = zoo.photograph(60, 70)
    assert run(image, model, "fp16").report.precision == "bf16"
    ill["dtypes"] = HALF
    assert run(image, model, "fp16").report.precision == "fp32"
    later = run(image, model, "fp16").report
    assert later.precision == "fp32"
    assert not later.health.repairs
    assert later.warnings == ("fp16 gave faulty tiles with this model before: fp32 is used instead",)
    ill["dtypes"] = ()
    assert run(image, model, "fp16", autocast=True).report.precision == "fp16"


def test_weights_that_were_mended_are_not_held_to_what_they_were() -> None:
    sessions, model, image = new_sessions(), zoo.toy(2, in_half(lambda y: y * torch.nan)), zoo.photograph(60, 70)
    assert run(image, model, sessions=sessions).report.precision == "fp32"
    model.model.change = lambda y: y
    with torch.no_grad():
        model.model.weight.mul_(0.5)
    report = run(image, model, sessions=sessions).report
    assert (report.precision, report.warnings) == ("bf16", ())


def test_a_model_of_broken_range_is_computed_in_fp32_for_this_run_only() -> None:
    image = zoo.photograph(60, 70)
    result = run(image, zoo.toy(2, lambda y: 3 * y))
    assert result.report.precision == "fp32"
    assert result.report.health.corrected_frames == (0,)
    later = run(image, zoo.toy(2, lambda y: 3 * y)).report
    assert not any("before" in warning for warning in later.warnings)


def test_one_precision_that_cannot_compute_the_tile_is_passed_over(fp16_runs: None) -> None:
    def change(y: Tensor) -> Tensor:
        if y.dtype == torch.bfloat16 and y.shape[-1] == 2 * TILE:
            raise RuntimeError("not implemented for BFloat16")
        return in_half(holes_where_white)(y)

    image = spotted((0, 12, 12))
    (repair,) = run(image, zoo.toy(2, change), "fp16").report.health.repairs
    assert (repair.before, repair.after) == ("fp16", "fp32")


def test_what_is_no_picture_in_fp32_is_not_computed_twice() -> None:
    calls: list[torch.dtype] = []

    def hopeless(y: Tensor) -> Tensor:
        calls.append(y.dtype)
        return y * torch.nan if y.shape[-1] == 2 * TILE else y

    with pytest.raises(ModelFailedError, match="in fp32 too"):
        run(zoo.photograph(100, 110), zoo.toy(2, hopeless))
    assert calls.count(torch.float32) < 30


@pytest.mark.parametrize("bias", [5.0, 0.3])
def test_what_a_model_does_on_purpose_in_large_tiles_is_told_by_a_small_piece(bias: float) -> None:
    """Colours beyond any picture's, or brightened ones, are so by torch's own kernels, too: nothing is computed twice
    but a piece."""
    model, pixels = zoo.compact(), []
    with torch.no_grad():
        model.model.body[-1].bias.fill_(bias)
    model.model.register_forward_pre_hook(lambda _, args: pixels.append(args[0][0, 0].numel()))
    result = run(zoo.photograph(300, 300), model, "fp32", tile=320)
    assert result.report.kernels == "winograd"
    assert pixels.count(300 * 300) == (2 if result.report.health.broken_frames else 1), "a frame is looked after anew"
    assert sum(pixels) < (pixels.count(300 * 300) + 0.5) * 300 * 300


def test_what_a_model_does_on_purpose_is_known_when_its_file_is_loaded_again() -> None:
    """A host may load a file anew for each prompt."""
    sessions, computed = new_sessions(), list[int]()
    for _ in range(2):
        model, pixels = zoo.compact(), list[int]()
        with torch.no_grad():
            model.model.body[-1].bias.fill_(0.3)
        model.model.register_forward_pre_hook(lambda _, args, pixels=pixels: pixels.append(args[0][0, 0].numel()))
        run(zoo.photograph(300, 300), model, "fp32", sessions, tile=320)
        computed.append(sum(pixels))
    assert computed[0] > computed[1] == 300 * 300


def test_what_only_half_precision_does_is_found_where_it_is() -> None:
    image = spotted((0, 260, 260), size=(300, 300))
    wild = lambda y: torch.where((y > 0.995) & (y.dtype in HALF), 90.0, y)  # noqa: E731
    result = run(image, zoo.toy(2, wild), tile=320)
    assert float((result.image - enlarged(image)).abs().max()) < 0.01
    assert [repair.fault for repair in result.report.health.repairs] == ["wild values"]


def test_compiled_code_that_was_given_up_is_not_said_to_be_used(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    compilers, sessions = Compilers(), new_sessions()
    monkeypatch.setattr(compile_cache, "load_package", compilers.load)
    compilers.at_once = lambda job: job.succeed()
    sessions.compiles = CompileCache(start=compilers.start)
    compilers.wrong = lambda y: 0.7 * y + 0.15 if len(compilers.calls) > 1 else y
    image = zoo.photograph(200, 210)
    result = run(image, zoo.toy(), "fp32", sessions, compile=True, compile_mode="wait")
    assert torch.equal(result.image, enlarged(image))
    assert not result.report.compiled
    assert "a tile had drifting colours, and has not when computed eagerly" in result.report.compiling
    assert sum("goes on uncompiled" in record.message for record in caplog.records) == 1


def test_an_interrupt_is_noticed_between_repairs() -> None:
    class Impatient(StandaloneContext):
        asked = 0

        def raise_if_interrupted(self) -> None:
            self.asked += 1
            if self.asked == 2:
                raise KeyboardInterrupt

    image, sessions = zoo.photograph(TILE, TILE), new_sessions()
    model = zoo.toy(2, in_half(lambda y: y * torch.nan))
    with pytest.raises(KeyboardInterrupt):
        run(image, model, sessions=sessions, tile=0, context=Impatient("cpu"))


@pytest.mark.parametrize("fault", [lambda y: 3 * y, lambda y: y + 1.6], ids=["x3", "+1.6"])
def test_alpha_that_the_broken_model_made_is_not_kept(fault: Callable[[Tensor], Tensor]) -> None:
    image = torch.cat([zoo.photograph(64, 64), torch.zeros(1, 64, 64, 1)], dim=-1)
    image[:, 16:48, 16:48, 3] = 1.0
    healthy = run(image, zoo.toy(), "fp32", alpha_mode="model")
    result = run(image, zoo.toy(2, fault), "fp32", alpha_mode="model")
    assert result.report.health.corrected_frames == (0,)
    assert float((result.image[..., 3] - healthy.image[..., 3]).square().mean()) < 0.01


def test_a_result_in_half_precision_is_the_same_picture() -> None:
    context = StandaloneContext("cpu")
    context.output_dtype = torch.float16
    image = spotted((0, 60, 60))
    result = run(image, zoo.toy(2, in_half(holes_where_white)), context=context)
    assert result.image.dtype == torch.float16
    assert float((result.image - enlarged(image)).abs().max()) < 0.01


def test_a_repair_in_a_finished_frame_is_told_once_when_a_later_one_makes_the_run_climb() -> None:
    image = spotted((0, 12, 12), (1, 12, 12), frames=2, size=(TILE, 110))
    repairs = run(image, zoo.toy(2, in_half(holes_where_white)), batch_size=2).report.health.repairs
    assert [repair.frame for repair in repairs] == [0, 1]
