"""Names, tooltips and help are Chinese where the page is, and follow when the language is changed."""

from __future__ import annotations

import re

import pytest
from browser import Browser
from comfyui_server import Server, node

KINDS = ["UpscaleImageCUDAspeed", "UpscaleVideoCUDAspeed", "WarmUpUpscalerCUDAspeed"]
_ON_WIDGET = """(number) => {
  const node = app.graph.getNodeById(number);
  return app.canvas.convertOffsetToCanvas([node.pos[0] + 60, node.pos[1] + node.widgets[0].y + 8]);
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


def tooltip(page: Browser) -> str:
    """What is read when the pointer rests on the first widget of the only node."""
    x, y = page.evaluate(_ON_WIDGET, 1)
    page.move_to((x - 300, y))
    page.wait("() => !document.querySelector('.node-tooltip')?.innerText")
    page.move_to((x, y))
    return page.wait("() => document.querySelector('.node-tooltip')?.innerText")


def chosen(page: Browser, language: str, is_it: bool) -> bool:
    """Whether the labels are Chinese, or not, as they should be once the page has made its nodes anew."""
    page.set("Comfy.Locale", language)
    for _ in range(8):
        page.evaluate("() => new Promise((go) => setTimeout(go, 3000))")
        if is_chinese(str(page.node(1)["labels"])) is is_it:
            return True
    return False


def test_names_and_tooltips_follow_when_the_language_is_changed(page: Browser) -> None:
    """Titles, of core's nodes as of ours, are those of the language that the page was opened in. The first time that a
    language is chosen, the page may make its nodes, core's too, before it has the words: then it is chosen again."""
    page.load({"1": node(KINDS[0])})
    assert not is_chinese(str(page.node(1)["labels"]))
    assert chosen(page, "zh", True) or (chosen(page, "en", False) and chosen(page, "zh", True))
    assert all(is_chinese(label) for label in page.node(1)["labels"].values())
    assert is_chinese(tooltip(page))
    assert chosen(page, "en", False)
    assert not is_chinese(tooltip(page))
