"""Every workflow template, run in a fresh ComfyUI: what it writes is of the size that it promises.

As it is, but that samplers take one step for a small picture: twenty for a large one take minutes on a CPU.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import latent_zoo
import numpy as np
import pytest
from comfyui_server import COMFYUI, EXAMPLE, Server, start_comfyui
from films import make_film
from PIL import Image
from small_checkpoint import write_checkpoint
from workflows import TEMPLATES, Specs, nodes_of, prompt_of, read, specs_of

pytestmark = pytest.mark.skipif(not COMFYUI, reason="COMFYUI_DIR is not set: no ComfyUI to run in")

# What each writes into the output folder: the beginning of the name, and (width, height).
WRITTEN = {
    "upscale_x2": ("upscaled_x2", (1536, 1536)),
    "upscale_to_3840x2160": ("upscaled_3840x2160", (3840, 2160)),
    "before_and_after": ("before_and_after", (1536, 1536)),
    "folder_of_pictures_(needs_a_folder)": ("folder/upscaled", (902, 600)),
    "seamless_texture": ("seamless_texture", (1024, 1024)),
    "two_samplers_(needs_a_latent_upscaler)": ("two_samplers", (256, 192)),
    "video_(needs_a_video)": ("video/cudaspeed", (128, 96)),
}
QUICK = {"KSampler": {"steps": 1}, "EmptyLatentImage": {"width": 128, "height": 96}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("comfyui")
    for kind in ("checkpoints", "latent_upscale_models"):
        (folder / "models" / kind).mkdir(parents=True)
    write_checkpoint(checkpoint := folder / "models" / "checkpoints" / "v1-5-pruned-emaonly-fp16.safetensors")
    latent_zoo.file_of(
        "latent-upscaler-v2.1_SDxl-x1.5", folder / "models" / "latent_upscale_models", "latent-upscaler-v2.1_SDv1-x2.0"
    )
    with start_comfyui(folder, {}) as running:
        shipped = Path(COMFYUI or "") / "input" / "example.png"  # what a fresh ComfyUI has
        shutil.copy(shipped, folder / "input" / "example.png")
        (folder / "input" / "pictures").mkdir()
        for name in ("one", "two"):
            shutil.copy(EXAMPLE, folder / "input" / "pictures" / f"{name}.png")
        make_film(folder / "input" / "film.mp4", [0, 40, 80])
        yield running
    checkpoint.unlink()  # pytest keeps the folders of the last runs


def quick(prompt: dict[str, Any]) -> dict[str, Any]:
    """A prompt as it is, but for what would take minutes on a CPU."""
    for asked in prompt.values():
        asked["inputs"] |= QUICK.get(asked["class_type"], {})
    return prompt


@pytest.fixture(scope="module")
def inputs(server: Server) -> dict[str, Specs]:
    return {kind: specs_of(told["input"]) for kind, told in server.get("/object_info").items()}


def test_comfyui_offers_them_with_their_pictures_and_the_blueprint(server: Server) -> None:
    (offered,) = server.get("/workflow_templates").values()
    assert {*offered} == {path.stem for path in TEMPLATES} == {*WRITTEN}
    if (Path(COMFYUI or "") / "blueprints").is_dir():
        entries = server.get("/global_subgraphs").values()
        assert "Video Upscale (CUDAspeed)" in [entry["name"] for entry in entries]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_it_runs(server: Server, inputs: dict[str, Specs], path: Path) -> None:
    graph = read(path)
    missing = {node["type"] for node in nodes_of(graph)} - {*inputs}
    if missing == {"ImageCompare"}:
        pytest.skip("this ComfyUI has no ImageCompare yet")
    assert not missing
    entry = server.run(quick(prompt_of(graph, inputs)))
    assert entry["status"]["status_str"] == "success", str(entry["status"]) + server.log()
    beginning, size = WRITTEN[path.stem]
    written = sorted(file for file in (server.folder / "output").rglob("*") if beginning in file.as_posix())
    assert len(written) == (2 if "folder" in path.stem else 1)
    if path.stem.startswith("video"):
        (told,) = entry["outputs"].values()
        assert told["images"][0]["filename"] == written[0].name
        return
    for file in written:
        with Image.open(file) as picture:
            assert picture.size == size
            pixels = np.asarray(picture).astype(int)
        assert pixels.std() > 1, "there is something to be seen"
        if path.stem == "seamless_texture":
            across = np.abs(pixels[:, 0] - pixels[:, -1]).mean()
            assert across <= 2 * np.abs(np.diff(pixels, axis=1)).mean() + 1, "the seam is no edge"
