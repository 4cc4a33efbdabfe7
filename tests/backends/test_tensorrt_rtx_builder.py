"""TensorRT for RTX itself, where it is installed: it builds engines without a card, so that what we ask of its builder
and its parser is tried against them. Running one needs a card."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cudaspeed.api.options import Precision
from cudaspeed.backends import tensorrt
from cudaspeed.backends.errors import CompileError
from cudaspeed.backends.interface import Work
from cudaspeed.backends.shapes import TileShapes
from cudaspeed.backends.tensorrt import TensorRt
from cudaspeed.backends.tensorrt_file import EngineFile
from cudaspeed.backends.typed_onnx import write_onnx

ANY = TileShapes(batch=256, least=(32, 32), most=(2048, 2048), step=4)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    """It, building for an RTX 40, and nothing run of what it builds."""
    pytest.importorskip("onnxscript")
    library = pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(library, "ComputeCapability", SimpleNamespace(CURRENT=library.ComputeCapability.SM89))
    monkeypatch.setattr(tensorrt, "TensorRtForward", lambda *given: _NotRun())
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA GeForce RTX 4090")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    return library


class _NotRun:
    def __call__(self, x: Tensor) -> Tensor:
        return x

    def kernels(self) -> bytes:
        return b""


def work(folder: Path, shapes: TileShapes, precision: Precision) -> Work:
    module = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.PReLU(16), nn.Conv2d(16, 12, 3, padding=1))
    module.append(nn.PixelShuffle(2))
    example = torch.rand(1, 3, *shapes.most) if shapes.fixed else torch.rand(2, 3, 48, 52)
    scratch = folder / "scratch"
    scratch.mkdir()
    return Work(module.eval(), example, shapes, precision, torch.device("cpu"), scratch)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("shapes", [ANY, TileShapes.one(64, 80)], ids=["any", "one"])
def test_it_takes_what_torch_writes_and_builds_it(
    library: Any, tmp_path: Path, shapes: TileShapes, precision: Precision
) -> None:
    TensorRt(for_rtx=True).build(work(tmp_path, shapes, precision), tmp_path / "engine")
    engine = EngineFile.read(tmp_path / "engine")
    assert engine.plan
    assert len(engine.profiles) == (1 if shapes.fixed else 2)


def test_an_operation_that_it_lacks_is_named(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx

    def with_another(work: Work, path: Path) -> None:
        write_onnx(work, path)
        model = onnx.load(path)
        model.graph.node[0].op_type = "Bernoulli"
        del model.graph.node[0].attribute[:], model.graph.node[0].input[1:]
        onnx.save(model, path)

    monkeypatch.setattr(tensorrt, "write_onnx", with_another)
    with pytest.raises(CompileError, match=r"^TensorRT for RTX .*does not take Bernoulli of this model: "):
        TensorRt(for_rtx=True).build(work(tmp_path, ANY, "fp32"), tmp_path / "engine")


def test_a_file_that_is_none_is_told_in_its_words(
    library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "write_onnx", lambda work, path: path.write_bytes(b"nothing"))
    with pytest.raises(CompileError, match=r"does not take this model: "):
        TensorRt(for_rtx=True).build(work(tmp_path, ANY, "fp32"), tmp_path / "engine")
