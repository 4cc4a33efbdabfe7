"""What a real ComfyUI tells its page of the nodes: aliases, tooltips, languages, help.

Needs COMFYUI_DIR, and is skipped without: see test_images.py.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from typing import Any

import catalogue
import pytest
from comfyui_server import COMFYUI, Server, start_comfyui

from cudaspeed import nodes

locales = catalogue.locales()
pytestmark = pytest.mark.skipif(not COMFYUI, reason="COMFYUI_DIR is not set: no ComfyUI to run in")
LISTED = {"UpscaleImageCUDAspeed", "UpscaleVideoCUDAspeed", "WarmUpUpscalerCUDAspeed"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_comfyui(tmp_path_factory.mktemp("comfyui"), {}) as running:
        yield running


@pytest.fixture(scope="module")
def known(server: Server) -> dict[str, Any]:
    """What the page knows of our nodes: name -> what /object_info tells."""
    told = server.get("/object_info")
    ours = {name for name, node in told.items() if node["python_module"] == "custom_nodes.upscale-cudaspeed"}
    assert ours >= LISTED
    return {name: told[name] for name in ours}


def test_every_node_is_told_with_what_finds_and_explains_it(known: dict[str, Any]) -> None:
    for name, told in known.items():
        node = nodes.NODE_CLASS_MAPPINGS[name]
        assert told["description"] == node.DESCRIPTION
        assert told["output_tooltips"] == [*node.OUTPUT_TOOLTIPS]
        assert told.get("search_aliases", [*node.SEARCH_ALIASES]) == [*node.SEARCH_ALIASES]  # 0.8 tells none
        for widgets in told["input"].values():
            assert all(widget[1]["tooltip"] for widget in widgets.values())


def test_what_is_folded_away_is_told(known: dict[str, Any]) -> None:
    widgets = {
        name: widget[1] for group in known["UpscaleImageCUDAspeed"]["input"].values() for name, widget in group.items()
    }
    seen = [name for name, shown in widgets.items() if not shown.get("advanced")]
    assert seen == ["upscale_model", "image", "precision", "tile_size", "enable_compile"]
    assert widgets["tile_size"]["step"] == 8


@pytest.mark.parametrize("language", ["en", *locales.languages()])
def test_our_words_are_merged_into_the_page(server: Server, language: str) -> None:
    told = server.get("/i18n")[language]
    for file in locales.FILES:
        merged = dict(locales.flat(told if file == "main" else told.get(file, {})))
        assert locales.read(language, file).items() <= merged.items(), file


@pytest.mark.parametrize("language", ["en", "zh", ""])
def test_help_is_served_where_the_page_asks_for_it(server: Server, known: dict[str, Any], language: str) -> None:
    """By language first, and where there is none in it, without."""
    for name in known:
        place = f"{name}/{language}.md" if language else f"{name}.md"
        url = f"http://127.0.0.1:{server.port}/extensions/upscale-cudaspeed/docs/{place}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert "text/html" not in answer.headers.get_content_type()
            assert answer.read().decode() == (locales.HELP / place).read_text(encoding="utf-8")
