"""One ComfyUI and one browser for all tests here; skipped where there is neither."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser import Browser, lacking, start_browser
from comfyui_server import Server, start_comfyui
from testing_nodes import ODD_PICTURES


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if reason := lacking():
        pytest.skip(reason)
    with start_comfyui(tmp_path_factory.mktemp("comfyui"), {"odd_pictures.py": ODD_PICTURES}) as running:
        yield running


@pytest.fixture(scope="session")
def browser(server: Server) -> Iterator[Browser]:
    with start_browser() as page:
        yield page


@pytest.fixture
def page(server: Server, browser: Browser) -> Iterator[Browser]:
    """The page as a visitor of ComfyUI finds it, in English, with an empty canvas; our scripts complain of nothing."""
    browser.open(server, {"Comfy.Locale": "en", "Comfy.VueNodes.Enabled": False})
    yield browser
    assert browser.our_errors() == []
