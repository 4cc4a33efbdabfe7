"""XLA where JAX and torchax are installed: the right picture, on all its devices, compiled once. And its face where
they are not."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import latent_zoo
import numpy as np
import pytest
import torch
from xla_installed import needs_xla

from cudaspeed.api.errors import BadOptionError
from cudaspeed.backends import offer, packages, xla_library
from cudaspeed.backends.errors import CompileError
from cudaspeed.backends.interface import Engine
from cudaspeed.backends.shapes import TileShapes
from cudaspeed.backends.xla import Xla
from cudaspeed.backends.xla_file import XlaPrograms, as_array
from cudaspeed.commands.devices import check_device
from cudaspeed.devices.engine_names import XLA_NAMES
from cudaspeed.host.standalone import StandaloneContext

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"
DEVICES = 4  # that a processor is made to look like


def run(code: str, *arguments: str, devices: int = DEVICES) -> list[Any]:
    """What a process of its own says, whose processor looks to JAX like so many devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    told = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", BEGIN + code, str(SUPPORT), *arguments],
        env=told, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    return [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]


BEGIN = """
import json, sys
from pathlib import Path
sys.path.append(sys.argv[1])
import torch, zoo
from cudaspeed.api.errors import CudaspeedError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.devices.engine_names import XLA_NAMES
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.upscale_engine import upscale

def tell(**told):
    print(json.dumps(told), flush=True)
"""
PICTURES = """
from cudaspeed.backends.errors import CompileError
from cudaspeed.backends.interface import Work
from cudaspeed.backends.offer import weights_in
from cudaspeed.backends.shapes import TileShapes
from cudaspeed.backends.xla import Xla
from cudaspeed.compiling.aoti import Whole
from cudaspeed.models.execution import DTYPES, ExecutionMode
from cudaspeed.models.runner import ModelRunner

sys.path.append(sys.argv[3])
from bench.model_zoo import build
folder = Path(sys.argv[2])
for name in sys.argv[6:]:
    model = build(name)
    runners = {some: ModelRunner(model, ExecutionMode(some, autocast=False, channels_last=False)) for some in DTYPES}
    x = zoo.photograph(48, 64, frames=int(sys.argv[5])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        truth = runners["fp32"].forward(x)
    runner = runners[weights_in("xla", sys.argv[4])]
    engine = Xla("xla", folder / "xla")
    shapes, cpu = TileShapes.one(48, 64, 4), torch.device("cpu")
    try:
        engine.build(Work(Whole(runner), x[:1], shapes, sys.argv[4], cpu, folder), folder / "m")
    except CompileError as error:
        tell(name=name, said=str(error))
        continue
    forward = engine.load(folder / "m", cpu)
    result = forward(x)
    tell(name=name, shape=list(result.shape), apart=(result - truth).abs().max().item(), span=truth.std().item(),
         spread=((result - truth).square().mean().sqrt() / truth.std()).item(), type=str(result.dtype),
         share=sum(array.nbytes for array in forward._weights.values()) / runners["fp32"].bytes)
"""


@needs_xla
def test_of_every_kind_of_network_it_makes_the_same_picture(tmp_path: Path) -> None:
    names = ("compact", "esrgan-short", "span", "swinir", "hat", "dat", "omnisr", "realcugan")
    told = run(PICTURES, str(tmp_path), str(ROOT), "fp32", "3", *names)
    assert [one["name"] for one in told] == [*names]
    for one in told:
        assert one["shape"][0] == 3, "what filled the batch up is gone"
        assert one["span"] > 1e-3, "else this shows nothing"
        assert one["apart"] < 2e-4, one


