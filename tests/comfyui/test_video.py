"""Films inside a real ComfyUI on the CPU, through its HTTP interface: its own nodes around ours.

Needs COMFYUI_DIR and COMFYUI_PYTHON as test_images.py does. Skipped without the first.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfyui_page import Page
from comfyui_server import COMFYUI, Server, node, start_comfyui
from films import Beside, Look, av, decoded, every, make_film, packets

MODEL = "cudaspeed-compact-x2.safetensors"
FRAMES, SIZE = 20, (96, 128)
FP32 = {"precision": "fp32", "enable_compile": "disable"}

pytestmark = pytest.mark.skipif(not COMFYUI, reason="COMFYUI_DIR is not set: no ComfyUI to run in")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("comfyui")
    with start_comfyui(folder, {}) as running:
        make_film(folder / "input" / "film.mp4", every(40, FRAMES), Look(size=SIZE), Beside(sounds=("eng",)))
        make_film(
            folder / "input" / "long.mp4", every(40, 1500), Look(size=(240, 320), options={"preset": "ultrafast"})
        )
        make_film(folder / "input" / "slow.mp4", every(1000, 60), Look(size=(480, 640)))
        yield running


def offers(server: Server, kind: str) -> bool:
    return kind in server.get("/object_info")


def loaded(film: str = "film.mp4", **more: Any) -> dict[str, Any]:
    return {
        "film": node("LoadVideo", file=film),
        "model": node("UpscaleModelLoader", model_name=MODEL),
        **more,
    }


def ours(video: str = "film", **widgets: Any) -> dict[str, Any]:
    return node("UpscaleVideoCUDAspeed", upscale_model=["model", 0], video=[video, 0], **{**FP32, **widgets})


def save(server: Server, video: str, prefix: str, **choice: str) -> dict[str, Any]:
    """Core's SaveVideo, whose codec is part of its format in newer versions. `choice`: format, codec."""
    made = {"format": "auto", "codec": "auto", **choice}
    if server.get("/object_info")["SaveVideo"]["input"]["required"]["format"][0] == "COMFY_DYNAMICCOMBO_V3":
        made = {"format": made["format"], "format.codec": made["codec"]}
    return node("SaveVideo", video=[video, 0], filename_prefix=prefix, **made)


def film_of(server: Server, prompt: dict[str, Any], name: str = "save") -> Path:
    """The file that its node wrote."""
    entry = server.run(prompt)
    assert entry["status"]["status_str"] == "success", json.dumps(entry["status"]) + server.log()
    (told,) = entry["outputs"][name]["images"]
    return server.folder / "output" / told["subfolder"] / told["filename"]


def tags_of(path: Path) -> dict[str, str]:
    with av.open(str(path)) as container:
        return {name.lower(): value for name, value in container.metadata.items()}


def computed(server: Server) -> int:
    """How many times the model went through a film, or pictures, as the log has it."""
    return (server.folder / "log.txt").read_text().count(" frame(s), ")


def looks_like(found: list[np.ndarray], wanted: list[np.ndarray]) -> bool:
    """As a codec leaves it."""
    assert [frame.shape for frame in found] == [frame.shape for frame in wanted]
    return float(np.abs(np.stack(found).astype(float) - np.stack(wanted)).mean()) < 4


def doubled(path: Path) -> list[np.ndarray]:
    return [frame.repeat(2, 0).repeat(2, 1) for frame in decoded(path, "rgb24")]


def test_a_film_is_upscaled_while_core_saves_it_and_all_that_is_told_belongs_to_the_saving_node(server: Server) -> None:
    page = Page(server, loaded(up=ours(), save=save(server, "up", "video/one")))
    assert page.wait()[1] == "execution_success", server.log()
    (made,) = (server.folder / "output" / "video").glob("one*.mp4")
    source = server.folder / "input" / "film.mp4"
    assert looks_like(decoded(made, "rgb24"), doubled(source))
    assert [data for _, data in packets(made, 1)] == [data for _, data in packets(source, 1)]
    assert json.loads(tags_of(made)["prompt"])["up"]["class_type"] == "UpscaleVideoCUDAspeed"
    assert page.bars("save")
    assert not page.bars("up")
    assert page.texts("save")[-1][1].startswith(f"{FRAMES} frames of 256x192, libx264, ")
    ((_, output),) = page.outputs("up")
    (run,) = map(json.loads, output["cudaspeed"])
    assert run["summary"] == page.texts("save")[-1][1], "to be kept by the node that it comes from"
    assert any("128x96 pixels became 256x192" in sentence for sentence in run["explained"])


def test_the_same_film_under_another_name_is_not_computed_again(server: Server) -> None:
    first = film_of(server, loaded(up=ours(crf=20), save=save(server, "up", "video/first")))
    before = computed(server)
    second = film_of(server, loaded(up=ours(crf=20), save=save(server, "up", "video/second")))
    assert computed(server) == before
    assert packets(first, 0) == packets(second, 0)
    assert packets(first, 1) == packets(second, 1)
    assert json.loads(tags_of(second)["prompt"])["save"]["inputs"]["filename_prefix"] == "video/second"
    first.unlink()
    second.unlink()
    film_of(server, loaded(up=ours(crf=20), save=save(server, "up", "video/third")))
    assert computed(server) == before + 1, "what is gone cannot be copied"


