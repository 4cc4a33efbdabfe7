"""Latents in a real ComfyUI: our loader and node between its own, and what goes wrong in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import latent_zoo
import pytest
from comfyui_server import COMFYUI, Server, make_folders, node, start_comfyui
from safetensors.torch import load_file

pytestmark = pytest.mark.skipif(not COMFYUI, reason="COMFYUI_DIR is not set: no ComfyUI to run in")

FIXED, ANY = "latent-upscaler-v1.0_SDv1-x2.0", "upscaler_SDXL"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("comfyui")
    make_folders(folder)
    models = folder / "models" / "latent_upscale_models"
    models.mkdir()
    for name in (FIXED, ANY):
        latent_zoo.file_of(name, models)
    with start_comfyui(folder, {}) as running:
        yield running


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


EMPTY = node("EmptyLatentImage", width=128, height=96, batch_size=2)


@pytest.mark.parametrize(
    ("model", "widgets", "size"), [(FIXED, {}, (24, 32)), (ANY, {"scale_by": 1.5}, (18, 24)), (ANY, {}, (24, 32))]
)
def test_a_latent_is_enlarged_between_cores_nodes(
    server: Server, model: str, widgets: dict[str, Any], size: tuple[int, int]
) -> None:
    entry = server.run(prompt(model, EMPTY, **widgets))
    assert entry["status"]["status_str"] == "success", server.log()
    saved = sorted((server.folder / "output").glob("*.latent"))[-1]
    assert load_file(saved)["latent_tensor"].shape == (2, 4, *size)


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
