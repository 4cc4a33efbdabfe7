"""OpenVINO where it is installed: the right picture, in one file, and no other is taken. And its face where not."""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import zoo
from compilers import Compilers, Job
from spandrel import ImageModelDescriptor
from torch import Tensor, nn

from bench.harness import psnr
from bench.model_zoo import build
from cudaspeed.api.errors import BadOptionError
from cudaspeed.api.options import Precision, UpscaleOptions
from cudaspeed.backends import openvino_library, packages
from cudaspeed.backends.errors import CompileError, TraceError
from cudaspeed.backends.interface import Engine, Work
from cudaspeed.backends.openvino import OpenVino
from cudaspeed.backends.openvino_forward import OpenVinoForward
from cudaspeed.backends.shapes import TileShapes
from cudaspeed.commands.devices import check_device
from cudaspeed.compile_cache import CompileCache
from cudaspeed.compiling.aoti import Whole
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.kernels.numerics import OF_A_MODEL, compare
from cudaspeed.memory import weights_bytes
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.runner import ModelRunner
from cudaspeed.pipeline.session_cache import SessionCache
from cudaspeed.storage.artifacts import ArtifactStore
from cudaspeed.upscale_engine import upscale

CPU = torch.device("cpu")
ENGINE: Engine = OpenVino()
ANY_SIZE = TileShapes(batch=256, least=(32, 32), most=(2048, 2048), step=1)
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed: pip install openvino"
)


def work_of(
    model: ImageModelDescriptor, shapes: TileShapes, scratch: Path, precision: Precision = "fp32"
) -> tuple[Work, ModelRunner]:
    runner = ModelRunner(model, ExecutionMode("fp32", autocast=False, channels_last=False))
    size = shapes.most if shapes.fixed else (64, 65)
    example = torch.rand(1 if shapes.fixed else 2, 3, *size)
    return Work(Whole(runner), example, shapes, precision, CPU, scratch), runner


def flaw(model: ImageModelDescriptor, shapes: TileShapes, x: Tensor, folder: Path, precision: Precision) -> str | None:
    """What is wrong with what it makes of `x`, beside the eager forward."""
    work, runner = work_of(model, shapes, folder, precision)
    ENGINE.build(work, folder / "model")
    with torch.inference_mode():
        return compare(ENGINE.load(folder / "model", CPU)(x), runner.forward(x), OF_A_MODEL[precision])


@needs_openvino
@pytest.mark.parametrize(("model", "precision"), [(partial(build, "swinir"), "fp32"), (zoo.swinir, "bf16")])
def test_one_size_of_an_attention_model(
    model: Callable[[], ImageModelDescriptor], precision: Precision, tmp_path: Path
) -> None:
    x = zoo.photograph(32, 48).permute(0, 3, 1, 2)
    assert flaw(model(), TileShapes.one(32, 48), x, tmp_path, precision) is None


@needs_openvino
@pytest.mark.parametrize("size", [(32, 32), (70, 41)])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_any_size_of_a_convolutional_model(precision: Precision, size: tuple[int, int], tmp_path: Path) -> None:
    x = zoo.photograph(*size, frames=3).permute(0, 3, 1, 2)  # not contiguous
    assert flaw(zoo.compact(), ANY_SIZE, x, tmp_path, precision) is None


@needs_openvino
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_it_computes_in_the_precision_of_the_run_wherever_the_processor_has_it(
    precision: Precision, tmp_path: Path
) -> None:
    """By itself OpenVINO takes bfloat16 for fp32, on processors that have it."""
    work, runner = work_of(zoo.compact(), ANY_SIZE, tmp_path, precision)
    ENGINE.build(work, tmp_path / "model")
    forward = ENGINE.load(tmp_path / "model", CPU)
    able = sys.modules["openvino"].Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    asked = precision if precision.upper() in able else "fp32"
    assert isinstance(forward, OpenVinoForward)
    hint = forward.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    assert hint == {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}[asked]
    if hint == "f32":
        x = zoo.photograph(48, 40).permute(0, 3, 1, 2)
        with torch.inference_mode():
            assert psnr(forward(x), runner.forward(x)) > 90


