"""What the command line does before it imports torch, told by what a fresh process has imported, and not by seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN
from spandrel.architectures.RealCUGAN import UpCunet2x

from cudaspeed.storage.artifacts import ArtifactStore

HEAVY = ("torch", "spandrel", "numpy", "PIL", "tqdm", "psutil")
SECONDS = 300  # other tests may be at work


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str
    imported: frozenset[str]

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


class CommandLine:
    """`python -m cudaspeed` in a fresh process, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.models = folder, folder / "models"
        self.models.mkdir()
        self.variables: dict[str, str] = {"CUDASPEED_CACHE_DIR": str(folder / "cache"), "CUDASPEED_MODELS": ""}

    @property
    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "OMP_NUM_THREADS": "1", **self.variables}

    def __call__(self, *arguments: str | Path, module: str = "cudaspeed") -> Ended:
        command = [sys.executable, "-X", "importtime", "-m", module, *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, cwd=self.folder, env=self.environment
        )
        lines = done.stderr.splitlines(keepends=True)
        told = "".join(line for line in lines if not line.startswith("import time:"))
        imported = frozenset(line.split("|")[-1].strip() for line in lines if line.startswith("import time:"))
        assert "cudaspeed.commands.arguments" in imported
        return Ended(done.returncode, done.stdout, told, imported)

    def stand_in(self, module: str, code: str) -> None:
        """Something else under the name of a module that takes long to import."""
        folder = self.folder / "stand-ins"
        folder.mkdir(exist_ok=True)
        (folder / f"{module}.py").write_text(code)
        self.variables["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


@pytest.fixture
def cudaspeed(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.effect_noise((16, 12), 60).convert("RGB").save(tmp_path / "in.png")
    return tmp_path / "in.png"


def assert_light(ended: Ended, *but: str) -> None:
    assert not ended.imported & {*HEAVY} - {*but}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["upscale", "--help"], ["latent", "--help"], ["cache", "warm", "--help"]]
)
def test_help_and_version_import_nothing_heavy(cudaspeed: CommandLine, arguments: list[str]) -> None:
    for module in ("cudaspeed", "cudaspeed.cli"):
        ended = cudaspeed(*arguments, module=module)
        assert (ended.code, ended.err) == (0, "")
        assert "cudaspeed" in ended.out
        assert_light(ended)


BAD_USAGE = {
    "COMMAND": [],
    "enlarge": ["enlarge"],
    "INPUT": ["upscale"],
    "--output": ["upscale", "in.png"],
    "--color": ["models", "--color"],
    "ACTION": ["cache"],
    "burn": ["cache", "burn"],
    "fp8": ["upscale", "in.png", "-o", "out.png", "--precision", "fp8"],
    "many": ["upscale", "in.png", "-o", "out.png", "--tile", "many"],
    "2049": ["upscale", "in.png", "-o", "out.png", "--tile", "2049"],
    "-1": ["upscale", "in.png", "-o", "out.png", "--tile=-1"],
    "129": ["upscale", "in.png", "-o", "out.png", "--overlap", "129"],
    "batch size": ["upscale", "in.png", "-o", "out.png", "--batch-size", "17"],
    "max_megapixels": ["upscale", "in.png", "-o", "out.png", "--max-megapixels", "0"],
    "suffix": ["upscale", "in.png", "-o", "out", "--suffix", "a/b"],
    "out.jp2": ["upscale", "in.png", "-o", "out.jp2"],
    "never overwritten": ["upscale", "in.png", "-o", "in.png"],
    "holds no pictures": ["upscale", "models", "-o", "out"],
    "no such model file": ["upscale", "in.png", "-o", "out.png", "--model", "absent"],
    "is text": ["upscale", "in.png", "-o", "out.png", "--model", "broken.pth"],
    "abacus:3": ["upscale", "in.png", "-o", "out.png", "--device", "abacus:3"],
    "cuda:": ["upscale", "in.png", "-o", "out.png", "--device", "cuda:"],
    "1920x1080": ["cache", "warm", "cudaspeed-compact-x2", "--size", "640"],
    "'gpu'": ["cache", "warm", "cudaspeed-compact-x2", "--size", "640x480", "--device", "gpu"],
    "nowhere": ["cache", "warm", "nowhere", "--size", "640x480"],
    "tile is '64'": ["export", "cudaspeed-compact-x2", "--tile", "64", "-o", "out.stablehlo"],
    "rocm": ["export", "cudaspeed-compact-x2", "--tile", "64x64", "-o", "out.stablehlo", "--platform", "rocm"],
    "give out.stablehlo": ["export", "cudaspeed-compact-x2", "--tile", "64x64", "-o", "out.onnx"],
    "cannot write into": ["export", "cudaspeed-compact-x2", "--tile", "64x64", "-o", "in.png/out.stablehlo"],
    "MODEL": ["tune"],
    "'0x3'": ["tune", "cudaspeed-compact-x2", "--size", "0x3"],
    "3000": ["tune", "cudaspeed-compact-x2", "--tile", "3000"],
    "nothing": ["tune", "cudaspeed-compact-x2", "nothing"],
    "tpu": ["tune", "cudaspeed-compact-x2", "--device", "tpu"],
    "the following arguments": ["info"],
    "is '7'": ["info", "cudaspeed-compact-x2", "--size", "7"],
    "vax": ["info", "cudaspeed-compact-x2", "--device", "vax"],
    "int8": ["info", "cudaspeed-compact-x2", "--precision", "int8"],
    "elsewhere": ["info", "elsewhere"],
    "--model": ["latent", "in.latent", "-o", "out.latent"],
    "must be .latent": ["latent", "in.latent", "-o", "out.safetensors", "--model", "cudaspeed-compact-x2"],
    "0.25 to 8": ["latent", "in.latent", "-o", "out", "--model", "cudaspeed-compact-x2", "--scale-by", "9"],
    "nearest": ["latent", "in.latent", "-o", "out", "--model", "cudaspeed-compact-x2", "--resampling", "nearest"],
    "holds no latents": ["latent", "models", "-o", "out", "--model", "cudaspeed-compact-x2"],
    "missing.pth": ["latent", "in.latent", "-o", "out", "--model", "missing.pth"],
}