LATENTS = """
import latent_zoo
from cudaspeed.backends.interface import Work
from cudaspeed.backends.shapes import TileShapes
from cudaspeed.backends.xla import Xla
from cudaspeed.compiling.aoti import Whole
from cudaspeed.latents.loader import load_latent_model
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.runner import ModelRunner

folder, cpu = Path(sys.argv[2]), torch.device("cpu")
for name in sys.argv[3:]:
    latents = load_latent_model(latent_zoo.file_of(name, folder))
    model = latents if latents.traits.fixed else latents.at_scale(2.0)
    runner = ModelRunner(model, ExecutionMode("fp32", autocast=False, channels_last=False))
    x = 5 * torch.randn(1, latents.traits.channels, 16, 32)
    engine, shapes = Xla("xla", folder / "xla"), TileShapes.one(16, 32, 1)
    engine.build(Work(Whole(runner), x, shapes, "fp32", cpu, folder), folder / "m")
    with torch.inference_mode():
        truth, result = runner.forward(x), engine.load(folder / "m", cpu)(x)
    tell(name=name, apart=(result - truth).abs().max().item() / truth.std().item())
"""


@needs_xla
def test_latents_of_every_family_come_out_the_same(tmp_path: Path) -> None:
    names = [name for name in latent_zoo.NAMES if "x1.5" not in name]  # these are computed on a canvas
    told = run(LATENTS, str(tmp_path), *names)
    assert [one["name"] for one in told] == names
    assert max(one["apart"] for one in told) < 1e-4, told


@needs_xla
@pytest.mark.parametrize(("precision", "share"), [("bf16", 0.5), ("fp16", 1.0)])
def test_in_half_precision_it_is_close(precision: str, share: float, tmp_path: Path) -> None:
    """In bf16 by half the bytes of weights on the device; of fp16 XLA makes float32, whatever a TPU multiplies in."""
    names = ("compact", "swinir", "dat", "omnisr", "realcugan")
    told = run(PICTURES, str(tmp_path), str(ROOT), precision, "3", *names)
    assert [one["name"] for one in told] == [*names]
    for one in told:
        assert one["apart"] < 0.03, one
        assert one["spread"] < 0.01, one
        assert one["type"] == "torch.float32"
        assert one["share"] == pytest.approx(share, abs=0.15), one  # int64 becomes int32


BFLOAT16 = """
model, image = zoo.compact(features=32), zoo.photograph(80, 96)
truth = upscale(image, model, UpscaleOptions(compile=False, precision="fp32"), StandaloneContext("cpu"))
for precision in ("fp32", "bf16"):
    result = upscale(image, model, UpscaleOptions(precision=precision), StandaloneContext("xla"))
    apart = (result.image - truth.image).abs()
    tell(by=result.report.compiling, apart=apart.max().item(), spread=apart.square().mean().sqrt().item())
"""


@needs_xla
def test_a_run_in_bf16_has_a_program_of_its_own_in_half_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDASPEED_CACHE_DIR", str(tmp_path))
    full, half = run(BFLOAT16, devices=1)
    assert full["by"] == half["by"] == "compiled by xla"
    assert full["apart"] < 2e-4
    assert 1e-4 < half["apart"] < 0.02
    files = [path for path in tmp_path.glob("*.pt2") if path.read_bytes().startswith(b"cudaspeed XLA program")]
    programs = [XlaPrograms.read(path) for path in files]
    types = [{str(array.dtype) for array in one.weights.values()} for one in programs]
    assert sorted(map(sorted, types)) == [["bfloat16"], ["float32"]]
    sizes = [sum(array.nbytes for array in one.weights.values()) for one in programs]
    assert 2 * min(sizes) == max(sizes)


@needs_xla
@pytest.mark.parametrize("devices", [1, 2])
def test_a_batch_that_no_program_was_made_for_comes_in_its_order(devices: int, tmp_path: Path) -> None:
    told = run(PICTURES, str(tmp_path), str(ROOT), "fp32", "23", "compact", "swinir", devices=devices)
    assert [one["shape"][0] for one in told] == [23, 23]
    assert all(one["apart"] < 2e-4 for one in told), told


@needs_xla
def test_of_a_network_with_what_torchax_lacks_it_says_which_operation(tmp_path: Path) -> None:
    (told,) = run(PICTURES, str(tmp_path), str(ROOT), "fp32", "1", "safmn")
    assert told["said"] == "torchax lacks an operation of it: aten::adaptive_max_pool2d has no lowering"


LACKING = """
try:
    upscale(zoo.photograph(40, 48), build("safmn"), UpscaleOptions(), StandaloneContext("xla"))
except CudaspeedError as error:
    tell(said=str(error))
"""


