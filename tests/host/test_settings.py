"""What a user has set in ComfyUI, as we read it."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cudaspeed.host import settings
from cudaspeed.host.settings import setting


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a ComfyUI keeps them."""
    (tmp_path / "default").mkdir()
    monkeypatch.setattr(settings, "inside_comfyui", lambda: True)
    folders = SimpleNamespace(get_user_directory=lambda: str(tmp_path))
    monkeypatch.setitem(sys.modules, "folder_paths", folders)
    return tmp_path / "default" / "comfy.settings.json"


def test_what_is_set_holds_and_what_is_not_is_as_usual(file: Path) -> None:
    assert setting("CUDAspeed.Preview", True)
    file.write_text('{"CUDAspeed.Preview": false, "CUDAspeed.Monitor.Rate": 2, "Comfy.Locale": "zh"}')
    assert setting("CUDAspeed.Preview", True) is False
    assert setting("CUDAspeed.Monitor.Rate", 0.5) == 2.0
    assert setting("Comfy.Locale", "en") == "zh"
    assert setting("CUDAspeed.Nothing", 3) == 3


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "\ufeff{}", "[" * 100_000, '{"a": "\ud800'])
def test_a_damaged_file_is_as_none_and_told_once(file: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text(content, encoding="utf-8", errors="surrogatepass")
    with caplog.at_level(logging.WARNING, "cudaspeed"):
        assert [setting("CUDAspeed.Preview", True) for _ in range(3)] == [True, True, True]
    assert len(caplog.records) == 1 and str(file) in caplog.text


def test_a_folder_in_its_place_is_told_once(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.mkdir()
    with caplog.at_level(logging.WARNING, "cudaspeed"):
        assert [setting("CUDAspeed.Preview", True) for _ in range(3)] == [True, True, True]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("value", ['"fast"', "null", "true", "NaN", "Infinity", "-1e999", "1" + "0" * 400, "[]"])
def test_a_value_of_another_kind_is_as_none(file: Path, value: str) -> None:
    file.write_text('{"CUDAspeed.Monitor.Rate": ' + value + ', "CUDAspeed.Preview": false}')
    assert setting("CUDAspeed.Monitor.Rate", 0.5) == 0.5
    assert setting("CUDAspeed.Preview", True) is False, "the others hold"
    file.write_text('{"CUDAspeed.Preview": ' + value.replace("true", "1") + "}")
    assert setting("CUDAspeed.Preview", True) is True


def test_a_change_is_seen(file: Path) -> None:
    file.write_text('{"CUDAspeed.Preview": false}')
    assert setting("CUDAspeed.Preview", True) is False
    file.write_text('{"CUDAspeed.Preview": true}')
    os.utime(file, ns=(1, 1))
    assert setting("CUDAspeed.Preview", False) is True


def test_outside_comfyui_all_is_as_usual() -> None:
    assert setting("CUDAspeed.Preview", True)
