"""What all benchmarks share: PSNR, turns, and the file of results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.harness import Results, in_turn, psnr

CPU = torch.device("cpu")


def test_psnr_is_of_the_mean_square_and_ends_somewhere() -> None:
    picture = torch.rand(1, 4, 5, 3)
    assert psnr(picture + 0.1, picture) == pytest.approx(20, abs=1e-3)
    assert json.loads(json.dumps(psnr(picture, picture))) == 200


def test_works_come_in_turn() -> None:
    order: list[str] = []
    works = {name: lambda name=name: order.append(name) for name in "ab"}
    times = in_turn(works, 3, CPU)
    assert order == ["a", "b"] * 3
    assert [len(took) for took in times.values()] == [3, 3]


def test_results_are_written_after_every_row(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "results.json"
    results = Results(CPU, file)
    for count in (1, 2):
        results.keep({"row": count})
        told = json.loads(file.read_text())
        assert [row["row"] for row in told["rows"]] == [1, 2][:count]
    assert told["environment"]["torch"] == torch.__version__
    assert told["command"].startswith("python ")
    assert told["date"][:2] == "20"
