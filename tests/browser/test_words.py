"""What people read on the nodes, in their language, and how much of a node they see at first."""

from __future__ import annotations

import time

import catalogue
import pytest
from browser import Browser
from comfyui_server import Server

locales = catalogue.locales()
KINDS = ("UpscaleImageCUDAspeed", "UpscaleVideoCUDAspeed", "WarmUpUpscalerCUDAspeed")

MAKE = """(kinds) => kinds.map((kind, place) => {
  const node = LiteGraph.createNode(kind);
  node.pos = [300 * place, 0];
  app.graph.add(node);
  return { title: node.title, height: node.size[1],
    inputs: Object.fromEntries(node.inputs.map((input) => [input.name, input.localized_name])),
    widgets: node.widgets.map((widget) => [widget.name, Boolean(widget.options?.advanced)]) };
})"""
TOOLTIP = """([name]) => {
  const node = app.graph.nodes[0], widget = node.widgets.find((one) => one.name === name);
  const box = app.canvas.canvas.getBoundingClientRect();
  const [x, y] = app.canvas.convertOffsetToCanvas([node.pos[0] + 60, node.pos[1] + (widget.last_y ?? widget.y) + 8]);
  return [x + box.left, y + box.top];
}"""


@pytest.mark.parametrize("language", locales.languages())
def test_names_are_of_the_pages_language(server: Server, browser: Browser, language: str) -> None:
    browser.open(server, {"Comfy.Locale": language, "Comfy.VueNodes.Enabled": False})
    words = locales.read(language, "nodeDefs")
    for kind, made in zip(KINDS, browser.evaluate(MAKE, list(KINDS)), strict=True):
        assert made["title"] == words[f"{kind}.display_name"]
        wanted = {name: words.get(f"{kind}.inputs.{name}.name", name) for name in made["inputs"]}
        assert made["inputs"] == wanted


def test_tooltips_are_chinese_where_the_page_is(server: Server, browser: Browser) -> None:
    browser.open(server, {"Comfy.Locale": "zh", "Comfy.VueNodes.Enabled": False})
    browser.evaluate(MAKE, list(KINDS[:1]))
    browser.evaluate("() => { app.canvas.ds.offset = [200, 200]; app.canvas.draw(true, true); }")
    x, y = browser.evaluate(TOOLTIP, ["tile_size"])
    shown = ""
    for step in range(20):  # the page may not have drawn the node yet when the first one comes
        browser.move_to([x - 4 * (step % 2), y])
        time.sleep(1)  # the page shows it after half of that
        if shown := browser.evaluate("() => document.querySelector('.node-tooltip')?.innerText"):
            break
    assert shown == locales.read("zh", "nodeDefs")["UpscaleImageCUDAspeed.inputs.tile_size.tooltip"]


def test_a_new_node_is_no_taller_than_what_is_seen_of_it(server: Server, browser: Browser) -> None:
    heights = []
    for vue in (False, True):
        browser.open(server, {"Comfy.Locale": "en", "Comfy.VueNodes.Enabled": vue})
        heights.append([made["height"] for made in browser.evaluate(MAKE, list(KINDS))])
    folded = [14, 13, 1]
    assert [tall - short for tall, short in zip(*heights, strict=True)] == [20 * count for count in folded]
