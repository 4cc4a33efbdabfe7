"""A server that is started anew under an open page: the page goes on."""

from __future__ import annotations

from pathlib import Path

from browser import Browser
from comfyui_server import USUAL, Server, free_port, node, start_comfyui

MONITOR = ".cudaspeed-monitor"
_HEAR = """() => {
  window.heard = [];
  for (const told of ["reconnecting", "reconnected"]) app.api.addEventListener(told, () => window.heard.push(told));
}"""
_A_WHILE = "() => new Promise((go) => setTimeout(go, 3000))"


def test_the_page_goes_on_with_the_monitor_and_with_what_a_run_was_like(
    server: Server, browser: Browser, tmp_path: Path
) -> None:
    port = free_port()
    with start_comfyui(tmp_path, {}, port=port) as first:
        browser.open(first, {"Comfy.Locale": "en", "CUDAspeed.Monitor.Show": True})
        browser.evaluate(_HEAR)
        browser.load(
            {
                "1": node("LoadImage", image="large.png"),
                "2": node("UpscaleModelLoader", model_name="cudaspeed-compact-x2.safetensors"),
                "3": node("UpscaleImageCUDAspeed", upscale_model=["2", 0], image=["1", 0], **USUAL),
                "4": node("PreviewImage", images=["3", 0]),
            }
        )
        browser.wait("(selector) => document.querySelector(selector)", MONITOR)
    browser.wait("() => window.heard.includes('reconnecting')")
    browser.wait("(selector) => !document.querySelector(selector)", MONITOR)
    before = len(browser.our_errors())
    assert before <= 2, "one request may have been on its way"
    browser.evaluate(_A_WHILE)
    assert len(browser.our_errors()) == before, "nothing is asked of a server that is away"
    with start_comfyui(tmp_path, {}, port=port) as second:
        browser.wait("() => window.heard.includes('reconnected')")
        browser.wait("(selector) => document.querySelector(selector)", MONITOR)
        assert browser.run()["status"]["status_str"] == "success", second.log()
        browser.wait("() => document.querySelector('.cudaspeed-last-run summary')")
        assert len(browser.our_errors()) == before
        browser.open(server, {"Comfy.Locale": "en"})  # and off before this one goes
