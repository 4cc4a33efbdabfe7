"""A finished film copied, with other tags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from films import Beside, Look, av, decoded, every, make_film, packets

from cudaspeed.video.remux import copy_film

EVERYTHING = Beside(sounds=("eng", "fra"), subtitles=True, chapters=True, font=True, tags={"title": "Home"})


def described(path: Path) -> list[Any]:
    """What is said of the film and of its streams."""
    with av.open(str(path)) as container:
        film = container.streams.video[0]
        streams = [(one.type, one.metadata.get("language"), one.disposition) for one in container.streams]
        return [streams, film.average_rate, next(container.decode(video=0)).rotation, container.chapters()]


@pytest.mark.parametrize(
    ("name", "look", "beside"),
    [
        ("film.mp4", Look(rotation=90), Beside(sounds=("eng",), chapters=True, tags={"title": "Home"})),
        ("film.mkv", Look(rotation=90), EVERYTHING),
        ("film.mov", Look(), Beside(sounds=("eng",), tags={"title": "Home"})),
        ("film.webm", Look("libvpx-vp9", options={"deadline": "realtime"}), Beside(tags={"title": "Home"})),
        ("film.mkv", Look("libx265", options={"x265-params": "bframes=4:log-level=error"}), Beside()),
    ],
)
def test_all_but_the_tags_stays(tmp_path: Path, name: str, look: Look, beside: Beside) -> None:
    given, ending = tmp_path / name, Path(name).suffix
    make_film(given, every(40, 30), look, beside)
    first, second = tmp_path / f"first{ending}", tmp_path / f"second{ending}"
    with first.open("wb") as file:
        copy_film(given, ending, file, {"prompt": '{"1": 2}', "workflow": "w"})
    with second.open("wb") as file:
        copy_film(first, ending, file, {"prompt": "new"}, ["prompt", "workflow"])
    assert described(given) == described(first) == described(second)
    assert packets(given, 0) == packets(first, 0) == packets(second, 0)
    assert [frame.pts for frame in decoded(given)] == [frame.pts for frame in decoded(second)]
    with av.open(str(second)) as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}
    assert tags["prompt"] == "new"
    assert "workflow" not in tags
    assert tags.get("title") == beside.tags.get("title")
