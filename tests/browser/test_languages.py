"""Names, tooltips and help are Chinese where the page is, and follow when the language is changed."""

from __future__ import annotations

import re

import pytest
from browser import Browser
from comfyui_server import Server, node

KINDS = ["UpscaleImageCUDAspeed", "UpscaleVideoCUDAspeed", "WarmUpUpscalerCUDAspeed"]
_NAMES = """(kind) => {
  const node = LiteGraph.createNode(kind);
  const told = node.widgets.map((widget) => [widget.name, widget.label, widget.tooltip ?? widget.options?.tooltip]);
  return { title: node.title, widgets: told };
}"""


def is_chinese(text: str | None) -> bool:
    return bool(re.search("[\u4e00-\u9fff]", text or ""))


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "vue"])
def test_a_chinese_page_has_chinese_names_and_help(server: Server, browser: Browser, vue: bool) -> None:
    browser.open(server, {"Comfy.Locale": "zh", "Comfy.VueNodes.Enabled": vue})
    for kind in KINDS:
        browser.load({"1": node(kind)})
        assert is_chinese(browser.node(1)["title"])
        assert is_chinese(browser.help(1))
    assert browser.our_errors() == []


def test_the_language_is_changed_while_the_page_is_open(page: Browser) -> None:
    english = page.evaluate(_NAMES, KINDS[0])
    assert not is_chinese(str(english))
    page.set("Comfy.Locale", "zh")
    page.wait("(kind) => /[\\u4e00-\\u9fff]/.test(LiteGraph.createNode(kind).title)", KINDS[0])
    chinese = page.evaluate(_NAMES, KINDS[0])
    assert [name for name, label, _ in chinese["widgets"] if not is_chinese(label)] == []
    assert [name for name, _, tooltip in chinese["widgets"] if not is_chinese(tooltip)] == []
    page.set("Comfy.Locale", "en")
    page.wait("([kind, title]) => LiteGraph.createNode(kind).title === title", [KINDS[0], english["title"]])
