"""The workflow templates and the blueprint as files: nothing in them that is not there. They run in
comfyui/test_templates.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from workflows import BLUEPRINTS, TEMPLATES, choices_of, is_widget, nodes_of, read, specs_of, values_of

from cudaspeed import nodes

_SCALE = (["nearest-exact", "bilinear", "area", "bicubic", "lanczos"], {})
# Nodes of ComfyUI 0.33's own, as far as templates use them.
CORE: dict[str, dict[str, Any]] = {
    "LoadImage": {"image": (["example.png"], {})},
    "SaveImage": {"images": ("IMAGE", {}), "filename_prefix": ("STRING", {})},
    "PreviewImage": {"images": ("IMAGE", {})},
    "ImageScaleBy": {
        "image": ("IMAGE", {}),
        "upscale_method": _SCALE,
        "scale_by": ("FLOAT", {"min": 0.01, "max": 8.0}),
    },
    "ImageScale": {
        **{"image": ("IMAGE", {}), "upscale_method": _SCALE},
        **{side: ("INT", {"min": 0, "max": 16384}) for side in ("width", "height")},
        "crop": (["disabled", "center"], {}),
    },
    "ImageCompare": {"image_a": ("IMAGE", {}), "image_b": ("IMAGE", {}), "compare_view": ("IMAGECOMPARE", {})},
    "ImageFlip": {
        "image": ("IMAGE", {}),
        "flip_method": (["x-axis: vertically", "y-axis: horizontally"], {}),
    },
    "ImageStitch": {
        "image1": ("IMAGE", {}),
        "direction": (["right", "down", "left", "up"], {}),
        "match_image_size": ("BOOLEAN", {}),
        "spacing_width": ("INT", {"min": 0, "max": 1024}),
        "spacing_color": (["white", "black", "red", "green", "blue"], {}),
        "image2": ("IMAGE", {}),
    },
    "LoadImageDataSetFromFolder": {"folder": (["pictures"], {})},
    "LoadVideo": {"file": (["film.mp4"], {})},
    "SaveVideo": {
        "video": ("VIDEO", {}),
        "filename_prefix": ("STRING", {}),
        "format": (["auto"], {}),
        "codec": (["auto"], {}),
    },
    "CheckpointLoaderSimple": {"ckpt_name": (["v1-5-pruned-emaonly-fp16.safetensors"], {})},
    "CLIPTextEncode": {"text": ("STRING", {}), "clip": ("CLIP", {})},
    "EmptyLatentImage": {
        **{side: ("INT", {"min": 16, "max": 16384}) for side in ("width", "height")},
        "batch_size": ("INT", {"min": 1, "max": 4096}),
    },
    "KSampler": {
        "model": ("MODEL", {}),
        "seed": ("INT", {"min": 0, "max": (1 << 64) - 1, "control_after_generate": True}),
        "steps": ("INT", {"min": 1, "max": 10000}),
        "cfg": ("FLOAT", {"min": 0.0, "max": 100.0}),
        "sampler_name": (["euler", "euler_ancestral", "dpmpp_2m", "uni_pc"], {}),
        "scheduler": (["simple", "karras", "exponential", "normal"], {}),
        **{name: ("CONDITIONING", {}) for name in ("positive", "negative")},
        "latent_image": ("LATENT", {}),
        "denoise": ("FLOAT", {"min": 0.0, "max": 1.0}),
    },
    "VAEDecode": {"samples": ("LATENT", {}), "vae": ("VAE", {})},
}
NEEDY = {"LoadVideo", "LoadImageDataSetFromFolder", "CheckpointLoaderSimple", "LatentUpscaleModelLoaderCUDAspeed"}
"""Nodes whose files a fresh ComfyUI does not have."""


@pytest.fixture(autouse=True)
def latent_upscaler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our loader lists what people have: here the one that the template is for."""
    (tmp_path / "latent-upscaler-v2.1_SDv1-x2.0.safetensors").touch()
    monkeypatch.setenv("CUDASPEED_MODELS", str(tmp_path))


