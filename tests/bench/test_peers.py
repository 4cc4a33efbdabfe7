"""A row that fails tells why and ends nothing."""

from __future__ import annotations

import sys

import pytest
import torch
import zoo
from torch import Tensor

from bench.ceilings import Ceilings
from bench.peers import compare, parse_work
from bench.ways import WAYS, Setting

CPU = torch.device("cpu")


def test_a_row_that_fails_tells_why_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def hopeless(setting: Setting):
        raise RuntimeError("no such kernel\nand pages more")

    def late(setting: Setting):
        works, calls = WAYS["plain-fp32"](setting), []

        def run(image: Tensor):
            calls.append(image)
            if len(calls) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return works(image)

        return run

    monkeypatch.setitem(WAYS, "hopeless", hopeless)
    monkeypatch.setitem(WAYS, "late", late)
    names = ["core", "hopeless", "late", "plain-fp32", "plain-half", "batched-half", "ours-balanced-fp32-eager"]
    monkeypatch.setitem(sys.modules, "comfy", None)  # wherever this runs
    image = zoo.photograph(32, 24, frames=3)
    rows = compare(Setting(zoo.compact(2), CPU, None), image, names, 2, Ceilings(CPU))
    assert [*rows] == names
    assert rows["core"]["failure"] == "PYTHONPATH names no checkout of ComfyUI"
    assert rows["hopeless"]["failure"] == "failed: no such kernel"
    assert rows["late"]["failure"] == "failed: CUDA out of memory"
    assert "natively" in rows["plain-half"]["failure"]
    plain, ours = rows["plain-fp32"], rows["ours-balanced-fp32-eager"]
    assert plain["times"] == 1, "the first that ran"
    assert plain["psnr"] == 200
    assert ours["psnr"] > 60
    assert ours["seconds"] == min(ours["all_seconds"])
    assert ours["megapixels_per_second"] == pytest.approx(3 * 64 * 48 / 1e6 / ours["seconds"])


def test_works_are_told_by_width_height_and_frames() -> None:
    assert parse_work("640x480", 5) == (480, 640, 5)
    assert parse_work("640x480x64", 1) == (480, 640, 64)
    for text in ("640", "640x480x64x2", "axb"):
        with pytest.raises(ValueError):
            parse_work(text, 1)
