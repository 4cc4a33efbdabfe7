"""What people read and see on our nodes while they run and after, in a real ComfyUI: as `comfyui_page` hears it.

Skipped without COMFYUI_DIR.
"""

from __future__ import annotations

import itertools
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from comfyui_page import Page
from comfyui_server import COMFYUI, Server, node, start_comfyui
from slow_model import write_slow_model

MODEL = "cudaspeed-compact-x2.safetensors"

# A node that makes pictures of a kind.
PICTURES = """
import torch


class Picture:
    CATEGORY, FUNCTION, RETURN_TYPES = "testing", "make", ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"look": ("STRING", {})}}

    def make(self, look):
        if look == "none":
            return (torch.zeros(0, 32, 40, 3),)
        if look == "NaN":
            return (torch.full((1, 32, 40, 3), float("nan")),)
        return (torch.rand(*(int(side) for side in look.split("x"))),)


NODE_CLASS_MAPPINGS = {"Picture": Picture}
"""

pytestmark = pytest.mark.skipif(not COMFYUI, reason="COMFYUI_DIR is not set: no ComfyUI to run in")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_comfyui(tmp_path_factory.mktemp("comfyui"), {"pictures.py": PICTURES}) as running:
        write_slow_model(running.folder / "models" / "upscale_models")
        yield running


def upscaling(kind: str, model: str = MODEL, **widgets: Any) -> dict[str, Any]:
    """A picture of that kind, upscaled and saved."""
    asked = {"precision": "fp32", "enable_compile": "disable", **widgets}
    asked = {"use_autocast": "enable", "tile_size": 0, "overlap": 0, "optimization_level": "balanced", **asked}
    return {
        "picture": node("Picture", look=kind),
        "model": node("UpscaleModelLoader", model_name=model),
        "mine": node("UpscaleImageCUDAspeed", upscale_model=["model", 0], image=["picture", 0], **asked),
        "save": node("SaveImage", images=["mine", 0], filename_prefix="mine"),
    }


def slow(**widgets: Any) -> dict[str, Any]:
    return upscaling("1x224x320x3", "slow.safetensors", **{"tile_size": 64, **widgets})


def ended(page: Page, server: Server, how: str = "execution_success") -> Page:
    assert page.wait()[1] == how, server.log()
    return page


def closest(times: list[float]) -> float:
    return min((b - a for a, b in itertools.pairwise(times)), default=1e9)


def test_texts_are_true_and_few_and_the_picture_fills_in(server: Server) -> None:
    page = ended(Page(server, slow()), server)
    told = page.texts("mine")
    words = [text for _, text in told]
    assert closest([when for when, _ in told[:-1]]) >= 0.2, "four a second, as they arrive here"
    form = re.compile(r"tiles? \d+(-\d+)?/\d+, fp32, (0\.\d+ MP/s, )?(\d+ (h|min|s) ?)+left")
    assert any(form.fullmatch(text) for text in words), words
    assert not any(" GB" in text for text in words), "a CPU has no memory of its own"
    assert re.fullmatch(r"320x224 -> 640x448, fp32, \d+ tiles, \d+\.\d s", words[-1])
    pictures = page.pictures()
    assert len(pictures) >= 2
    assert closest(pictures[:-1]) >= 0.8, "one a second, as they arrive here; the last one is whole"


@pytest.mark.parametrize("tile_size", [0, 256], ids=["one piece", "tiles"])
def test_it_is_never_silent_for_long(server: Server, tile_size: int) -> None:
    """Nor on a machine that is busy: five seconds at most between two words or steps of the bar, from the first run of
    a model on."""
    page = ended(Page(server, slow(tile_size=tile_size) | {"picture": node("Picture", look="1x448x640x3")}), server)
    words, bars = page.texts("mine"), page.bars("mine")
    assert len(words) > 3, "it took some seconds"
    assert len({value for _, value, _ in bars}) > 3, "the bar moves, in one piece too"
    told = sorted([*page.ran("mine"), *(when for when, _ in words), *(when for when, *_ in bars)])
    assert max(b - a for a, b in itertools.pairwise(told)) <= 5, told


def test_a_quick_run_ends_with_what_was_done_too(server: Server) -> None:
    page = ended(Page(server, upscaling("1x32x40x3")), server)
    assert [text for _, text in page.texts("mine")][-1].startswith("40x32 -> 80x64, fp32, one piece, ")
    assert page.pictures() == []


def test_the_preview_is_off_by_a_setting_and_where_no_page_looks(server: Server) -> None:
    settings = server.folder / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(json.dumps({"CUDAspeed.Preview": False}))
    try:
        page = ended(Page(server, slow(overlap=8)), server)
    finally:
        settings.write_text("{}")
    assert page.pictures() == []
    assert page.texts("mine")[-1][1].startswith("320x224 -> 640x448, ")