@needs_openvino
def test_a_result_is_the_callers_own(tmp_path: Path) -> None:
    work, _ = work_of(zoo.compact(), ANY_SIZE, tmp_path)
    ENGINE.build(work, tmp_path / "model")
    forward = ENGINE.load(tmp_path / "model", CPU)
    first = forward(torch.zeros(1, 3, 40, 40))
    kept = first.clone()
    forward(torch.ones(1, 3, 40, 40))
    torch.testing.assert_close(first, kept, atol=0, rtol=0)


@needs_openvino
@pytest.mark.usefixtures("plain_kernels")
def test_what_it_holds_in_memory_is_counted_while_it_is_loaded_and_goes_with_the_rest() -> None:
    def publish(job: Job) -> None:
        store, scratch = ArtifactStore(Path(job.request.folder)), Path(job.request.weights).parent
        work, _ = work_of(model, job.shapes, scratch)
        ENGINE.build(work, scratch / "model")
        store.publish(job.id, scratch / "model", 30.0, ENGINE.name)
        job.end()

    def loaded() -> int:
        gc.collect()
        return sum(type(one) is OpenVinoForward for one in gc.get_objects())

    compilers, sessions, model, before = Compilers(), SessionCache(), zoo.compact(), loaded()
    compilers.at_once, sessions.compiles = publish, CompileCache(start=compilers.start)
    options = UpscaleOptions(precision="fp32", compile_mode="wait")
    report = upscale(zoo.photograph(40, 40), model, options, StandaloneContext("cpu"), sessions).report
    assert report.compiling == "compiled by openvino"
    assert report.memory.compiled == sessions.holdings().compiled_bytes >= 2 * weights_bytes(model.model)
    assert loaded() == before + 1
    sessions.let_go(lambda: None)
    assert sessions.holdings().compiled_bytes == 0
    assert loaded() == before


@needs_openvino
def test_operations_that_it_lacks_are_named(tmp_path: Path) -> None:
    class Strange(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.i0(x) + torch.special.i1(x)

    work = Work(Strange(), torch.rand(1, 3, 32, 32), TileShapes.one(32, 32), "fp32", CPU, tmp_path)
    level = logging.root.level
    with pytest.raises(CompileError, match=r"^OpenVINO lacks aten::i0, aten::special_i1$"):
        ENGINE.build(work, tmp_path / "model")
    assert logging.root.level == level, "its converter would have warnings heard no more, ours among them"
    assert not (tmp_path / "model").exists()


@needs_openvino
def test_a_model_that_raises_is_no_word_against_openvino(tmp_path: Path) -> None:
    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("no such size\nand a long story")

    work = Work(Picky(), torch.rand(1, 3, 32, 32), TileShapes.one(32, 32), "fp32", CPU, tmp_path)
    with pytest.raises(TraceError, match=r"^it cannot be traced for tiles of 32x32: .*no such size$"):
        ENGINE.build(work, tmp_path / "model")


@needs_openvino
def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    work, _ = work_of(zoo.compact(), ANY_SIZE, tmp_path)
    with pytest.raises(CompileError, match=r"^OpenVINO finds no ABACUS here, only .*CPU"):
        OpenVino("ABACUS").build(work, tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("openvino:NPU", "which OpenVINO does not see; it sees openvino:CPU (EPYC), openvino:GPU.0 (Arc)"),
        ("openvino:", "which OpenVINO does not see"),
        ("openvino:cpu", "which OpenVINO does not see"),
    ],
)
def test_a_device_that_openvino_does_not_see_is_told_with_those_that_it_sees(
    name: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "installed_version", lambda package: "2026.4.1")
    monkeypatch.setattr(openvino_library, "devices_seen", lambda: {"CPU": "EPYC", "GPU.0": "Arc"})
    for good in ("openvino:CPU", "openvino:GPU", "openvino:GPU.0"):
        check_device(good, None)
    with pytest.raises(BadOptionError) as raised:
        check_device(name, None)
    assert f"device is {name!r}, {told}" in str(raised.value)
    monkeypatch.setattr(packages, "installed_version", lambda package: "")
    with pytest.raises(BadOptionError, match="OpenVINO is not installed: pip install openvino"):
        check_device("openvino:CPU", None)


