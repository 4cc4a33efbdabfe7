"""What is told of a run on its node."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from reports import REPORT

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.report import ImageHealth, Repair
from cudaspeed.canvas.last_run import KEY, explained, facts, told_of, with_last_run
from cudaspeed.host import language

FAULT = "NaN or infinite values"
REPAIRED = ImageHealth(repairs=(Repair(0, (0, 1), FAULT, "bf16", "fp32"), Repair(0, (1, 1), FAULT, "bf16", "fp32")))


def words(options: UpscaleOptions = UpscaleOptions(), **changes: Any) -> str:  # noqa: B008  # frozen
    return "\n".join(explained(replace(REPORT, **changes), options))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "1280x852 -> 5120x3408, bf16, compiled, 30 tiles, 51.7 s"),
        (
            {"compiled": False, "health": REPAIRED},
            "1280x852 -> 5120x3408, bf16, 30 tiles, 51.7 s, 2 tiles repaired",
        ),
        ({"tiles": 1, "seconds": 0.042}, "1280x852 -> 5120x3408, bf16, compiled, one piece, 42 ms"),
        ({"frames": 12, "tiles": 12}, "12 frames, 1280x852 -> 5120x3408, bf16, compiled, one piece each, 51.7 s"),
        ({"frames": 0, "tiles": 0}, "no frames of 1280x852"),
    ],
)
def test_a_line_says_what_was_done(changes: dict[str, Any], line: str) -> None:
    assert replace(REPORT, **changes).summary == line


def test_the_table_has_plan_precision_compiling_health_memory_and_time() -> None:
    assert dict(facts(REPORT)) == {
        "plan": "30 tiles of 256x256, overlap 32, 2 at once",
        "precision": "bf16 with autocast",
        "compilation": "compiled",
        "health": "nothing to repair",
        "peak memory": "1.90 GB",
        "time": "51.70 s, 0.021 MP/s",
        "known of the model": "rev 7",
    }
    health = dict(facts(replace(REPORT, health=REPAIRED)))["health"]
    assert health.startswith("2 tile(s) had NaN or infinite values in bf16 and were computed again in fp32")
    assert facts(replace(REPORT, frames=0)) == []


@pytest.mark.parametrize(
    ("options", "changes", "sentence"),
    [
        ({}, {"tiles": 1}, "in one piece: it fits"),
        ({"tile": 256}, {}, "30 tiles of 256x256, overlap 32, 2 at once: no larger because tile_size is 256"),
        (
            {},
            {"profile": "rev 7, tiles as memory allowed"},
            "as large as free memory allowed at optimization_level bal",
        ),
        ({"level": "speed"}, {"out_of_memory": 2}, "Memory ran out 2 times"),
        ({}, {}, "of the size that is expected to be fastest"),
        ({}, {}, "bf16, delicate operations in fp32: the device is fast at it"),
        ({"precision": "bf16"}, {}, "in bf16, as asked for"),
        ({"precision": "fp16"}, {"precision": "fp32"}, "in fp32, not in fp16"),
        ({}, {"health": replace(REPAIRED, given_up="fp16")}, "began in fp16 and went on in bf16"),
        ({}, {"health": REPAIRED}, "2 tile(s) had NaN or infinite values in bf16 and were computed again in fp32"),
        ({}, {}, "Nothing had to be repaired."),
        ({}, {}, "Compiled code computed tiles."),
        ({}, {"compiled": False, "compiling": "off"}, "because enable_compile is disable"),
        ({}, {"compiled": False, "compiling": "eager: no C++ compiler was found"}, "no C++ compiler was found"),
        ({}, {"compiled": False, "compiling": "not needed: winograd kernels"}, "winograd kernels, which are as fast"),
        ({}, {"passes": 2, "sizes": "320x240, model 1280x960, lanczos 640x480"}, "run 2 times for: 320x240, model"),
        ({}, {"still_tiles": 15}, "50% of the tiles show what the frame before shows"),
        ({}, {"frames": 0}, "nothing was computed"),
    ],
)
def test_it_is_explained_in_plain_words(options: dict[str, Any], changes: dict[str, Any], sentence: str) -> None:
    assert sentence in words(UpscaleOptions(**options), **changes)


def test_it_reaches_the_page_as_text_that_nobody_takes_for_a_file() -> None:
    """ComfyUI counts and shows what outputs list as dictionaries."""
    image = torch.zeros(1, 2, 2, 3)
    returned = with_last_run(image, REPORT, UpscaleOptions())
    assert returned["result"] == (image,)
    ((key, (text,)),) = returned["ui"].items()
    assert key == KEY
    assert isinstance(text, str)
    told = json.loads(text)
    assert {*told} == {"summary", "facts", "explained"}
    assert told["summary"] == REPORT.summary
    assert len(told_of(REPORT, UpscaleOptions())) < 4000


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({}, {"tiles": 1}),
        ({"tile": 256}, {"kernels": "winograd", "compiled": False, "compiling": "not needed: winograd kernels"}),
        ({}, {"profile": "rev 7, tiles as memory allowed", "autocast": False}),
        ({"level": "speed"}, {"out_of_memory": 2, "health": replace(REPAIRED, given_up="fp16")}),
        ({"level": "memory"}, {"out_of_memory": 1, "precision": "fp32", "compiled": False, "compiling": "off"}),
        ({"precision": "bf16"}, {"batch": 1, "health": REPAIRED}),
        ({"precision": "fp16"}, {"compiled": False, "compiling": "eager: compiling would not pay yet"}),
        ({}, {"passes": 2, "frames": 12, "tiles": 12, "still_tiles": 6}),
        ({}, {"frames": 0}),
    ],
)
def test_it_is_told_in_the_users_language(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], changes: dict[str, Any]
) -> None:
    monkeypatch.setattr(language, "language", lambda: "zh")
    told = json.loads(told_of(replace(REPORT, **changes), UpscaleOptions(**options)))
    texts = [told["summary"], *(name for name, _ in told["facts"]), *told["explained"]]
    assert [text for text in texts[1:] if not re.search("[\u4e00-\u9fff]", text)] == []
    words = {
        word for text in [*texts, *(value for _, value in told["facts"])] for word in re.findall("[A-Za-z]{3,}", text)
    }
    assert words <= {
        "ESRGAN",
        "NaN",
        "winograd",
        "precision",
        "balanced",
        "speed",
        "memory",
        "optimization",
        "level",
    } | {*("tile", "size", "enable", "compile", "disable")}
