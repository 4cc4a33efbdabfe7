"""ComfyUI's page in headless Chromium, driven by playwright-core through chromium.mjs.

Needs PLAYWRIGHT_DIR, a folder in which `npm install playwright-core` ran, node, and Chromium (CHROMIUM, or one on the
path).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from comfyui_server import COMFYUI, Server

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
PLAYWRIGHT = os.environ.get("PLAYWRIGHT_DIR")
_BRIDGE = Path(__file__).with_name("chromium.mjs")

_EMPTY = (640, 700)  # of a canvas without nodes
_SEARCH = '[role="dialog"] input'
_FOUND = '[role="dialog"] [role="option"]'

# What a page of a first visit would show above the canvas.
_QUIET = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False}


def lacking() -> str:
    """What there is not, of what a page needs; empty where all of it is."""
    if not COMFYUI:
        return "COMFYUI_DIR is not set: no ComfyUI to open a page of"
    if not CHROMIUM or not shutil.which("node"):
        return "there is no Chromium, or no node to drive it"
    if not PLAYWRIGHT or not (Path(PLAYWRIGHT) / "node_modules" / "playwright-core").is_dir():
        return "PLAYWRIGHT_DIR is no folder with playwright-core: make browser-tests installs it"
    return ""


class Browser:
    """A page of ComfyUI. Its nodes are named by their numbers in the graph; selectors are playwright's."""

    def __init__(self, bridge: subprocess.Popen[str]) -> None:
        self._bridge = bridge

    def open(
        self, server: Server, settings: Mapping[str, Any] | None = None, size: Sequence[int] = (1280, 800)
    ) -> None:
        """The page of `server` as a new visitor has it, with an empty canvas, once all nodes are known. `settings` are
        the user's, such as {"Comfy.Locale": "zh", "Comfy.VueNodes.Enabled": True}; all others are as they come."""
        kept = server.folder / "user" / "default" / "comfy.settings.json"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({**_QUIET, **(settings or {})}), encoding="utf-8")
        self._ask("open", url=f"http://127.0.0.1:{server.port}/", size={"width": size[0], "height": size[1]})
        self.evaluate("() => { app.graph.clear(); }")

    def evaluate(self, source: str, argument: Any = None) -> Any:
        """What a function of JavaScript gives in the page, such as "(id) => app.graph.getNodeById(id).title"."""
        return self._ask("evaluate", source=source, argument=argument)

    def wait(self, source: str, argument: Any = None, seconds: float = 60.0) -> Any:
        """What the function gives, once that is true."""
        return self._ask("wait", source=source, argument=argument, seconds=seconds)

    def click(self, selector: str, button: str = "left", twice: bool = False) -> None:
        self._ask("click", selector=selector, button=button, twice=twice)

    def click_at(self, place: Sequence[float], button: str = "left", twice: bool = False) -> None:
        self._ask("clickAt", x=place[0], y=place[1], button=button, twice=twice)

    def hover(self, selector: str) -> None:
        self._ask("hover", selector=selector)

    def move_to(self, place: Sequence[float]) -> None:
        self._ask("moveTo", x=place[0], y=place[1])

    def press(self, key: str) -> None:
        self._ask("press", key=key)

    def type(self, text: str) -> None:
        self._ask("type", text=text)

    def fill(self, selector: str, text: str) -> None:
        self._ask("fill", selector=selector, text=text)

    def texts(self, selector: str) -> list[str]:
        """What is to be read in every element of that kind."""
        return self._ask("texts", selector=selector)

    def screenshot(self, path: Path, selector: str | None = None, clip: Sequence[float] | None = None) -> None:
        """Of the page, of an element, or of (x, y, width, height) of the page; a JPEG by its name."""
        box = clip and dict(zip(("x", "y", "width", "height"), clip, strict=True))
        quality = 80 if path.suffix in (".jpg", ".jpeg") else None
        self._ask("screenshot", path=str(path), selector=selector, clip=box, quality=quality)

    def console(self) -> list[dict[str, str]]:
        """Errors and warnings since it was opened: {"kind", "text", "at"}, where `at` is a script's address."""
        return self._ask("told")

    def our_errors(self) -> list[dict[str, str]]:
        """Those that one of our scripts, or a file of ours that is not there, has caused."""
        return [told for told in self.console() if "cudaspeed" in (told["text"] + told["at"]).lower()]

    def set(self, setting: str, value: Any) -> None:
        """A setting of ComfyUI's user, while the page is open."""
        self.evaluate("([id, value]) => app.extensionManager.setting.set(id, value)", [setting, value])

    def load(self, workflow: dict[str, Any]) -> None:
        """Opens a workflow in the page: one as it is saved, or a prompt (numbers -> class_type, inputs)."""
        if "nodes" in workflow:
            self.evaluate("(workflow) => app.loadGraphData(workflow)", workflow)
        else:
            self.evaluate("(prompt) => app.loadApiJson(prompt, 'workflow')", workflow)

    def run(self, seconds: float = 120.0) -> dict[str, Any]:
        """Presses the Run button, and gives the history's entry of that prompt once it has ended."""
        self.evaluate(_HEAR_THE_END)
        self.click('[data-testid="queue-button"]')
        self.wait("() => window.ended", seconds=seconds)
        return self.evaluate(
            "() => fetch(`/history/${window.ended}`).then((a) => a.json()).then((h) => h[window.ended])"
        )

    def search(self, text: str) -> list[str]:
        """What the dialog that adds nodes finds: of each its name, its pack, its category, its description."""
        found = self.look_for(text)
        self.press("Escape")
        self.wait("(selector) => !document.querySelector(selector)", _SEARCH)
        return found

    def look_for(self, text: str) -> list[str]:
        """The same, and the dialog stays."""
        self._ask("openSearch", x=_EMPTY[0], y=_EMPTY[1], selector=_SEARCH)
        self.fill(_SEARCH, text)
        found, before = self.texts(_FOUND), None
        while found != before:  # the list follows what is typed a moment later
            self.evaluate("() => new Promise((go) => setTimeout(go, 400))")
            found, before = self.texts(_FOUND), found
        return found

    def help(self, number: int) -> str:
        """What the panel beside the canvas says of a node when its "i" is clicked."""
        self.evaluate("(number) => app.canvas.selectNode(app.graph.getNodeById(number))", number)
        self.click('[data-testid="info-button"]')
        self.wait("() => document.querySelector('.node-help-content li')")
        return "\n".join(self.texts(".node-help-content"))

    def bring_into_sight(self, number: int) -> None:
        """The whole of a node, below the bars."""
        self.evaluate(_INTO_SIGHT, number)

    def node(self, number: int) -> dict[str, Any]:
        """What the page has of a node: {"title", "type", "widgets": name -> value, "labels": name -> what is read
        before the value, "images": addresses, "place": (x, y, width, height) in the window, "has_errors"}. The text
        that a run leaves is the value of a widget of its own, whose name begins with "$$"."""
        return self.evaluate(_NODE, number)

    def text(self, number: int) -> str:
        """What a run has left to be read under a node; where the page draws nodes itself, all that is on it."""
        widgets = self.node(number)["widgets"]
        left = [str(value) for name, value in widgets.items() if name.startswith("$$") and value]
        return "\n".join([*left, *self.texts(f'[data-node-id="{number}"]')])

    def _ask(self, name: str, **command: Any) -> Any:
        assert self._bridge.stdin
        assert self._bridge.stdout
        said = {key: value for key, value in command.items() if value is not None}
        self._bridge.stdin.write(json.dumps({"name": name, **said}) + "\n")
        self._bridge.stdin.flush()
        line = self._bridge.stdout.readline()
        answer = json.loads(line) if line else {"error": "Chromium did not start, or is gone"}
        if "error" in answer:
            pytest.fail(f"{name}: {answer['error']}")
        return answer["value"]


