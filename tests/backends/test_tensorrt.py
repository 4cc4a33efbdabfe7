"""TensorRT as an engine, with a stand-in of the library: what it is asked for, and what becomes of its answers."""

from __future__ import annotations

import gc
import os
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tensorrt_library
import torch
from tensorrt_library import CARD, STREAM, Library
from torch import Tensor, nn

from cudaspeed.backends import tensorrt, typed_onnx
from cudaspeed.backends.errors import CompileError
from cudaspeed.backends.interface import Work
from cudaspeed.backends.shapes import TileShapes
from cudaspeed.backends.tensorrt import TensorRt
from cudaspeed.backends.tensorrt_file import EngineFile
from cudaspeed.storage.files import delete
from cudaspeed.storage.scratch import scratch_folder, sweep

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ANY = TileShapes(batch=256, least=(32, 32), most=(2048, 2048), step=4)


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, scale_factor=2)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    return _installed(monkeypatch, "tensorrt")


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> Library:
    return _installed(monkeypatch, "tensorrt_rtx")


def _installed(monkeypatch: pytest.MonkeyPatch, name: str) -> Library:
    monkeypatch.setattr(tensorrt, "write_onnx", lambda work, path: path.write_bytes(b"onnx"))
    return tensorrt_library.install(monkeypatch, name)


def work(folder: Path, shapes: TileShapes = ANY) -> Work:
    scratch = folder / "jobs" / "one"
    scratch.mkdir(parents=True, exist_ok=True)
    scratch.parent.chmod(0o700)
    example = torch.rand(2, 3, 64, 68) if not shapes.fixed else torch.rand(1, 3, *shapes.most)
    return Work(Double(), example, shapes, "fp16", CPU, scratch)


def built(folder: Path, for_rtx: bool = False) -> Path:
    TensorRt(for_rtx).build(work(folder), folder / "engine")
    return folder / "engine"


def test_types_are_the_networks_and_fp32_is_not_tf32(library: Library, tmp_path: Path) -> None:
    built(tmp_path)
    assert library.asked["network"] == 1 << 1, "strongly typed"
    assert library.asked["flags"] == ["TF32"], "cleared"
    assert Path(library.asked["parsed"]).read_bytes() == b"onnx"
    boxes = [profile["x"] for profile in library.asked["profiles"]]
    assert [(least[0], typical, most[0]) for least, typical, most in boxes] == [
        (1, (1, 3, 64, 68), 1),
        (1, (8, 3, 64, 68), 8),
    ]


def test_what_was_built_computes_on_torchs_stream_in_torchs_memory(library: Library, tmp_path: Path) -> None:
    forward = TensorRt().load(built(tmp_path), CPU)
    x = torch.rand(1, 3, 40, 44)
    y = forward(x)
    assert torch.equal(y, Double()(x))
    assert library.asked["executed"] == [(0, (1, 3, 40, 44), STREAM, 1000)]
    assert library.asked["contexts"] == ["USER_MANAGED"]
    again = forward(torch.zeros_like(x))
    assert not again.any()
    assert y.any(), "each result is the caller's own"


def test_batches_larger_than_the_engines_go_in_pieces(library: Library, tmp_path: Path) -> None:
    forward = TensorRt().load(built(tmp_path), CPU)
    x = torch.rand(19, 3, 32, 36)
    assert torch.equal(forward(x), Double()(x))
    assert [(profile, shape[0]) for profile, shape, *_ in library.asked["executed"]] == [(1, 8), (1, 8), (1, 3)]
    assert len(library.asked["contexts"]) == 1


@pytest.mark.parametrize("how", ["offset", "transposed"])
def test_tensors_that_tensorrt_would_read_wrongly_are_copied(library: Library, tmp_path: Path, how: str) -> None:
    forward = TensorRt().load(built(tmp_path), CPU)
    if how == "offset":
        x = torch.rand(1 + 3 * 32 * 32)[1:].view(1, 3, 32, 32)
    else:
        x = torch.rand(1, 3, 36, 32).transpose(2, 3)
    assert torch.equal(forward(x), Double()(x))