@needs_xla
def test_what_it_cannot_compute_is_not_computed_by_torch_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDASPEED_CACHE_DIR", str(tmp_path))
    begin = f"sys.path.append({str(ROOT)!r})\nfrom bench.model_zoo import build\n"
    (told,) = run(begin + LACKING)
    assert "device is xla, which cannot compute SAFMN" in told["said"]
    assert "adaptive_max_pool2d" in told["said"]
    assert told["said"].endswith("take cpu, or on the command line --fallback")


RUNS = """
model, image = zoo.compact(), zoo.photograph(150, 200)
truth = upscale(image, model, UpscaleOptions(compile=False, precision="fp32"), StandaloneContext("cpu"))
for _ in range(2):
    context = StandaloneContext("xla")
    result = upscale(image, model, UpscaleOptions(precision="fp32"), context)
    report = result.report
    tell(by=report.compiling, tiles=report.tiles, apart=(result.image - truth.image).abs().max().item())
"""


@needs_xla
def test_a_picture_is_shared_by_all_devices_and_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDASPEED_CACHE_DIR", str(tmp_path))
    first = run(RUNS)
    assert [one["by"] for one in first] == ["compiled by xla"] * 2
    assert first[0]["tiles"] >= DEVICES
    assert max(one["apart"] for one in first) < 2e-4
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "xla").iterdir() if path.name.endswith("-cache")}
    assert kept, "what XLA compiled"
    again = run(RUNS)
    assert [(one["by"], one["tiles"]) for one in again] == [(one["by"], one["tiles"]) for one in first]
    assert max(one["apart"] for one in again) < 2e-4
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    programs = [*tmp_path.glob("*.pt2")]
    assert len([path for path in programs if path.read_bytes().startswith(b"cudaspeed XLA program")]) == 1


FREED = """
import gc, jax
from cudaspeed.pipeline.session_cache import SessionCache

sessions, model, counts = SessionCache(), zoo.compact(), [len(jax.live_arrays())]
upscale(zoo.photograph(64, 64), model, UpscaleOptions(), StandaloneContext("xla"), sessions)
counts.append(len(jax.live_arrays()))
sessions.let_go(lambda: None)
gc.collect()
tell(counts=[*counts, len(jax.live_arrays())])
"""


@needs_xla
def test_what_is_let_go_of_leaves_nothing_on_the_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDASPEED_CACHE_DIR", str(tmp_path))
    (told,) = run(FREED)
    before, within, after = told["counts"]
    assert within > before, "weights"
    assert after == before


CACHE = """
from cudaspeed.cli import main

warm = ["cudaspeed-compact-x2", "--size", "64x48", "--device", "xla"]
for name, more in (("warm", warm), ("list", []), ("clear", []), ("list", [])):
    code = main(["cache", name, "--json", *more])
    tell(code=code)
"""


@needs_xla
def test_the_cache_is_warmed_listed_and_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDASPEED_CACHE_DIR", str(tmp_path))
    told = run(CACHE, devices=1)
    assert [one["code"] for one in told if "code" in one] == [0, 0, 0, 0]
    (warmed,) = [one for one in told if "status" in one]
    assert (warmed["size"], warmed["status"]) == ([64, 48], "compiled by xla")
    (entry,) = [one for one in told if one.get("engine") == "xla" and "what" in one]
    assert (entry["state"], entry["what"]["shapes"]) == ("ready", "tiles of 64x48, 8 at once")
    (kept,) = [one for one in told if one.get("engine") == "xla" and "files" in one]
    assert kept["files"] >= 1, "gone after it was cleared"
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith("-cache")]
    assert next(one["freed_bytes"] for one in told if "freed_bytes" in one) >= entry["bytes"] + kept["bytes"]


SETTINGS = """
import jax
from cudaspeed.backends.xla_cache import kept_in

names = [name for name in jax.config.values if "cache" in name]
before = {name: jax.config.values[name] for name in names}
with kept_in(Path(sys.argv[2])):
    within = jax.config.values["jax_compilation_cache_dir"]
tell(kept=within == sys.argv[2], same=before == {name: jax.config.values[name] for name in names})
jax.config.update("jax_compilation_cache_dir", sys.argv[2] + "-other")
with kept_in(Path(sys.argv[2])):
    tell(theirs=jax.config.values["jax_compilation_cache_dir"] == sys.argv[2] + "-other")
"""


