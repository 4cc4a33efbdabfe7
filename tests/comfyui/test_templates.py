"""Every workflow template, run as it is in a fresh ComfyUI: what it writes is of the size that it promises."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from comfyui_server import COMFYUI, EXAMPLE, Server, start_comfyui
from films import make_film
from PIL import Image
from workflows import TEMPLATES, Specs, nodes_of, prompt_of, read, specs_of

pytestmark = pytest.mark.skipif(not COMFYUI, reason="COMFYUI_DIR is not set: no ComfyUI to run in")

# What each writes into the output folder: the beginning of the name, and (width, height).
WRITTEN = {
    "upscale_x2": ("upscaled_x2", (1536, 1536)),
    "upscale_to_3840x2160": ("upscaled_3840x2160", (3840, 2160)),
    "before_and_after": ("before_and_after", (1536, 1536)),
    "folder_of_pictures_(needs_a_folder)": ("folder/upscaled", (902, 600)),
    "seamless_texture": ("seamless_texture", (1024, 1024)),
    "video_(needs_a_video)": ("video/cudaspeed", (128, 96)),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("comfyui")
    with start_comfyui(folder, {}) as running:
        shipped = Path(COMFYUI or "") / "input" / "example.png"  # what a fresh ComfyUI has
        shutil.copy(shipped, folder / "input" / "example.png")
        (folder / "input" / "pictures").mkdir()
        for name in ("one", "two"):
            shutil.copy(EXAMPLE, folder / "input" / "pictures" / f"{name}.png")
        make_film(folder / "input" / "film.mp4", [0, 40, 80])
        yield running


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
def test_it_runs_as_it_is(server: Server, inputs: dict[str, Specs], path: Path) -> None:
    graph = read(path)
    missing = {node["type"] for node in nodes_of(graph)} - {*inputs}
    if missing == {"ImageCompare"}:
        pytest.skip("this ComfyUI has no ImageCompare yet")
    assert not missing
    entry = server.run(prompt_of(graph, inputs))
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
        if path.stem == "seamless_texture":
            across = np.abs(pixels[:, 0] - pixels[:, -1]).mean()
            assert across <= 2 * np.abs(np.diff(pixels, axis=1)).mean() + 1, "the seam is no edge"
