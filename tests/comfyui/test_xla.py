"""XLA inside a real ComfyUI on the CPU, whose processor looks to JAX like several devices.

Needs COMFYUI_DIR and a COMFYUI_PYTHON that has JAX and torchax; skipped without.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from comfyui_page import Page
from comfyui_server import COMFYUI, Server, node, start_comfyui
from PIL import Image

MODEL = "cudaspeed-compact-x2.safetensors"
WIDGETS = {
    "precision": "fp32",
    "use_autocast": "disable",
    "tile_size": 0,
    "overlap": 0,
    "optimization_level": "balanced",
}
COUNT = """
import gc
from aiohttp import web
from server import PromptServer

@PromptServer.instance.routes.get("/arrays")
async def arrays(request):
    import jax
    gc.collect()
    return web.json_response(len(jax.live_arrays()))

NODE_CLASS_MAPPINGS = {}
"""

pytestmark = pytest.mark.skipif(not COMFYUI, reason="COMFYUI_DIR is not set: no ComfyUI to run in")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import jax, torchax"], capture_output=True).returncode:
        pytest.skip("ComfyUI's Python has no jax and torchax that fit its torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
        patch.setenv("JAX_PLATFORMS", "cpu")
        with start_comfyui(tmp_path_factory.mktemp("comfyui"), {"count.py": COUNT}) as running:
            yield running


def ours(compiled: str, **more: Any) -> dict[str, Any]:
    widgets = {**WIDGETS, "enable_compile": compiled, **more}
    return node("UpscaleImageCUDAspeed", upscale_model=["model", 0], image=["picture", 0], **widgets)


def prompt(**more: Any) -> dict[str, Any]:
    picture, model = node("LoadImage", image="large.png"), node("UpscaleModelLoader", model_name=MODEL)
    saved = {f"save_{name}": node("SaveImage", images=[name, 0], filename_prefix=name) for name in more}
    return {"picture": picture, "model": model, **more, **saved}


def test_it_tells_how_far_it_is_and_an_interrupt_ends_it(server: Server) -> None:
    values = np.random.default_rng(0).integers(0, 256, (1600, 2400, 3), np.uint8)
    Image.fromarray(values).save(server.folder / "input" / "long.png")
    work = {"mine": ours("enable", devices="xla", tile_size=128)}
    server.run(prompt(**work))  # compiled
    page = Page(server, prompt(**work) | {"picture": node("LoadImage", image="long.png")})
    page.wait_for_bar("mine")
    time.sleep(1.0)
    asked = time.monotonic()
    server.post("/interrupt", {})
    ended, how = page.wait()
    assert how == "execution_interrupted", server.log()
    assert ended - asked <= 2.0
    shares = [value / most for _, value, most in page.bars("mine")]
    assert shares == sorted(shares)
    assert 0 < shares[-1] < 1
    page = Page(server, prompt(**work, other=ours("enable", devices="xla", tile_size=96)))
    assert page.wait()[1] == "execution_success", server.log()
    _, value, most = page.bars("other")[-1]
    assert value == most


def test_its_picture_is_the_processors_and_unloading_leaves_nothing_on_its_devices(server: Server) -> None:
    server.free()
    before = server.get("/arrays")
    server.run(prompt(one=ours("disable")))  # by itself: of one model a copy is kept in one mode
    entry = server.run(prompt(two=ours("enable", devices="xla")))
    assert entry["status"]["status_str"] == "success", server.log()
    told = json.loads(entry["outputs"]["two"]["cudaspeed"][0])
    assert "compiled by xla" in told["summary"]
    files = [server.folder / "output" / f"{name}_00001_.png" for name in ("one", "two")]
    usual, by_xla = (np.asarray(Image.open(file)).astype(int) for file in files)
    assert np.abs(by_xla - usual).max() <= 1
    assert server.get("/arrays") > before
    server.free()
    assert server.get("/arrays") == before


def test_a_tpu_that_is_not_there_is_told_in_one_sentence(server: Server) -> None:
    entry = server.run(prompt(two=ours("enable", devices="tpu")))
    assert entry["status"]["status_str"] == "error"
    (error,) = [told for kind, told in entry["status"]["messages"] if kind == "execution_error"]
    assert "device is 'tpu', and JAX" in error["exception_message"]
