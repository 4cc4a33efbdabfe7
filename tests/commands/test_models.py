"""What `cudaspeed models` has to load a model for, it loads it for once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cudaspeed.api.errors import BadModelError
from cudaspeed.cli import main
from cudaspeed.commands import models as command
from cudaspeed.models import loader, weights
from cudaspeed.storage.location import compiled_folder

List = Callable[[], list[dict]]


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of models, with one of no known architecture."""
    folder = tmp_path / "models"
    folder.mkdir()
    save_file({"odd.weight": torch.zeros(3)}, folder / "odd.safetensors")
    monkeypatch.setattr(loader, "bundled_folder", lambda: folder)
    monkeypatch.delenv("CUDASPEED_MODELS", raising=False)
    return folder


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were loaded."""
    names: list[str] = []
    really = loader.load_model

    def load(path: Path) -> object:
        names.append(path.name)
        return really(path)

    monkeypatch.setattr(command, "load_model", load)
    return names


@pytest.fixture
def listed(capsys: pytest.CaptureFixture[str]) -> List:
    def call() -> list[dict]:
        assert main(["models", "--json"]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return call


def test_it_is_loaded_again_when_its_file_was_touched(shelf: Path, loaded: list[str], listed: List) -> None:
    first = listed()
    assert "spandrel does not know" in first[0]["error"]
    assert listed() == first
    assert loaded == ["odd.safetensors"]
    os.utime(shelf / "odd.safetensors", (1, 1))
    assert listed() == first
    assert len(loaded) == 2


def test_clearing_the_cache_forgets_it(shelf: Path, loaded: list[str], listed: List) -> None:
    listed()
    main(["cache", "clear", "--json"])
    assert main(["models"]) == 0
    assert len(loaded) == 2


def test_another_spandrel_may_know_more(
    shelf: Path, loaded: list[str], listed: List, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed()
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99.0")
    listed()
    assert len(loaded) == 2


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"error": 3},
        {"scale": 2},
        {"scale": "2", "architecture": "A", "input_channels": 3, "output_channels": 3, "precisions": ["fp32"]},
        {"scale": 2, "architecture": "A", "input_channels": 3, "output_channels": 3, "precisions": [3]},
        {"scale": 2, "architecture": "A", "input_channels": 3, "output_channels": 3, "precisions": "fp32"},
    ],
)
def test_what_was_kept_is_not_believed_if_it_makes_no_sense(
    shelf: Path, loaded: list[str], listed: List, told: dict
) -> None:
    first = listed()
    file = compiled_folder() / "models" / "loaded.json"
    kept = json.loads(file.read_text())
    (of_file,) = kept["files"].values()
    of_file[1] = told
    file.write_text(json.dumps(kept))
    assert listed() == first
    assert len(loaded) == 2


@pytest.mark.parametrize("refusal", ["room", "memory"])
def test_what_may_pass_is_not_kept(
    shelf: Path, loaded: list[str], listed: List, monkeypatch: pytest.MonkeyPatch, refusal: str
) -> None:
    with monkeypatch.context() as while_it_lasts:
        if refusal == "room":
            while_it_lasts.setattr(weights, "free_host_bytes", lambda: 1)
            assert "are free; close other programs" in listed()[0]["error"]
        else:

            def no_memory(path: Path) -> None:
                raise MemoryError

            while_it_lasts.setattr(command, "load_model", no_memory)
            assert "MemoryError" in listed()[0]["error"]
    assert "spandrel does not know" in listed()[0]["error"]


def test_a_file_that_is_checked_before_a_command_begins(shelf: Path) -> None:
    loader.check_file("odd")  # whose header is well
    (shelf / "text.pth").write_text("this is no model at all")
    for name in ("text.pth", str(shelf / "text.pth"), "absent", str(shelf)):
        with pytest.raises(BadModelError):
            loader.check_file(name)
