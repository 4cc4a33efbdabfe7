"""Several devices inside a real ComfyUI: workers on the CPU stand in for cards.

Needs COMFYUI_DIR and COMFYUI_PYTHON as test_images.py does. Skipped without the first.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui_page import Page
from comfyui_server import COMFYUI, Server, node, start_comfyui
from films import Look, decoded, every, make_film
from PIL import Image
from slow_model import write_slow_model

MODEL = "cudaspeed-compact-x2.safetensors"
FP32 = {"precision": "fp32", "enable_compile": "disable"}
PICTURE = {"use_autocast": "disable", "tile_size": 0, "overlap": 0, "optimization_level": "balanced"}

pytestmark = pytest.mark.skipif(not COMFYUI, reason="COMFYUI_DIR is not set: no ComfyUI to run in")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("comfyui")
    with start_comfyui(folder, {}) as running:
        write_slow_model(folder / "models" / "upscale_models")
        make_film(folder / "input" / "film.mp4", every(40, 50), Look(size=(96, 128)))
        yield running


def ours(source: str = "picture", **widgets: Any) -> dict[str, Any]:
    return node("UpscaleImageCUDAspeed", upscale_model=["model", 0], image=[source, 0], **FP32, **PICTURE, **widgets)


def loaded(model: str = MODEL, **more: Any) -> dict[str, Any]:
    return {
        "picture": node("LoadImage", image="large.png"),
        "model": node("UpscaleModelLoader", model_name=model),
        **more,
    }


def save(source: str) -> dict[str, Any]:
    return node("SaveImage", images=[source, 0], filename_prefix=source)


def test_a_picture_and_several_come_out_as_from_one_device_and_the_node_tells_who_did_it(server: Server) -> None:
    flipped = node("ImageFlip", image=["picture", 0], flip_method="x-axis: vertically")
    if "ImageFlip" not in server.get("/object_info"):
        flipped = node("ImageInvert", image=["picture", 0])
    prompt = loaded(
        **{"flipped": flipped, "both": node("ImageBatch", image1=["picture", 0], image2=["flipped", 0])},
        **{"one": ours(), "two": ours(devices="cpu,cpu"), "pair": ours("both", devices="cpu,cpu")},
        **{"save_one": save("one"), "save_two": save("two"), "save_pair": save("pair")},
    )
    entry = server.run(prompt)
    assert entry["status"]["status_str"] == "success", server.log()
    told = json.loads(entry["outputs"]["two"]["cudaspeed"][0])
    assert "on 2 devices" in told["summary"]
    assert dict(told["facts"])["shared by"].count("part") == 2
    told = json.loads(entry["outputs"]["pair"]["cudaspeed"][0])
    assert dict(told["facts"])["shared by"].count("1 frame") == 2
    files = [server.folder / "output" / f"{name}_00001_.png" for name in ("one", "two", "pair")]
    one, two, pair = (np.asarray(Image.open(file)).astype(int) for file in files)
    assert np.abs(two - one).max() <= 1
    assert np.abs(pair - one).max() <= 1


def test_a_device_that_is_not_there_is_one_clear_error_before_anything_runs(server: Server) -> None:
    for devices, told in [("cuda:7", "cuda:7"), ("cpu,", "give names with commas"), ("abacus", "abacus")]:
        entry = server.run(loaded(mine=ours(devices=devices), save=save("mine")))
        assert entry["status"]["status_str"] == "error"
        assert told in json.dumps(entry["status"])
        assert "device" in json.dumps(entry["status"])


def test_an_interrupt_ends_all_devices_and_the_next_prompt_runs(server: Server) -> None:
    page = Page(server, loaded("slow.safetensors", mine=ours(devices="cpu,cpu"), save=save("mine")))
    for _ in range(1200):
        if any("on 2 devices" in text for _, text in page.texts("mine")):
            break
        time.sleep(0.05)
    asked = time.monotonic()
    server.post("/interrupt", {})
    ended, how = page.wait()
    assert how == "execution_interrupted", server.log()
    assert ended - asked <= 2.0
    assert page.texts("mine")[-1][1].startswith("stopped after ")
    assert server.pictures(loaded(mine=ours(devices="cpu,cpu"), save=save("mine")))["save"].shape == (1060, 1400, 3)


def test_the_copies_of_all_devices_go_when_models_are_unloaded(server: Server) -> None:
    server.run(loaded(mine=ours(devices="cpu,cpu,cpu"), save=save("mine")))
    server.free()
    found = server.pictures(loaded(mine=ours(devices="cpu,cpu,cpu"), save=save("mine")))
    assert found["save"].shape == (1060, 1400, 3)


def test_a_film_is_that_of_one_device(server: Server) -> None:
    info = server.get("/object_info")
    if "UpscaleVideoCUDAspeed" not in info:
        pytest.skip("this ComfyUI is too old for films")
    choice = {"format": "auto", "codec": "auto"}
    if info["SaveVideo"]["input"]["required"]["format"][0] == "COMFY_DYNAMICCOMBO_V3":
        choice = {"format": "auto", "format.codec": "auto"}

    def film(devices: str) -> Path:
        mine = node("UpscaleVideoCUDAspeed", upscale_model=["model", 0], video=["film", 0], devices=devices, **FP32)
        prefix = f"film{len(devices)}"
        prompt = {
            "film": node("LoadVideo", file="film.mp4"),
            "model": node("UpscaleModelLoader", model_name=MODEL),
            "mine": mine,
            "save": node("SaveVideo", video=["mine", 0], filename_prefix=prefix, **choice),
        }
        entry = server.run(prompt)
        assert entry["status"]["status_str"] == "success", server.log()
        (made,) = (server.folder / "output").glob(f"{prefix}_0*")
        return made

    one, two = ([frame.to_ndarray() for frame in decoded(film(devices))] for devices in ("", "cpu,cpu"))
    assert len(one) == len(two) == 50
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
