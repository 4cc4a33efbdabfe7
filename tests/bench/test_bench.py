"""The benchmarks' own arithmetic: what they count, how they tell it, and that a row that fails ends nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn

ROOT = Path(__file__).absolute().parent.parent.parent
DOCS = ROOT / "docs" / "performance.md"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def beside_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """They find each other as scripts do."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))


# --- counting --------------------------------------------------------------------------------------------------------


def test_operations_are_counted_twice_for_each_weight_and_pixel() -> None:
    from ceilings import flops_per_pixel

    weights = 9 * (3 * 8 + 3 * 8 * 8 + 8 * 3 * 2**2)  # 3x3: in, three between, out to the pixel shuffle
    assert flops_per_pixel(zoo.compact(2, features=8, convs=3)) == 2 * weights


def test_operations_are_counted_by_computing_where_nothing_else_helps() -> None:
    from ceilings import flops_per_pixel

    model = zoo.toy(1, lambda x: x * float(x.mean()))  # which is not to be had on the meta device
    assert flops_per_pixel(model) == 0


def test_psnr_is_of_the_mean_square_and_ends_somewhere() -> None:
    from harness import psnr

    picture = torch.rand(1, 4, 5, 3)
    assert psnr(picture + 0.1, picture) == pytest.approx(20, abs=1e-3)
    assert json.loads(json.dumps(psnr(picture, picture))) == 200


def test_works_come_in_turn() -> None:
    from harness import in_turn

    order: list[str] = []
    works = {name: lambda name=name: order.append(name) for name in "ab"}
    times = in_turn(works, 3, CPU)
    assert order == ["a", "b"] * 3
    assert [len(took) for took in times.values()] == [3, 3]


def test_a_part_s_seconds_are_without_those_of_the_parts_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import overhead

    clock = iter([0.0, 1.0, 4.0, 6.0])  # outer begins, inner begins, inner ends, outer ends
    monkeypatch.setattr(overhead.time, "perf_counter", lambda: next(clock))
    watch = overhead.Stopwatch(CPU)
    watch.timed("outer", watch.timed("inner", lambda: None))()
    assert watch.seconds == {"outer": 3, "inner": 3}


def test_every_part_of_the_path_is_met_under_the_name_it_is_timed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    import overhead

    from cudaspeed.api.options import UpscaleOptions
    from cudaspeed.host import StandaloneContext

    met, timed = set(), overhead.Stopwatch.timed

    def remembering(watch: overhead.Stopwatch, name: str, function):
        def call(*args, **kwargs):
            met.update({function} if name in overhead.PARTS else ())
            return function(*args, **kwargs)

        return timed(watch, name, call)

    monkeypatch.setattr(overhead.Stopwatch, "timed", remembering)
    options = UpscaleOptions(precision="fp32", tile=64, compile=False)
    row = overhead.measure(zoo.compact(2), zoo.photograph(100, 64), options, StandaloneContext("cpu"), rounds=1)
    assert all(took > 0 for took in row["parts"].values()), row["parts"]
    on_streams = {overhead.upload.StreamUpload, overhead.download.StreamDownload}  # which a CPU has not
    wanted = [place for places in overhead.PARTS.values() for place in places if place[0] not in on_streams]
    assert met == {getattr(owner, name) for owner, name in wanted}
    assert row["tiles"] > 1
    assert row["recomputed"] == pytest.approx(row["tiles"] * row["tile"][0] * row["tile"][1] / 6400 - 1)
    assert row["overhead"] == pytest.approx(row["seconds"] / row["tiles_seconds"] - 1)


def test_sizes_of_a_series() -> None:
    from scaling import powers_of_four, side_for

    assert powers_of_four(64) == [1, 4, 16, 64]
    assert powers_of_four(63) == [1, 4, 16]
    assert (side_for(16, 4) * 4) ** 2 == pytest.approx(16e6, rel=0.02)


# --- ways ------------------------------------------------------------------------------------------------------------


def little_memory(forward, most_pixels: int, seen: list[int]):
    def run(x: Tensor) -> Tensor:
        seen.append(x[0, 0].numel())
        if seen[-1] > most_pixels:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(x)

    return run


@pytest.mark.parametrize(("height", "width"), [(96, 128), (97, 131)])
@torch.inference_mode()
def test_quarters_are_put_together_where_they_were(height: int, width: int) -> None:
    from ways import by_quarters

    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 12, 1), nn.PixelShuffle(2))
    picture, seen = torch.rand(2, 3, height, width), []
    result = by_quarters(little_memory(layers, 3000, seen), 2, picture)
    assert max(seen[1:]) < height * width
    assert len(seen) > 5, "quarters of quarters"
    assert torch.allclose(result, layers(picture), atol=1e-6)