@needs_xla
def test_where_jax_keeps_what_it_compiles_is_as_it_was_afterwards(tmp_path: Path) -> None:
    assert run(SETTINGS, str(tmp_path / "kept")) == [{"kept": True, "same": True}, {"theirs": True}]


FULL = """
from cudaspeed.backends.errors import DeviceFullError
from cudaspeed.backends.interface import Work
from cudaspeed.backends.shapes import TileShapes
from cudaspeed.backends.xla import Xla
from cudaspeed.compiling.aoti import Whole
from cudaspeed.models.execution import ExecutionMode
from cudaspeed.models.runner import ModelRunner

def full(*given):
    raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes")

folder, cpu = Path(sys.argv[2]), torch.device("cpu")
runner = ModelRunner(zoo.compact(), ExecutionMode("fp32", autocast=False, channels_last=False))
x, engine = torch.rand(9, 3, 64, 64), Xla("xla", folder / "xla")
engine.build(Work(Whole(runner), x[:1], TileShapes.one(64, 64, 8), "fp32", cpu, folder), folder / "m")
forward = engine.load(folder / "m", cpu)
forward(x)
many = max(forward._compiled)
forward._compiled[many] = full
with torch.inference_mode():
    apart = (forward(x) - runner.forward(x)).abs().max().item()
tell(many=many, apart=apart)
forward._compiled[1] = full
try:
    forward(x)
except DeviceFullError as error:
    tell(said=str(error))
"""


@needs_xla
def test_where_several_tiles_have_no_room_they_go_one_by_one(tmp_path: Path) -> None:
    first, last = run(FULL, str(tmp_path), devices=1)
    assert first["many"] > 1
    assert first["apart"] < 2e-4
    assert "Out of memory" in last["said"]


HBM = """
from cudaspeed.backends.xla_library import devices_of

model, image, used = zoo.compact(features=64, convs=4), zoo.photograph(256, 384), 1 << 30
options = UpscaleOptions(precision="fp32")
def stats(self):
    return {"bytes_in_use": used, "bytes_limit": used + free}
type(devices_of("xla")[0]).memory_stats = stats
for free in (1 << 20, 4 << 30, 60 << 20, 60 << 20, 59 << 20):
    try:
        report = upscale(image, model, options, StandaloneContext("xla")).report
        tell(by=report.compiling, tile=list(report.tile), shapes=report.compiled_shapes)
    except CudaspeedError as error:
        tell(said=str(error), kind=type(error).__name__)
"""


@needs_xla
def test_tiles_are_made_for_the_memory_that_a_device_tells_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDASPEED_CACHE_DIR", str(tmp_path))
    none, large, *small = run(HBM, devices=1)
    assert none["kind"] == "OutOfMemoryError"
    assert "xla has too little memory even for one tile of 64x64 with RealESRGAN Compact" in none["said"]
    assert "MiB are needed and 1 are free; free memory" in none["said"]
    assert {one["by"] for one in (*small, large)} == {"compiled by xla"}
    assert all(one == small[0] for one in small), "another size of tiles would be another compile"
    assert math.prod(small[0]["tile"]) < 256 * 384 == math.prod(large["tile"])
    assert (large["shapes"], small[0]["shapes"]) == (1, 2)


ABSENT = """
try:
    upscale(zoo.photograph(40, 40), zoo.compact(), UpscaleOptions(), StandaloneContext("tpu"))
except CudaspeedError as error:
    tell(said=str(error))
"""


@needs_xla
def test_a_tpu_that_is_not_there_is_one_sentence() -> None:
    (told,) = run(ABSENT)
    assert "device is 'tpu', and JAX" in told["said"]
    assert "JAX_PLATFORMS is 'cpu'" in told["said"]
    assert "\n" not in told["said"]