@needs_openvino
@pytest.mark.usefixtures("plain_kernels")
def test_a_run_on_openvinos_processor_is_computed_by_it() -> None:
    model, image = zoo.compact(), zoo.photograph(40, 40)
    check_device("openvino:CPU", None)
    options = UpscaleOptions(precision="fp32")
    result = upscale(image, model, options, StandaloneContext("openvino:CPU"), SessionCache())
    assert result.report.compiling == "compiled by openvino"
    truth = upscale(image, model, replace(options, compile=False), StandaloneContext("cpu"), SessionCache())
    assert psnr(result.image, truth.image) > 90


@needs_openvino
@pytest.mark.parametrize("content", [b"", b"something else", b"PK\x03\x04" * 100])
def test_a_file_of_something_else_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(content)
    with pytest.raises(RuntimeError, match=r"^OpenVINO did not make it$"):
        ENGINE.load(tmp_path / "model", CPU)


@needs_openvino
@pytest.mark.parametrize("keep", [0, 5, 0.5, 0.99])
def test_half_a_file_is_refused_in_one_line(keep: float, tmp_path: Path) -> None:
    work, _ = work_of(zoo.compact(), ANY_SIZE, tmp_path)
    ENGINE.build(work, tmp_path / "model")
    whole = (tmp_path / "model").read_bytes()
    mark = whole.index(b"\n") + 1
    body = whole[mark:]
    (tmp_path / "model").write_bytes(whole[:mark] + body[: int(keep * len(body)) if keep < 1 else int(keep)])
    with pytest.raises(RuntimeError, match=r"^OpenVINO cannot read it: [^\n]+$"):
        ENGINE.load(tmp_path / "model", CPU)


@needs_openvino
def test_what_another_version_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, _ = work_of(zoo.compact(), ANY_SIZE, tmp_path)
    ENGINE.build(work, tmp_path / "model")
    monkeypatch.setattr(packages, "installed_version", lambda package: "2031.1")
    with pytest.raises(RuntimeError, match=r"^another OpenVINO made it than is installed$"):
        ENGINE.load(tmp_path / "model", CPU)


@needs_openvino
def test_nothing_is_written_but_the_file_and_nobody_is_called(tmp_path: Path) -> None:
    """OpenVINO's telemetry writes into the home folder, and calls out, whenever OpenVINO is imported. Here it is one
    that notes that it was asked."""
    home, around = tmp_path / "home", tmp_path / "around"
    for folder in (home, around / "openvino_telemetry", tmp_path / "store"):
        folder.mkdir(parents=True)
    (around / "openvino_telemetry" / "__init__.py").write_text(f"open({str(home / 'asked')!r}, 'w').close()")
    program = """
        import sys
        sys.path[:0] = sys.argv[2:]
        from test_openvino import *
        folder = Path(sys.argv[1])
        work, _ = work_of(zoo.compact(), ANY_SIZE, folder)
        ENGINE.build(work, folder / "model")
        ENGINE.load(folder / "model", CPU)(torch.rand(1, 3, 40, 40))
        assert not any(Path.home().iterdir())
        import openvino_telemetry  # whoever else wants it has it
    """
    here, store = Path(__file__), tmp_path / "store"
    places = [around, here.parent, here.parents[1] / "support", here.parents[2]]
    command = [sys.executable, "-c", textwrap.dedent(program), str(store), *map(str, places)]
    variables = {**os.environ, "HOME": str(home), "TMPDIR": str(store), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(command, check=True, cwd=store, env=variables)
    assert [path.name for path in home.iterdir()] == ["asked"], "by the last line, which imports it"
    assert [path.name for path in store.iterdir()] == ["model"]


def test_without_it_the_line_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "installed_version", lambda package: "")
    assert ENGINE.version() == ""
    assert ENGINE.lacks(CPU) == "OpenVINO is not installed: pip install openvino"


def test_it_computes_nothing_that_lies_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "installed_version", lambda package: "2026.4.1")
    assert ENGINE.lacks(CPU) == ""
    assert "torch computes on cuda" in ENGINE.lacks(torch.device("cuda"))
