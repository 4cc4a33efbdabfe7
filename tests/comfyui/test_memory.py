"""Memory comes back in a real ComfyUI: after `POST /free`, while models alternate, and after interrupts.

Skipped without COMFYUI_DIR (see comfyui_server.py). What ComfyUI itself keeps of its first prompt is no part of it: one
without our node comes first.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from comfyui_server import COMFYUI, Server, node, start_comfyui
from safetensors.torch import save_file
from spandrel.architectures.ESRGAN import ESRGAN
from testing_nodes import CENSUS

MEGABYTE = 1 << 20
COMPACT = "cudaspeed-compact-x2.safetensors"
LARGE = "large.safetensors"

pytestmark = pytest.mark.skipif(not COMFYUI, reason="COMFYUI_DIR is not set: no ComfyUI to run in")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("comfyui")
    with start_comfyui(folder, {"census.py": CENSUS}) as running:
        torch.manual_seed(0)
        network = ESRGAN(in_nc=3, out_nc=3, num_filters=64, num_blocks=1, scale=4)
        save_file(network.state_dict(), folder / "models" / "upscale_models" / LARGE)
        yield running


class Prompts:
    """Prompts that are all different, or ComfyUI would take the last one's result."""

    def __init__(self, server: Server) -> None:
        self.server, self._count = server, 0

    def prompt(self, model: str, upscale: str = "UpscaleImageCUDAspeed", size: int = 96, frames: int = 1) -> Any:
        self._count += 1
        widgets = {"use_autocast": "enable", "precision": "auto", "tile_size": 0, "overlap": 0}
        widgets |= {"enable_compile": "enable", "optimization_level": "balanced"}
        width = size - self._count % 5
        return {
            "large": node("LoadImage", image="large.png"),
            "model": node("UpscaleModelLoader", model_name=model),
            "picture": node("ImageScale", image=["large", 0], upscale_method="bilinear", width=width, height=size,
                            crop="disabled"),
            "many": node("RepeatImageBatch", image=["picture", 0], amount=frames),
            "mine": node(upscale, upscale_model=["model", 0], image=["many", 0],
                         **(widgets if upscale == "UpscaleImageCUDAspeed" else {})),
            "first": node("ImageFromBatch", image=["mine", 0], batch_index=0, length=1),
            "save": node("SaveImage", images=["first", 0], filename_prefix=f"picture{self._count}"),
        }  # fmt: skip

    def run(self, model: str, **more: Any) -> None:
        entry = self.server.run(self.prompt(model, **more))
        assert entry["status"]["status_str"] == "success", self.server.log()

    def interrupt(self, model: str, after: float) -> None:
        number = self.server.queue(self.prompt(model, size=200, frames=20))
        while not self.server.get("/queue")["queue_running"] and not self.server.get(f"/history/{number}"):
            time.sleep(0.05)
        time.sleep(after)
        self.server.post("/interrupt", {})
        self.server.wait(number)


@pytest.fixture(scope="module")
def prompts(server: Server) -> Prompts:
    """Of a server that has run core's node, and given back what that took."""
    prompts = Prompts(server)
    prompts.run(COMPACT, upscale="ImageUpscaleWithModel")
    server.free()
    return prompts


def least_resident_bytes(server: Server, enough: int, seconds: float = 5.0) -> int:
    """Of some seconds, or what is no more than `enough`: between runs something may just be found out, in the
    background, and the memory that this takes is no growth."""
    least, end = server.resident_bytes(), time.monotonic() + seconds
    while least > enough and time.monotonic() < end:
        time.sleep(0.1)
        least = min(least, server.resident_bytes())
    return least


def test_free_gives_all_of_it_back(server: Server, prompts: Prompts) -> None:
    before, tensors = server.resident_bytes(), server.get("/census")["bytes"]
    for turn in range(12):
        prompts.run((COMPACT, LARGE)[turn % 2], frames=1 + turn % 3)
    assert server.get("/census")["bytes"] > tensors + MEGABYTE, "results and models stay for the next prompt"
    server.free()
    assert server.get("/census")["bytes"] <= tensors + MEGABYTE
    allowed = before + 30 * MEGABYTE
    assert least_resident_bytes(server, allowed) <= allowed


def test_models_that_alternate_take_no_more_after_the_second_round(server: Server, prompts: Prompts) -> None:
    taken = []
    for _ in range(10):
        prompts.run(COMPACT)
        prompts.run(LARGE)
        time.sleep(2)  # the memory goes back a second later, which a busy machine has passed by now, or has not
        taken.append(least_resident_bytes(server, taken[1] + 10 * MEGABYTE if len(taken) > 1 else 0))
    assert max(taken[2:]) <= taken[1] + 10 * MEGABYTE, " ".join(str(size // MEGABYTE) for size in taken)


def test_interrupts_take_nothing(server: Server, prompts: Prompts) -> None:
    """What the last one left may still be on its way when it is looked at; growth would be in all of them."""
    moment = random.Random(0)
    taken = []
    for turn in range(20):
        prompts.interrupt((COMPACT, LARGE)[turn % 2], after=moment.uniform(0.1, 3.0))
        time.sleep(2)  # the memory goes back a second later
        taken.append(server.resident_bytes() // MEGABYTE)
    assert statistics.median(taken[-10:]) <= max(taken[:4]) + 10, str(taken)
    prompts.run(COMPACT)