def test_a_part_of_a_film_is_the_same_cut_before_or_after(server: Server) -> None:
    if not offers(server, "Video Slice"):
        pytest.skip("this ComfyUI cuts no films")

    def slice_of(video: str) -> dict[str, Any]:
        return node("Video Slice", video=[video, 0], start_time=0.2, duration=0.4, strict_duration=True)

    before = film_of(server, loaded(cut=slice_of("film"), up=ours("cut"), save=save(server, "up", "before")))
    after = film_of(server, loaded(up=ours(), cut=slice_of("up"), save=save(server, "cut", "after")))
    wanted = doubled(server.folder / "input" / "film.mp4")[5:15]
    assert looks_like(decoded(before, "rgb24"), wanted)
    assert packets(before, 0) == packets(after, 0)
    assert packets(before, 1) == packets(after, 1)
    assert 17 <= len(packets(before, 1)) <= 19, "0.4 seconds of sound, in packets of 21 ms"


def test_its_frames_as_images_are_those_of_the_image_node(server: Server) -> None:
    parts = node("GetVideoComponents", video=["up", 0])
    counted = node("ImageFromBatch", image=["parts", 0], batch_index=FRAMES - 1, length=1)
    core = node("GetVideoComponents", video=["film", 0])
    last = node("ImageFromBatch", image=["core", 0], batch_index=FRAMES - 1, length=1)
    mine = node(
        "UpscaleImageCUDAspeed", upscale_model=["model", 0], image=["last", 0], use_autocast="enable", tile_size=0,
        overlap=0, optimization_level="balanced", **FP32,
    )  # fmt: skip
    pictures = server.pictures(
        loaded(
            up=ours(),
            parts=parts,
            counted=counted,
            core=core,
            last=last,
            mine=mine,
            save_film=node("SaveImage", images=["counted", 0], filename_prefix="film"),
            save_mine=node("SaveImage", images=["mine", 0], filename_prefix="mine"),
        )
    )
    film, images = pictures["save_film"], pictures["save_mine"]
    assert film.shape == (192, 256, 3)
    assert np.abs(film.astype(int) - images).mean() < 4, "core reads BT.601 a little otherwise"


def test_frames_out_of_memory_become_a_film_with_sound(server: Server) -> None:
    core = node("GetVideoComponents", video=["film", 0])
    create = node("CreateVideo", images=["core", 0], audio=["core", 1], fps=25.0)
    made = film_of(server, loaded(core=core, made=create, up=ours("made"), save=save(server, "up", "created")))
    assert looks_like(decoded(made, "rgb24"), doubled(server.folder / "input" / "film.mp4"))
    with av.open(str(made)) as container:
        assert [stream.codec_context.name for stream in container.streams] == ["h264", "aac"]
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        assert abs(container.duration / 1e6 - 0.8) < 0.05


def test_a_codec_that_does_not_go_into_the_file_is_one_clear_error(server: Server) -> None:
    entry = server.run(loaded(up=ours(codec="prores_ks"), save=save(server, "up", "prores")))
    assert entry["status"]["status_str"] == "error"
    assert "prores_ks does not go into .mp4 films, but into .mov, .mkv" in json.dumps(entry["status"])
    assert not [*(server.folder / "output").glob("prores*")]


def test_an_interrupt_in_mid_film_leaves_no_file_and_the_next_prompt_runs(server: Server) -> None:
    page = Page(server, loaded("long.mp4", up=ours(), save=save(server, "up", "stopped/film")))
    for _ in range(1200):
        if page.pictures():  # after two seconds of work
            break
        time.sleep(0.05)
    else:
        pytest.fail("no picture was shown in a minute: " + server.log())
    asked = time.monotonic()
    server.post("/interrupt", {})
    ended, how = page.wait()
    assert how == "execution_interrupted", server.log()
    assert ended - asked <= 2.0
    assert not [*(server.folder / "output" / "stopped").iterdir()]
    made = film_of(server, loaded(up=ours(), save=save(server, "up", "after")))
    assert len(decoded(made)) == FRAMES


def test_with_segments_an_interrupted_film_is_gone_on_with_by_the_same_prompt(server: Server) -> None:
    prompt = loaded("slow.mp4", up=ours(segments="enable"), save=save(server, "up", "kept/film"))
    page, folder = Page(server, prompt), server.folder / "output" / "kept"
    for _ in range(1200):
        if [*folder.glob(".*/000000.json")]:  # the first ten of sixty seconds
            break
        time.sleep(0.05)
    else:
        pytest.fail("no segment was there in a minute: " + server.log())
    server.post("/interrupt", {})
    _, how = page.wait()
    assert how == "execution_interrupted", server.log()
    again = Page(server, prompt)
    _, how = again.wait()
    assert how == "execution_success" and [path.name for path in folder.iterdir()] == ["film_00001_.mp4"], server.log()
    _, told = again.texts("save")[-1]
    assert re.match(r"60 frames of 1280x960 \([1-5]0 were there\)", told), told
    assert len(decoded(folder / "film_00001_.mp4")) == 60
