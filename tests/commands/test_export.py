"""`cudaspeed export`, and back: on torch as any model, on XLA without torchax."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from PIL import Image
from safetensors.torch import save_file
from spandrel import ImageModelDescriptor
from xla_installed import needs_xla

from cudaspeed.api.errors import BadOptionError
from cudaspeed.compiling.export import check_tile
from cudaspeed.models.info import model_info
from cudaspeed.models.loader import load_model
from cudaspeed.storage.fingerprint import content_of

# The command line where some packages are not installed.
WITHOUT = """
import sys
hidden = set(filter(None, sys.argv[1].split(",")))
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Hidden())
from cudaspeed.backends import packages
known = packages.installed_version
packages.installed_version = lambda name: "" if name in hidden else known(name)
from cudaspeed.cli import main
sys.exit(main(sys.argv[2:]))
"""


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def record(self) -> dict[str, Any]:
        return json.loads(self.out)


def cudaspeed(folder: Path, *arguments: str, without: str = "") -> Ended:
    told = {**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "CUDASPEED_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, "-c", WITHOUT, without, *arguments]
    ended = subprocess.run(command, env=told, capture_output=True, text=True, timeout=600, cwd=folder)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def save(model: ImageModelDescriptor, path: Path) -> None:
    save_file({name: tensor.clone() for name, tensor in model.model.state_dict().items()}, path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A folder with a model, what was exported of it, a picture; and what the export said."""
    folder = tmp_path_factory.mktemp("exported")
    save(zoo.compact(), folder / "m.safetensors")
    picture = (zoo.photograph(100, 140)[0].numpy() * 255).astype(np.uint8)
    Image.fromarray(picture).save(folder / "in.png")
    told = cudaspeed(folder, "export", "m.safetensors", "--tile", "80x64", "-o", "m.stablehlo", "--json")
    return folder, told


@needs_xla
def test_it_says_what_is_in_the_file(exported: tuple[Path, Ended]) -> None:
    folder, told = exported
    assert (told.code, told.err) == (0, "")
    record = told.record
    assert record["bytes"] == (folder / "m.stablehlo").stat().st_size
    assert (record["tile"], record["platforms"]) == ([80, 64], ["cpu", "tpu"])
    assert (record["checked"], record["folded"]) == (True, 0)
    assert 0 < record["program_bytes"] < 40_000
    assert str(Path(torch.__file__).parent).encode() not in (folder / "m.stablehlo").read_bytes(), (
        "whose machine it was"
    )


@needs_xla
def test_it_is_the_same_model(exported: tuple[Path, Ended]) -> None:
    folder, _ = exported
    models = [load_model(folder / name) for name in ("m.safetensors", "m.stablehlo")]
    assert content_of(models[0].model) == content_of(models[1].model)


def upscaled(folder: Path, target: str, *arguments: str, without: str = "") -> dict[str, Any]:
    common = ("upscale", "in.png", "-o", target, "--json", "--precision", "fp32")
    ended = cudaspeed(folder, *common, *arguments, without=without)
    assert ended.code == 0, ended.err
    return ended.record


@needs_xla
def test_its_program_computes_its_tiles_where_there_is_no_torchax(exported: tuple[Path, Ended]) -> None:
    folder, _ = exported
    eager = upscaled(
        folder, "a.png", "--model", "m.stablehlo", "--device", "cpu", "--no-compile", without="jax,torchax"
    )
    assert eager["compiling"] == "off"
    done = upscaled(folder, "b.png", "--model", "m.stablehlo", "--device", "xla:cpu", without="torchax")
    assert (done["compiling"], done["tile"], done["compiled_shapes"]) == ("compiled by xla:cpu", [80, 64], 1)
    pictures = [np.asarray(Image.open(folder / name)).astype(int) for name in ("a.png", "b.png")]
    assert pictures[0].shape == pictures[1].shape == (200, 280, 3)
    assert pictures[0].std() > 1
    assert abs(pictures[0] - pictures[1]).max() <= 1


@needs_xla
def test_in_bf16_the_program_for_that_computes_them(exported: tuple[Path, Ended]) -> None:
    folder, _ = exported
    common = ("upscale", "in.png", "--model", "m.stablehlo", "--json")
    eager = cudaspeed(folder, *common, "-o", "a.png", "--device", "cpu", "--no-compile", "--precision", "fp32")
    done = cudaspeed(folder, *common, "-o", "b.png", "--device", "xla:cpu", "--precision", "bf16", without="torchax")
    assert (eager.code, done.code) == (0, 0), (eager.err, done.err)
    assert (done.record["compiling"], done.record["precision"]) == ("compiled by xla:cpu", "bf16")
    pictures = [np.asarray(Image.open(folder / name)).astype(int) for name in ("a.png", "b.png")]
    assert 0 < abs(pictures[0] - pictures[1]).max() <= 3


@needs_xla
def test_a_program_is_no_other_models_of_the_same_weights(exported: tuple[Path, Ended]) -> None:
    folder, _ = exported
    upscaled(folder, "b.png", "--model", "m.stablehlo", "--device", "xla:cpu", without="torchax")
    common = ("upscale", "in.png", "-o", "c.png", "--precision", "fp32", "--device", "xla:cpu")
    ended = cudaspeed(folder, *common, "--model", "m.safetensors", without="torchax")
    assert ended.code == 2
    assert "with torchax: pip install jax==" in ended.err