@contextmanager
def start_browser() -> Iterator[Browser]:
    """A page that shows nothing yet. Chromium goes when its bridge's input is closed."""
    assert CHROMIUM
    assert PLAYWRIGHT
    bridge = subprocess.Popen(
        ["node", str(_BRIDGE), PLAYWRIGHT, CHROMIUM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Browser(bridge)
    finally:
        assert bridge.stdin
        bridge.stdin.close()
        try:
            bridge.wait(20)
        except subprocess.TimeoutExpired:
            bridge.kill()


_HEAR_THE_END = """() => {
  window.ended = null;
  const heard = ({ detail }) => { window.ended ??= detail.prompt_id; };
  for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
    app.api.addEventListener(kind, heard, { once: true });
}"""

_INTO_SIGHT = """(number) => {
  const { pos, size } = app.graph.getNodeById(number);
  const { ds } = app.canvas;
  ds.scale = Math.min(1, (window.innerHeight - 220) / (size[1] + 30));
  ds.offset = [200 / ds.scale - pos[0], 160 / ds.scale - pos[1]];
  app.canvas.setDirty(true, true);
}"""

_NODE = """(number) => {
  const node = app.graph.getNodeById(number);
  if (!node) return null;
  const widgets = node.widgets ?? [];
  return {
    title: node.title,
    type: node.type,
    widgets: Object.fromEntries(widgets.map((widget) => [widget.name, widget.value])),
    labels: Object.fromEntries(widgets.map((widget) => [widget.name, widget.label ?? widget.name])),
    images: (node.imgs ?? []).map((image) => image.src),
    place: [
      ...app.canvas.convertOffsetToCanvas([node.pos[0], node.pos[1] - 30]),
      node.size[0] * app.canvas.ds.scale,
      (node.size[1] + 30) * app.canvas.ds.scale,
    ],
    has_errors: Boolean(node.has_errors),
  };
}"""
