"""The lists of models: what each is stands behind its name, and a long list can be filtered."""

from __future__ import annotations

from browser import Browser
from comfyui_server import node

X2 = "cudaspeed-compact-x2.safetensors"
_LENGTHEN = """([number, names]) => {
  const widget = app.graph.getNodeById(number).widgets.find(({ name }) => name === "model_name");
  widget.options.values = [...widget.options.values, ...names];
}"""
_ON_WIDGET = """(number) => {
  const node = app.graph.getNodeById(number);
  return app.canvas.convertOffsetToCanvas([node.pos[0] + node.size[0] / 2, node.pos[1] + node.widgets[0].y + 10]);
}"""
ENTRY = ".litecontextmenu .litemenu-entry"


def test_a_list_tells_what_models_are_and_is_filtered_by_it(page: Browser) -> None:
    page.load({"1": node("UpscaleModelLoaderCUDAspeed", model_name=X2)})
    page.bring_into_sight(1)
    page.evaluate(_LENGTHEN, [1, [f"nobody-{count}.pth" for count in range(40)]])
    for _ in range(5):  # a canvas that was shown a moment ago does not hear the first clicks
        page.click_at(page.evaluate(_ON_WIDGET, 1))
        page.evaluate("() => new Promise((go) => setTimeout(go, 1000))")
        if page.texts(ENTRY):
            break
    told = page.texts(ENTRY)
    assert len(told) == 42
    assert any(text.startswith(f"{X2} · x2") for text in told)
    page.fill(".comfy-context-menu-filter", "x4 ")
    page.wait("(entry) => [...document.querySelectorAll(entry)].filter((e) => e.checkVisibility()).length === 1", ENTRY)
    page.press("Enter")
    assert page.node(1)["widgets"]["model_name"] == "cudaspeed-compact-x4.safetensors"
