"""What is read and seen on the node while it runs, afterwards, and where it cannot do what it was asked for."""

from __future__ import annotations

from typing import Any

import pytest
from browser import Browser
from comfyui_server import USUAL, Server, node

IMAGE = 3


def workflow(source: dict[str, Any], **widgets: Any) -> dict[str, Any]:
    """What `source`, a node that makes an image of the loaded one's, gives, upscaled."""
    return {
        "1": node("LoadImage", image="large.png"),
        "2": node("UpscaleModelLoader", model_name="cudaspeed-compact-x2.safetensors"),
        "3": node("UpscaleImageCUDAspeed", upscale_model=["2", 0], image=["5", 0], **{**USUAL, **widgets}),
        "4": node("PreviewImage", images=["3", 0]),
        "5": source,
    }


def film(frames: int, **widgets: Any) -> dict[str, Any]:
    """As `workflow`, of so many frames, all different: of those that stand still hardly anything is computed."""
    noisy = node("ImageAddNoise", image=["6", 0], seed=frames, strength=0.1)
    return {**workflow(noisy, **widgets), "6": node("RepeatImageBatch", image=["1", 0], amount=frames)}


@pytest.fixture(params=[False, True], ids=["classic", "vue"])
def canvas(server: Server, browser: Browser, request: pytest.FixtureRequest) -> Browser:
    """The page on either kind of canvas."""
    browser.open(server, {"Comfy.Locale": "en", "Comfy.VueNodes.Enabled": request.param})
    return browser


def test_it_says_how_far_it_is_shows_the_picture_and_keeps_what_was_done(canvas: Browser) -> None:
    vue = canvas.evaluate("() => Boolean(app.extensionManager.setting.get('Comfy.VueNodes.Enabled'))")
    canvas.load(film(6 + vue, tile_size=96))  # another prompt each time, or nothing is computed
    canvas.evaluate(
        """(number) => {
          const seen = (window.seen = { texts: [], pictures: 0 });
          app.api.addEventListener("progress_text", ({ detail }) => {
            if (String(detail.nodeId) === String(number)) seen.texts.push(detail.text);
          });
          app.api.addEventListener("b_preview_with_metadata", ({ detail }) => {
            if (String(detail.nodeId ?? detail.displayNodeId) === String(number)) seen.pictures += 1;
          });
        }""",
        IMAGE,
    )
    assert canvas.run(300)["status"]["status_str"] == "success"
    seen = canvas.evaluate("() => window.seen")
    assert any("tile " in text or " left" in text for text in seen["texts"]), seen
    assert seen["pictures"] > 0
    assert "1400" in canvas.text(IMAGE), "the last line stays to be read"
    canvas.bring_into_sight(IMAGE)
    canvas.click(".cudaspeed-last-run summary")
    (table,) = canvas.texts(".cudaspeed-last-run table")
    assert "1400" in table
    assert canvas.our_errors() == []


def test_an_error_is_read_on_the_node(canvas: Browser) -> None:
    canvas.load(workflow(node("OddPicture", image=["1", 0], what="nan")))
    entry = canvas.run()
    assert entry["status"]["status_str"] == "error"
    (error,) = [told for kind, told in entry["status"]["messages"] if kind == "execution_error"]
    said = error["exception_message"].strip()
    assert "NaN" in said
    assert error["exception_type"].startswith("cudaspeed.")
    canvas.wait("(said) => document.body.innerText.includes(said)", said)
    assert said in canvas.text(IMAGE)
    assert canvas.our_errors() == []
