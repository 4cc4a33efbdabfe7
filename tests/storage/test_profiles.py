"""Profiles are kept by the weights' content, in memory and on disk, and nothing wrong with a file costs a picture."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from torch import nn

from cudaspeed.storage import fingerprint
from cudaspeed.storage.peaks import factors_of, with_peak
from cudaspeed.storage.profiles import Account, Profile, ProfileStore

CONTENT = "0123456789abcdef" * 4
TABLES = ("trials", "raised", "fastest", "throughputs", "costs", "peaks", "chosen", "accounts")
WRITTEN = {"schema": 9, "revision": 1, "receptive_field": 3, "unbounded": False, **{name: {} for name in TABLES}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "somewhere" / "profiles"


def test_nothing_is_known_of_an_unknown_model_and_asking_leaves_no_trace(folder: Path) -> None:
    assert ProfileStore(folder).get(CONTENT) == Profile(receptive_field=None, unbounded=False, raised={})
    assert not folder.parent.exists()


def test_what_was_found_out_is_known_to_later_sessions(folder: Path) -> None:
    told = ProfileStore(folder).update(CONTENT, receptive_field=7, unbounded=True)
    assert told == Profile(1, receptive_field=7, unbounded=True)
    assert ProfileStore(folder).get(CONTENT) == told
    assert ProfileStore(folder).update(CONTENT, raised={"fp16 on cuda": "bf16"}).receptive_field == 7
    assert ProfileStore(folder).get(CONTENT) == Profile(2, 7, True, raised={"fp16 on cuda": "bf16"})
    ProfileStore(folder).update(CONTENT, throughputs={"fp32 on cpu": ((4096, 1.5), (16384, 1.25))})
    assert ProfileStore(folder).get(CONTENT).throughputs == {"fp32 on cpu": ((4096, 1.5), (16384, 1.25))}
    assert ProfileStore(folder).get("f" * 64) == Profile()


def test_what_another_session_found_out_meanwhile_is_kept(folder: Path) -> None:
    ours, theirs = ProfileStore(folder), ProfileStore(folder)
    ours.update(CONTENT, receptive_field=3)
    theirs.update(CONTENT, raised=MappingProxyType({"fp16 on cuda": "fp32"}))
    assert ours.update(CONTENT, unbounded=True) == Profile(3, 3, True, raised={"fp16 on cuda": "fp32"})


def test_files_are_this_users_alone(folder: Path) -> None:
    ProfileStore(folder).update(CONTENT, receptive_field=3)
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / f"{CONTENT}.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 5000,
        json.dumps({"schema": 4}),
        json.dumps(WRITTEN | {"schema": 2}),
        json.dumps(WRITTEN | {"more": 1}),
        json.dumps(WRITTEN | {"receptive_field": -1}),
        json.dumps(WRITTEN | {"receptive_field": 10**9}),
        json.dumps(WRITTEN | {"receptive_field": True}),
        json.dumps(WRITTEN | {"receptive_field": "3"}),
        json.dumps(WRITTEN | {"unbounded": 1}),
        json.dumps(WRITTEN | {"raised": []}),
        json.dumps(WRITTEN | {"raised": {"fp16 on cuda": 1}}),
        json.dumps(WRITTEN | {"raised": {"x": "y" * (1 << 16)}}),
        json.dumps(WRITTEN | {"fastest": {"fp32 on cpu": 1}}),
        json.dumps(WRITTEN | {"throughputs": []}),
        json.dumps(WRITTEN | {"throughputs": {"fp32 on cpu": 1.5}}),
        json.dumps(WRITTEN | {"throughputs": {"fp32 on cpu": [[4096, 1.5], [1024, 2.5]]}}),
        json.dumps(WRITTEN | {"throughputs": {"fp32 on cpu": [[4096, -1.5]]}}),
        json.dumps(WRITTEN | {"throughputs": {"fp32 on cpu": [["4096", 1.5]]}}),
        json.dumps(WRITTEN | {"revision": -1}),
        json.dumps(WRITTEN | {"trials": {"bf16 on cpu": None}}),
        json.dumps(WRITTEN | {"costs": {"torch.float32 True": [1, 2.0]}}),
        json.dumps(WRITTEN | {"costs": {"torch.float32 True": [1, 2.0, float("nan")]}}),
        json.dumps(WRITTEN | {"peaks": []}),
        json.dumps(WRITTEN | {"peaks": {"fp32 on cpu": 1.5}}),
        json.dumps(WRITTEN | {"peaks": {"fp32 on cpu": []}}),
        json.dumps(WRITTEN | {"peaks": {"fp32 on cpu": [1.0]}}),
        json.dumps(WRITTEN | {"peaks": {"fp32 on cpu": [[64]]}}),
        json.dumps(WRITTEN | {"peaks": {"fp32 on cpu": [[65, 1.0]]}}),
        json.dumps(WRITTEN | {"peaks": {"fp32 on cpu": [[64.0, 1.0]]}}),
        json.dumps(WRITTEN | {"peaks": {"fp32 on cpu": [["64", 1.0]]}}),
        json.dumps(WRITTEN | {"peaks": {"fp32 on cpu": [[64, 1.0]] * 21}}),
        json.dumps(WRITTEN | {"peaks": {"fp32 on cpu": [[64, 1.0], [64, 0.0]]}}),
        json.dumps(WRITTEN | {"peaks": {"fp32 on cpu": [[64, 1.0], [64, -1.5]]}}),
        json.dumps(WRITTEN | {"peaks": {"fp32 on cpu": [[64, 1.0], [64, float("inf")]]}}),
        json.dumps(WRITTEN | {"peaks": {"fp32 on cpu": [[64, 1.0], [64, "2"]]}}),
        json.dumps(WRITTEN | {"peaks": {"fp32 on cpu": [[64, 1e-5]]}}),
        json.dumps(WRITTEN | {"peaks": {"fp32 on cpu": [[64, 0.001]]}}),
        json.dumps(WRITTEN | {"peaks": {"fp32 on cpu": [[64, 1e6]]}}),
        json.dumps(WRITTEN | {"peaks": {"fp32 on cpu": [[64, 1e308]]}}),
        json.dumps(WRITTEN | {"accounts": {"some cpu": [1, 2.0, -3, 4.0]}}),
        json.dumps(WRITTEN | {"accounts": {"some cpu": [1, 2.0, 3, float("inf")]}}),
    ],
)
def test_a_damaged_file_is_ignored_and_replaced(folder: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    ProfileStore(folder).update(CONTENT, receptive_field=3)
    (folder / f"{CONTENT}.json").write_text(text, encoding="utf-8")
    with caplog.at_level(logging.DEBUG, logger="cudaspeed"):
        assert ProfileStore(folder).get(CONTENT) == Profile()
    assert [record.levelno for record in caplog.records] == [logging.DEBUG]
    assert (
        ProfileStore(folder).update(CONTENT, receptive_field=5)
        == ProfileStore(folder).get(CONTENT)
        == Profile(1, receptive_field=5)
    )


@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_others_can_write_is_not_trusted(folder: Path, what: str) -> None:
    ProfileStore(folder).update(CONTENT, receptive_field=3)
    (folder if what == "folder" else folder / f"{CONTENT}.json").chmod(0o777)
    assert ProfileStore(folder).get(CONTENT) == Profile()


def test_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    ProfileStore(folder).update(CONTENT, receptive_field=3)
    file = folder / f"{CONTENT}.json"
    file.rename(tmp_path / "elsewhere.json")
    file.symlink_to(tmp_path / "elsewhere.json")
    assert ProfileStore(folder).get(CONTENT) == Profile()


def test_where_nothing_can_be_written_it_is_known_for_this_session(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    profiles = ProfileStore(blocked / "profiles")
    assert profiles.update(CONTENT, receptive_field=3) == profiles.get(CONTENT) == Profile(1, receptive_field=3)


def test_a_name_that_is_no_digest_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="no SHA-256"):
        ProfileStore(folder).get("../../etc/passwd")


def test_weights_are_read_once_and_again_when_they_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, read = nn.Conv2d(1, 1, 1), []
    digest = fingerprint._digest_of
    monkeypatch.setattr(fingerprint, "_digest_of", lambda module: read.append(module) or digest(module))
    ProfileStore(folder).of(module).keep(receptive_field=5)
    assert ProfileStore(folder).of(module).known.receptive_field == 5
    assert len(read) == 1
    with torch.no_grad():
        module.weight.add_(1)
    assert ProfileStore(folder).of(module).known == Profile()
    assert len(read) == 2


def test_what_others_could_put_elsewhere_is_not_trusted(folder: Path) -> None:
    ProfileStore(folder).update(CONTENT, receptive_field=3)
    folder.parent.chmod(0o777)
    assert ProfileStore(folder).get(CONTENT) == Profile()
    ProfileStore(folder).update("f" * 64, receptive_field=3)
    assert not (folder / f"{'f' * 64}.json").exists()


def test_folders_made_above_are_this_users_alone_whatever_the_umask(folder: Path) -> None:
    old = os.umask(0)
    try:
        ProfileStore(folder).update(CONTENT, receptive_field=3)
    finally:
        os.umask(old)
    assert folder.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(sys.platform == "win32", reason="it has none")
@pytest.mark.parametrize("name", [f"{CONTENT}.json", f"{CONTENT}.new", "lock"])
def test_nobody_waits_for_a_fifo(folder: Path, name: str) -> None:
    ProfileStore(folder).update("f" * 64, receptive_field=3)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name, 0o600)
    profiles = ProfileStore(folder)
    assert profiles.get(CONTENT) == Profile()
    assert profiles.update(CONTENT, receptive_field=3).receptive_field == 3


def test_what_a_killed_process_was_writing_goes(folder: Path) -> None:
    ProfileStore(folder).update(CONTENT, receptive_field=3)
    (folder / f"{'f' * 64}.new").write_text("half")
    ProfileStore(folder).update(CONTENT, receptive_field=5)
    assert {path.name for path in folder.iterdir()} == {f"{CONTENT}.json", "lock"}


def test_the_revision_tells_how_often_what_decides_has_changed(folder: Path) -> None:
    profiles = ProfileStore(folder)
    assert profiles.update(CONTENT, chosen={"auto": "fp32"}).revision == 1
    assert profiles.update(CONTENT, chosen={"auto": "fp32"}).revision == 1, "nothing has"
    assert profiles.update(CONTENT, chosen={"bf16": "bf16"}).revision == 2
    assert profiles.get(CONTENT).chosen == {"auto": "fp32", "bf16": "bf16"}
    assert ProfileStore(folder).update(CONTENT, unbounded=True).revision == 3


def test_what_forwards_took_is_added_up_over_sessions_and_decides_nothing(folder: Path) -> None:
    ours, theirs = ProfileStore(folder), ProfileStore(folder)
    assert ours.get(CONTENT) == theirs.get(CONTENT) == Profile()
    for profiles in (ours, theirs):
        profiles.spend(CONTENT, "some cpu", Account(100, 1.0, 10, 0.1))
        assert profiles.account(CONTENT, "some cpu") == Account(100, 1.0, 10, 0.1)
        profiles.flush()
    ours.spend(CONTENT, "a card", Account(1, 1.0))
    ours.update(CONTENT, unbounded=True)
    seen = ProfileStore(folder)
    assert seen.account(CONTENT, "some cpu") == Account(200, 2.0, 20, 0.2)
    assert seen.account(CONTENT, "a card") == Account(1, 1.0)
    assert seen.get(CONTENT).revision == 1


def test_what_a_forward_takes_rises_at_once_and_falls_when_it_is_long_ago(folder: Path) -> None:
    store, peaks = ProfileStore(folder), ()
    seen = []
    for ratio in (1.0, 1.32, *[1.0] * 20):
        peaks = with_peak(peaks, (128, ratio))
        seen.append(store.note(CONTENT, peaks={"fp32 on cpu": peaks}).factors["fp32 on cpu"][128])
    assert len(peaks) == 20
    assert seen[0] == 1.0
    assert seen[1:21] == [pytest.approx(1.3401, abs=1e-4)] * 20, "no less than what was seen, and hardly more"
    assert seen[21] == 1.0
    assert factors_of(()) == {}


def test_small_forwards_do_not_tell_what_large_ones_take() -> None:
    peaks: tuple[tuple[int, float], ...] = ()
    for _ in range(30):
        peaks = with_peak(with_peak(peaks, (64, 1.5)), (1024, 0.6))
    assert len(peaks) == 40
    assert {size: round(factor, 1) for size, factor in factors_of(peaks).items()} == {64: 1.6, 1024: 0.6}


def test_runs_that_take_about_the_same_are_of_one_revision_and_write_nothing(folder: Path) -> None:
    store, file = ProfileStore(folder), folder / f"{CONTENT}.json"
    first = store.note(CONTENT, peaks={"fp32 on cpu": ((64, 0.96),)})
    assert first.revision == 1
    written = file.read_bytes()
    second = store.note(CONTENT, peaks={"fp32 on cpu": ((64, 0.96), (64, 0.99))})
    assert (second.revision, second.factors, file.read_bytes()) == (1, first.factors, written)
    store.flush()
    told = ProfileStore(folder).get(CONTENT)
    assert (told.revision, told.peaks) == (1, {"fp32 on cpu": ((64, 0.96), (64, 0.99))})
    assert store.note(CONTENT, peaks={"fp32 on cpu": ((64, 0.93), (64, 0.97), (64, 1.2))}).revision == 2
    assert ProfileStore(folder).get(CONTENT).revision == 2
