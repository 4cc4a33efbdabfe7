"""What loading a model told is there in later sessions, for the same file only; nonsense is not believed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cudaspeed.storage.loaded import LoadedStore, Told

FILE = Path("/models/a.pth")
TOLD: Told = {"scale": 2, "architecture": "Some"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_it_is_known_in_the_next_session_for_the_same_stamp(folder: Path) -> None:
    store = LoadedStore(folder)
    assert store.get(FILE, "1") is None
    assert not folder.exists(), "asking makes nothing"
    store.keep({FILE: ("1", TOLD)})
    for now in (store, LoadedStore(folder)):
        assert now.get(FILE, "1") == TOLD
        assert now.get(FILE, "2") is None
        assert now.get(FILE.with_name("b.pth"), "1") is None


def test_two_processes_keep_what_both_found(folder: Path) -> None:
    first, second = LoadedStore(folder), LoadedStore(folder)
    assert first.get(FILE, "1") is second.get(FILE, "1") is None
    other = FILE.with_name("b.pth")
    first.keep({FILE: ("1", TOLD)})
    second.keep({other: ("2", TOLD)})
    assert LoadedStore(folder).get(FILE, "1") == LoadedStore(folder).get(other, "2") == TOLD


def test_it_is_forgotten_when_asked(folder: Path) -> None:
    store = LoadedStore(folder)
    store.keep({FILE: ("1", TOLD)})
    store.clear()
    assert store.get(FILE, "1") is LoadedStore(folder).get(FILE, "1") is None
    assert not (folder / "models").exists()


def test_the_oldest_go_when_there_are_too_many(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cudaspeed.storage.loaded._MOST_FILES", 3)
    files = [FILE.with_name(name) for name in "abcd"]
    store = LoadedStore(folder)
    for file in (*files[:3], files[0], files[3]):
        store.keep({file: ("1", TOLD)})
    assert [LoadedStore(folder).get(file, "1") is None for file in files] == [False, True, False, False]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b"{}",
        b"[]",
        b'{"schema": 1, "files": []}',
        b'{"schema": 2, "files": {}}',
        b'{"schema": 1, "files": {"/models/a.pth": 3}}',
        b'{"schema": 1, "files": {"/models/a.pth": ["1", 3]}}',
        b'{"schema": 1, "files": {"/models/a.pth": [1, {}]}}',
        b'{"schema": 1, "files": {"/models/a.pth": ["1", {}, 3]}}',
        b" " * (1 << 23),
    ],
)
def test_what_makes_no_sense_is_found_out_anew(folder: Path, text: bytes) -> None:
    store = LoadedStore(folder)
    store.keep({FILE: ("1", TOLD)})
    (folder / "models" / "loaded.json").write_bytes(text)
    store = LoadedStore(folder)
    assert store.get(FILE, "1") is None
    store.keep({FILE: ("1", TOLD)})
    assert LoadedStore(folder).get(FILE, "1") == TOLD


@pytest.mark.skipif(os.name == "nt", reason="whose a file is, the system tells otherwise")
def test_what_others_may_write_is_not_believed(folder: Path) -> None:
    LoadedStore(folder).keep({FILE: ("1", TOLD)})
    (folder / "models" / "loaded.json").chmod(0o666)
    assert LoadedStore(folder).get(FILE, "1") is None


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = LoadedStore(tmp_path / "file")
    store.keep({FILE: ("1", TOLD)})
    assert store.get(FILE, "1") is None
    store.clear()


def test_a_name_that_is_no_text_costs_nothing(folder: Path) -> None:
    store = LoadedStore(folder)
    store.keep({Path(os.fsdecode(b"/models/\xff.pth")): ("1", TOLD)})
    store.keep({FILE: ("1", TOLD)})
    assert LoadedStore(folder).get(FILE, "1") == TOLD
