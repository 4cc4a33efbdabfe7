"""The pack as it is installed: imported quickly and in silence, all its nodes offered, and nothing written into its
folder, which may be read-only and have any name. Skipped without COMFYUI_DIR (see comfyui_server.py)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfyui_server import COMFYUI, PACK, USUAL, Server, make_folders, node, start_comfyui

MODEL = "cudaspeed-compact-x2.safetensors"
KINDS = [
    "ImageUpscaleWithModelCUDAspeedFixed",
    "UpscaleImageCUDAspeed",
    "UpscaleVideoCUDAspeed",
    "WarmUpUpscalerCUDAspeed",
]
_NOT_INSTALLED = shutil.ignore_patterns(".*", "__pycache__", "tests", "train", "bench", "out", "build")

# What ComfyUI does when it starts, to the processor's seconds: those of torch and spandrel, and those of the pack.
_IMPORT = """
import asyncio, sys, time
folder = sys.argv.pop(1)
began = time.process_time()
import torch, spandrel
torch_took = time.process_time() - began
sys.path.insert(0, "")
import comfy.options
comfy.options.enable_args_parsing()
import utils.extra_config  # as main.py does: older ones' nodes put another `utils` before it
import nodes, server

async def load():
    server.PromptServer(asyncio.get_running_loop())
    await nodes.init_builtin_extra_nodes()  # core's own, as before any pack
    began = time.process_time()
    assert await nodes.load_custom_node(folder)
    return time.process_time() - began

print("took", asyncio.run(load()), torch_took)
"""

pytestmark = pytest.mark.skipif(not COMFYUI, reason="COMFYUI_DIR is not set: no ComfyUI to run in")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With a copy of the pack that nobody may write into, all below a folder with spaces and Chinese in its name."""
    folder = tmp_path_factory.mktemp("comfyui") / "我的 ComfyUI (copy)"
    pack = folder / "custom_nodes" / "upscale-cudaspeed"
    shutil.copytree(PACK, pack, ignore=_NOT_INSTALLED)
    everything = [pack, *pack.rglob("*")]
    for path in everything:
        path.chmod(path.stat().st_mode & ~0o222)
    with start_comfyui(folder, {}) as running:
        yield running
    for path in everything:
        path.chmod(path.stat().st_mode | 0o200)


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Of every file and folder, when it was changed and its size; without the bytecode that Python itself leaves where
    the user may write everywhere."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns if path.is_file() else 0, path.stat().st_size)
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts and path.is_file()
    }


def upscaled() -> dict[str, Any]:
    return {
        "picture": node("LoadImage", image="large.png"),
        "model": node("UpscaleModelLoader", model_name=MODEL),
        "ready": node("WarmUpUpscalerCUDAspeed", upscale_model=["model", 0], width=700, height=530, tile_size=0,
                      use_autocast="enable", precision="auto"),
        "mine": node("UpscaleImageCUDAspeed", upscale_model=["ready", 0], image=["picture", 0], **USUAL),
        "save": node("SaveImage", images=["mine", 0], filename_prefix="高清 picture"),
    }  # fmt: skip


def test_it_is_imported_without_a_warning(server: Server) -> None:
    log = (server.folder / "log.txt").read_text(encoding="utf-8")
    assert re.search(r"\d seconds: .*upscale-cudaspeed", log), log
    assert "IMPORT FAILED" not in log
    lines = [line for line in log.splitlines() if "cudaspeed" in line.lower() and not re.search(r"\d seconds: ", line)]
    complaints = [line for line in lines if re.search("warn|error|traceback|deprecat", line, re.IGNORECASE)]
    assert complaints == []


def test_importing_it_takes_little_beside_torch(tmp_path: Path) -> None:
    """In seconds of the processor, as a share of torch's and spandrel's in the same process; in seconds of a clock,
    `python -m bench.start` has it."""
    command = [os.environ.get("COMFYUI_PYTHON", sys.executable), "-c", _IMPORT, str(PACK)]
    command += ["--cpu", "--base-directory", str(tmp_path)]
    shares, told = [], ""
    for _ in range(4):  # the first time Python compiles what has changed; what else the process does only adds to it
        done = subprocess.run(command, cwd=COMFYUI, capture_output=True, text=True, check=False)
        took = re.search(r"took (\S+) (\S+)", done.stdout)
        assert took, done.stderr
        shares.append(float(took[1]) / float(took[2]))
        told += done.stdout
    assert min(shares) <= 0.1, told