def test_the_warm_up_says_what_came_of_it_and_that_stays(server: Server) -> None:
    warm = node("WarmUpUpscalerCUDAspeed", upscale_model=["model", 0], width=64, height=48, tile_size=0)
    warm["inputs"] |= {"use_autocast": "disable", "precision": "fp32"}
    page = ended(Page(server, {"model": upscaling("")["model"], "mine": warm}), server)
    (text,) = server.get(f"/history/{page.number}")[page.number]["outputs"]["mine"]["text"]
    assert page.texts("mine")[-1][1] == text


@pytest.mark.parametrize(
    ("kind", "widgets", "error", "sentence"),
    [
        ("1x32x40x5", {}, "BadImageError", "5 channels"),
        ("NaN", {}, "BadImageError", "NaN"),
        ("1x0x40x3", {}, "BadImageError", "0"),
        ("1x32x40x3", {"tile_size": 16, "overlap": 64}, "BadOptionError", "the overlap must be smaller than the tile"),
    ],
)
def test_an_error_is_one_line_under_our_name_and_stands_on_the_node(
    server: Server, kind: str, widgets: dict[str, Any], error: str, sentence: str
) -> None:
    page = ended(Page(server, upscaling(kind, **widgets)), server, "execution_error")
    messages = dict(server.get(f"/history/{page.number}")[page.number]["status"]["messages"])
    failed = messages["execution_error"]
    assert failed["exception_type"] == f"cudaspeed.{error}"
    message = failed["exception_message"].strip()
    assert sentence in message
    assert "\n" not in message
    assert page.texts("mine")[-1][1] == message


def test_no_frames_are_no_error(server: Server) -> None:
    prompt = upscaling("none")
    prompt["save"] = node("PreviewAny", source=["mine", 0])
    page = ended(Page(server, prompt), server)
    assert page.texts("mine")[-1][1] == "no frames of 40x32"


def refused(server: Server, prompt: dict[str, Any]) -> dict[str, Any]:
    """What the host says of a prompt that it does not run, or of the part of it."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/prompt",
        json.dumps({"prompt": prompt}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return json.load(error)


@pytest.mark.parametrize(
    ("widgets", "sentence"),
    [
        ({"scale_by": 2.0, "target_width": 64}, "choose one of them and set the other to 0"),
        ({"scale_by": 9.0}, "scale_by is 9.0; choose a number from 0.05 to 8"),
        ({"tile_size": 4000}, "4000 bigger than max of 2048"),
        ({"batch_size": 40}, "40 bigger than max of 16"),
        ({"precision": "fp8"}, "precision: 'fp8' not in"),
    ],
)
def test_what_cannot_be_is_known_before_the_prompt_runs_and_other_branches_run(
    server: Server, widgets: dict[str, Any], sentence: str
) -> None:
    both = upscaling(f"1x32x{40 + len(sentence)}x3", **widgets)  # another each time: of known results 0.8 tells nothing
    both["other"] = node("PreviewImage", images=["picture", 0])
    told = refused(server, both)
    assert sorted(told["node_errors"]) == ["mine"]
    for error in told["node_errors"]["mine"]["errors"]:
        assert sentence in f"{error['message']} {error['details']}"
        assert error["extra_info"]["input_name"] in (*widgets, "scale_by", "target_height")
    assert "other" in server.wait(told["prompt_id"])["outputs"]


def test_what_was_done_comes_with_the_nodes_output_and_is_no_file(server: Server) -> None:
    kind = "2x32x48x3"
    page = ended(Page(server, upscaling(kind)), server)
    outputs = server.get(f"/history/{page.number}")[page.number]["outputs"]
    (text,) = outputs["mine"]["cudaspeed"]
    told = json.loads(text)
    assert told["summary"].startswith("2 frames, 48x32 -> 96x64, fp32, one piece each, ")
    assert {name for name, _ in told["facts"]} >= {"plan", "precision", "compilation", "health", "peak memory", "time"}
    assert all(isinstance(sentence, str) for sentence in told["explained"])
    again = ended(Page(server, upscaling(kind)), server)
    cached = server.get(f"/history/{again.number}")[again.number]
    messages = dict(cached["status"]["messages"])
    assert {"mine", "save"} <= {*messages["execution_cached"]["nodes"]}
    assert again.texts("mine") == []
    try:
        job = server.get(f"/api/jobs/{page.number}")
    except urllib.error.HTTPError:
        return  # older ComfyUIs have no jobs
    assert job["outputs_count"] == 2, "the two pictures that were saved"
    assert job["preview_output"]["nodeId"] == "save"
