"""A ComfyUI whose user reads Chinese: what a run says under its node, and the error in the history.

Needs COMFYUI_DIR, a checkout of ComfyUI, and COMFYUI_PYTHON, an interpreter that has its requirements (this one, when
not set). Skipped without the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfyui_page import Page
from comfyui_server import COMFYUI, Server, node, start_comfyui

pytestmark = pytest.mark.skipif(not COMFYUI, reason="COMFYUI_DIR is not set: no ComfyUI to run in")
_CHINESE = re.compile("[\u4e00-\u9fff]")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_comfyui(tmp_path_factory.mktemp("comfyui"), {}) as running:
        yield running


def _set(server: Server, **values: str) -> None:
    for name, value in values.items():
        server.post(f"/settings/{name.replace('_', '.')}", value)  # type: ignore[arg-type]


def _prompt(**widgets: Any) -> dict[str, Any]:
    usual = {
        "use_autocast": "disable",
        "precision": "fp32",
        "tile_size": 0,
        "overlap": 0,
        "enable_compile": "disable",
        "optimization_level": "balanced",
    }
    links = {"upscale_model": ["model", 0], "image": ["picture", 0]}
    return {
        "picture": node("LoadImage", image="large.png"),
        "model": node("UpscaleModelLoader", model_name="cudaspeed-compact-x2.safetensors"),
        "ours": node("UpscaleImageCUDAspeed", **{**usual, **links, **widgets}),
        "save": node("SaveImage", images=["ours", 0], filename_prefix="ours"),
    }


def _error(entry: dict[str, Any]) -> dict[str, Any]:
    return next(told for kind, told in entry["status"]["messages"] if kind == "execution_error")


def test_texts_and_errors_come_in_the_users_language(server: Server) -> None:
    wrong = _prompt(tile_size=64, overlap=64)  # which only a run finds out
    _set(server, Comfy_Locale="zh")
    error = _error(server.run(wrong))
    assert error["exception_message"].startswith("overlap 为 64，而 tile_size 为 64；重叠必须小于分块")
    assert error["exception_type"].endswith("BadOptionError")
    assert any("upscale_engine.py" in line for line in error["traceback"])
    log = Path(server.folder / "log.txt").read_text(encoding="utf-8")
    assert "overlap is 64 and tile size 64; the overlap must be smaller" in log  # by which others can help

    page = Page(server, _prompt(tile_size=64))
    assert page.wait()[1] == "execution_success", server.log()
    texts = [text for _, text in page.texts("ours")]
    assert texts
    assert all(_CHINESE.search(text) for text in texts), texts

    _set(server, CUDAspeed_Language="en")
    assert _error(server.run(wrong))["exception_message"].startswith("overlap is 64 and tile size 64")
