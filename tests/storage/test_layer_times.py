"""Layer times are kept for one hardware and its versions, and nothing wrong with a file costs a picture."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from cudaspeed.storage.layer_times import LayerTimesStore
from cudaspeed.storage.profiles import ProfileStore

HERE = {"hardware": "AVX2 some processor", "torch": "2.11"}
CONVOLUTION, ATTENTION = ("conv3x3", (64, 32), "winograd"), ("attention", (64, 64, 10, 6), "plain")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "somewhere" / "profiles"


def file_in(folder: Path) -> Path:
    (file,) = folder.glob("layers-*.json")
    return file


def test_asking_leaves_no_trace(folder: Path) -> None:
    assert LayerTimesStore(folder, HERE).get() == {}
    assert not folder.parent.exists()


def test_what_was_timed_is_known_to_later_sessions_with_the_same_surroundings_only(folder: Path) -> None:
    LayerTimesStore(folder, HERE).add({CONVOLUTION: 0.25})
    LayerTimesStore(folder, dict(reversed(HERE.items()))).add({ATTENTION: 1.5, CONVOLUTION: 0.5})
    assert LayerTimesStore(folder, HERE).get() == {CONVOLUTION: 0.5, ATTENTION: 1.5}
    assert LayerTimesStore(folder, HERE | {"torch": "2.12"}).get() == {}
    assert file_in(folder).stat().st_mode & 0o077 == 0


def test_profiles_and_layer_times_share_a_folder(folder: Path) -> None:
    content = "0123456789abcdef" * 4
    ProfileStore(folder).update(content, receptive_field=3)
    LayerTimesStore(folder, HERE).add({CONVOLUTION: 0.25})
    assert ProfileStore(folder).get(content).receptive_field == 3
    ProfileStore(folder).clear()
    assert LayerTimesStore(folder, HERE).get() == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 5000,
        json.dumps({"schema": 1}),
        json.dumps({"schema": 2, "layers": []}),
        json.dumps({"schema": 1, "layers": {}}),
        json.dumps({"schema": 1, "layers": [["conv3x3", [64, 32], "winograd"]]}),
        json.dumps({"schema": 1, "layers": [["conv3x3", [64, -1], "winograd", 0.25]]}),
        json.dumps({"schema": 1, "layers": [["conv3x3", [64, True], "winograd", 0.25]]}),
        json.dumps({"schema": 1, "layers": [["conv3x3", [1] * 9, "winograd", 0.25]]}),
        json.dumps({"schema": 1, "layers": [["conv3x3", [64, 32], "winograd", 0]]}),
        json.dumps({"schema": 1, "layers": [["conv3x3", [64, 32], "winograd", float("nan")]]}),
        json.dumps({"schema": 1, "layers": [["conv3x3", [64, 32], "winograd", float("inf")]]}),
        json.dumps({"schema": 1, "layers": [[["conv3x3"], [64, 32], "winograd", 0.25]]}),
        json.dumps({"schema": 1, "layers": [["x" * (1 << 18), [64, 32], "winograd", 0.25]]}),
    ],
)
def test_a_damaged_file_is_ignored_and_replaced(folder: Path, text: str) -> None:
    store = LayerTimesStore(folder, HERE)
    store.add({CONVOLUTION: 0.25})
    file_in(folder).write_text(text, encoding="utf-8")
    assert store.get() == {}
    store.add({ATTENTION: 1.5})
    assert store.get() == {ATTENTION: 1.5}


def test_the_file_stays_small_and_the_newest_stay_in_it(folder: Path) -> None:
    store = LayerTimesStore(folder, HERE)
    for first in range(1, 4001, 1000):
        store.add(
            {("attention", (n, 10**6, 10**6, 10**6), "bf16 channels last"): 0.1 for n in range(first, first + 1000)}
        )
    assert len(store.get()) == 2000
    assert ("attention", (4000, 10**6, 10**6, 10**6), "bf16 channels last") in store.get()
    assert file_in(folder).stat().st_size <= 1 << 18


@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_others_can_write_is_not_trusted(folder: Path, what: str) -> None:
    store = LayerTimesStore(folder, HERE)
    store.add({CONVOLUTION: 0.25})
    (folder if what == "folder" else file_in(folder)).chmod(0o777)
    assert store.get() == {}


@pytest.mark.skipif(sys.platform == "win32", reason="it has none")
def test_nobody_waits_for_a_fifo_or_follows_a_link(folder: Path, tmp_path: Path) -> None:
    store = LayerTimesStore(folder, HERE)
    store.add({CONVOLUTION: 0.25})
    file = file_in(folder)
    file.rename(tmp_path / "elsewhere.json")
    file.symlink_to(tmp_path / "elsewhere.json")
    assert store.get() == {}
    file.unlink()
    os.mkfifo(file, 0o600)
    assert store.get() == {}
    store.add({ATTENTION: 1.5})
    assert store.get() == {ATTENTION: 1.5}


def test_where_nothing_can_be_written_nothing_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    store = LayerTimesStore(tmp_path / "file" / "profiles", HERE)
    store.add({CONVOLUTION: 0.25})
    assert store.get() == {}