def test_what_cannot_be_quartered_any_more_and_what_is_no_lack_of_memory_is_raised() -> None:
    from ways import by_quarters

    with pytest.raises(torch.OutOfMemoryError):
        by_quarters(little_memory(lambda x: x, 10, []), 1, torch.rand(1, 3, 64, 64))

    tries: list[Tensor] = []

    def broken(x: Tensor) -> Tensor:
        tries.append(x)
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        by_quarters(broken, 1, torch.rand(1, 3, 64, 64))
    assert len(tries) == 1


def test_a_row_that_fails_tells_why_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import peers
    from ways import WAYS, Setting

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
    monkeypatch.delenv("COMFYUI_DIR", raising=False)
    image = zoo.photograph(32, 24, frames=3)
    rows = peers.compare(Setting(zoo.compact(2), CPU, None), image, names, 2, peers.Ceilings(CPU))
    assert [*rows] == names
    assert rows["core"]["failure"] == "COMFYUI_DIR names no checkout of ComfyUI"
    assert rows["hopeless"]["failure"] == "failed: no such kernel"
    assert rows["late"]["failure"] == "failed: CUDA out of memory"
    assert "natively" in rows["plain-half"]["failure"]
    plain, ours = rows["plain-fp32"], rows["ours-balanced-fp32-eager"]
    assert plain["times"] == 1, "the first that ran"
    assert plain["psnr"] == 200
    assert ours["psnr"] > 60
    assert ours["seconds"] == min(ours["all_seconds"])
    assert ours["megapixels_per_second"] == pytest.approx(3 * 64 * 48 / 1e6 / ours["seconds"])


@pytest.mark.parametrize("way", ["plain-half-last", "batched-half", "split-half"])
def test_half_precision_is_half_precision(way: str) -> None:
    from harness import psnr
    from ways import WAYS, Setting

    setting, image = Setting(zoo.compact(2), CPU, "bf16"), zoo.photograph(32, 40, frames=2)
    with torch.inference_mode():
        made, truth = WAYS[way](setting)(image), WAYS["plain-fp32"](setting)(image)
    assert made.precision == "bf16"
    assert 40 < psnr(made.picture, truth.picture) < 90


def test_works_are_told_by_width_height_and_frames() -> None:
    from peers import parse_work

    assert parse_work("640x480", 5) == (480, 640, 5)
    assert parse_work("640x480x64", 1) == (480, 640, 64)
    for text in ("640", "640x480x64x2", "axb"):
        with pytest.raises(ValueError):
            parse_work(text, 1)


# --- pictures and models ---------------------------------------------------------------------------------------------


def test_a_photograph_is_mirrored_on_and_moves_from_frame_to_frame() -> None:
    from photograph import EXAMPLE, photograph

    from cudaspeed.images.files import read_image

    height, width, _ = read_image(EXAMPLE).pixels.shape
    frames = photograph(2 * height, width + 10, frames=2)
    assert frames.shape == (2, 2 * height, width + 10, 3)
    assert torch.equal(frames[0, :height], frames[0, height:].flip(0))
    assert torch.equal(frames[0, :, 3:], frames[1, :, :-3])
    assert not torch.equal(frames[0], frames[1])


def test_a_fitted_model_makes_a_photograph_of_a_photograph() -> None:
    from harness import psnr
    from photograph import photograph

    from models import build, build_fitted

    picture = photograph(96, 96).permute(0, 3, 1, 2)
    wanted = nn.functional.interpolate(picture, scale_factor=4, mode="bicubic").clamp(0, 1)
    with torch.inference_mode():
        fitted, random = (psnr(model(picture), wanted) for model in (build_fitted("span", picture), build("span")))
    assert fitted > 25 > random + 10


# --- telling ---------------------------------------------------------------------------------------------------------


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


def test_where_nothing_was_measured_it_says_so() -> None:
    from summary import NOTHING, TARGETS, table

    told = table({})
    assert told.startswith(f"CUDA: {NOTHING}.")
    assert told.count(f"| {NOTHING} |") == len(TARGETS)


def test_targets_are_held_against_what_was_measured() -> None:
    from summary import NOTHING, table

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
    from summary import NOTHING, table

    good, bad = {"psnr": 61.0}, {"failure": "too little memory", "psnr": 70.0}
    assert "| 61.0 dB | yes |" in line(table(found([good], "drill")), "out-of-memory drill")
    assert f"| {NOTHING} |" in line(table(found([good, bad], "drill")), "out-of-memory drill")


