"""The first picture is read ahead; what goes wrong with it is told in its turn, as without."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cudaspeed.api.errors import BadImageError
from cudaspeed.commands import reading
from cudaspeed.commands.reading import ReadAhead
from cudaspeed.images.animation import Animation
from cudaspeed.images.codecs.picture import Picture
from cudaspeed.images.jobs import Job
from cudaspeed.images.limits import DEFAULT_LIMITS, DecodeLimits


def job(path: Path, ending: str = ".jpg") -> Job:
    return Job(path, path.with_name(f"{path.stem}-x2{ending}"))


@pytest.fixture
def picture(tmp_path: Path) -> Job:
    Image.effect_noise((32, 24), 60).convert("RGB").save(tmp_path / "a.png")
    return job(tmp_path / "a.png")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Of each reading the file's name, and whether it was done ahead."""
    done: list[tuple[str, bool]] = []
    really = reading.read

    def read(asked: Job, limits: DecodeLimits) -> Picture | Animation:
        done.append((asked.source.name, threading.current_thread() is not threading.main_thread()))
        return really(asked, limits)

    monkeypatch.setattr(reading, "read", read)
    return done


def test_it_is_read_once_and_ahead(picture: Job, reads: list[tuple[str, bool]]) -> None:
    with ReadAhead(picture, DEFAULT_LIMITS) as read:
        found = read(picture)
        again = read(picture)
    assert reads == [("a.png", True), ("a.png", False)], "what was handed over is not kept"
    assert isinstance(found, Picture)
    assert isinstance(again, Picture)
    assert np.array_equal(found.pixels, again.pixels)


def test_an_animation_is_one_where_the_target_can_hold_it(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), (level, 0, 0)) for level in (0, 90, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=50)
    with ReadAhead(job(tmp_path / "a.gif", ".gif"), DEFAULT_LIMITS) as read:
        found = read(job(tmp_path / "a.gif", ".gif"))
    assert isinstance(found, Animation)
    assert len(found) == 3
    with ReadAhead(job(tmp_path / "a.gif"), DEFAULT_LIMITS) as read:
        assert isinstance(read(job(tmp_path / "a.gif")), Picture)


def test_what_cannot_be_read_is_told_in_its_turn(tmp_path: Path, reads: list[tuple[str, bool]]) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    told = pytest.raises(BadImageError, match="is no picture")
    with ReadAhead(job(tmp_path / "a.png"), DEFAULT_LIMITS) as read, told:
        read(job(tmp_path / "a.png"))
    assert reads == [("a.png", False)]


def test_what_is_mended_meanwhile_is_read(picture: Job) -> None:
    whole = picture.source.read_bytes()
    picture.source.write_bytes(b"half of it")
    with ReadAhead(picture, DEFAULT_LIMITS) as read:
        read._thread.join()
        picture.source.write_bytes(whole)
        assert isinstance(read(picture), Picture)


def test_a_picture_that_takes_much_memory_waits_for_its_turn(
    picture: Job, reads: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_MOST_AHEAD", 0.0001)
    with ReadAhead(picture, DEFAULT_LIMITS) as read:
        assert isinstance(read(picture), Picture)
    assert reads == [("a.png", True), ("a.png", False)]


def test_another_one_is_read_when_it_is_asked_for(picture: Job, reads: list[tuple[str, bool]], tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    for first in (picture, None):
        with ReadAhead(first, DEFAULT_LIMITS) as read:
            found = read(job(tmp_path / "b.png"))
        assert isinstance(found, Picture)
        assert found.pixels.shape == (4, 4, 3)
    assert reads == [("a.png", True), ("b.png", False), ("b.png", False)]


def test_who_is_stopped_does_not_wait_and_who_fails_leaves_nothing_running(
    picture: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, ended = threading.Event(), threading.Event()

    def read(asked: Job, limits: DecodeLimits) -> None:
        slow.wait(60)
        ended.set()

    monkeypatch.setattr(reading, "read", read)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), ReadAhead(picture, DEFAULT_LIMITS):
        raise KeyboardInterrupt
    assert time.monotonic() - began < 30
    assert not ended.is_set()
    slow.set()
    with pytest.raises(ZeroDivisionError), ReadAhead(picture, DEFAULT_LIMITS) as ahead:
        raise ZeroDivisionError
    assert not ahead._thread.is_alive()
