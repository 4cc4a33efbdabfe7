"""Numbers are held against targets, and the table goes where it belongs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.harness import ROOT
from bench.summary import BEGIN, END, NOTHING, TARGETS, main, table, updated

DOCS = ROOT / "docs" / "performance.md"


def peer(row: str, model: str = "esrgan", **values: Any) -> dict[str, Any]:
    told = {"megapixels_per_second": 1.0, "compute_share": 0.3, "copy_share": 0.01, "psnr": 60.0, "peak_bytes": 4e9}
    what = {"model": model, "scale": 4, "size": [720, 1280], "frames": 1, "row": row, "precision": "fp16"}
    return what | told | {"seconds": 1.0} | values


def found(rows: list[dict[str, Any]], step: str = "peers") -> dict[str, Any]:
    environment = {"hardware": "NVIDIA H200 sm_90", "torch": "2.11", "cuda": "13.0"}
    return {step: {"environment": environment, "date": "2026-11-21T10:00:00+00:00", "rows": rows}}


def line(text: str, beginning: str) -> str:
    (one,) = [line for line in text.splitlines() if line.startswith(f"| {beginning}")]
    return one


def ours() -> list[dict[str, Any]]:
    return [peer("ours-balanced-auto-eager", seconds=0.8)]


def test_where_nothing_was_measured_it_says_so() -> None:
    told = table({})
    assert told.startswith(f"CUDA: {NOTHING}.")
    assert told.count(f"| {NOTHING} |") == len(TARGETS)


def test_targets_are_held_against_what_was_measured() -> None:
    rows = [
        peer("core", seconds=6.0),
        peer("plain-half", seconds=1.4, peak_bytes=2e9),
        peer("plain-half-last", failure="failed: CUDA out of memory", seconds=0.001, peak_bytes=1),
        peer("ours-balanced-auto-eager", seconds=0.8, compute_share=0.5, peak_bytes=3e9),
        peer("core", "compact", seconds=1.0),
        peer("ours-balanced-fp32-eager", "compact", seconds=0.5),
        peer("ours-speed-auto-eager", size=[1080, 1920], seconds=0.01),
    ]
    told = table(found(rows))
    assert told.startswith("NVIDIA H200 sm_90, 2026-11-21, torch 2.11, CUDA 13.0.")
    assert "| 7.50x | yes |" in line(told, "ESRGAN x4, 1280x720: our fastest over core's")
    assert "| 2.00x | **no** |" in line(told, "Compact x4, 1280x720: our fastest over core's")
    assert "| 1.75x | yes |" in line(told, "ESRGAN: over the best of plain")
    assert "| 50.0% | yes |" in line(told, "ESRGAN: of the measured matmul")
    assert "| 1.50x | **no** |" in line(told, "ESRGAN: peak memory")
    assert f"| {NOTHING} |  |" in line(told, "Compact: peak memory")
    assert "failed: CUDA out of memory" in line(told, "esrgan x4 | 1280x720 | plain-half-last")


def test_a_drill_that_failed_once_is_not_met_by_the_rest() -> None:
    good, bad = {"psnr": 61.0}, {"failure": "too little memory", "psnr": 70.0}
    assert "| 61.0 dB | yes |" in line(table(found([good], "drill")), "out-of-memory drill")
    assert f"| {NOTHING} |" in line(table(found([good, bad], "drill")), "out-of-memory drill")


def test_cost_counts_from_a_megapixel_on() -> None:
    costs = [(0.1, 9.0), (1.0, 1.0), (4.0, 1.3)]
    rows = [{"series": "frames", "megapixels": size, "seconds_per_megapixel": cost} for size, cost in costs]
    assert "| 1.30x | yes |" in line(table(found(rows, "scaling")), "dearest megapixel")


def test_the_table_goes_between_the_markers_and_nowhere_else() -> None:
    text = f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n"
    once = updated(text, "new")
    assert once == f"before\n\n{BEGIN}\n\nnew\n\n{END}\n\nafter\n"
    assert updated(once, "new") == once
    for broken in ("nothing", f"{END} {BEGIN}", f"{BEGIN} {BEGIN} {END}"):
        with pytest.raises(ValueError, match="there must be one"):
            updated(broken, "new")


def test_the_documentation_has_a_place_for_the_table() -> None:
    assert "7.50x" in updated(DOCS.read_text(encoding="utf-8"), table(found([peer("core", seconds=6.0), *ours()])))


def test_the_summary_reads_what_is_whole_and_writes_one_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder, results, docs = tmp_path / "in", tmp_path / "out", tmp_path / "docs.md"
    folder.mkdir()
    (folder / "peers.json").write_text(json.dumps(found([peer("core"), *ours()])["peers"]))
    (folder / "drill.json").write_text('{"rows": [')
    (folder / "foreign.json").write_text("[1]")
    (folder / "steps.txt").write_text("peers 0 12\ndrill 124 25\nmemory 1 3\n")
    docs.write_text(f"{BEGIN}{END}")
    arguments = ["summary.py", str(folder), "--docs", str(docs), "--results", str(results)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        main()
    told = capsys.readouterr().out
    assert "peers: done, 12 s\ndrill: out of time, 25 s\nmemory: failed, 3 s" in told
    (file,) = results.iterdir()
    assert file.name == "nvidia-h200-sm-90-2026-11-21.json"
    assert json.loads(file.read_text()).keys() == {"peers", "steps"}
    assert "ours-balanced-auto-eager" in docs.read_text()