def specs(kind: str) -> dict[str, tuple[Any, dict[str, Any]]]:
    if kind in CORE:
        return CORE[kind]
    return specs_of(nodes.NODE_CLASS_MAPPINGS[kind].INPUT_TYPES())


def may_stay_free(kind: str) -> set[str]:
    """Sockets that a node does without."""
    return set() if kind in CORE else {*nodes.NODE_CLASS_MAPPINGS[kind].INPUT_TYPES().get("optional", {})}


def check_node(node: dict[str, Any]) -> None:
    """Every input there is, and every value one that its widget takes."""
    known = specs(node["type"])
    assert {slot["name"] for slot in node["inputs"]} <= {*known}, node["type"]
    linked = {slot["name"] for slot in node["inputs"] if slot.get("link") is not None}
    wires = {name for name, (kind, _) in known.items() if not is_widget(kind)} - may_stay_free(node["type"])
    assert wires <= linked, f"{node['type']} wants {wires - linked}"
    values = values_of(node, known)
    own = node["type"] not in CORE
    assert not own or len(node["widgets_values"]) == sum(is_widget(kind) for kind, _ in known.values())
    for name, value in values.items():
        kind, told = known[name]
        choices = choices_of(kind, told)
        assert choices is None or value in choices, (node["type"], name, value)
        assert "min" not in told or told["min"] <= value <= told["max"], (node["type"], name, value)


def check_links(graph: dict[str, Any]) -> None:
    """Every link ends where its two nodes say."""
    by_number = {node["id"]: node for node in graph["nodes"]}
    for number, source, output, target, place, kind in graph["links"]:
        assert number in by_number[source]["outputs"][output]["links"]
        assert by_number[source]["outputs"][output]["type"] == kind == by_number[target]["inputs"][place]["type"]
        assert by_number[target]["inputs"][place]["link"] == number


def test_there_are_templates_for_what_people_do() -> None:
    used = {node["type"] for path in TEMPLATES for node in nodes_of(read(path))}
    assert len(TEMPLATES) >= 7
    assert {"UpscaleImageWithModelCUDAspeed", "UpscaleImageCUDAspeed", "UpscaleVideoCUDAspeed"} <= used
    assert {"LatentUpscaleModelLoaderCUDAspeed", "UpscaleLatentCUDAspeed"} <= used
    assert {"ImageCompare", "LoadImageDataSetFromFolder"} <= used


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_names_what_there_is_and_has_its_picture(path: Path) -> None:
    graph = read(path)
    for node in nodes_of(graph):
        check_node(node)
    check_links(graph)
    thumbnail = path.with_suffix(".jpg")
    with Image.open(thumbnail) as picture:
        assert picture.format == "JPEG"
        assert max(picture.size) <= 512
    assert thumbnail.stat().st_size < 60_000


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_that_needs_a_file_says_so_in_its_name(path: Path) -> None:
    needs = NEEDY & {node["type"] for node in nodes_of(read(path))}
    assert bool(needs) == ("(needs_a_" in path.stem)


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_a_blueprint_names_what_there_is(path: Path) -> None:
    blueprint = read(path)
    (outer,), (inner,) = blueprint["nodes"], blueprint["definitions"]["subgraphs"]
    assert outer["type"] == inner["id"]
    assert [slot["name"] for slot in outer["inputs"]] == [slot["name"] for slot in inner["inputs"]]
    for node in nodes_of(inner):
        check_node(node)
    by_number = {node["id"]: node for node in inner["nodes"]}
    for link in inner["links"]:
        if link["target_id"] in by_number:
            slot = by_number[link["target_id"]]["inputs"][link["target_slot"]]
            assert (slot["link"], slot["type"]) == (link["id"], link["type"])
        if link["origin_id"] in by_number:
            assert link["id"] in by_number[link["origin_id"]]["outputs"][link["origin_slot"]]["links"]
        else:
            assert link["id"] in inner["inputs"][link["origin_slot"]]["linkIds"]


def test_what_is_installed_brings_them() -> None:
    told = (Path(nodes.__file__).parent / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f'"{pattern}"' in told for pattern in ("subgraphs/*.json", "example_workflows/*", "web/js/*.js"))
