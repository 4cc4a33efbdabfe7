"""The pack inside a real ComfyUI on the CPU, through its HTTP interface.

Needs COMFYUI_DIR, a checkout of ComfyUI, and COMFYUI_PYTHON, an interpreter that has its requirements (this one, when
not set). Skipped without the first.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from comfyui_page import Page
from comfyui_server import COMFYUI, Server, node, start_comfyui
from slow_model import write_slow_model

MODEL = "cudaspeed-compact-x2.safetensors"
FP32 = {
    "use_autocast": "disable",
    "precision": "fp32",
    "tile_size": 0,
    "overlap": 0,
    "enable_compile": "enable",
    "optimization_level": "balanced",
}

# A node that makes the server one where our kernels for CPUs cannot be built, and compiling is what makes it faster,
# whatever else this machine does just then.
WITHOUT_KERNELS = """
import sys


class WithoutKernels:
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "testing", "run", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        for name, module in list(sys.modules.items()):
            if name.endswith(".winograd") and hasattr(module, "prepare"):
                module.prepare = lambda folder, patience=0.0: False
            if name.endswith(".model_entries") and hasattr(module, "_CLEARLY_SLOWER"):
                module._CLEARLY_SLOWER = 100.0
        return ()


NODE_CLASS_MAPPINGS = {"WithoutKernels": WithoutKernels}
"""

pytestmark = pytest.mark.skipif(not COMFYUI, reason="COMFYUI_DIR is not set: no ComfyUI to run in")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("comfyui")
    with start_comfyui(folder, {"without_kernels.py": WITHOUT_KERNELS}) as running:
        yield running


def loaded(**more: Any) -> dict[str, Any]:
    return {
        "picture": node("LoadImage", image="large.png"),
        "model": node("UpscaleModelLoader", model_name=MODEL),
        **more,
    }


def ours(kind: str = "UpscaleImageCUDAspeed", **widgets: Any) -> dict[str, Any]:
    return node(kind, upscale_model=["model", 0], image=["picture", 0], **{**FP32, **widgets})


def save(source: str) -> dict[str, Any]:
    return node("SaveImage", images=[source, 0], filename_prefix=source)


def furthest(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def test_nodes_are_offered_with_the_original_packs_widgets(server: Server) -> None:
    info = server.get("/object_info")
    ours, old = info["UpscaleImageCUDAspeed"], info["ImageUpscaleWithModelCUDAspeedFixed"]
    assert ours["display_name"] == "🚀 Upscale Image CUDAspeed"
    assert ours["category"] == "image/upscaling"
    assert list(ours["input"]["required"]) == [
        *("upscale_model", "image", "use_autocast", "precision", "tile_size", "overlap"),
        *("enable_compile", "optimization_level"),
    ]
    assert list(ours["input"]["optional"]) == [
        "batch_size",
        "compile_mode",
        "tiling_mode",
        "alpha_mode",
        "reproducible",
        "scale_by",
        "target_width",
        "target_height",
        "fit",
        "resample",
        "devices",
    ]
    assert old["deprecated"]
    assert not ours.get("deprecated")
    assert MODEL in json.dumps(info["UpscaleModelLoader"]["input"])


def test_our_node_equals_cores_whole_and_tiled_and_leaves_the_model_alone(server: Server) -> None:
    core = node("ImageUpscaleWithModel", upscale_model=["model", 0], image=["picture", 0])
    pictures = server.pictures(
        loaded(
            whole=ours(),
            tiled=ours(tile_size=256),
            half=ours(precision="bf16"),
            core=core,
            save_whole=save("whole"),
            save_tiled=save("tiled"),
            save_half=save("half"),
            save_core=save("core"),
        )
    )
    assert pictures["save_core"].shape == (1060, 1400, 3)
    assert furthest(pictures["save_whole"], pictures["save_core"]) <= 2
    assert furthest(pictures["save_tiled"], pictures["save_core"]) <= 2
    # core runs on the very same model object again, after ours has used it in half precision
    after = server.pictures(
        loaded(
            same=node("RepeatImageBatch", image=["picture", 0], amount=1),  # another node, or the result is cached
            again=node("ImageUpscaleWithModel", upscale_model=["model", 0], image=["same", 0]),
            save_again=save("again"),
        )
    )
    assert furthest(after["save_again"], pictures["save_core"]) == 0


def test_a_workflow_of_the_original_pack_runs_with_values_off_the_widgets_steps(server: Server) -> None:
    pictures = server.pictures(
        loaded(
            old=ours("ImageUpscaleWithModelCUDAspeedFixed", tile_size=200, overlap=12, precision="auto", batch_size=2),
            save=save("old"),
        )
    )
    assert pictures["save"].shape == (1060, 1400, 3)


def test_an_impossible_widget_is_one_clear_error(server: Server) -> None:
    entry = server.run(loaded(bad=ours(tile_size=16, overlap=64), save=save("bad")))
    assert entry["status"]["status_str"] == "error"
    message = json.dumps(entry["status"])
    assert "overlap is 64 and tile size 16" in message
    assert "smaller than the tile" in message


def test_it_can_be_interrupted_and_unloaded_and_still_works(server: Server) -> None:
    # a minute of work; not one picture many times, which is computed once
    large = node("ImageScaleBy", image=["picture", 0], upscale_method="bicubic", scale_by=6.0)
    slow = {**ours(tile_size=32), "inputs": {**ours(tile_size=32)["inputs"], "image": ["large", 0]}}
    prompt = loaded(large=large, slow=slow, save=save("slow"))
    number = server.post("/prompt", {"prompt": prompt})["prompt_id"]
    for _ in range(200):
        if server.get("/queue")["queue_running"]:
            break
        time.sleep(0.05)
    time.sleep(3)
    server.post("/interrupt", {})
    for _ in range(300):
        if history := server.get(f"/history/{number}"):
            break
        time.sleep(0.1)
    how = history[number]["status"]
    assert "execution_interrupted" in json.dumps(how), how
    server.post("/free", {"unload_models": True, "free_memory": True})
    time.sleep(1)
    pictures = server.pictures(loaded(after=ours(), save=save("after")))
    assert pictures["save"].shape == (1060, 1400, 3)


@pytest.fixture(scope="module")
def slow_model(server: Server) -> str:
    return write_slow_model(server.folder / "models" / "upscale_models")


@pytest.mark.parametrize("widgets", [{}, {"tile_size": 96}], ids=["one piece", "tiles"])
def test_the_page_is_never_left_without_a_word(server: Server, slow_model: str, widgets: dict[str, Any]) -> None:
    prompt = loaded(mine=ours(**widgets), save=save("mine"))
    prompt["model"] = node("UpscaleModelLoader", model_name=slow_model)
    prompt["picture"] = node("ImageScale", image=["large", 0], upscale_method="bilinear", width=320, height=224,
                             crop="disabled")  # fmt: skip
    prompt["large"] = node("LoadImage", image="large.png")
    page = Page(server, prompt)
    assert page.wait()[1] == "execution_success", server.log()
    began, ended = page.ran("mine")
    bars, texts = page.bars("mine"), page.texts("mine")
    told = sorted([began, ended, *(when for when, *_ in bars), *(when for when, _ in texts)])
    assert max(b - a for a, b in itertools.pairwise(told)) <= 5.0, (bars, texts)
    assert {most for _, _, most in bars} == {bars[0][2]}, "the bar's end stays where it is"
    values = [value for _, value, _ in bars]
    assert values == sorted(values)
    assert len({*values}) >= 3
    assert any(text.endswith(" left") for _, text in texts)
    assert texts[-1][1].startswith("320x224 -> 640x448, fp32, "), "what stays to be read is what was done"


def test_an_interrupt_does_not_wait_for_the_end_of_a_piece(server: Server, slow_model: str) -> None:
    prompt = loaded(mine=ours(), save=save("mine"))
    prompt["model"] = node("UpscaleModelLoader", model_name=slow_model)
    page = Page(server, prompt)
    for _ in range(1200):
        if any(value for _, value, _ in page.bars("mine")):
            break
        time.sleep(0.05)
    asked = time.monotonic()
    server.post("/interrupt", {})
    ended, how = page.wait()
    assert how == "execution_interrupted", server.log()
    assert ended - asked <= 2.0
    assert page.texts("mine")[-1][1].startswith("stopped after ")


def test_a_compiled_model_lives_in_the_user_folder_and_is_loaded_again_after_unloading(server: Server) -> None:
    def ready() -> dict[str, Any]:
        index = json.loads((server.folder / "user" / "cudaspeed" / "compiled" / "index.json").read_text())
        models = [entry for entry in index["entries"].values() if "shapes" in entry["what"]]
        (entry,) = [entry for entry in models if entry.get("state") == "ready"]
        return entry

    warm = node("WarmUpUpscalerCUDAspeed", upscale_model=["model", 0], width=700, height=530, tile_size=0)
    warm["inputs"] |= {"use_autocast": "disable", "precision": "fp32"}
    entry = server.run({"model": loaded()["model"], "warm": warm})
    if sys.platform == "linux" and shutil.which("g++"):
        assert entry["outputs"]["warm"]["text"] == ["not needed: winograd kernels"]
    assert server.run({"without": node("WithoutKernels")})["status"]["status_str"] == "success"
    warm["inputs"]["width"] += 1  # or the result of the last is taken
    entry = server.run({"model": loaded()["model"], "warm": warm})
    assert entry["status"]["status_str"] == "success", entry["status"]
    if "no C++ compiler" in json.dumps(entry["outputs"]):
        pytest.skip("no C++ compiler to compile with")
    assert entry["outputs"]["warm"]["text"] == ["compiled"]
    assert ready()["verified"]
    hits = ready()["hits"]
    for turn in range(2):
        for _ in range(3):  # who is asked just after a prompt may not hear it, and run the next prompt first
            server.post("/free", {"unload_models": True})
            time.sleep(1)
        # another picture each time, or the result of the last is taken
        again = node("RepeatImageBatch", image=["picture", 0], amount=turn + 1)
        first = node("ImageFromBatch", image=["again", 0], batch_index=turn, length=1)
        mine = {**ours(), "inputs": {**ours()["inputs"], "image": ["first", 0]}}
        core = node("ImageUpscaleWithModel", upscale_model=["model", 0], image=["first", 0])
        prompt = loaded(again=again, first=first, mine=mine, core=core, save=save("mine"), save_core=save("core"))
        pictures = server.pictures(prompt)
        assert furthest(pictures["save"], pictures["save_core"]) <= 2
        assert ready()["hits"] == hits + turn + 1, (
            f"let go with the model, and loaded with it: {ready()} {server.log()}"
        )
