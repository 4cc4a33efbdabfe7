"""A real ComfyUI on the CPU with the pack linked into it, spoken to through its HTTP interface.

Needs COMFYUI_DIR, a checkout of ComfyUI, and COMFYUI_PYTHON, an interpreter that has its requirements (this one, when
not set).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

COMFYUI = os.environ.get("COMFYUI_DIR")
PACK = Path(__file__).absolute().parent.parent.parent
EXAMPLE = PACK / "examples" / "chelsea.png"

# The image node's required widgets as they come, which a prompt must name all the same.
USUAL = {
    "use_autocast": "enable",
    "precision": "auto",
    "tile_size": 0,
    "overlap": 0,
    "enable_compile": "enable",
    "optimization_level": "balanced",
}


class Server:
    """A running ComfyUI."""

    def __init__(self, folder: Path, port: int, process: subprocess.Popen[bytes]) -> None:
        self.folder, self.port, self._process = folder, port, process
        self._url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self._url + path, timeout=10) as answer:
            return json.load(answer)

    def log(self) -> str:
        """What it said last."""
        return (self.folder / "log.txt").read_text()[-4000:]

    def resident_bytes(self) -> int:
        """Its process's memory."""
        return psutil.Process(self._process.pid).memory_info().rss

    def post(self, path: str, content: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self._url + path, json.dumps(content).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            pytest.fail(error.read().decode())
        return json.loads(text) if text else None

    def run(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """The history entry of a prompt that has ended."""
        return self.wait(self.queue(prompt))

    def queue(self, prompt: dict[str, Any]) -> str:
        """The number that a prompt gets."""
        return self.post("/prompt", {"prompt": prompt})["prompt_id"]

    def wait(self, number: str) -> dict[str, Any]:
        """The history entry of a prompt, once it has ended."""
        for _ in range(6000):
            history = self.get(f"/history/{number}")
            if history:
                return history[number]
            time.sleep(0.1)
        return pytest.fail("the prompt did not end in ten minutes")

    def free(self) -> None:
        """Have it unload all models and let go of all results, and wait until that is done."""
        for _ in range(2):  # who is asked just after a prompt may not hear it, and run the next prompt first
            self.post("/free", {"unload_models": True, "free_memory": True})
            time.sleep(3)

    def pictures(self, prompt: dict[str, Any]) -> dict[str, np.ndarray]:
        """SaveImage node -> the picture it wrote, [H, W, C] uint8."""
        entry = self.run(prompt)
        assert entry["status"]["status_str"] == "success", self.log()
        return {
            node: np.asarray(Image.open(self.folder / "output" / output["images"][0]["filename"]))
            for node, output in entry["outputs"].items()
            if "images" in output
        }


@contextmanager
def start_comfyui(
    folder: Path, nodes: Mapping[str, str], arguments: Sequence[str] = (), *, by: Sequence[str] = (), port: int = 0
) -> Iterator[Server]:
    """ComfyUI in `folder`, where its models, nodes and users are, with `nodes` (file name -> source) beside ours. The
    pack is linked there, unless it lies there already. `by` is a command that becomes the one behind it, such as
    setpriv; `port` 0: a free one."""
    make_folders(folder)
    if not (pack := folder / "custom_nodes" / "upscale-cudaspeed").exists():
        pack.symlink_to(PACK)
    for name, source in nodes.items():
        (folder / "custom_nodes" / name).write_text(source)
    # larger than one of core's tiles of 512
    Image.open(EXAMPLE).convert("RGB").resize((700, 530), Image.Resampling.BICUBIC).save(folder / "input" / "large.png")
    port = port or free_port()
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [
                *by,
                *(os.environ.get("COMFYUI_PYTHON", sys.executable), "main.py", "--cpu", "--disable-auto-launch"),
                *("--base-directory", str(folder), "--port", str(port), *arguments),
            ],
            cwd=COMFYUI,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        running = Server(folder, port, process)
        try:
            for _ in range(600):
                assert process.poll() is None, running.log()
                try:
                    running.get("/system_stats")
                    break
                except OSError:
                    time.sleep(0.5)
            else:
                pytest.fail("ComfyUI did not answer in five minutes: " + running.log())
            yield running
        finally:
            process.terminate()
            process.wait(20)


def make_folders(folder: Path) -> None:
    """Those that ComfyUI has in its own."""
    for name in ("custom_nodes", "input", "output", "temp", "user", "models/upscale_models"):
        (folder / name).mkdir(parents=True, exist_ok=True)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}