@pytest.mark.parametrize("told", BAD_USAGE)
def test_mistakes_are_told_before_torch_is_imported(cudaspeed: CommandLine, picture: Path, told: str) -> None:
    (cudaspeed.folder / "broken.pth").write_text("this is not a model at all")
    ended = cudaspeed(*BAD_USAGE[told])
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("cudaspeed: error: ")
    assert told in line
    assert_light(ended)
    assert not (cudaspeed.folder / "out").exists()


def test_the_cache_is_listed_without(cudaspeed: CommandLine) -> None:
    store = ArtifactStore(cudaspeed.folder / "cache")
    store.claim("a" * 24, {"model": "Some 64nf"})
    store.fail("a" * 24, "it uses an unknown operator", "model", "here")
    for json_too in ([], ["--json"]):
        ended = cudaspeed("cache", "list", *json_too)
        assert (ended.code, ended.err) == (0, "")
        assert "Some 64nf" in ended.out
        assert_light(ended)


def test_backends_are_listed_without(cudaspeed: CommandLine) -> None:
    for json_too in ([], ["--json"]):
        ended = cudaspeed("backends", *json_too)
        assert (ended.code, ended.err) == (0, "")
        assert "aotinductor" in ended.out
        assert "pip install tensorrt onnxscript" in ended.out
        assert_light(ended)
        assert not ended.imported & {"tensorrt", "tensorrt_rtx", "onnxscript", "openvino"}


def compact() -> dict[str, torch.Tensor]:
    return Compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=2).state_dict()


def test_models_are_listed_without(cudaspeed: CommandLine) -> None:
    """The bundled ones, usual ones of the user's in all kinds of files, and those that are no models."""
    save_file(compact(), cudaspeed.models / "a.safetensors")
    torch.save({"params_ema": compact()}, cudaspeed.models / "b.pth")
    torch.save(compact(), cudaspeed.models / "c.pt", _use_new_zipfile_serialization=False)
    esrgan = ESRGAN(in_nc=3, out_nc=3, num_filters=8, num_blocks=1, scale=4).half()
    torch.save(esrgan.state_dict(), cudaspeed.models / "d.ckpt")
    (cudaspeed.models / "e.pth").write_text("version https://git-lfs.github.com/spec/v1")
    cudaspeed.variables["CUDASPEED_MODELS"] = str(cudaspeed.models)
    for _ in range(2):
        ended = cudaspeed("models", "--json")
        assert (ended.code, ended.err) == (0, "")
        told = {record["name"]: record for record in ended.records}
        assert told["cudaspeed-compact-x4.safetensors"]["scale"] == 4
        for name, architecture, scale in (
            ("a.safetensors", "RealESRGAN Compact", 2),
            ("b.pth", "RealESRGAN Compact", 2),
            ("c.pt", "RealESRGAN Compact", 2),
            ("d.ckpt", "ESRGAN", 4),
        ):
            assert (told[name]["architecture"], told[name]["scale"]) == (architecture, scale)
            assert (told[name]["input_channels"], told[name]["output_channels"]) == (3, 3)
            assert told[name]["precisions"] == ["fp32", "fp16", "bf16"]
        assert "Git LFS" in told["e.pth"]["error"]
        assert_light(ended)


