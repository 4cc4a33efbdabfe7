"""Cards by the driver's program, whatever becomes of that."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cudaspeed.devices.nvidia_cards import NvidiaCard, nvidia_cards

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    file = folder / "nvidia-smi"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder), os.environ["PATH"]]))


def test_cards_are_told_with_their_capabilities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "NVIDIA GeForce RTX 4090, 8.9\\nNVIDIA GB10, 12.1\\n"
    program(tmp_path, monkeypatch, f"[ \"$1\" = --query-gpu=name,compute_cap ] && printf '{rows}'")
    assert nvidia_cards() == [NvidiaCard("NVIDIA GeForce RTX 4090", (8, 9)), NvidiaCard("NVIDIA GB10", (12, 1))]


@pytest.mark.parametrize(
    "script",
    ["echo 'NVIDIA-SMI has failed because it could not communicate with the driver'; exit 9", "exit 0",
     "echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2", "echo 'Some card, [N/A]'"],
)  # fmt: skip
def test_a_driver_that_does_not_answer_has_no_cards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    program(tmp_path, monkeypatch, script)
    assert nvidia_cards() == []


def test_where_there_is_no_driver_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia_cards() == []