def test_every_node_is_offered_whole(server: Server) -> None:
    info: dict[str, Any] = server.get("/object_info")
    ours = {kind: told for kind, told in info.items() if told["python_module"] == "custom_nodes.upscale-cudaspeed"}
    assert {*KINDS} <= {*ours}
    for kind, told in ours.items():
        assert told["display_name"] != kind
        assert told["description"].endswith(".")
        widgets = {**told["input"].get("required", {}), **told["input"].get("optional", {})}
        assert widgets
        for name, (values, *more) in widgets.items():
            # latent upscalers are what its user brings: core's own list of them is as empty
            assert values or kind == "LatentUpscaleModelLoaderCUDAspeed", (kind, name)
            if isinstance(values, list) or values in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"):
                assert more, (kind, name)
        assert server.get(f"/object_info/{kind}")[kind] == told
    assert len({told["display_name"] for told in ours.values()}) == len(ours)
    assert MODEL in json.dumps(info["UpscaleModelLoader"]["input"])


def test_nothing_is_written_into_its_folder(server: Server) -> None:
    """By a run, while kernels are built, and while a model is tried out ahead of time."""
    pack = server.folder / "custom_nodes" / "upscale-cudaspeed"
    before = contents(pack)
    entry = server.run(upscaled())
    assert entry["status"]["status_str"] == "success", server.log()
    (saved,) = entry["outputs"]["save"]["images"]
    assert (server.folder / "output" / saved["filename"]).stat().st_size > 0
    assert "cannot be built" not in server.log()
    assert contents(pack) == before
    assert (server.folder / "user" / "cudaspeed").is_dir(), "what is kept lies with the user's files"


# Somebody who may read everything, wherever the tests lie, and writes as any other user.
_NOBODY = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)


def test_a_user_who_may_not_write_into_its_folder_has_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can start a server as somebody else")
    if not shutil.which("setpriv") or subprocess.run([*_NOBODY, "true"], check=False, capture_output=True).returncode:
        pytest.skip("there is no setpriv that can become somebody else")
    monkeypatch.delenv("CUDASPEED_CACHE_DIR")  # a test's own
    make_folders(tmp_path)
    for path in [tmp_path, *tmp_path.rglob("*")]:
        os.chown(path, 65534, 65534)
    with start_comfyui(tmp_path, {}, by=["env", f"HOME={tmp_path}", *_NOBODY]) as running:
        assert running.pictures(upscaled())["save"].shape == (1060, 1400, 3)
        log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    kept = [path for path in (tmp_path / "user" / "cudaspeed").rglob("*") if path.is_file()]
    assert kept and {path.stat().st_uid for path in kept} == {65534}
    assert not [path for path in PACK.rglob("*") if path.lstat().st_uid == 65534]
    assert not re.search(r"cannot be|not used|permission|traceback", log, re.IGNORECASE), log


def test_two_copies_are_one_warning_and_the_first_serves(tmp_path: Path) -> None:
    folders = [tmp_path / "custom_nodes" / name for name in ("upscale-cudaspeed", "upscale-cudaspeed-main")]
    for folder in folders:
        shutil.copytree(PACK, folder, ignore=_NOT_INSTALLED)
    with start_comfyui(tmp_path, {}) as running:
        assert running.pictures(upscaled())["save"].shape == (1060, 1400, 3)
        info = running.get("/object_info")
        scripts = [script for script in running.get("/extensions") if "cudaspeed" in script]
        assert running.get("/cudaspeed/cache")["models"] >= 0
        log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    (warned,) = [line for line in log.splitlines() if "two packs bring the same nodes" in line]
    assert all(re.search(rf"{re.escape(str(folder))}(?![\w-])", warned) for folder in folders)
    assert "Traceback" not in log
    (serves,) = {told["python_module"] for kind, told in info.items() if "CUDAspeed" in kind}
    first = serves.removeprefix("custom_nodes.")
    assert f" and {tmp_path / 'custom_nodes' / first}. What runs of the second: " in warned
    assert {script.split("/")[2] for script in scripts} == {first}
    assert len(scripts) == len([*(PACK / "web" / "js").glob("*.js")])
