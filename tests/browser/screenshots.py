"""The pictures of the page in docs/screenshots, made anew: `make screenshots`. Not a test by its name, so that only who
asks for it by name runs it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from browser import Browser
from comfyui_server import PACK, USUAL, Server, node

FOLDER = PACK / "docs" / "screenshots"
_SETTINGS = {"Comfy.Locale": "en", "Comfy.VueNodes.Enabled": True, "Comfy.Graph.CanvasInfo": False}
_MOST_BYTES = 200_000


@pytest.fixture
def page(server: Server, browser: Browser) -> Browser:
    shutil.copy(PACK / "examples" / "chelsea.png", server.folder / "input" / "chelsea.png")
    browser.open(server, _SETTINGS, (1440, 810))
    return browser


def shoot(page: Browser, name: str) -> None:
    target: Path = FOLDER / f"{name}.jpg"
    target.parent.mkdir(exist_ok=True)
    page.screenshot(target)
    assert target.stat().st_size < _MOST_BYTES


def laid_out(page: Browser) -> None:
    """Loader above, picture and result beside the node, and all of it in sight."""
    page.load(
        {
            "1": node("LoadImage", image="chelsea.png"),
            "2": node("UpscaleModelLoader", model_name="cudaspeed-compact-x2.safetensors"),
            "3": node("UpscaleImageCUDAspeed", upscale_model=["2", 0], image=["1", 0], **USUAL),
            "4": node("SaveImage", images=["3", 0], filename_prefix="upscaled"),
        }
    )
    page.evaluate(
        """(places) => {
          for (const [number, [x, y, width, height]] of Object.entries(places)) {
            const node = app.graph.getNodeById(number);
            node.pos = [x, y];
            node.setSize([width, height ?? node.size[1]]);
          }
          app.canvas.ds.scale = 1;
          app.canvas.ds.offset = [140, 130];
          app.canvas.setDirty(true, true);
        }""",
        {"1": [0, 130, 320, 330], "2": [0, 0, 320], "3": [380, 0, 330], "4": [770, 0, 420, 420]},
    )


def test_the_nodes_are_found(page: Browser) -> None:
    page.look_for("cudaspeed")
    shoot(page, "search")
    page.press("Escape")


def test_a_picture_was_upscaled(page: Browser) -> None:
    laid_out(page)
    entry = page.run()
    assert entry["status"]["status_str"] == "success"
    page.wait("() => [...document.images].some((image) => image.naturalWidth === 902)")
    page.click(".cudaspeed-last-run summary")
    page.wait("() => document.querySelector('.cudaspeed-last-run table').getBoundingClientRect().height > 60")
    page.evaluate("() => new Promise((go) => setTimeout(go, 1000))")
    page.wait("() => !document.querySelector('[data-testid=queue-notification-banner]')")
    shoot(page, "upscaled")


def test_the_help_is_read(page: Browser) -> None:
    laid_out(page)
    page.help(3)
    shoot(page, "help")