def test_the_file_is_text_and_tensorrts_bytes(library: Library, tmp_path: Path) -> None:
    path = built(tmp_path)
    mark, header, plan = path.read_bytes().split(b"\n", 2)
    assert mark == b"cudaspeed TensorRT engine 1"
    assert b'"tensorrt", "version": "11.4.0", "card": "NVIDIA GeForce RTX 4090 sm_89"' in header
    assert plan == b'{"scale": 2}'
    read = EngineFile.read(path)
    assert (read.library, read.kernels, len(read.profiles)) == ("tensorrt", b"", 2)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\3\4", b"cudaspeed TensorRT engine 1\n", b"cudaspeed TensorRT engine 1\n[]\n", None,
     b'cudaspeed TensorRT engine 1\n{"plan": -1, "kernels": 1}\n',
     b'cudaspeed TensorRT engine 1\n{"plan": 0, "kernels": 0, "library": 1, "version": "", "card": "", "profiles": 0}'],
)  # fmt: skip
def test_what_is_no_engine_is_refused(library: Library, tmp_path: Path, content: bytes | None) -> None:
    path = built(tmp_path)
    path.write_bytes(path.read_bytes()[:-1] if content is None else content)
    with pytest.raises(RuntimeError, match="compiled anew"):
        TensorRt().load(path, CPU)
    assert not library.asked["contexts"]


