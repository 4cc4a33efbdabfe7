"""What somebody meets who has just installed the pack: the nodes are found, explained, and run from the button."""

from __future__ import annotations

from typing import Any

import pytest
from browser import Browser
from comfyui_server import USUAL, Server, node

PACK = "upscale-cudaspeed"
IMAGE, SAVED = 3, 4


def workflow(prefix: str, **widgets: Any) -> dict[str, Any]:
    """The picture through the x2 model that comes with the pack, as a prompt."""
    return {
        "1": node("LoadImage", image="large.png"),
        "2": node("UpscaleModelLoader", model_name="cudaspeed-compact-x2.safetensors"),
        "3": node("UpscaleImageCUDAspeed", upscale_model=["2", 0], image=["1", 0], **{**USUAL, **widgets}),
        "4": node("SaveImage", images=["3", 0], filename_prefix=prefix),
    }


def our_nodes(server: Server) -> dict[str, dict[str, Any]]:
    """Those of the pack that people are offered, as the page is told of them."""
    info = server.get("/object_info")
    ours = {kind: told for kind, told in info.items() if told["python_module"] == f"custom_nodes.{PACK}"}
    assert len(ours) >= 4
    return {kind: told for kind, told in ours.items() if not told.get("deprecated")}


def test_the_page_opens_without_a_complaint_about_us(page: Browser) -> None:
    page.load(workflow("opened"))
    assert page.node(IMAGE)["type"] == "UpscaleImageCUDAspeed"
    assert page.our_errors() == []


def test_every_node_is_found_by_the_packs_name_and_by_each_of_its_aliases(server: Server, page: Browser) -> None:
    ours = our_nodes(server)
    found = "\n".join(page.search("cudaspeed"))
    assert [told["display_name"] for told in ours.values() if told["display_name"] not in found] == []
    kinds_of = {alias: [] for told in ours.values() for alias in told.get("search_aliases", ())}
    for kind, told in ours.items():
        for alias in told.get("search_aliases", ()):
            kinds_of[alias].append(kind)
    missed = []
    for alias, kinds in kinds_of.items():  # each once: most are several nodes'
        lines = "\n".join(page.search(alias))
        missed += [(kind, alias) for kind in kinds if ours[kind]["display_name"] not in lines]
    assert missed == []


def test_who_looks_for_upscale_finds_the_image_node(page: Browser) -> None:
    assert any("Upscale Image CUDAspeed" in line for line in page.search("upscale"))


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
def test_a_picture_is_upscaled_from_the_run_button_and_shown(server: Server, browser: Browser, vue: bool) -> None:
    browser.open(server, {"Comfy.Locale": "en", "Comfy.VueNodes.Enabled": vue})
    browser.load(workflow(f"run {vue}"))
    entry = browser.run()
    assert entry["status"]["status_str"] == "success", server.log()
    (told,) = entry["outputs"][str(SAVED)]["images"]
    shown = browser.wait(
        "([number, name]) => (app.nodeOutputs[number]?.images ?? []).find((image) => image.filename === name)",
        [SAVED, told["filename"]],
    )
    assert shown["type"] == "output"
    loaded = "(name) => [...document.images].some((i) => i.src.includes(name) && i.naturalWidth > 0)"
    drawn = "([number]) => app.graph.getNodeById(number).imgs?.some((image) => image.naturalWidth === 1400)"
    assert browser.wait(loaded, told["filename"].replace(" ", "+")) if vue else browser.wait(drawn, [SAVED])
    assert browser.our_errors() == []


@pytest.mark.parametrize("kind", ["UpscaleImageCUDAspeed", "UpscaleVideoCUDAspeed", "WarmUpUpscalerCUDAspeed"])
def test_the_help_of_a_node_tells_of_each_of_its_widgets(server: Server, page: Browser, kind: str) -> None:
    page.load({"1": node(kind)})
    told = page.help(1)
    widgets = [name for name in page.node(1)["widgets"] if not name.startswith("$$")]
    assert widgets
    assert [name for name in widgets if name not in told] == []
