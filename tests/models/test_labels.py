"""What model files are, in a few words, by their headers: for the file as it is, and found out once."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import hostile_models as made
import pytest
from safetensors.torch import save_file

from cudaspeed.models import labels
from cudaspeed.models.labels import UNREADABLE, ModelLabels
from cudaspeed.storage.loaded import LoadedStore


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose headers are read."""
    opened, told = labels.opened_model, []
    monkeypatch.setattr(labels, "opened_model", lambda path: (told.append(path), opened(path))[1])
    return told


def new(tmp_path: Path, patience: float = 60.0) -> ModelLabels:
    return ModelLabels(LoadedStore(tmp_path / "cache", "headers.json"), patience)


def model(tmp_path: Path, name: str = "a.safetensors", scale: int = 2) -> Path:
    path = tmp_path / name
    save_file(made.tiny_state(scale), path)
    return path


def test_scale_and_architecture_are_told_and_remembered_in_later_sessions(tmp_path: Path, read: list[Path]) -> None:
    path = model(tmp_path)
    told = {path: "x2 RealESRGAN Compact"}
    first = new(tmp_path)
    assert first.of([path]) == first.of([path]) == new(tmp_path).of([path]) == told
    assert read == [path]


def test_a_file_that_was_replaced_is_read_again(tmp_path: Path, read: list[Path]) -> None:
    path, words = model(tmp_path), new(tmp_path)
    assert words.of([path])[path].startswith("x2")
    save_file(made.tiny_state(4), path)
    os.utime(path, ns=(1, 1))
    assert words.of([path])[path].startswith("x4")
    path.unlink()
    assert words.of([path]) == {}


def test_what_cannot_be_used_says_so_and_costs_the_others_nothing(tmp_path: Path) -> None:
    wrong = tmp_path / "page.pth"
    wrong.write_bytes(b"<html>")
    path = model(tmp_path)
    assert new(tmp_path).of([wrong, tmp_path / "gone.pth", path]) == {
        wrong: UNREADABLE,
        path: "x2 RealESRGAN Compact",
    }


def test_what_only_loading_can_tell_has_words_once_it_was_loaded(tmp_path: Path, read: list[Path]) -> None:
    path = tmp_path / "rare.safetensors"
    save_file({"some.weight": made.tiny_state()["body.0.weight"]}, path)
    words = new(tmp_path)
    assert words.of([path]) == {}
    words.learn(path, "x3 Rare")
    assert words.of([path]) == new(tmp_path).of([path]) == {path: "x3 Rare"}
    assert len(read) == 1


def test_who_lists_waits_a_moment_only_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, opened = threading.Event(), labels.opened_model
    monkeypatch.setattr(labels, "opened_model", lambda path: (goes_on.wait(60), opened(path))[1])
    path, words = model(tmp_path), new(tmp_path, patience=0.01)
    assert words.of([path]) == {}
    reading = [thread for thread in threading.enumerate() if thread.name == "model headers of cudaspeed"]
    words._patience = 60.0
    assert words.of([path]) == {}, "nobody waits twice"
    assert len([thread for thread in threading.enumerate() if thread.name == reading[-1].name]) == len(reading)
    goes_on.set()
    reading[-1].join(60)
    assert words.of([path]) == {path: "x2 RealESRGAN Compact"}
