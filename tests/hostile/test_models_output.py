"""Models that give something else than a picture of the right size: no picture comes of it, and the error says what."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import zoo
from clocks import new_sessions
from compilers import Compilers
from spandrel import ImageModelDescriptor
from torch import Tensor

from cudaspeed import compile_cache
from cudaspeed.api.errors import ModelFailedError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.report import UpscaleResult
from cudaspeed.compile_cache import CompileCache
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.models import runner
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.upscale_engine import tune, upscale

WRONG: dict[str, Callable[[Tensor], Any]] = {
    "a column short": lambda y: y[..., :-1],
    "a row short": lambda y: y[:, :, 1:],
    "a column too many": lambda y: torch.cat([y, y[..., :1]], -1),
    "only one column": lambda y: y[..., :1],
    "only one row": lambda y: y[:, :, :1],
    "only one pixel": lambda y: y[..., :1, :1],
    "half the size": lambda y: y[..., ::2, ::2],
    "twice the size": lambda y: torch.nn.functional.interpolate(y, scale_factor=2),
    "turned by 90 degrees": lambda y: y.transpose(2, 3),
    "channels last": lambda y: y.permute(0, 2, 3, 1),
    "one channel": lambda y: y[:, :1],
    "two channels": lambda y: y[:, :2],
    "four channels": lambda y: torch.cat([y, y[:, :1]], 1),
    "no channel": lambda y: y[:, :0],
    "no batch": lambda y: y[0],
    "a batch of none": lambda y: y[:0],
    "a batch of more": lambda y: torch.cat([y, y]),
    "one dimension too many": lambda y: y[None],
    "a scalar": lambda y: y.mean(),
    "a list": lambda y: [y],
    "a list of pictures": list,
    "a tuple": lambda y: (y, y),
    "a dict": lambda y: {"picture": y},
    "nothing": lambda y: None,
    "a number": lambda y: 0.5,
    "an array": lambda y: y.float().numpy(),
    "integers": lambda y: (y * 255).to(torch.uint8),
    "long integers": lambda y: y.long(),
    "booleans": lambda y: y > 0.5,
    "complex": lambda y: torch.complex(y.float(), y.float()),
    "sparse": lambda y: y.to_sparse(),
    "on another device": lambda y: y.to("meta"),
    "floats of 8 bits": lambda y: y.to(torch.float8_e4m3fn),
    "quantized": lambda y: torch.quantize_per_tensor(y.float(), 1 / 255, 0, torch.quint8),
    "nested": lambda y: torch.nested.nested_tensor(list(y), layout=torch.jagged),
}


def giving(change: Callable[[Tensor], Any], attention: bool = False, channels: int = 3) -> ImageModelDescriptor:
    """A model whose every result goes through `change`."""
    descriptor = zoo.toy_attention() if attention else zoo.toy(channels=channels)
    call = descriptor._call_fn
    descriptor._call_fn = lambda module, x: change(call(module, x))
    return descriptor


def run(
    model: ImageModelDescriptor, image: Tensor, sessions: SessionCache | None = None, **options: Any
) -> UpscaleResult:
    asked = UpscaleOptions(**{"precision": "fp32", "compile": False, **options})
    return upscale(image, model, asked, StandaloneContext("cpu"), sessions or new_sessions())


def enlarged(image: Tensor) -> Tensor:
    return image.repeat_interleave(2, 1).repeat_interleave(2, 2)


@pytest.mark.parametrize("attention", [False, True], ids=["convolutional", "attention"])
@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_it_is_one_error_and_no_picture(change: Callable[[Tensor], Any], attention: bool) -> None:
    """A convolutional model is met in a small try, an attention model by the picture's own tiles."""
    with pytest.raises(ModelFailedError, match=r"toy gave a.* for tiles of .*, where a tensor of floats .* is needed"):
        run(giving(change, attention), zoo.photograph(40, 56))


