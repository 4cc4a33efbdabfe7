"""Latents in a real ComfyUI: our loader and node between its own, and what goes wrong in a sentence."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import latent_zoo
import pytest
import torch
from comfyui_page import Page
from comfyui_server import COMFYUI, Server, make_folders, node, start_comfyui
from safetensors.torch import load_file, save_file
from testing_nodes import CENSUS, LATENTS
from torch import Tensor
from workflows import choices_of, specs_of

pytestmark = pytest.mark.skipif(not COMFYUI, reason="COMFYUI_DIR is not set: no ComfyUI to run in")

FIXED, ANY = "latent-upscaler-v1.0_SDv1-x2.0", "upscaler_SDXL"
UNEVEN = "latent-upscaler-v2.1_SDxl-x1.5"  # its latents go through the engine on a canvas
CORES = "hunyuan"  # of the kind that core's own loader loads
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("comfyui")
    make_folders(folder)
    models = folder / "models" / "latent_upscale_models"
    models.mkdir()
    for name in (FIXED, ANY, UNEVEN):
        latent_zoo.file_of(name, models)
    write_cores(models / f"{CORES}.safetensors")
    with start_comfyui(folder, {"latents.py": LATENTS, "census.py": CENSUS}) as running:
        yield running


def write_cores(path: Path) -> None:
    """A small upsampler of HunyuanVideo 1.5, which gives latents of 16 channels at the size that they have."""
    layers = {"in_conv": (4, 16), "out_conv": (16, 4), **{f"blocks.0.block.{place}": (4, 4) for place in (0, 2, 4)}}
    weights = {f"{name}.conv.weight": torch.zeros(*sides, 3, 3, 3) for name, sides in layers.items()}
    save_file({**weights, **{f"{name}.conv.bias": torch.zeros(sides[0]) for name, sides in layers.items()}}, path)


def prompt(model: str, latent: dict[str, Any], **widgets: Any) -> dict[str, Any]:
    return {
        "latent": latent,
        "model": node("LatentUpscaleModelLoaderCUDAspeed", model_name=f"{model}.safetensors"),
        "larger": node("UpscaleLatentCUDAspeed", latent_upscale_model=["model", 0], latent=["latent", 0], **widgets),
        "saved": node("SaveLatent", samples=["larger", 0], filename_prefix="larger"),
    }


def failure(server: Server, asked: dict[str, Any]) -> str:
    entry = server.run(asked)
    assert entry["status"]["status_str"] == "error"
    return next(told["exception_message"] for kind, told in entry["status"]["messages"] if kind == "execution_error")


def saved(server: Server, entry: dict[str, Any]) -> Tensor:
    """The samples that a prompt has saved."""
    assert entry["status"]["status_str"] == "success", json.dumps(entry["status"]) + server.log()
    (told,) = entry["outputs"]["saved"]["latents"]
    return load_file(server.folder / "output" / told["filename"])["latent_tensor"]


def empty(batch: int) -> dict[str, Any]:
    """Another one for each batch, or ComfyUI would take the result of the last prompt."""
    return node("EmptyLatentImage", width=128, height=96, batch_size=batch)


EMPTY = empty(2)


@pytest.mark.parametrize(
    ("model", "widgets", "size"), [(FIXED, {}, (24, 32)), (ANY, {"scale_by": 1.5}, (18, 24)), (ANY, {}, (24, 32))]
)
def test_a_latent_is_enlarged_between_cores_nodes(
    server: Server, model: str, widgets: dict[str, Any], size: tuple[int, int]
) -> None:
    assert saved(server, server.run(prompt(model, EMPTY, **widgets))).shape == (2, 4, *size)


def test_a_latent_of_another_kind_is_one_sentence(server: Server) -> None:
    told = failure(server, prompt(FIXED, node("EmptySD3LatentImage", width=128, height=96, batch_size=1)))
    assert told.startswith(
        "this latent has 16 channels (Flux, SD3, Wan, Qwen), and SD-Latent-Upscaler is for 4 (SD 1.5)"
    )


def test_cores_own_node_says_which_one_to_use_for_ours(server: Server) -> None:
    kind = "HunyuanVideo15LatentUpscaleWithModel"
    if kind not in server.get("/object_info"):
        pytest.skip(f"this ComfyUI has no {kind}")
    asked = prompt(FIXED, EMPTY)
    asked["larger"] = node(
        kind,
        **{"model": ["model", 0], "samples": ["latent", 0], "upscale_method": "bilinear"},
        **{"width": 256, "height": 192, "crop": "disabled"},
    )
    assert "is for Upscale Latent CUDAspeed; ComfyUI's own nodes take only those" in failure(server, asked)


def cores_instead() -> dict[str, Any]:
    """Core's node in the place of ours, by the same wires."""
    whole = {"upscale_method": "nearest-exact", "width": 256, "height": 192, "crop": "disabled"}
    return node("LatentUpscale", samples=["latent", 0], **whole)