def test_an_engine_of_another_version_or_card_is_refused(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = built(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
        with pytest.raises(RuntimeError, match=rf"for {CARD} sm_89, and here is NVIDIA A100 sm_89"):
            TensorRt().load(path, CPU)
    with monkeypatch.context() as patched:
        tensorrt_library.install(patched, version="11.5.0")
        with pytest.raises(RuntimeError, match=r"by tensorrt 11\.4\.0, and here is tensorrt 11\.5\.0"):
            TensorRt().load(path, CPU)
    with monkeypatch.context() as patched:
        tensorrt_library.install(patched, "tensorrt_rtx", "1.7")
        with pytest.raises(RuntimeError, match=r"by tensorrt 11\.4\.0, and here is tensorrt-rtx 1\.7"):
            TensorRt(for_rtx=True).load(path, CPU)


def test_a_plan_that_tensorrt_refuses_is_told_in_its_words(library: Library, tmp_path: Path) -> None:
    path = built(tmp_path)
    library.loads = False
    with pytest.raises(RuntimeError, match=r"^TensorRT cannot load what was compiled: magic tag does not match$"):
        TensorRt().load(path, CPU)


def test_a_forward_that_fails_is_an_error_and_not_a_picture(library: Library, tmp_path: Path) -> None:
    forward = TensorRt().load(built(tmp_path), CPU)
    library.computes = False
    with pytest.raises(RuntimeError, match="TensorRT could not compute"):
        forward(torch.rand(1, 3, 32, 32))


def test_operations_that_the_parser_lacks_are_named_in_one_error(library: Library, tmp_path: Path) -> None:
    library.complaints = [("GridSample", "In node 3:\n no importer"), ("Einsum", "no"), ("GridSample", "no")]
    with pytest.raises(CompileError) as raised:
        built(tmp_path)
    told = "TensorRT 11.4.0 does not take Einsum, GridSample of this model: In node 3: no importer"
    assert str(raised.value) == told
    assert not (tmp_path / "engine").exists()


def test_a_network_that_cannot_be_built_is_told_in_its_words(library: Library, tmp_path: Path) -> None:
    library.builds = False
    with pytest.raises(CompileError, match=r"^TensorRT cannot compile it: no kernel was found$"):
        built(tmp_path)


def test_timings_are_kept_for_this_card_and_version_alone(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built(tmp_path)
    assert library.timings_known == b""
    (kept,) = (tmp_path / "jobs").glob("tensorrt-*.timings")
    assert kept.stat().st_mode & 0o077 == 0
    built(tmp_path)
    assert library.timings_known == b"|timed", "as the first left it"
    library.timings_fit = False
    built(tmp_path)
    assert library.timings_known == b"", "what TensorRT refuses is begun anew"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    library.timings_fit = True
    built(tmp_path)
    assert library.timings_known == b"", "another card's"
    assert len([*(tmp_path / "jobs").glob("*")]) == 3, "two cards' timings and the scratch folder, nothing half-written"


def test_timings_outlive_the_compile_and_go_when_nobody_compiles_for_a_day(library: Library, tmp_path: Path) -> None:
    scratch = scratch_folder(tmp_path)
    TensorRt().build(replace(work(tmp_path), scratch=scratch), scratch / "engine")
    delete(scratch)
    sweep(tmp_path)
    (kept,) = (tmp_path / "jobs").glob("*.timings")
    os.utime(kept, (0, 0))
    sweep(tmp_path)
    assert not kept.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other rights")
def test_timings_that_others_could_have_written_are_not_read(library: Library, tmp_path: Path) -> None:
    built(tmp_path)
    (kept,) = (tmp_path / "jobs").glob("*.timings")
    kept.chmod(0o666)
    built(tmp_path)
    assert library.timings_known == b""


def test_what_is_let_go_lets_tensorrts_memory_go(library: Library, tmp_path: Path) -> None:
    forward: Any = TensorRt().load(built(tmp_path), CPU)
    forward(torch.rand(1, 3, 32, 32))
    engine = weakref.ref(forward._engine)
    del forward
    gc.collect()
    assert engine() is None


# TensorRT for RTX


def test_rtx_builds_for_this_card_and_keeps_the_kernels_it_compiled(rtx: Library, tmp_path: Path) -> None:
    path = built(tmp_path, for_rtx=True)
    assert rtx.asked["for"] == (1, 0, "CURRENT")
    assert rtx.timings_known is None, "it has no use for timings, and would want the card for them"
    assert EngineFile.read(path).kernels == b"kernels"
    forward: Any = TensorRt(for_rtx=True).load(path, CPU)
    assert forward.kernels() == b"kernels", "before anything is computed"
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(forward(x), Double()(x))
    assert {*rtx.asked["contexts"]} == {"USER_MANAGED"}


# lacks


def test_what_lacks_is_told_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tensorrt_library.install(monkeypatch, "tensorrt", version="")
    assert TensorRt().lacks(CUDA) == "TensorRT is not installed: pip install tensorrt onnxscript"
    assert "pip install tensorrt-rtx onnxscript" in TensorRt(for_rtx=True).lacks(CUDA)
    assert TensorRt().version() == ""
    tensorrt_library.install(monkeypatch)
    assert (TensorRt().lacks(CUDA), TensorRt().version()) == ("", "11.4.0")
    assert TensorRt().lacks(CPU) == "TensorRT computes on NVIDIA's cards, and torch on cpu"
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert "ROCm" in TensorRt().lacks(CUDA)


def test_without_what_torch_writes_models_with_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    tensorrt_library.install(monkeypatch)
    there = {"tensorrt-cu12": "10.9.0"}
    monkeypatch.setattr("cudaspeed.backends.packages.installed_version", lambda name: there.get(name, ""))
    assert TensorRt().lacks(CUDA).endswith("with onnxscript: pip install tensorrt onnxscript")


def test_a_tensorrt_of_before_is_told_to_be_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    tensorrt_library.install(monkeypatch, version="10.0.1")
    assert TensorRt().lacks(CUDA) == "TensorRT 10.0.1 is older than 10.1: pip install tensorrt onnxscript --upgrade"


def test_rtx_is_for_the_cards_it_has_kernels_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tensorrt_library.install(monkeypatch, "tensorrt_rtx", "1.7.1")
    assert TensorRt(for_rtx=True).lacks(CUDA) == ""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert "TensorRT has: pip install tensorrt onnxscript" in TensorRt(for_rtx=True).lacks(CUDA)
    tensorrt_library.install(monkeypatch, version="")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    told = TensorRt(for_rtx=True).lacks(CUDA)
    assert "pip install tensorrt-rtx" not in told, "nobody is sent to install what would not do"


def test_nothing_is_imported_to_tell_all_that(monkeypatch: pytest.MonkeyPatch) -> None:
    tensorrt_library.install(monkeypatch)
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # importing it fails
    assert TensorRt().lacks(CUDA) == ""


def test_the_names_in_the_onnx_file_are_those_that_are_asked_for() -> None:
    assert (typed_onnx.INPUT, typed_onnx.OUTPUT) == ("x", "y"), "the stand-in has them as well"
