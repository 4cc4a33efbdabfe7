"""What a run was like is kept on its node, folded, and explained from the node's menu."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from browser import Browser
from comfyui_server import USUAL, Server, node
from films import every, make_film

IMAGE = 3
EXPLAIN = "text=Explain last run"
_KEPT = """async (number) => [
  app.graph.serialize().nodes.find((node) => Number(node.id) === number),
  (await app.graphToPrompt()).output[number],
]"""


def workflow(width: int) -> dict[str, Any]:
    """A small picture of that width, upscaled."""
    small = node("ImageScale", image=["1", 0], upscale_method="area", width=width, height=40, crop="disabled")
    return {
        "1": node("LoadImage", image="large.png"),
        "2": node("UpscaleModelLoader", model_name="cudaspeed-compact-x2.safetensors"),
        "3": node("UpscaleImageCUDAspeed", upscale_model=["2", 0], image=["5", 0], **USUAL),
        "4": node("PreviewImage", images=["3", 0]),
        "5": small,
    }


def open_menu(page: Browser) -> None:
    """A canvas that was shown a moment ago does not hear the first clicks."""
    x, y, _, _ = page.node(IMAGE)["place"]
    for _ in range(5):
        page.click_at((x + 120, y + 12), button="right")
        page.evaluate("() => new Promise((go) => setTimeout(go, 1000))")
        if page.evaluate("() => /Bypass/.test(document.body.innerText)"):
            return
    pytest.fail("no menu opens")


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
def test_it_is_folded_on_the_node_and_explained_in_sentences(server: Server, browser: Browser, vue: bool) -> None:
    browser.open(server, {"Comfy.Locale": "en", "Comfy.VueNodes.Enabled": vue})
    width = 60 + vue  # another prompt each time, or nothing is computed
    browser.load(workflow(width))
    assert browser.texts(".cudaspeed-last-run") == []
    before = browser.node(IMAGE)["place"][3]
    assert browser.run()["status"]["status_str"] == "success", server.log()
    browser.wait("() => document.querySelector('.cudaspeed-last-run summary')")
    assert not browser.evaluate("() => document.querySelector('.cudaspeed-last-run details').open")
    browser.evaluate("() => new Promise((go) => setTimeout(go, 500))")
    height = browser.node(IMAGE)["place"][3]
    assert height - before < 160, "two lines more, and no room for what is folded away"
    browser.click(".cudaspeed-last-run summary")
    browser.wait("() => document.querySelector('.cudaspeed-last-run table').getBoundingClientRect().height > 60")
    (told,) = browser.texts(".cudaspeed-last-run table")
    assert f"{width}x40 -> {2 * width}x80" in told
    for name in ("plan", "precision", "compilation", "health", "peak memory", "time"):
        assert name in told
    assert 60 < browser.node(IMAGE)["place"][3] - height < 260, "there is room for it, and no more"
    saved, sent = browser.evaluate(_KEPT, IMAGE)
    of_node = [value for name, value in browser.node(IMAGE)["widgets"].items() if not name.startswith("$$")]
    assert saved["widgets_values"] == of_node, "as if nothing more were on the node"
    assert "last-run" not in json.dumps([saved, sent])
    browser.click(".cudaspeed-last-run summary")
    browser.evaluate("() => new Promise((go) => setTimeout(go, 500))")
    assert abs(browser.node(IMAGE)["place"][3] - height) < 20, "folded again it takes no more than before"
    open_menu(browser)
    browser.click(EXPLAIN)
    (sentences,) = browser.texts(".cudaspeed-explained")
    assert f"{width}x40 pixels became {2 * width}x80" in sentences
    assert "in one piece" in sentences
    browser.click(".cudaspeed-explained button")
    assert browser.texts(".cudaspeed-explained") == []
    assert browser.our_errors() == []


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
def test_a_films_is_on_the_node_that_it_comes_from_once_it_is_saved(
    server: Server, browser: Browser, vue: bool
) -> None:
    make_film(server.folder / "input" / f"film_{vue}.mp4", every(40, 8))
    browser.open(server, {"Comfy.Locale": "en", "Comfy.VueNodes.Enabled": vue})
    browser.load(
        {
            "1": node("LoadVideo", file=f"film_{vue}.mp4"),
            "2": node("UpscaleModelLoader", model_name="cudaspeed-compact-x2.safetensors"),
            "3": node("UpscaleVideoCUDAspeed", upscale_model=["2", 0], video=["1", 0]),
            "4": node("SaveVideo", video=["3", 0], filename_prefix="film", format="auto", codec="auto"),
        }
    )
    assert browser.run()["status"]["status_str"] == "success", server.log()
    browser.wait("() => document.querySelector('.cudaspeed-last-run summary')")
    assert [name for name in browser.node(4)["widgets"] if "last-run" in name] == []
    browser.bring_into_sight(IMAGE)
    browser.click(".cudaspeed-last-run summary")
    browser.wait("() => document.querySelector('.cudaspeed-last-run table').getBoundingClientRect().height > 60")
    (told,) = browser.texts(".cudaspeed-last-run table")
    assert "8 frames of 128x96, libx264" in told
    assert "encoding" in told and "precision" in told
    open_menu(browser)
    browser.click(EXPLAIN)
    (sentences,) = browser.texts(".cudaspeed-explained")
    assert "8 frames of 64x48 pixels became 128x96" in sentences
    assert "Encoded by libx264 as yuv420p" in sentences
    browser.click(".cudaspeed-explained button")
    assert browser.our_errors() == []


def test_it_is_read_in_the_language_of_our_texts(server: Server, browser: Browser) -> None:
    browser.open(server, {"Comfy.Locale": "en", "CUDAspeed.Language": "zh", "Comfy.VueNodes.Enabled": False})
    browser.load(workflow(64))
    assert browser.run()["status"]["status_str"] == "success", server.log()
    browser.wait("() => document.querySelector('.cudaspeed-last-run summary')")
    assert browser.texts(".cudaspeed-last-run summary") == ["上次运行"]
    browser.click(".cudaspeed-last-run summary")
    names = browser.texts(".cudaspeed-last-run th")
    assert names and all(re.search("[\u4e00-\u9fff]", name) for name in names)


def test_a_node_that_did_not_run_has_nothing_to_explain(page: Browser) -> None:
    page.load(workflow(70))
    open_menu(page)
    assert page.texts(EXPLAIN) == []
