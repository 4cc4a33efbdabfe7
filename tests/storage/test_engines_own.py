"""What engines keep beside compiled models: counted, shown, the first to go, and cleared with the rest."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cudaspeed.cli import main
from cudaspeed.storage.artifacts import ArtifactStore
from cudaspeed.storage.engines_own import folder_of_xla, kept_by_engines

WHAT = {"model": "a network", "precision": "fp32"}


def publish(store: ArtifactStore, letter: str, size: int) -> None:
    assert store.claim(letter * 24, WHAT)
    file = store.folder / f"{letter}.new"
    file.write_bytes(b"1" * size)
    store.publish(letter * 24, file, seconds=1.0)


def keep(store: Path, name: str, size: int, used: float) -> Path:
    path = folder_of_xla(store) / f"{name}-cache"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"2" * size)
    os.utime(path, (used, used))
    return path


def test_it_is_within_the_limit_and_goes_before_what_takes_longer_to_make(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store", limit_bytes=200)
    publish(store, "a", 100)
    old, new = keep(store.folder, "old", 60, 1000.0), keep(store.folder, "new", 30, 2000.0)
    assert store.size() == 190
    publish(store, "b", 60)
    assert [old.exists(), new.exists()] == [False, True]
    assert {entry.state for entry in store.entries().values()} == {"ready"}
    publish(store, "c", 100)
    assert not kept_by_engines(store.folder)
    assert [store.entries()[letter * 24].state for letter in "abc"] == ["seen", "ready", "ready"]


def test_it_is_listed_and_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDASPEED_CACHE_DIR", str(tmp_path))
    publish(ArtifactStore(tmp_path), "a", 100)
    keep(tmp_path, "one", 3_000_000, 1000.0)
    assert main(["cache", "list", "--json"]) == 0
    *_, told = map(json.loads, capsys.readouterr().out.splitlines())
    assert told == {"engine": "xla", "files": 1, "bytes": 3_000_000}
    assert main(["cache", "list"]) == 0
    assert "XLA's own code for devices here: 1 files, 3.0 MB" in capsys.readouterr().out
    assert main(["cache", "clear", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["freed_bytes"] == 3_000_100
    assert not folder_of_xla(tmp_path).exists()