@needs_xla
@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (b'"platforms": ["cpu", "tpu"]', b'"platforms": ["tpu"]', "was exported for tpu, and xla:cpu is cpu here"),
        (b'"tile": [64, 80]', b'"tile": [80, 64]', "has a program for something else than its tiles"),
        (b"vhlo", b"xhlo", "has a program that is damaged"),
        (b'"jax": "', b'"jax": "9', "was exported by JAX 9"),
    ],
)
def test_one_that_cannot_be_used_is_one_sentence(
    exported: tuple[Path, Ended], before: bytes, after: bytes, told: str
) -> None:
    folder, _ = exported
    content = (folder / "m.stablehlo").read_bytes().replace(before, after)
    if before == b'"jax": "':  # that of another version, which is not read
        content = content.replace(b"vhlo", b"xhlo")
    (folder / "bad.stablehlo").write_bytes(content)
    common = ("upscale", "in.png", "-o", "c.png", "--precision", "fp32", "--device", "xla:cpu")
    ended = cudaspeed(folder, *common, "--model", "bad.stablehlo", without="torchax")
    assert ended.code == 2
    (line,) = [line for line in ended.err.splitlines() if line.startswith("cudaspeed:")]
    assert told in line
    load_model(folder / "bad.stablehlo")  # its weights are good


CALLS = """
import jax, sys
from jax import export
from cudaspeed.backends.errors import CompileError
from cudaspeed.backends.xla_file import XlaPrograms
from cudaspeed.backends.xla_foreign import check_programs
sys.path.append(sys.argv[1])
import zoo
from cudaspeed.models.info import model_info

def repeated(weights, x):
    return x.repeat(2, 2).repeat(2, 3)

def calling(weights, x):
    return jax.ffi.ffi_call("xla_ffi_python_cpu_callback", jax.ShapeDtypeStruct((1, 3, 16, 16), "float32"))(x)

allowed = [export.DisabledSafetyCheck.custom_call("xla_ffi_python_cpu_callback")]
info = model_info(zoo.compact())
known = export.maximum_supported_calling_convention_version
for function, most in ((repeated, known), (calling, known), (repeated, known - 1)):
    export.maximum_supported_calling_convention_version = known
    given = {}, jax.ShapeDtypeStruct((1, 3, 8, 8), "float32")
    made = export.export(jax.jit(function), platforms=("cpu",), disabled_checks=allowed)(*given)
    export.maximum_supported_calling_convention_version = most  # as an older JAX knows it
    try:
        check_programs(XlaPrograms("0", ("cpu",), {1: bytes(made.serialize())}, {}), info, (8, 8), "xla:cpu")
        print("taken")
    except CompileError as error:
        print(error)
"""


@needs_xla
def test_a_program_that_calls_out_is_refused_and_so_is_one_of_a_newer_jax(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CALLS, str(Path(zoo.__file__).parent)]
    told = {**os.environ, "JAX_PLATFORMS": "cpu"}
    ended = subprocess.run(command, env=told, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    taken, calling, newer = ended.stdout.splitlines()
    assert taken == "taken"
    assert calling == "has a program that calls functions outside of it, which is refused"
    assert re.fullmatch(
        r"was exported by JAX 0, which JAX \S+ here cannot read "
        r"\(ValueError: its calling convention is \d+, and at most \d+ is known\); export it by this one",
        newer,
    )


@needs_xla
def test_of_a_network_with_what_torchax_lacks_it_says_which_operation(tmp_path: Path) -> None:
    sys.path.append(str(Path(__file__).parents[2]))
    from bench.model_zoo import build

    save(build("safmn"), tmp_path / "m.safetensors")
    (tmp_path / "m.stablehlo").write_text("as it was")
    ended = cudaspeed(tmp_path, "export", "m.safetensors", "--tile", "64x64", "-o", "m.stablehlo")
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert "torchax lacks an operation of it: aten::adaptive_max_pool2d" in line
    assert (tmp_path / "m.stablehlo").read_text() == "as it was"


@pytest.mark.parametrize("absent", ["jax", "torchax", "flatbuffers"])
def test_what_is_missing_is_told_with_the_line_that_installs_it(absent: str, tmp_path: Path) -> None:
    arguments = ("export", "cudaspeed-compact-x2", "--tile", "64x64", "-o", "m.stablehlo")
    ended = cudaspeed(tmp_path, *arguments, without=absent)
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert "pip install jax==0.10.2 torchax==0.0.13 flatbuffers" in line


def test_tiles_suit_the_model() -> None:
    info = model_info(zoo.swinir())
    assert info.alignment > 1
    check_tile((96, 64), info)
    with pytest.raises(BadOptionError, match=rf"tile is 63x96, .* multiples of {info.alignment}; give 64x96"):
        check_tile((96, 63), info)
    with pytest.raises(BadOptionError, match=r"tile is 64x8, .* needs sides of at least \d+"):
        check_tile((8, 64), info)
