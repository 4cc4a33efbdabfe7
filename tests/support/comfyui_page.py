"""What a browser's page hears of a prompt, from a real ComfyUI."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import pytest
from comfyui_server import Server
from page_socket import WebSocket

_PREVIEW = (1).to_bytes(4, "big")  # what binary messages with a picture begin with


class Page:
    """What a browser's page hears of one prompt."""

    def __init__(self, server: Server, prompt: dict[str, Any]) -> None:
        page = uuid.uuid4().hex
        self.socket = WebSocket(server.port, f"/ws?clientId={page}")
        self.number = server.post("/prompt", {"prompt": prompt, "client_id": page})["prompt_id"]

    def wait(self) -> tuple[float, str]:
        """When the prompt had ended, and how: "execution_success", "execution_error", "execution_interrupted"."""
        for _ in range(6000):
            for when, sent in self._messages():
                if sent["type"] in ("execution_success", "execution_error", "execution_interrupted"):
                    self.socket.close()
                    return when, sent["type"]
            time.sleep(0.1)
        return pytest.fail("the prompt did not end in ten minutes")

    def wait_for_bar(self, name: str) -> None:
        """Until the node computes."""
        for _ in range(1200):
            if self.bars(name):
                return
            time.sleep(0.05)
        pytest.fail("it did not begin in a minute")

    def bars(self, name: str) -> list[tuple[float, float, float]]:
        """(when, value, max) of what the node's bar was told."""
        told = [(when, sent["data"]) for when, sent in self._messages() if sent["type"] == "progress"]
        return [(when, data["value"], data["max"]) for when, data in told if data["node"] == name]

    def texts(self, name: str) -> list[tuple[float, str]]:
        """(when, text) of what was said under the node."""
        head = (3).to_bytes(4, "big") + len(name).to_bytes(4, "big") + name.encode()
        frames = [(when, frame) for when, frame in self.socket.heard if isinstance(frame, bytes)]
        return [(when, frame[len(head) :].decode()) for when, frame in frames if frame.startswith(head)]

    def outputs(self, name: str) -> list[tuple[float, dict[str, Any]]]:
        """(when, output) of what it was told that the node has made."""
        told = [(when, sent["data"]) for when, sent in self._messages() if sent["type"] == "executed"]
        return [(when, data["output"]) for when, data in told if data["display_node"] == name]

    def pictures(self) -> list[float]:
        """When it was sent a picture on the way."""
        frames = [(when, frame) for when, frame in self.socket.heard if isinstance(frame, bytes)]
        return [when for when, frame in frames if frame[:4] == _PREVIEW]

    def count(self, kind: str) -> int:
        """How many messages of a kind it was sent, of whichever node."""
        return sum(sent["type"] == kind for _, sent in self._messages())

    def ran(self, name: str) -> tuple[float, float]:
        """When the node began, and when the next one did."""
        begun = [(when, sent["data"]["node"]) for when, sent in self._messages() if sent["type"] == "executing"]
        (place,) = [k for k, (_, node) in enumerate(begun) if node == name]
        return begun[place][0], begun[place + 1][0]

    def _messages(self) -> list[tuple[float, dict[str, Any]]]:
        told = [(when, json.loads(frame)) for when, frame in self.socket.heard if isinstance(frame, str)]
        return [(when, sent) for when, sent in told if sent["data"].get("prompt_id") == self.number]
