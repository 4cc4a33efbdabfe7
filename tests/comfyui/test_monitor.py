"""Our routes in a real ComfyUI, and what "Unload models" lets go of.

Skipped without COMFYUI_DIR (see comfyui_server.py).
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from comfyui_server import COMFYUI, Server, node, start_comfyui

# Tells when our monitor looked last, and what threads there are.
WITNESS = """
import gc
import threading

from aiohttp import web
from server import PromptServer


@PromptServer.instance.routes.get("/witness")
async def witness(request):
    looks = [load._when for load in gc.get_objects() if str(type(load)).endswith(".canvas.load.Load'>")]
    return web.json_response({"looks": looks, "threads": [thread.name for thread in threading.enumerate()]})


NODE_CLASS_MAPPINGS = {}
"""

pytestmark = pytest.mark.skipif(not COMFYUI, reason="COMFYUI_DIR is not set: no ComfyUI to run in")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_comfyui(tmp_path_factory.mktemp("comfyui"), {"witness.py": WITNESS}) as running:
        yield running


def status_of(server: Server, path: str, body: bytes | None = None, **headers: str) -> int:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", body, names)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_the_monitor_tells_the_load(server: Server) -> None:
    server.get("/cudaspeed/monitor")
    time.sleep(0.5)
    told = server.get("/api/cudaspeed/monitor")
    assert 0 <= told["cpu"] <= 1
    assert 0 < told["ram"]["used"] < told["ram"]["total"]
    assert told["devices"] == [], "it was started with --cpu"


def test_nothing_is_looked_at_while_nobody_asks(server: Server) -> None:
    server.get("/cudaspeed/monitor")
    time.sleep(0.5)
    before = server.get("/witness")
    time.sleep(2)
    after = server.get("/witness")
    assert len(before["looks"]) == 1 and after["looks"] == before["looks"]
    assert not [name for name in after["threads"] if name == "cudaspeed answer"]


def test_compiled_models_are_told_of_and_cleared_by_this_page_alone(server: Server) -> None:
    assert server.get("/cudaspeed/cache") == {"models": 0, "bytes": 0}
    path, body = "/cudaspeed/cache/clear", b"{}"
    assert status_of(server, path, body, Content_Type="application/json", Origin="http://elsewhere.example") == 403
    assert status_of(server, path, body, Content_Type="text/plain") == 400
    assert status_of(server, path) in (404, 405), "looking changes nothing"
    assert server.post(path, {"folder": "/"}) == {"freed": 0}


def prompt(width: int) -> dict[str, Any]:
    widgets = {"use_autocast": "enable", "precision": "auto", "tile_size": 0, "overlap": 0}
    return {
        "large": node("LoadImage", image="large.png"),
        "model": node("UpscaleModelLoader", model_name="cudaspeed-compact-x2.safetensors"),
        "picture": node("ImageScale", image=["large", 0], upscale_method="bilinear", width=width, height=96,
                        crop="disabled"),
        "mine": node("UpscaleImageCUDAspeed", upscale_model=["model", 0], image=["picture", 0],
                     enable_compile="enable", optimization_level="balanced", **widgets),
        "save": node("SaveImage", images=["mine", 0], filename_prefix="picture"),
    }  # fmt: skip


def lines(server: Server, wanted: int) -> list[str]:
    """Those in its log of what was unloaded, once there are so many, or a minute has passed."""
    found: list[str] = []
    for _ in range(120):
        found = [line for line in (server.folder / "log.txt").read_text().splitlines() if "unloaded: " in line]
        if len(found) >= wanted:
            break
        time.sleep(0.5)
    return found


def test_unload_models_lets_go_of_ours_and_says_so_in_one_line(server: Server) -> None:
    server.post("/free", {"unload_models": True})
    for turn, asked in enumerate(({"unload_models": True}, {"unload_models": True, "free_memory": True})):
        assert server.run(prompt(90 + turn))["status"]["status_str"] == "success", server.log()
        for _ in range(2):  # as one who clicks twice
            server.post("/free", asked)
        found = lines(server, turn + 1)
        assert len(found) == turn + 1, server.log()
        assert "1 copy of a model (" in found[-1]
    assert server.run(prompt(80))["status"]["status_str"] == "success", server.log()
    assert len(lines(server, 0)) == 2, "nothing more was let go of"


def test_settings_that_are_damaged_stop_nothing(server: Server) -> None:
    file = server.folder / "user" / "default" / "comfy.settings.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('{"CUDAspeed.Preview": ')
    assert server.run(prompt(81))["status"]["status_str"] == "success", server.log()
    file.write_text(json.dumps({"CUDAspeed.Preview": "perhaps"}))
    assert server.run(prompt(82))["status"]["status_str"] == "success", server.log()
