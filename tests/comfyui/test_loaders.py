"""Our loader and the node that does it all, and what the original pack saved, in a real ComfyUI."""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comfyui_page import Page
from comfyui_server import COMFYUI, PACK, Server, node, start_comfyui
from safetensors.torch import save_file

pytestmark = pytest.mark.skipif(not COMFYUI, reason="COMFYUI_DIR is not set: no ComfyUI to run in")

MODEL = "cudaspeed-compact-x2.safetensors"
ONE, LOADER = "UpscaleImageWithModelCUDAspeed", "UpscaleModelLoaderCUDAspeed"
# with nothing that one run learns and the next one uses
FP32 = {"use_autocast": "disable", "precision": "fp32", "enable_compile": "disable", "reproducible": "enable"}
OLD_VALUES = {**FP32, "tile_size": 0, "overlap": 0, "optimization_level": "balanced"}

# A node that tells how often a model file was read.
READS = """
import sys


class ReadsOfModels:
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "testing", "run", (), True
    counts = []

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    @classmethod
    def IS_CHANGED(cls):
        return float("nan")

    def run(self):
        for name, module in list(sys.modules.items()):
            if name.endswith(".host.upscale_models") and not hasattr(module, "counted"):
                load, module.counted = module.load_model, True

                def counting(path, load=load):
                    self.counts.append(str(path))
                    return load(path)

                module.load_model = counting
        return {"ui": {"text": [str(len(self.counts))]}}


NODE_CLASS_MAPPINGS = {"ReadsOfModels": ReadsOfModels}
"""

# The original pack's newest node, as far as ComfyUI asks.
ORIGINAL = """
class ImageUpscaleWithModelCUDAspeedFixed:
    CATEGORY, FUNCTION, RETURN_TYPES = "image/upscaling", "upscale", ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"upscale_model": ("UPSCALE_MODEL",), "image": ("IMAGE",),
                             "enable_debug": ("BOOLEAN", {"default": False})}}

    def upscale(self, upscale_model, image, enable_debug):
        return (image,)


NODE_CLASS_MAPPINGS = {"ImageUpscaleWithModelCUDAspeedFixed": ImageUpscaleWithModelCUDAspeedFixed}
NODE_DISPLAY_NAME_MAPPINGS = {"ImageUpscaleWithModelCUDAspeedFixed": "the original"}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_comfyui(tmp_path_factory.mktemp("comfyui"), {"reads.py": READS}) as running:
        yield running


def models(server: Server) -> Path:
    return server.folder / "models" / "upscale_models"


def picture() -> dict[str, Any]:
    return {"picture": node("LoadImage", image="large.png")}


def one(model: str = MODEL, **widgets: Any) -> dict[str, Any]:
    return node(ONE, model_name=model, image=["picture", 0], **{**FP32, **widgets})


def save(source: str, prefix: str = "saved") -> dict[str, Any]:
    return node("SaveImage", images=[source, 0], filename_prefix=prefix)


def refusal(server: Server, prompt: dict[str, Any]) -> dict[str, Any]:
    """What ComfyUI answers to a prompt that it does not run."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/prompt",
        json.dumps({"prompt": prompt}).encode(),
        {"Content-Type": "application/json"},
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    return json.loads(caught.value.read())


def test_the_list_tells_what_models_are_and_its_values_stay_file_names(server: Server) -> None:
    for kind in (ONE, LOADER):
        names, told = server.get("/object_info")[kind]["input"]["required"]["model_name"]
        assert MODEL in names
        assert told["cudaspeed_labels"][MODEL] == "x2 RealESRGAN Compact"
    core = json.dumps(server.get("/object_info")["UpscaleModelLoader"]["input"])
    assert MODEL in core, "one loader can be put for the other"


def test_the_loader_serves_cores_node_and_ours_and_says_what_it_loaded(server: Server) -> None:
    prompt = {
        **picture(),
        "model": node(LOADER, model_name=MODEL),
        "core": node("ImageUpscaleWithModel", upscale_model=["model", 0], image=["picture", 0]),
        "ours": node("UpscaleImageCUDAspeed", upscale_model=["model", 0], image=["picture", 0], **OLD_VALUES),
        "one": one(),
        **{f"save_{name}": save(name, name) for name in ("core", "ours", "one")},
    }
    page = Page(server, prompt)
    assert page.wait()[1] == "execution_success", server.log()
    assert page.texts("model")[-1][1].startswith(f"{MODEL}: x2 RealESRGAN Compact")
    made = server.pictures({**prompt, **{f"save_{name}": save(name, f"b_{name}") for name in ("core", "ours", "one")}})
    assert np.array_equal(made["save_one"], made["save_ours"]), "the same bits"
    assert int(np.abs(made["save_core"].astype(int) - made["save_ours"].astype(int)).max()) <= 2