@pytest.mark.parametrize(
    "options", [{}, {"tile": 32}, {"tile": 32, "level": "memory"}, {"tiling_mode": "wrap"}, {"precision": "bf16"}]
)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["a column short", "one channel", "only one column", "a list", "long integers"])
def test_in_every_kind_of_run(name: str, channels: int, options: dict[str, Any]) -> None:
    change = WRONG[name] if channels > 1 or name != "one channel" else WRONG["two channels"]
    with pytest.raises(ModelFailedError, match="where a tensor of floats"):
        run(giving(change, attention=True), zoo.photograph(40, 56, channels), **options)


def test_the_error_has_both_shapes_and_what_to_do() -> None:
    told = re.escape(
        "toy gave a tensor of float32 [1, 3, 80, 111] on cpu for tiles of [1, 3, 40, 56], where a tensor of floats "
        "[1, 3, 80, 112] on cpu is needed; choose another model, or another file of this one"
    )
    with pytest.raises(ModelFailedError, match=f"{told}$"):
        run(giving(WRONG["a column short"], attention=True), zoo.photograph(40, 56))
    with pytest.raises(ModelFailedError, match=r"gave a list of 1 for tiles of \[1, 3, 40, 56\]"):
        run(giving(WRONG["a list"], attention=True), zoo.photograph(40, 56))


def at_call(count: int) -> Callable[[Tensor], Tensor]:
    calls: list[int] = []

    def change(y: Tensor) -> Tensor:
        calls.append(len(y))
        return y[..., :1] if len(calls) == count else y

    return change


@pytest.mark.parametrize("options", [{}, {"level": "memory"}, {"overlap": 8}])
@pytest.mark.parametrize("attention", [False, True], ids=["convolutional", "attention"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7])
def test_a_model_that_is_wrong_once(count: int, attention: bool, options: dict[str, Any]) -> None:
    """Wherever that is, in a try, a measurement or a tile: the picture is right, or there is none."""
    image = zoo.photograph(60, 60)
    try:
        result = run(giving(at_call(count), attention), image, tile=32, **options)
    except ModelFailedError as error:
        assert "where a tensor of floats" in str(error)
    else:
        torch.testing.assert_close(result.image, enlarged(image), atol=1e-6, rtol=0)


