"""What the compiling process is asked for arrives as it was sent."""

from __future__ import annotations

import pytest

from cudaspeed.backends.shapes import TileShapes
from cudaspeed.compiling.request import Request
from cudaspeed.models.runner import ExecutionMode


@pytest.mark.parametrize("shapes", [TileShapes.one(24, 32), TileShapes(16, (32, 40), (2048, 1024), 8)], ids=str)
def test_a_request_arrives_whole(shapes: TileShapes) -> None:
    mode = ExecutionMode("fp16", autocast=True, channels_last=True, kernels="attention")
    eager = ExecutionMode("fp16", autocast=False, channels_last=False)
    sent = Request(
        id="a" * 24, folder="store", weights="weights.safetensors", content="c" * 64, architecture="SwinIR x2",
        mode=mode, eager=eager, shapes=shapes, device="cuda:1", environment="e" * 24, limit=60.0, again=True,
    )  # fmt: skip
    assert Request.from_json(sent.to_json()) == sent