def test_a_second_identical_prompt_runs_nothing_and_a_file_is_read_once(server: Server) -> None:
    own = models(server) / "own.safetensors"
    shutil.copy(PACK / "models" / "bundled" / MODEL, own)
    server.run({"reads": node("ReadsOfModels")})

    def reads() -> int:
        return int(server.run({"reads": node("ReadsOfModels")})["outputs"]["reads"]["text"][0])

    before = reads()
    prompt = {**picture(), "first": one("own.safetensors"), "save": save("first", "kept")}
    server.pictures(prompt)
    again = Page(server, prompt)
    assert again.wait()[1] == "execution_success"
    messages = dict(server.get(f"/history/{again.number}")[again.number]["status"]["messages"])
    assert "first" in messages["execution_cached"]["nodes"]
    assert reads() == before + 1
    other = {**picture(), "second": one("own.safetensors", scale_by=1.5), "save": save("second", "kept")}
    server.pictures(other)
    assert reads() == before + 1, "by another node in another prompt"
    server.post("/free", {"unload_models": True})
    for _ in range(300):  # a second later
        if "unloaded: " in server.log():
            break
        time.sleep(0.1)
    time.sleep(0.5)
    server.pictures({**picture(), "third": one("own.safetensors", scale_by=1.7), "save": save("third", "kept")})
    assert reads() == before + 2, "let go of with ComfyUI's own models"
    shutil.copy(PACK / "models" / "bundled" / "cudaspeed-compact-x4.safetensors", own)
    made = server.pictures({**picture(), "third": one("own.safetensors", scale_by=0), "save": save("third", "kept")})
    assert made["save"].shape == (2120, 2800, 3), "a file that was replaced is another model"
    own.unlink()


