"""The types in what TensorRT is given are those that the model is to compute in, and the picture stays the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cudaspeed.api.options import Precision
from cudaspeed.backends.errors import CompileError, TraceError
from cudaspeed.backends.interface import Work
from cudaspeed.backends.shapes import TileShapes
from cudaspeed.backends.typed_onnx import largest_tensor, typed_program, write_onnx

CPU = torch.device("cpu")
ANY = TileShapes(batch=256, least=(32, 32), most=(2048, 2048), step=4)
TYPES: dict[Precision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


class Small(nn.Module):
    """Convolutions, an activation with weights, and a constant that is brought to the input's type, as in SwinIR."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 12, 3, padding=1)
        self.activation, self.up = nn.PReLU(16), nn.PixelShuffle(2)
        self.mean = torch.full((1, 3, 1, 1), 0.4)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.mean.type_as(x)
        return self.up(self.last(self.activation(self.first(x - mean)))) + mean


def work(precision: Precision, folder: Path, shapes: TileShapes = ANY) -> Work:
    torch.manual_seed(0)
    example = torch.rand(1, 3, *shapes.most) if shapes.fixed else torch.rand(2, 3, 48, 52)
    return Work(Small().eval(), example, shapes, precision, CPU, folder)


def types_of(program: torch.export.ExportedProgram, operation: str) -> set[torch.dtype]:
    """Of all that goes into the operations called so."""
    return {
        source.meta["val"].dtype
        for node in program.graph.nodes
        if node.op == "call_function" and operation in str(node.target)
        for source in node.all_input_nodes
    }


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("shapes", [ANY, TileShapes.one(32, 40)], ids=["any", "one"])
def test_products_are_in_the_precision_and_what_goes_in_and_out_is_float32(
    precision: Precision, shapes: TileShapes, tmp_path: Path
) -> None:
    asked = work(precision, tmp_path, shapes)
    program = typed_program(asked)
    assert types_of(program, "conv") == {TYPES[precision]}, "weights among them, with nothing between"
    other = torch.rand(1, 3, 32, 40)
    given, truth = program.module()(other), asked.module(other)
    assert given.dtype == torch.float32
    assert (given - truth).abs().max() < {"fp16": 2e-3, "bf16": 2e-2, "fp32": 1e-5}[precision]
    casts = [node for node in program.graph.nodes if "_to_copy" in str(node.target) or "type_as" in str(node.target)]
    assert all(node.args[0].meta["val"].shape[0] != 16 for node in casts), "no weight is cast at every forward"
    assert next(iter(asked.module.parameters())).dtype == torch.float32, "the model is left as it was"


def test_the_largest_tensor_is_found(tmp_path: Path) -> None:
    assert largest_tensor(work("fp32", tmp_path)) == 2 * 16 * 48 * 52


class Exporting:
    """torch.onnx.export, which needs what is not installed here."""

    def __init__(self, save: Callable[[str], object]) -> None:
        self.save = save
        self.asked: dict[str, Any] = {}

    def __call__(self, program: torch.export.ExportedProgram, args: tuple[()], **how: Any) -> Exporting:
        self.asked = how
        return self


def test_the_file_has_the_names_that_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exporting = Exporting(lambda path: Path(path).write_bytes(b"onnx"))
    monkeypatch.setattr(torch.onnx, "export", exporting)
    write_onnx(work("fp16", tmp_path), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == b"onnx"
    assert (exporting.asked["input_names"], exporting.asked["output_names"]) == (["x"], ["y"])
    assert exporting.asked["dynamo"] is True


def test_what_onnx_lacks_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object, **named: object) -> None:
        try:
            raise ValueError("no decomposition for aten.deform_conv2d\nand pages more")
        except ValueError as error:
            raise RuntimeError("Failed at step 3/3") from error

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(CompileError, match=r"written as ONNX: ValueError: no decomposition for aten\.deform_conv2d$"):
        write_onnx(work("fp32", tmp_path), tmp_path / "model.onnx")


def test_a_model_that_cannot_be_traced_is_told_as_such(tmp_path: Path) -> None:
    class Asking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    asked = work("fp32", tmp_path)
    with pytest.raises(TraceError, match=r"cannot be traced for tiles of 32x32 to 2048x2048"):
        write_onnx(Work(Asking(), asked.example, ANY, "fp32", CPU, tmp_path), tmp_path / "model.onnx")
