"""The pack's templates, as the page offers them: each with its picture; the first runs as it is, from the button."""

from __future__ import annotations

import shutil
from pathlib import Path

from browser import Browser
from comfyui_server import COMFYUI, PACK, Server

_NAMES = sorted(path.stem for path in (PACK / "example_workflows").glob("*.json"))
_SEES = """(address) => new Promise((go) => {
  const image = new Image();
  image.onload = () => go(image.naturalWidth);
  image.onerror = () => go(0);
  image.src = address;
})"""


def test_each_is_offered_with_a_picture(server: Server, page: Browser) -> None:
    (offered,) = server.get("/workflow_templates").values()
    assert sorted(offered) == _NAMES
    for name in _NAMES:
        assert page.evaluate(_SEES, f"/api/workflow_templates/upscale-cudaspeed/{name}.jpg") > 100, name


def test_the_first_runs_from_the_button_as_it_is(server: Server, page: Browser) -> None:
    shutil.copy(Path(COMFYUI or "") / "input" / "example.png", server.folder / "input" / "example.png")
    page.evaluate(
        """(address) => fetch(address).then((answer) => answer.json()).then((graph) => app.loadGraphData(graph))""",
        "/api/workflow_templates/upscale-cudaspeed/upscale_x2.json",
    )
    entry = page.run(300)
    assert entry["status"]["status_str"] == "success", server.log()
    shown = page.wait(
        "() => app.graph.nodes.filter((n) => n.type === 'SaveImage').flatMap((n) => n.imgs ?? []).map((i) => i.src)[0]"
    )
    assert "upscaled_x2" in shown