def test_a_wrong_file_is_said_before_anything_runs(server: Server) -> None:
    whole = (PACK / "models" / "bundled" / MODEL).read_bytes()
    wrong = {
        "empty.pth": (b"", "it is empty"),
        "page.pth": (b"<!DOCTYPE html><html>Sign in</html>", "is a web page"),
        "half.safetensors": (whole[: len(whole) // 2], "cut short"),
        "code.pth": (b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.", "would run posix.system"),
    }
    for name, (content, said) in wrong.items():
        (models(server) / name).write_bytes(content)
        message = json.dumps(refusal(server, {**picture(), "one": one(name), "save": save("one")})["node_errors"])
        assert said in message, name
        assert name in message
        assert f"{len(content):,} bytes" in message
        (models(server) / name).unlink()
    gone = json.dumps(refusal(server, {**picture(), "one": one("gone.pth"), "save": save("one")})["node_errors"])
    assert "gone.pth: does not exist" in gone


def test_what_is_wrong_is_marked_and_nothing_beside_it(server: Server) -> None:
    for wrong, marked in ({"scale_by": 99.0}, "scale_by"), ({"target_width": -5}, "target_width"):
        prompt = {**picture(), "one": one(**{"scale_by": 0.0, "target_width": 0, "target_height": 0, **wrong})}
        told = refusal(server, {**prompt, "save": save("one")})["node_errors"]["one"]["errors"]
        assert [error["extra_info"]["input_name"] for error in told] == [marked]
    (models(server) / "empty.pth").touch()
    prompt = {**picture(), "one": one("empty.pth", scale_by=0.0, target_width=64), "save": save("one")}
    told = refusal(server, prompt)["node_errors"]["one"]["errors"]
    assert [error["extra_info"]["input_name"] for error in told] == ["model_name"]
    (models(server) / "empty.pth").unlink()
    entry = server.run({**picture(), "one": one(scale_by=2.0, target_width=64), "save": save("one")})
    (failure,) = [told for kind, told in entry["status"]["messages"] if kind == "execution_error"]
    assert (failure["node_id"], failure["exception_type"]) == ("one", "cudaspeed.BadOptionError")
    assert "scale_by is 2 and the target 64x; choose one of them" in failure["exception_message"]


@pytest.mark.parametrize("kind", [ONE, LOADER, "UpscaleImageCUDAspeed"])
def test_an_input_that_a_node_does_not_have_is_left_out_as_a_value_and_an_error_as_a_wire(
    server: Server, kind: str
) -> None:
    prompt = {
        **picture(),
        "model": node(LOADER, model_name=MODEL),
        "ours": node("UpscaleImageCUDAspeed", upscale_model=["model", 0], image=["picture", 0], **OLD_VALUES),
        "one": one(),
    }
    asked = {ONE: "one", LOADER: "model", "UpscaleImageCUDAspeed": "ours"}[kind]
    prompt["save"] = save("one" if kind == ONE else "ours")
    prompt[asked]["inputs"]["of_a_newer_version"] = 3
    server.pictures(prompt)
    prompt[asked]["inputs"]["mask"] = ["picture", 1]
    entry = server.run(prompt)
    (failure,) = [told for kind, told in entry["status"]["messages"] if kind == "execution_error"]
    assert failure["node_id"] == asked
    assert failure["exception_message"].startswith("this node has no input 'mask'; disconnect it, or ")


def test_a_model_of_another_kind_is_said_on_the_node_in_one_line(server: Server) -> None:
    save_file({"lora_unet_a.lora_down.weight": torch.zeros(4, 4)}, models(server) / "style.safetensors")
    entry = server.run({**picture(), "one": one("style.safetensors"), "save": save("one")})
    (failure,) = [told for kind, told in entry["status"]["messages"] if kind == "execution_error"]
    assert "style.safetensors" in failure["exception_message"]
    assert "is a LoRA" in failure["exception_message"]
    assert "bytes" in failure["exception_message"]


OLD = {  # no two alike, or the result of the last is taken
    "seven values": {**OLD_VALUES, "batch_size": 2},
    "eight by name": {**OLD_VALUES, "enable_debug": False, "batch_size": 3},
    "eight by place, in a page without our script": {**OLD_VALUES, "batch_size": False, "compile_mode": 4},
}


@pytest.mark.parametrize("widgets", OLD.values(), ids=OLD.keys())
def test_the_fixed_nodes_formats_run(server: Server, widgets: dict[str, Any]) -> None:
    old = node("ImageUpscaleWithModelCUDAspeedFixed", upscale_model=["model", 0], image=["picture", 0], **widgets)
    made = server.pictures(
        {**picture(), "model": node(LOADER, model_name=MODEL), "old": old, "save": save("old", "old")}
    )
    assert made["save"].shape == (1060, 1400, 3)


@pytest.mark.parametrize("balance", [{}, {"gpu_load_balance": 0.5}])
@pytest.mark.parametrize("meta", [{}, {"_meta": {"title": "old"}}])
def test_the_first_node_for_two_cards_runs(server: Server, balance: dict[str, Any], meta: dict[str, Any]) -> None:
    old = node(
        "ImageUpscaleWithModelCUDAspeed",
        **{"upscale_model": ["model", 0], "image": ["picture", 0]},
        **{"use_autocast": "disable", "precision": "fp32", "multi_gpu_mode": "dual_gpu"},
        **{"tile_size": 512, "overlap": 32 + len(balance) * 8 + len(meta) * 16, **balance},
    )
    made = server.pictures(
        {**picture(), "model": node(LOADER, model_name=MODEL), "old": {**old, **meta}, "save": save("old", "old")}
    )
    assert made["save"].shape == (1060, 1400, 3)
    info = server.get("/object_info")
    if "ImageUpscaleWithModelCUDAspeed" not in info:
        (offered,) = server.get("/node_replacements")["ImageUpscaleWithModelCUDAspeed"]
        assert offered["new_node_id"] == "UpscaleImageCUDAspeed"
        assert offered["old_widget_ids"][2] == "multi_gpu_mode"
    else:
        assert info["ImageUpscaleWithModelCUDAspeed"]["deprecated"]


def test_the_original_pack_or_ours_again_beside_ours_is_one_warning(tmp_path: Path) -> None:
    """Whichever comes first, which a folder's order decides."""
    again = tmp_path / "custom_nodes" / "again"
    again.mkdir(parents=True)
    for path in PACK.iterdir():
        if not path.name.startswith("."):
            (again / path.name).symlink_to(path)
    with start_comfyui(tmp_path, {"original.py": ORIGINAL}) as running:
        info = running.get("/object_info")
        log = (tmp_path / "log.txt").read_text()
    assert info["ImageUpscaleWithModelCUDAspeedFixed"]["display_name"] == "the original"
    assert info["UpscaleImageCUDAspeed"]["display_name"] == "🚀 Upscale Image CUDAspeed"
    warned = [line for line in log.splitlines() if "two packs bring the same nodes" in line]
    assert len(warned) == 2, log
    assert sum("ImageUpscaleWithModelCUDAspeedFixed" in line and "original" in line for line in warned) == 1
    assert "Traceback" not in log