def test_damage_behind_the_header_is_told_without(cudaspeed: CommandLine) -> None:
    torch.save(compact(), cudaspeed.models / "a.pth")
    content = bytearray((cudaspeed.models / "a.pth").read_bytes())
    content[content.index(b"a/data/0") + 200] ^= 1
    (cudaspeed.models / "a.pth").write_bytes(content)
    cudaspeed.variables["CUDASPEED_MODELS"] = str(cudaspeed.models)
    ended = cudaspeed("models", "--json")
    assert "checksum" in ended.records[-1]["error"]
    assert_light(ended)


def test_what_had_to_be_loaded_is_remembered_until_the_file_changes(cudaspeed: CommandLine) -> None:
    rare, unknown = cudaspeed.models / "rare.pth", cudaspeed.models / "unknown.safetensors"
    torch.save(UpCunet2x(in_channels=3, out_channels=3).state_dict(), rare)
    save_file({"odd.weight": torch.zeros(3)}, unknown)
    cudaspeed.variables["CUDASPEED_MODELS"] = str(cudaspeed.models)
    first, second = cudaspeed("models", "--json"), cudaspeed("models", "--json")
    assert "spandrel" in first.imported
    assert_light(second)
    assert second.out == first.out
    told = {record["name"]: record for record in second.records}
    assert (told["rare.pth"]["architecture"], told["rare.pth"]["scale"]) == ("RealCUGAN", 2)
    assert "spandrel does not know" in told["unknown.safetensors"]["error"]
    save_file(compact(), unknown)
    assert_light(changed := cudaspeed("models", "--json"))
    assert {record["name"]: record for record in changed.records}["unknown.safetensors"]["scale"] == 2


# upscale

WATCHED = """
import sys
from cudaspeed.commands import reading
really = reading.read
def read(job, limits):
    print(job.source.name, "torch" in sys.modules and "spandrel" in sys.modules)
    return really(job, limits)
reading.read = read
from cudaspeed.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_the_first_picture_is_read_while_torch_is_imported(cudaspeed: CommandLine, picture: Path) -> None:
    Image.open(picture).save(cudaspeed.folder / "second.png")
    command = [sys.executable, "-c", WATCHED, "upscale", "in.png", "second.png", "-o", "out", "--no-compile", "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS, cwd=cudaspeed.folder, env=cudaspeed.environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if not line.startswith("{")]
    assert lines == ["in.png False", "second.png True"]
    with Image.open(cudaspeed.folder / "out" / "in.png") as image:
        assert image.size == (32, 24)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has other signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_who_stops_it_while_torch_is_imported_does_not_wait(
    cudaspeed: CommandLine, picture: Path, number: signal.Signals, code: int
) -> None:
    began = cudaspeed.folder / "began"
    cudaspeed.stand_in("torch", f"open({str(began)!r}, 'w').close()\nimport time\ntime.sleep({SECONDS})\n")
    # where the tests were started in the background, their children would not hear of Ctrl-C
    heard = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "cudaspeed", "upscale", "in.png", "-o", "out.png"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cudaspeed.folder, env=cudaspeed.environment,
        )  # fmt: skip
    finally:
        signal.signal(number, heard)
    end = time.monotonic() + SECONDS
    while not began.exists() and time.monotonic() < end:
        time.sleep(0.01)
    asked = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=SECONDS)
    assert time.monotonic() - asked < SECONDS / 10
    assert (process.returncode, out, err) == (code, "", "cudaspeed: stopped\n")
    assert not (cudaspeed.folder / "out.png").exists()


def test_a_torch_that_cannot_be_imported_is_told_in_one_line(cudaspeed: CommandLine, picture: Path) -> None:
    cudaspeed.stand_in("torch", "raise ImportError('libcudart.so.12: cannot open shared object file')")
    ended = cudaspeed("upscale", "in.png", "-o", "out.png")
    assert (ended.code, ended.out) == (1, "")
    (line,) = ended.err.splitlines()
    assert "libcudart.so.12: cannot open shared object file" in line
    assert "Traceback" in cudaspeed("upscale", "in.png", "-o", "out.png", "--verbose").err
    assert cudaspeed("models").code == cudaspeed("cache", "list").code == 0, "who needs no torch goes on"