def test_a_model_that_is_wrong_for_some_sizes() -> None:
    odd = giving(lambda y: y[..., :-1] if y.shape[-1] // 2 % 2 else y, attention=True)
    fine = run(odd, zoo.photograph(40, 56), overlap=8)
    assert fine.image.shape == (1, 80, 112, 3)
    with pytest.raises(ModelFailedError, match=r"\[1, 3, 80, 113\] on cpu for tiles of \[1, 3, 40, 57\]"):
        run(odd, zoo.photograph(40, 57), overlap=8)


def test_a_model_that_is_wrong_for_the_last_tile() -> None:
    image = zoo.photograph(64, 96) * 0.9
    image[:, -1, -1] = 1.0
    marked = giving(lambda y: y[:, :1] if float(y.max()) > 0.95 else y, attention=True)
    with pytest.raises(ModelFailedError, match="where a tensor of floats"):
        run(marked, image, tile=32, overlap=8)


def test_a_model_that_is_wrong_for_several_tiles_at_once_computes_them_one_by_one() -> None:
    image = zoo.photograph(32, 40, frames=4)
    for change in (lambda y: y[:1], lambda y: y if len(y) == 1 else y.mean(0, keepdim=True)):
        result = run(giving(change), image, batch_size=4)
        torch.testing.assert_close(result.image, enlarged(image), atol=1e-6, rtol=0)
        assert "the rest was computed one by one" in result.report.warnings[0]


def test_frames_before_the_bad_one_do_not_come_out_as_a_picture() -> None:
    film = zoo.photograph(32, 40, frames=3)
    film[2] *= 0.1
    with pytest.raises(ModelFailedError, match="where a tensor of floats"):
        run(giving(lambda y: y if float(y.max()) > 0.5 else y[..., :1], attention=True), film)


@pytest.mark.parametrize("name", ["a column short", "one channel", "only one column", "a list", "integers", "nothing"])
def test_half_precision_that_gives_it_gives_way_to_fp32(name: str) -> None:
    image = zoo.photograph(40, 56)
    for attention in (False, True):
        model = giving(lambda y: y if y.dtype == torch.float32 else WRONG[name](y), attention)
        result = run(model, image, precision="bf16", autocast=False)
        torch.testing.assert_close(result.image, enlarged(image), atol=1e-6, rtol=0)
        assert (result.report.precision, len(result.report.warnings)) == ("fp32", 1)


@pytest.mark.usefixtures("plain_kernels")
@pytest.mark.parametrize("first_wrong", [1, 3], ids=["at once", "later"])
@pytest.mark.parametrize("name", ["a column short", "one channel", "only one column", "a list", "integers", "nothing"])
def test_compiled_code_that_gives_it_gives_way_to_eager_for_good(
    name: str, first_wrong: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where its first tile was right."""
    compilers, sessions, model, image = Compilers(), new_sessions(), zoo.toy_attention(), zoo.photograph(100, 100)
    monkeypatch.setattr(compile_cache, "load_package", compilers.load)
    compilers.at_once = lambda job: job.succeed()
    sessions.compiles = CompileCache(start=compilers.start)
    compilers.wrong = lambda y: WRONG[name](y) if len(compilers.calls) >= first_wrong else y
    wait = {"compile": True, "compile_mode": "wait", "tile": 32, "overlap": 8}
    result = run(model, image, sessions, **wait)
    assert len(compilers.calls) == first_wrong
    torch.testing.assert_close(result.image, enlarged(image), atol=1e-6, rtol=0)
    assert "goes on uncompiled: its result was refused: RealESRGAN Compact toy gave a" in caplog.text
    run(model, image, sessions, **wait)
    assert len(compilers.calls) == first_wrong, "it is not asked again"


def test_kernels_of_ours_that_give_it_give_way_to_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    active: list[bool] = []

    class Ours(runner.FusedAttention):
        def __enter__(self) -> None:
            active.append(True)

        def __exit__(self, *told: object) -> None:
            active.clear()

    monkeypatch.setattr("cudaspeed.kernels.winograd.prepare", lambda folder, patience=0.0: False)
    monkeypatch.setattr("cudaspeed.kernels.window_attention.prepare", lambda folder, patience=0.0: True)
    monkeypatch.setattr("cudaspeed.pipeline.modes.verified", lambda model, kernels: True)
    monkeypatch.setattr(runner, "FusedAttention", Ours)
    image = zoo.photograph(100, 100)
    model = giving(lambda y: y[..., :-1] if active and y.shape[-1] == 200 else y, attention=True)
    result = run(model, image)
    torch.testing.assert_close(result.image, enlarged(image), atol=1e-6, rtol=0)
    assert result.report.kernels == "plain"
    assert "attention kernels failed on a picture and torch's are used" in result.report.warnings[0]


def test_what_is_computed_again_is_looked_at_too() -> None:
    """A faulty tile for which a better mode gives one column: that column is not spread over the tile."""

    def change(y: Tensor) -> Tensor:
        if y.dtype != torch.float32:
            return torch.full_like(y, float("nan")) if y.shape[-1] == 64 else y
        return y[..., :1] if y.shape[-1] == 64 else y

    image = zoo.photograph(32, 32)
    with pytest.raises(ModelFailedError):
        run(giving(change), image, precision="bf16", autocast=False, tile=32)


def test_what_is_measured_of_such_a_model_is_not_believed() -> None:
    """The receptive field of a model that gives one column in the probe's size is not known; nor what it costs."""
    sizes: set[int] = set()

    def change(y: Tensor) -> Tensor:
        sizes.add(y.shape[-1])
        return y[..., :1] if y.shape[-1] in (96, 160, 192, 320) else y

    sessions, model, image = new_sessions(), giving(change), zoo.photograph(100, 100)
    tune(model, (100, 100), UpscaleOptions(compile=False), StandaloneContext("cpu"), sessions)
    assert sizes & {96, 160, 192, 320}
    result = run(model, image, sessions, tile=64)
    torch.testing.assert_close(result.image, enlarged(image), atol=1e-6, rtol=0)
    profile = sessions.profile(model, StandaloneContext("cpu"))
    assert profile.known.receptive_field is None