# --- its face where it is not installed ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["xla", "tpu", "xla:cpu"])
def test_without_jax_it_says_what_installs_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "installed_version", lambda _: "")
    with pytest.raises(
        BadOptionError, match=rf"device is '{name}': JAX is not installed: pip install jax==\S+ torchax"
    ):
        check_device(name, None)


def test_its_names_are_no_devices_of_torchs() -> None:
    context = StandaloneContext("xla")
    assert (context.device, context.switches.engine) == (torch.device("cpu"), "xla")


def test_what_is_compiled_is_known_by_the_devices_and_by_the_versions_that_made_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = {"jax": "0.10.2", "torchax": "0.0.13"}
    for place in (packages, xla_library):
        monkeypatch.setattr(place, "installed_version", lambda name: installed.get(name, ""))
    monkeypatch.setattr(xla_library, "devices_of", lambda name: (SimpleNamespace(device_kind="TPU v5e"),) * 4)
    assert offer.full_name("tpu") == "tpu (4 x TPU v5e, JAX 0.10.2, torchax 0.0.13)"


@pytest.mark.parametrize(("platform", "precisions"), [("tpu", ("bf16", "fp32")), ("cpu", ("fp32",))])
def test_bfloat16_is_what_tpus_compute_in_by_themselves(
    platform: str, precisions: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offer, "devices_of", lambda name: (SimpleNamespace(platform=platform),))
    assert offer.automatic_precisions("xla") == precisions
    assert offer.automatic_precisions("openvino:GPU") is None


def test_it_is_never_chosen_by_itself() -> None:
    assert not [engine for engine in offer.ENGINES if engine.name in XLA_NAMES]
    engine: Engine = offer.engine("tpu", Path("folder"))
    assert (engine.name, engine) == ("tpu", Xla("tpu", Path("folder/xla")))


def test_a_program_is_read_as_it_was_written(tmp_path: Path) -> None:
    weights = {"a": np.ones((2, 3), np.float32), "b": np.arange(3, dtype=np.int32)}
    programs = {1: b"program", 4: b"for four"}
    XlaPrograms("0.10.2", ("cpu", "tpu"), programs, weights).write(tmp_path / "file")
    read = XlaPrograms.read(tmp_path / "file")
    assert (read.jax, read.platforms, read.programs) == ("0.10.2", ("cpu", "tpu"), programs)
    assert {name: array.tolist() for name, array in read.weights.items()} == {
        name: array.tolist() for name, array in weights.items()
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"something else",
        lambda content: content[:40],
        lambda content: content[:-5],
        lambda content: content.replace(b'"1": 7', b'"1": 9000'),
        lambda content: content.replace(b'"1": 7', b'"2": 7'),
        lambda content: content.replace(b'{"1": 7}', b"[1, 7, 2]"),
        lambda content: content.replace(b'["cpu"]', b"[10203]"),
        lambda content: content.replace(b"{", b"[", 1),
    ],
)
def test_of_a_damaged_program_nothing_is_taken(change: Any, tmp_path: Path) -> None:
    XlaPrograms("0.10.2", ("cpu",), {1: b"program"}, {"a": np.ones(4, np.float32)}).write(tmp_path / "file")
    (tmp_path / "file").write_bytes(change((tmp_path / "file").read_bytes()))
    with pytest.raises(CompileError, match="it has to be compiled anew"):
        XlaPrograms.read(tmp_path / "file")


@needs_xla
def test_a_program_of_bfloat16s_is_read_as_it_was_written(tmp_path: Path) -> None:
    values = torch.tensor([1.0, 1.00390625, 3.3895e38, -0.0])
    written = as_array(values, narrow=True)
    XlaPrograms("0.10.2", ("cpu",), {1: b"program"}, {"a": written}).write(tmp_path / "file")
    read = XlaPrograms.read(tmp_path / "file").weights["a"]
    assert (read.dtype, read.tobytes()) == (written.dtype, written.tobytes())
    assert read.astype(np.float32).tolist() == values.bfloat16().float().tolist()


@pytest.mark.parametrize("shapes", [TileShapes.one(48, 64, 8), TileShapes.one(48, 64)])
def test_shapes_are_read_as_they_are_told(shapes: TileShapes) -> None:
    assert TileShapes.parse(str(shapes)) == shapes