def test_cost_counts_from_a_megapixel_on() -> None:
    from summary import table

    costs = [(0.1, 9.0), (1.0, 1.0), (4.0, 1.3)]
    rows = [{"series": "frames", "megapixels": size, "seconds_per_megapixel": cost} for size, cost in costs]
    assert "| 1.30x | yes |" in line(table(found(rows, "scaling")), "dearest megapixel")


def test_the_table_goes_between_the_markers_and_nowhere_else() -> None:
    from summary import BEGIN, END, updated

    text = f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n"
    once = updated(text, "new")
    assert once == f"before\n\n{BEGIN}\n\nnew\n\n{END}\n\nafter\n"
    assert updated(once, "new") == once
    for broken in ("nothing", f"{END} {BEGIN}", f"{BEGIN} {BEGIN} {END}"):
        with pytest.raises(ValueError, match="there must be one"):
            updated(broken, "new")


def test_the_documentation_has_a_place_for_the_table() -> None:
    from summary import table, updated

    assert "7.50x" in updated(DOCS.read_text(encoding="utf-8"), table(found([peer("core", seconds=6.0), *ours()])))


def ours() -> list[dict[str, Any]]:
    return [peer("ours-balanced-auto-eager", seconds=0.8)]


def test_the_summary_reads_what_is_whole_and_writes_one_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import summary

    folder, results, docs = tmp_path / "in", tmp_path / "out", tmp_path / "docs.md"
    folder.mkdir()
    (folder / "peers.json").write_text(json.dumps(found([peer("core"), *ours()])["peers"]))
    (folder / "drill.json").write_text('{"rows": [')
    (folder / "foreign.json").write_text("[1]")
    (folder / "steps.txt").write_text("peers 0 12\ndrill 124 25\nmemory 1 3\n")
    docs.write_text(f"{summary.BEGIN}{summary.END}")
    arguments = ["summary.py", str(folder), "--docs", str(docs), "--results", str(results)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        summary.main()
    told = capsys.readouterr().out
    assert "peers: done, 12 s\ndrill: out of time, 25 s\nmemory: failed, 3 s" in told
    (file,) = results.iterdir()
    assert file.name == "nvidia-h200-sm-90-2026-11-21.json"
    assert json.loads(file.read_text()).keys() == {"peers", "steps"}
    assert "ours-balanced-auto-eager" in docs.read_text()


def event(category: str, name: str, stream: int, start: float, duration: float) -> dict[str, Any]:
    return {"cat": category, "name": name, "ts": start, "dur": duration, "args": {"stream": stream}}


def test_busy_shares_of_a_trace() -> None:
    from streams import summary

    trace = [
        {"cat": "cpu_op", "name": "aten::conv2d", "ts": 0, "dur": 999},
        event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 13, 100, 20),
        event("kernel", "conv", 7, 110, 50),
        event("kernel", "conv", 7, 160, 20),
        event("kernel", "blend", 14, 170, 20),
        event("gpu_memcpy", "Memcpy DtoD (Device -> Device)", 14, 190, 5),
        event("gpu_memcpy", "Memcpy DtoH (Device -> Pinned)", 14, 180, 20),
    ]
    told = summary(trace)
    assert told["milliseconds"] == pytest.approx(0.1)
    assert told["busy"] == pytest.approx({"kernels": 0.85, "copies in": 0.2, "copies out": 0.2})
    assert told["hidden"] == pytest.approx({"copies in": 0.5, "copies out": 0.75})
    assert told["streams"]["stream 7: kernels"] == pytest.approx(0.7)
    assert "failure" in summary([])


def test_results_are_written_after_every_row(tmp_path: Path) -> None:
    from harness import Results

    file = tmp_path / "folder" / "results.json"
    results = Results(CPU, file)
    for count in (1, 2):
        results.keep({"row": count})
        told = json.loads(file.read_text())
        assert [row["row"] for row in told["rows"]] == [1, 2][:count]
    assert told["environment"]["torch"] == torch.__version__
    assert told["command"].startswith("python ")
    assert told["date"][:2] == "20"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_checklist_says_in_one_line_that_there_is_no_cuda() -> None:
    command = ["bash", str(ROOT / "bench" / "cuda_checklist.sh")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable})
    assert (done.returncode, done.stdout) == (1, "no CUDA device: nothing measured\n")
