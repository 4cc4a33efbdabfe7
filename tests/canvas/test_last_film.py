"""What is told of a film on the node that it comes from."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from reports import REPORT

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.canvas.last_film import explained, facts, summary, told_of_film
from cudaspeed.host import language
from cudaspeed.video.facts import Losses
from cudaspeed.video.report import FilmReport

FILM = FilmReport(
    frames=240,
    input_size=(852, 1280),
    output_size=(3408, 5120),
    encoder="libx264",
    pixel_format="yuv420p",
    variable_rate=False,
    losses=Losses(),
    seconds=30.0,
    upscaling=replace(REPORT, frames=240, tiles=7200),
    notes=(),
)
NOTE = "the film's matrix is one that is not converted: what the model sees are not quite its colours"


def test_the_table_has_the_film_and_what_the_engine_did() -> None:
    told = dict(facts(FILM))
    assert told["film"] == "240 frames of 5120x3408 pixels"
    assert told["encoding"] == "libx264, yuv420p"
    assert told["time"] == "30.00 s, 8.0 frames/s"
    assert (told["precision"], told["compilation"]) == ("bf16 with autocast", "compiled")
    assert len(told) == len(facts(FILM)), "nothing twice"


@pytest.mark.parametrize(
    ("changes", "line", "sentence"),
    [
        ({}, "240 frames of 5120x3408, libx264, 8.0 frames/s", "Encoded by libx264 as yuv420p, at 8.0 frames/s"),
        ({}, "240 frames of 5120x3408", "240 frames of 1280x852 pixels became 5120x3408 by ESRGAN 64nf."),
        ({"resumed": 120}, "(120 were there), libx264, 4.0 frames/s", "120 frames were there from an earlier run."),
        ({"resumed": 240, "upscaling": None}, "(240 were there)", "from an earlier run, so nothing was computed."),
        ({"notes": (NOTE,)}, f"frames/s; {NOTE}", "The film's matrix is one that is not converted"),
    ],
)
def test_it_is_told_in_a_line_and_explained(changes: dict[str, Any], line: str, sentence: str) -> None:
    report = replace(FILM, **changes)
    assert line in summary(report)
    said = "\n".join(explained(report, UpscaleOptions()))
    assert said.count(sentence) == 1
    assert facts(report)[-1][0] == "time"


def test_what_the_engine_warns_of_is_said_once() -> None:
    engine = replace(FILM.upscaling, out_of_memory=0) if FILM.upscaling else None
    assert engine is not None
    warned = replace(FILM, upscaling=replace(engine, health=replace(engine.health, non_finite=1)))
    (warning,) = warned.warnings
    said = "\n".join(explained(warned, UpscaleOptions())).lower()
    assert said.count(warning.lower()) == 1


@pytest.mark.parametrize("changes", [{}, {"resumed": 120}, {"resumed": 240, "upscaling": None, "notes": (NOTE,)}])
def test_it_is_told_in_the_users_language(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    monkeypatch.setattr(language, "language", lambda: "zh")
    told = json.loads(told_of_film(replace(FILM, **changes), UpscaleOptions()))
    texts = [told["summary"], *(name for name, _ in told["facts"]), *told["explained"]]
    assert [text for text in texts if not re.search("[\u4e00-\u9fff]", text)] == []
