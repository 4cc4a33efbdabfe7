"""What this pack is compared with does what it says."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn

from bench import ways
from bench.harness import psnr
from bench.ways import WAYS, Setting, UnavailableError, by_quarters, tensorrt
from cudaspeed.backends.interface import Work
from cudaspeed.backends.typed_onnx import typed_program


def little_memory(forward, most_pixels: int, seen: list[int]):
    def run(x: Tensor) -> Tensor:
        seen.append(x[0, 0].numel())
        if seen[-1] > most_pixels:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(x)

    return run


@pytest.mark.parametrize(("height", "width"), [(96, 128), (97, 131)])
@torch.inference_mode()
def test_quarters_are_put_together_where_they_were(height: int, width: int) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 12, 1), nn.PixelShuffle(2))
    picture, seen = torch.rand(2, 3, height, width), []
    result = by_quarters(little_memory(layers, 3000, seen), 2, picture)
    assert max(seen[1:]) < height * width
    assert len(seen) > 5, "quarters of quarters"
    assert torch.allclose(result, layers(picture), atol=1e-6)


def test_what_cannot_be_quartered_any_more_and_what_is_no_lack_of_memory_is_raised() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        by_quarters(little_memory(lambda x: x, 10, []), 1, torch.rand(1, 3, 64, 64))

    tries: list[Tensor] = []

    def broken(x: Tensor) -> Tensor:
        tries.append(x)
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        by_quarters(broken, 1, torch.rand(1, 3, 64, 64))
    assert len(tries) == 1


@pytest.mark.parametrize("way", ["plain-half-last", "batched-half", "split-half"])
def test_half_precision_is_half_precision(way: str) -> None:
    setting, image = Setting(zoo.compact(2), torch.device("cpu"), "bf16"), zoo.photograph(32, 40, frames=2)
    with torch.inference_mode():
        made, truth = WAYS[way](setting)(image), WAYS["plain-fp32"](setting)(image)
    assert made.precision == "bf16"
    assert 40 < psnr(made.picture, truth.picture) < 90


class Eager:
    """An engine that compiles nothing."""

    def __init__(self, lacks: str = "") -> None:
        self._lacks = lacks
        self.built: list[tuple[object, ...]] = []

    def lacks(self, device: torch.device) -> str:
        return self._lacks

    def build(self, work: Work, target: Path) -> None:
        self._module = work.module
        typed_program(work)  # as those do that compile: it works within inference mode, too
        self.built.append((str(work.shapes), work.precision))
        assert work.scratch.is_dir()
        target.write_bytes(bytes(1000))

    def load(self, path: Path, device: torch.device) -> Any:
        assert path.exists()
        return self._module


def test_an_engine_is_built_once_for_a_size_and_tells_its_bytes() -> None:
    setting, image, engine = (
        Setting(zoo.compact(2), torch.device("cpu"), "bf16"),
        zoo.photograph(32, 40, frames=2),
        Eager(),
    )
    with torch.inference_mode():
        way: Any = tensorrt(setting, engine)  # type: ignore[arg-type]  # it needs no more of one
        made, again, truth = way(image), way(image), WAYS["plain-fp32"](setting)(image)
    assert engine.built == [("tiles of 40x32", "bf16")]
    assert (made.precision, made.compiled_bytes, again.compiled_bytes) == ("bf16", 1000, 1000)
    assert psnr(made.picture, truth.picture) > 100


def test_an_engine_that_is_not_there_is_told_by_what_lacks() -> None:
    setting = Setting(zoo.compact(2), torch.device("cpu"), None)
    with pytest.raises(UnavailableError, match="pip install something"):
        tensorrt(setting, Eager("it lacks: pip install something"))  # type: ignore[arg-type]
    for name in ("tensorrt", "tensorrt-rtx"):
        with pytest.raises(UnavailableError, match="NVIDIA's cards, and torch on cpu"):
            WAYS[name](setting)


def test_openvino_is_a_row_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    setting, image = Setting(zoo.compact(2), torch.device("cpu"), None), zoo.photograph(32, 40, frames=2)
    if find_spec("openvino") is None:
        with pytest.raises(UnavailableError, match="pip install openvino"):
            WAYS["openvino-f32"](setting)
        return
    made, truth = WAYS["openvino-f32"](setting)(image), WAYS["plain-fp32"](setting)(image)
    assert made.precision == "fp32"
    assert psnr(made.picture, truth.picture) > 90, "bfloat16, which OpenVINO takes by itself, has 60"
    monkeypatch.setattr(ways, "fast_precisions", lambda device: ())
    with pytest.raises(UnavailableError, match="no native bf16"):
        WAYS["openvino-bf16"](setting)
    monkeypatch.setattr(ways, "fast_precisions", lambda device: ("bf16",))
    assert WAYS["openvino-bf16"](setting)(image).precision == "bf16"
