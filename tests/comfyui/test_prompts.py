"""What prompts do in a real ComfyUI: batches, lists and odd pictures, one after another, with and without a page that
listens. Skipped without COMFYUI_DIR (see comfyui_server.py)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from comfyui_page import Page
from comfyui_server import COMFYUI, USUAL, Server, node, start_comfyui
from PIL import Image
from testing_nodes import ODD_PICTURES

MODEL = "cudaspeed-compact-x2.safetensors"

pytestmark = pytest.mark.skipif(not COMFYUI, reason="COMFYUI_DIR is not set: no ComfyUI to run in")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_comfyui(tmp_path_factory.mktemp("comfyui"), {"odd_pictures.py": ODD_PICTURES}) as running:
        yield running


def prompt(source: dict[str, Any], prefix: str, **widgets: Any) -> dict[str, Any]:
    """What `source`, a node that makes an image of the loaded picture, gives, upscaled and saved."""
    return {
        "picture": node("LoadImage", image="large.png"),
        "model": node("UpscaleModelLoader", model_name=MODEL),
        "source": source,
        "mine": node("UpscaleImageCUDAspeed", upscale_model=["model", 0], image=["source", 0],
                     **{**USUAL, "precision": "fp32", **widgets}),
        "save": node("SaveImage", images=["mine", 0], filename_prefix=prefix),
    }  # fmt: skip


def many(frames: int) -> dict[str, Any]:
    return node("RepeatImageBatch", image=["picture", 0], amount=frames)


def small(width: int, height: int) -> dict[str, Any]:
    return node("ImageScale", image=["picture", 0], upscale_method="area", width=width, height=height, crop="disabled")


def odd(what: str) -> dict[str, Any]:
    return node("OddPicture", image=["picture", 0], what=what)


def saved(server: Server, entry: dict[str, Any]) -> list[np.ndarray]:
    """The pictures that a prompt has saved, [H, W, C] each."""
    assert entry["status"]["status_str"] == "success", json.dumps(entry["status"]) + server.log()
    images = entry["outputs"].get("save", {}).get("images", [])
    return [np.asarray(Image.open(server.folder / "output" / told["filename"])) for told in images]


def messages(entry: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [told for name, told in entry["status"]["messages"] if name == kind]


def test_a_batch_comes_back_as_a_batch(server: Server) -> None:
    pictures = saved(server, server.run(prompt(many(3), "batch", batch_size=2)))
    assert [picture.shape for picture in pictures] == [(1060, 1400, 3)] * 3
    assert all((picture == pictures[0]).all() for picture in pictures)


def test_a_list_of_several_sizes_is_upscaled_one_by_one(server: Server) -> None:
    entry = server.run(prompt(node("SeveralSizes", image=["picture", 0]), "list"))
    sizes = [picture.shape[:2] for picture in saved(server, entry)]
    assert sizes == [(1060, 1400), (80, 120), (122, 66), (122, 66)]


def test_an_empty_batch_is_no_picture_and_no_error(server: Server) -> None:
    asked = {**prompt(odd("no frames"), "empty"), "save": node("ShapeOf", image=["mine", 0])}
    entry = server.run(asked)
    assert entry["status"]["status_str"] == "success", server.log()
    assert entry["outputs"]["save"]["text"] == ["[0, 1060, 1400, 3]"]


@pytest.mark.parametrize(
    ("kind", "said"),
    [("no pixels", "0"), ("nan", "NaN"), ("five channels", "5 channels")],
)
def test_what_is_no_picture_is_one_readable_line(server: Server, kind: str, said: str) -> None:
    entry = server.run(prompt(odd(kind), "odd"))
    (error,) = messages(entry, "execution_error")
    assert error["node_id"] == "mine"
    message = error["exception_message"].strip()
    assert said in message
    assert "\n" not in message
    assert "Traceback" not in message


def test_widgets_that_contradict_each_other_are_one_readable_line(server: Server) -> None:
    entry = server.run(prompt(small(32, 32), "contradiction", tile_size=16, overlap=64))
    (error,) = messages(entry, "execution_error")
    assert "overlap is 64" in error["exception_message"]
    assert "\n" not in error["exception_message"].strip()


def test_a_node_that_fails_leaves_the_next_prompt_right(server: Server) -> None:
    before = saved(server, server.run(prompt(small(200, 150), "before")))
    assert server.run(prompt(odd("nan"), "nan again", overlap=8))["status"]["status_str"] == "error"
    after = saved(server, server.run(prompt(small(200, 150), "after", batch_size=2)))
    assert (before[0] == after[0]).all()


def test_the_same_prompt_again_computes_nothing(server: Server) -> None:
    asked = prompt(small(210, 160), "same")
    first = saved(server, server.run(asked))
    entry = server.run(asked)
    (cached,) = messages(entry, "execution_cached")
    assert {*cached["nodes"]} == {*asked}
    assert len(first) == 1


def test_every_event_names_its_node_and_the_bar_ends_full(server: Server) -> None:
    asked = prompt(many(2), "events", tile_size=256)
    page = Page(server, asked)
    assert page.wait()[1] == "execution_success", server.log()
    bars = page.bars("mine")
    assert len(bars) >= 2
    assert bars[-1][1] == bars[-1][2]
    assert sum(len(page.bars(name)) for name in asked) == page.count("progress")


def test_two_prompts_wait_for_one_another(server: Server) -> None:
    first = server.queue(prompt(small(300, 200), "first", tile_size=128))
    second = server.queue(prompt(small(222, 111), "second", tile_size=96))
    entries = [server.wait(number) for number in (first, second)]
    assert [saved(server, entry)[0].shape for entry in entries] == [(400, 600, 3), (222, 444, 3)]
    ended = messages(entries[0], "execution_success")[0]["timestamp"]
    assert messages(entries[1], "execution_start")[0]["timestamp"] >= ended


def test_who_interrupts_the_first_of_two_gets_the_second(server: Server) -> None:
    first = server.queue(prompt(many(40), "long", tile_size=64))
    second = server.queue(prompt(small(222, 113), "waiting"))
    while not server.get("/queue")["queue_running"]:
        time.sleep(0.05)
    time.sleep(1)
    server.post("/interrupt", {})
    assert messages(server.wait(first), "execution_interrupted")
    assert saved(server, server.wait(second))[0].shape == (226, 444, 3)


def test_a_page_that_is_closed_in_mid_run_costs_nothing(server: Server) -> None:
    page = Page(server, prompt(many(6), "closed", tile_size=64))
    page.wait_for_bar("mine")
    page.socket.close()
    entry = server.wait(page.number)
    assert len(saved(server, entry)) == 6


def test_after_free_a_prompt_gives_the_same_picture(server: Server) -> None:
    before = saved(server, server.run(prompt(small(220, 170), "kept")))
    for _ in range(2):  # who is asked just after a prompt may not hear it
        server.post("/free", {"unload_models": True, "free_memory": True})
        time.sleep(1)
    after = saved(server, server.run(prompt(small(220, 170), "anew")))
    assert (before[0] == after[0]).all()