def test_what_comes_out_is_what_cores_node_would_give(server: Server) -> None:
    """All that the latent had on its way in, with samples of the same shape and kind."""
    ours = {**prompt(FIXED, empty(3)), "all": node("AllOfLatent", latent=["larger", 0])}
    entries = [server.run(asked) for asked in (ours, {**ours, "larger": cores_instead()})]
    assert [saved(server, entry).shape for entry in entries] == [(3, 4, 24, 32)] * 2
    told = [json.loads(entry["outputs"]["all"]["text"][0]) for entry in entries]
    assert told[0] == told[1]
    assert told[0]["samples"] == ["torch.float32", "cpu", 3, 4, 24, 32]


def test_a_latent_of_picture_and_sound_is_one_sentence(server: Server) -> None:
    told = failure(server, prompt(FIXED, node("OddLatent", what="picture and sound", batch=1))).strip()
    assert told == "the latent has several tensors in one (picture and sound); split it, and enlarge one of them"


def test_cores_own_loader_lists_what_ours_lists_and_loads_its_own(server: Server) -> None:
    known = server.get("/object_info")
    ours, cores = (
        choices_of(*specs_of(known[kind]["input"])["model_name"])
        for kind in ("LatentUpscaleModelLoaderCUDAspeed", "LatentUpscaleModelLoader")
    )
    assert ours == cores == sorted(f"{name}.safetensors" for name in (FIXED, ANY, UNEVEN, CORES))
    asked = {
        "latent": node("EmptyHunyuanLatentVideo", width=128, height=96, length=1, batch_size=1),
        "model": node("LatentUpscaleModelLoader", model_name=f"{CORES}.safetensors"),
        "larger": node(
            "HunyuanVideo15LatentUpscaleWithModel",
            **{"model": ["model", 0], "samples": ["latent", 0], "upscale_method": "bilinear"},
            **{"width": 512, "height": 384, "crop": "disabled"},
        ),
        "saved": node("SaveLatent", samples=["larger", 0], filename_prefix="cores"),
    }
    assert saved(server, server.run(asked)).shape == (1, 16, 1, 24, 32)
    asked["larger"] = node("UpscaleLatentCUDAspeed", latent_upscale_model=["model", 0], latent=["latent", 0])
    told = failure(server, asked)
    assert told.startswith("the latent upscale model is a ")
    assert "connect the output of LatentUpscaleModelLoaderCUDAspeed" in told


def test_who_interrupts_a_long_run_waits_for_a_moment_and_can_go_on(server: Server) -> None:
    page = Page(server, prompt(FIXED, node("OddLatent", what="noise", batch=500)))  # of about a minute
    page.wait_for_bar("larger")
    asked = time.monotonic()
    server.post("/interrupt", {})
    ended, how = page.wait()
    assert how == "execution_interrupted"
    assert ended - asked < 20, "a busy machine's moment, too"
    _, value, most = page.bars("larger")[-1]
    assert value < most / 4
    assert saved(server, server.run(prompt(FIXED, empty(4)))).shape == (4, 4, 24, 32)


def test_free_gives_all_of_it_back(server: Server) -> None:
    """The models, our copies of them, and what was made. Core's node comes first: what it takes is no part of that."""

    def run(asked: dict[str, Any]) -> None:
        entry = server.run(asked)
        assert entry["status"]["status_str"] == "success", server.log()

    noise = node("OddLatent", what="noise", batch=16)
    run({**prompt(FIXED, noise), "larger": cores_instead()})
    server.free()
    before, tensors = server.resident_bytes(), server.get("/census")["bytes"]
    files = (server.folder / "models" / "latent_upscale_models" / f"{name}.safetensors" for name in (FIXED, UNEVEN))
    weights = sum(file.stat().st_size for file in files)
    run(
        prompt(FIXED, noise)
        | {
            "other": node("LatentUpscaleModelLoaderCUDAspeed", model_name=f"{UNEVEN}.safetensors"),
            "uneven": node("UpscaleLatentCUDAspeed", latent_upscale_model=["other", 0], latent=["latent", 0]),
            "saved too": node("SaveLatent", samples=["uneven", 0], filename_prefix="uneven"),
        }
    )
    assert server.get("/census")["bytes"] > tensors + weights, "models and results stay for the next prompt"
    server.free()
    assert server.get("/census")["bytes"] <= tensors + weights / 8
    assert server.resident_bytes() <= before + 30 * MEGABYTE
    assert "unloaded: 2 copies of models" in server.log()
