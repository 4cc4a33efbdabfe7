"""The folder of compiled models: shared by processes that may be killed, trusted by nobody but its user."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from copies import given

from cudaspeed.storage import artifacts, files, ownership, private_copy, scratch
from cudaspeed.storage.artifacts import ArtifactStore
from cudaspeed.storage.index import Entry, Usage
from cudaspeed.storage.ownership import NotOwnError
from cudaspeed.storage.private_copy import PrivateCopy

ROOT = Path(__file__).absolute().parent.parent.parent
ID, OTHER, THIRD = "a" * 24, "b" * 24, "0123456789abcdef01234567"
WHAT = {"model": "Compact", "shapes": "1x3x128x128"}
DAY = 24 * 3600
posix = pytest.mark.skipif(sys.platform == "win32", reason="owner and mode tell nothing there")

# The package without its __init__.py, which imports torch: seconds.
CHILD = """
import sys, types
package = types.ModuleType("cudaspeed")
package.__path__ = [sys.argv[1]]
sys.modules["cudaspeed"] = package
from pathlib import Path
from cudaspeed.storage import artifacts
from cudaspeed.storage.artifacts import ArtifactStore
from cudaspeed.storage.index import Usage
artifacts._NOTE_SECONDS = artifacts._LOCK_SECONDS = 60.0  # beside others it may be a while until it is one's turn
store, ID, WHAT = ArtifactStore(Path(sys.argv[2])), sys.argv[3], {"model": "Compact"}
print("here", flush=True)
sys.stdin.readline()
"""


class Child:
    """Another process with the same folder. It runs `code` once told to go."""

    def __init__(self, folder: Path, code: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD + code, str(ROOT), str(folder), ID],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> Child:
        assert self.line() == "here"
        return self

    def go(self) -> Child:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self

    def line(self) -> str:
        return self.process.stdout.readline().strip()

    def rest(self) -> list[str]:
        """What it says until it ends."""
        lines = self.process.stdout.read().split("\n")
        self.process.wait()
        return lines

    def kill(self) -> None:
        self.process.kill()


@pytest.fixture
def start(folder: Path) -> Iterator[Any]:
    children: list[Child] = []

    def start(code: str) -> Child:
        children.append(Child(folder, code))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.process.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "compiled"


@pytest.fixture
def store(folder: Path) -> ArtifactStore:
    return ArtifactStore(folder)


def publish(store: ArtifactStore, entry_id: str = ID, content: bytes = b"machine code") -> Path:
    """Claimed, compiled, published, as a worker does it."""
    assert store.claim(entry_id, WHAT)
    job = store.folder / "jobs" / entry_id
    job.mkdir(parents=True, exist_ok=True)
    file = job / "model.pt2"
    file.write_bytes(content)
    store.publish(entry_id, file, seconds=7.5)
    assert not file.exists()
    return store.folder / f"{entry_id}.pt2"


def index_of(store: ArtifactStore) -> dict[str, Any]:
    return json.loads((store.folder / "index.json").read_text())


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


# --- what is known ---------------------------------------------------------------------------------------------------


def test_asking_makes_no_folder(store: ArtifactStore) -> None:
    assert (store.entries(), store.get(ID), given(store, ID), store.size(), store.clear()) == ({}, None, None, 0, 0)
    assert not store.folder.parent.exists()


def test_what_was_compiled_is_there_for_the_next_process(store: ArtifactStore, start: Any) -> None:
    path = publish(store)
    child = (
        start("for _ in range(2): print(store.copy_of(ID).path.read_text())\nprint(store.claim(ID, WHAT))").ready().go()
    )
    assert child.rest()[:3] == ["machine code", "machine code", "False"]
    entry = store.get(ID)
    assert path.read_bytes() == b"machine code"
    assert (entry.state, entry.hits, entry.bytes, entry.compile_seconds) == ("ready", 2, 12, 7.5)
    assert entry.sha256 == hashlib.sha256(b"machine code").hexdigest()
    assert 0 <= time.time() - entry.used < 60
    assert 0 <= time.time() - entry.created < 60
    assert entry.owner_pid == os.getpid(), "which may go on to look for what is faster"


def test_one_process_at_a_time_looks_for_what_is_faster_until_nothing_is_undecided(
    store: ArtifactStore, start: Any
) -> None:
    publish(store)
    assert not store.search(ID), "this one is at it, since it has compiled it"
    store.searched(ID, 5.0, undecided=True)
    child = start("print(store.search(ID))").ready().go()
    assert child.rest()[0] == "True"
    assert store.search(ID), "the child is gone, and has said nothing"
    assert not store.search(ID)
    store.release(ID)
    assert store.search(ID), "it was given up"
    store.searched(ID, 0.0, undecided=False)
    assert not store.search(ID)
    entry = store.get(ID)
    assert (entry.state, entry.search_seconds, entry.owner_pid) == ("ready", 5.0, 0)


def test_the_index_is_for_people_too(store: ArtifactStore) -> None:
    store.note(ID, WHAT, Usage(eager_seconds=2.5))
    entry = index_of(store)["entries"][ID]
    assert entry.keys() == {"what", "created", "used", "eager_seconds"}, "what is at its default is left out"
    assert (entry["what"], entry["eager_seconds"]) == (WHAT, 2.5)


def test_usage_adds_up_over_runs(store: ArtifactStore) -> None:
    store.note(ID, WHAT, Usage(eager_seconds=2.0, eager_rate=9.0))
    store.note(ID, WHAT, Usage(eager_seconds=3.0, eager_rate=8.0, verified=True))
    store.note(ID, WHAT, Usage(compiled_rate=4.0))
    store.note(ID, WHAT, Usage())
    entry = store.get(ID)
    assert entry.state == "seen"
    assert entry.what == WHAT
    assert (entry.eager_seconds, entry.eager_rate, entry.compiled_rate, entry.verified) == (5.0, 8.0, 4.0, True)


def test_a_new_file_must_be_verified_anew(store: ArtifactStore) -> None:
    publish(store)
    store.note(ID, WHAT, Usage(eager_seconds=3.0, verified=True))
    assert store.get(ID).verified
    store.fail(ID, "it strays", "model", "here")
    assert not store.get(ID).verified
    publish(store)
    assert (store.get(ID).verified, store.get(ID).eager_seconds) == (False, 3.0)


def test_a_failure_says_why_deletes_the_file_and_may_be_tried_again(store: ArtifactStore) -> None:
    path = publish(store)
    store.fail(ID, "no C++ compiler", "environment", "f00d")
    entry = store.get(ID)
    assert not path.exists()
    assert given(store, ID) is None
    assert (entry.state, entry.reason, entry.scope) == ("failed", "no C++ compiler", "environment")
    assert (entry.environment, entry.bytes, entry.compile_seconds) == ("f00d", 0, 7.5)
    assert store.claim(ID, WHAT)
    assert (store.get(ID).state, store.get(ID).reason) == ("compiling", "")


def test_asking_again_reads_the_index_again_only_when_it_changed(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    whole = artifacts.read_own
    monkeypatch.setattr(artifacts, "read_own", lambda path, most: read.append(path) or whole(path, most))
    ArtifactStore(store.folder).note(ID, WHAT, Usage(eager_seconds=1.0))
    read.clear()
    for _ in range(100):
        assert store.get(ID).eager_seconds == 1.0
        assert len(store.entries()) == 1
    assert len(read) == 1
    ArtifactStore(store.folder).note(ID, WHAT, Usage(eager_seconds=1.5))
    assert store.get(ID).eager_seconds == 2.5


@pytest.mark.parametrize("entry_id", ["", "A" * 24, "a" * 23, "a" * 25, "../" + "a" * 21, "a" * 24 + "\n", "g" * 24])
def test_only_ids_become_file_names(store: ArtifactStore, entry_id: str) -> None:
    for ask in (store.get, store.copy_of, store.release, lambda entry_id: store.claim(entry_id, WHAT)):
        with pytest.raises(ValueError, match="no id"):
            ask(entry_id)
    with pytest.raises(ValueError, match="no id"):
        store.note(entry_id, WHAT, Usage())


# --- who compiles ----------------------------------------------------------------------------------------------------


def test_of_many_processes_that_want_to_compile_exactly_one_does(store: ArtifactStore, start: Any) -> None:
    ids = [f"{number:024x}" for number in range(25)]
    code = f"for id in {ids}: print(id, store.claim(id, WHAT), flush=True)\nprint('end', flush=True)\nsys.stdin.read()"
    children = [start(code) for _ in range(4)]
    for child in children:
        child.ready()
    for child in children:
        child.go()
    won = []
    for child in children:  # all live until all have asked: a dead one's claims would be taken over
        while (line := child.line()) != "end":
            entry_id, got = line.split()
            won += [entry_id] if got == "True" else []
    assert sorted(won) == ids
    owners = {entry.owner_pid for entry in store.entries().values()}
    assert owners <= {child.process.pid for child in children}


def test_a_claim_holds_for_this_process_too_until_given_up(store: ArtifactStore) -> None:
    assert store.claim(ID, WHAT)
    assert store.get(ID).owner_pid == os.getpid()
    assert not store.claim(ID, WHAT)
    store.release(ID)
    assert store.get(ID).state == "seen"
    assert store.claim(ID, WHAT)
    assert store.claim(OTHER, WHAT), "one claim does not stand in another's way"


def test_the_claim_of_a_killed_process_is_taken_over(store: ArtifactStore, start: Any) -> None:
    child = start("print(store.claim(ID, WHAT), flush=True); sys.stdin.read()").ready().go()
    assert child.line() == "True"
    assert store.get(ID).state == "compiling"
    assert not store.claim(ID, WHAT)
    child.kill()
    end = time.monotonic() + 60
    while store.get(ID).state == "compiling" and time.monotonic() < end:  # as a zombie, before anyone waits for it
        time.sleep(0.005)
    assert store.get(ID).state == store.entries()[ID].state == "seen"
    assert store.get(ID).owner_pid == child.process.pid, "who died is still told"
    assert store.claim(ID, WHAT)
    assert store.get(ID).owner_pid == os.getpid()


def test_a_process_id_used_again_is_no_owner(store: ArtifactStore) -> None:
    assert store.claim(ID, WHAT)
    content = index_of(store)
    content["entries"][ID]["owner_started"] -= 60  # as if this process had got the id of one that has ended
    (store.folder / "index.json").write_text(json.dumps(content))
    assert store.get(ID).state == "seen"
    assert store.claim(ID, WHAT)


def test_a_claim_handed_to_a_child_lives_and_dies_with_the_child(store: ArtifactStore, start: Any) -> None:
    child = start("").ready()
    assert store.claim(ID, WHAT)
    store.adopt(ID, child.process.pid)
    assert (store.get(ID).state, store.get(ID).owner_pid) == ("compiling", child.process.pid)
    child.go().rest()
    assert store.get(ID).state == "seen"
    assert store.claim(ID, WHAT, pid=dead_process())
    assert store.get(ID).state == "seen"


def test_giving_up_or_handing_over_what_nobody_works_on_changes_nothing(store: ArtifactStore) -> None:
    path = publish(store)
    store.searched(ID, 5.0, undecided=True)
    before = store.entries()
    for entry_id in (ID, OTHER):
        store.release(entry_id)
        store.adopt(entry_id, os.getpid())
    assert store.entries() == before
    assert given(store, ID) == path.read_bytes()


# --- processes that write at once, and that die at it ----------------------------------------------------------------


def test_two_processes_that_note_at_once_lose_nothing(store: ArtifactStore, start: Any) -> None:
    code = "for _ in range(200): store.note(ID, WHAT, Usage(eager_seconds=1.0))"
    children = [start(code) for _ in range(2)]
    for child in children:
        child.ready()
    for child in children:
        child.go()
    for child in children:
        child.rest()
    assert store.get(ID).eager_seconds == 400.0


def test_threads_that_note_at_once_lose_nothing(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "_NOTE_SECONDS", 60.0)  # as in the children

    def note() -> None:
        for _ in range(20):
            store.note(ID, WHAT, Usage(eager_seconds=1.0))

    threads = [threading.Thread(target=note) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get(ID).eager_seconds == 80.0


def test_a_file_system_with_a_coarse_clock_loses_no_note(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two changes in one tick, of one size, at an inode used again: the index looks as it did."""
    other = ArtifactStore(store.folder)
    store.note(ID, WHAT, Usage(eager_seconds=1.0))
    status = (store.folder / "index.json").stat()
    monkeypatch.setattr(artifacts, "status_if_own", lambda path: status)
    for _ in range(2):
        for one in (store, other):
            one.get(ID)
            one.note(ID, WHAT, Usage(eager_seconds=1.0))
    assert ArtifactStore(store.folder).get(ID).eager_seconds == 5.0


def test_a_file_made_anew_while_the_old_one_is_checked_stays(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = publish(store)

    def meanwhile(path: Path, most: int) -> PrivateCopy:
        monkeypatch.undo()
        store.fail(ID, "", "model", "")
        publish(store, content=b"better machine code")
        return PrivateCopy(path, most)

    monkeypatch.setattr(artifacts, "PrivateCopy", meanwhile)
    assert given(store, ID) is None
    assert not warnings_in(caplog)
    assert given(store, ID) == path.read_bytes()
    assert path.read_bytes() == b"better machine code"


def test_what_is_compiled_while_the_index_is_lost_is_still_good(store: ArtifactStore) -> None:
    assert store.claim(ID, WHAT)
    (store.folder / "index.json").unlink()
    file = store.folder / "new.pt2"
    file.write_bytes(b"machine code")
    store.publish(ID, file, 1.0)
    store.note(ID, WHAT, Usage(compiled_rate=1.0))
    assert given(store, ID)
    assert store.get(ID).what == WHAT


def test_a_kill_at_any_time_leaves_a_whole_index_and_no_lock(
    store: ArtifactStore, start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(0)
    publish(store, OTHER)
    code = "while True:\n    store.note(ID, WHAT, Usage(eager_seconds=1.0))\n    print('noted', flush=True)"
    children = [start(code) for _ in range(8)]
    noted = 0
    for child in children:
        child.ready().go()
        child.line()
        time.sleep(chance.uniform(0, 0.1))
        child.kill()
        noted += 1 + child.rest().count("noted")
        assert index_of(store)["schema"] == 1
        written = store.get(ID).eager_seconds
        assert noted <= written <= noted + 1, "what was noted stays noted"
        noted = int(written)
    assert given(store, OTHER)
    assert store.claim(THIRD, WHAT), "the lock died with its holder: it would be waited for in vain"
    assert {path.name for path in store.folder.iterdir()} <= {
        "index.json", "index.lock", "index.new", "jobs", f"{OTHER}.pt2"
    }, "kills leave no heap of temporary files"  # fmt: skip
    assert not warnings_in(caplog)


@posix
def test_a_process_forked_while_the_index_is_written_does_not_keep_the_lock(store: ArtifactStore, start: Any) -> None:
    code = """
import os, time
from cudaspeed.storage.files import locked
with locked(Path(sys.argv[2]) / "index.lock", 1):
    forked = os.fork()
    if not forked:
        time.sleep(600)
print(forked, flush=True)
"""
    store.note(ID, WHAT, Usage())
    forked = int(start(code).ready().go().line())
    try:
        assert store.claim(ID, WHAT), "a lock that is held would be waited for in vain"
    finally:
        os.kill(forked, signal.SIGKILL)


@posix
def test_a_held_lock_costs_a_note_but_no_picture(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = publish(store)
    monkeypatch.setattr(artifacts, "_LOCK_SECONDS", 0.05)
    monkeypatch.setattr(artifacts, "_NOTE_SECONDS", 0.05)
    job = store.folder / "jobs" / "model.pt2"
    job.write_bytes(b"x")
    before = index_of(store)
    with files.locked(store.folder / "index.lock", 1):
        store.note(ID, WHAT, Usage(eager_seconds=1.0))
        store.release(ID)
        store.adopt(ID, 1)
        assert given(store, ID) == path.read_bytes()
        for change in (
            lambda: store.claim(OTHER, WHAT),
            lambda: store.publish(OTHER, job, 1.0),
            lambda: store.fail(OTHER, "", "model", ""),
            store.clear,
        ):
            with pytest.raises(TimeoutError, match=r"index\.lock"):
                change()
    assert index_of(store) == before
    assert not warnings_in(caplog)


@pytest.mark.parametrize("what", ["fsync", "open"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_costs_a_note_but_no_picture(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, what: str, number: int
) -> None:
    path = publish(store)
    before = index_of(store)

    really = getattr(os, what)

    def full(*given: Any) -> Any:
        if what == "open" and given[1] & os.O_ACCMODE == os.O_RDONLY:
            return really(*given)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, what, full)
        store.note(ID, WHAT, Usage(eager_seconds=1.0))
        store.release(ID)
        assert given(store, ID) == path.read_bytes(), "what is compiled can still be used"
        with pytest.raises(OSError, match=os.strerror(number)):
            store.claim(OTHER, WHAT)
        with pytest.raises(OSError, match=os.strerror(number)):
            store.fail(ID, "", "model", "")
    assert index_of(store) == before
    assert given(store, ID) == path.read_bytes()


def test_a_folder_that_cannot_be_made_costs_no_picture(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = ArtifactStore(tmp_path / "file" / "compiled")
    store.note(ID, WHAT, Usage(eager_seconds=1.0))
    assert (store.entries(), store.get(ID), given(store, ID), store.size()) == ({}, None, None, 0)
    with pytest.raises(OSError):
        store.claim(ID, WHAT)


def test_on_windows_an_index_that_somebody_reads_is_replaced_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[Path] = []
    really = Path.replace

    def busy_at_first(path: Path, target: Path) -> Path:
        tries.append(target)
        if len(tries) < 3:
            raise PermissionError(errno.EACCES, "used by another process")
        return really(path, target)

    monkeypatch.setattr(Path, "replace", busy_at_first)
    with monkeypatch.context() as patch:
        patch.setattr(files.sys, "platform", "win32")
        files.replace_whole(tmp_path / "index.json", "text")
    assert (tmp_path / "index.json").read_text() == "text"
    assert len(tries) == 3


# --- an index that makes no sense ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage",
    [
        *(b"", b"\0" * 100, b"\xff\xfe", b"{", b"[]", b"3", b"null", b"{}", b"[" * 100_000),
        *(b'{"schema": 1}', b'{"schema": 1, "entries": 5}', b'{"schema": 1, "entries": [[[], 1]]}'),
        *(b'{"schema": 2, "entries": {}}', b'{"schema": "1", "entries": {}}'),
    ],
    ids=lambda garbage: garbage[:40].decode(errors="replace"),
)
def test_an_index_that_makes_no_sense_is_begun_anew_with_one_warning(
    store: ArtifactStore, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = publish(store)
    (store.folder / "index.json").write_bytes(garbage)
    for _ in range(3):
        assert (store.entries(), store.get(ID), given(store, ID)) == ({}, None, None)
    store.note(OTHER, WHAT, Usage(eager_seconds=1.0))
    assert store.entries().keys() == {OTHER}
    assert not path.exists(), "nothing vouches for it any more"
    (message,) = warnings_in(caplog)
    assert str(store.folder / "index.json") in message
    assert "\n" not in message
    assert publish(store).exists()


def test_the_index_of_another_version_is_begun_anew(store: ArtifactStore, caplog: pytest.LogCaptureFixture) -> None:
    publish(store)
    content = index_of(store)
    (store.folder / "index.json").write_text(json.dumps({**content, "schema": 99}))
    assert given(store, ID) is None
    (message,) = warnings_in(caplog)
    assert "99" in message
    assert store.claim(ID, WHAT)
    assert index_of(store)["schema"] == 1


@pytest.mark.parametrize(
    "change",
    [
        {"state": "stolen"},
        {"state": None},
        {"hits": "many"},
        {"hits": -1},
        {"hits": True},
        {"hits": 1.5},
        {"used": float("nan")},
        {"used": float("inf")},
        {"eager_seconds": 10**400},
        {"verified": 1},
        {"what": ["Compact"]},
        {"what": {"model": 3}},
        {"owner": "me"},
        {"id": OTHER},
    ],
    ids=str,
)
def test_one_bad_entry_does_not_cost_the_others(
    store: ArtifactStore, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    publish(store)
    publish(store, OTHER)
    content = index_of(store)
    content["entries"][ID] |= change
    content["entries"]["../../etc/passwd"] = content["entries"][OTHER]
    content["entries"][THIRD] = None
    (store.folder / "index.json").write_text(json.dumps(content))
    assert store.entries().keys() == {OTHER}
    assert given(store, OTHER)
    (message,) = warnings_in(caplog)
    assert "3 of 4" in message
    assert str(store.folder / "index.json") in message
    assert store.claim(ID, WHAT), "the one that was lost is made anew"


# --- trust -----------------------------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)


def replace_by_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def let_the_group_write(path: Path) -> None:
    path.chmod(0o620)


@posix
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink, replace_by_link, let_the_group_write])
def test_a_file_that_is_not_what_was_compiled_is_deleted_and_made_anew(
    store: ArtifactStore, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path, other = publish(store), publish(store, OTHER)
    store.note(ID, WHAT, Usage(eager_seconds=60.0))
    damage(path)
    assert given(store, ID) is None
    assert not os.path.lexists(path)
    (message,) = warnings_in(caplog)
    assert str(path) in message
    assert "\n" not in message
    entry = store.get(ID)
    assert (entry.state, entry.eager_seconds, entry.hits) == ("seen", 60.0, 0)
    assert given(store, OTHER) == other.read_bytes()
    assert publish(store) == path
    assert given(store, ID) == b"machine code"


def test_a_folder_is_made_for_its_user_alone_whatever_the_umask(store: ArtifactStore) -> None:
    old = os.umask(0)
    try:
        path = publish(store)
    finally:
        os.umask(old)
    if sys.platform != "win32":
        assert store.folder.stat().st_mode & 0o777 == 0o700
        for file in (path, store.folder / "index.json", store.folder / "index.lock"):
            assert file.stat().st_mode & 0o777 == 0o600
    assert given(store, ID) == path.read_bytes()


def group_writable_folder(store: ArtifactStore, patch: pytest.MonkeyPatch) -> None:
    store.folder.chmod(0o770)


def world_writable_folder(store: ArtifactStore, patch: pytest.MonkeyPatch) -> None:
    store.folder.chmod(0o702)


def group_writable_index(store: ArtifactStore, patch: pytest.MonkeyPatch) -> None:
    (store.folder / "index.json").chmod(0o660)


def world_writable_parent(store: ArtifactStore, patch: pytest.MonkeyPatch) -> None:
    store.folder.parent.chmod(0o777)


def world_writable_grandparent(store: ArtifactStore, patch: pytest.MonkeyPatch) -> None:
    store.folder.parent.parent.chmod(0o703)


def parent_of_a_group_of_many(store: ArtifactStore, patch: pytest.MonkeyPatch) -> None:
    store.folder.parent.chmod(0o770)
    patch.setattr(ownership, "_is_private", lambda group: False)


def linked_folder(store: ArtifactStore, patch: pytest.MonkeyPatch) -> None:
    replace_by_link(store.folder)


def linked_index(store: ArtifactStore, patch: pytest.MonkeyPatch) -> None:
    replace_by_link(store.folder / "index.json")


def another_users(store: ArtifactStore, patch: pytest.MonkeyPatch) -> None:
    me = os.getuid()
    patch.setattr(files.os, "getuid", lambda: me + 1)


def parent_of_another_user(store: ArtifactStore, patch: pytest.MonkeyPatch) -> None:
    really, parent = os.lstat, str(store.folder.parent)

    def lstat(path: Any, **options: Any) -> os.stat_result:
        status = really(path, **options)
        return os.stat_result([*status[:4], os.getuid() + 1, *status[5:]]) if str(path) == parent else status

    patch.setattr(ownership.os, "lstat", lstat)


def content_below(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*")
    }


@posix
@pytest.mark.parametrize(
    ("spoil", "reason", "remedy"),
    [
        (group_writable_folder, "can be written by other users", True),
        (world_writable_folder, "can be written by other users", True),
        (group_writable_index, "can be written by other users", True),
        (world_writable_parent, "not safe from other users: they may write to", True),
        (world_writable_grandparent, "not safe from other users: they may write to", True),
        (parent_of_a_group_of_many, "not safe from other users: they may write to", True),
        (linked_folder, "is a symbolic link", False),
        (linked_index, "is a symbolic link", False),
        (another_users, "belongs to another user", False),
        (parent_of_another_user, "belongs to one", False),
    ],
)
def test_nothing_is_loaded_from_or_written_to_a_folder_that_others_could_have_filled(
    store: ArtifactStore,
    spoil: Any,
    reason: str,
    remedy: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(store)
    (store.folder / "jobs" / "model.pt2").write_bytes(b"x")
    spoil(store, monkeypatch)
    before = content_below(store.folder.parent)
    for _ in range(3):
        assert (given(store, ID), store.get(ID), store.entries()) == (None, None, {})
        store.note(ID, WHAT, Usage(eager_seconds=1.0))
        store.release(ID)
    for change in (
        lambda: store.claim(OTHER, WHAT),
        lambda: store.publish(OTHER, store.folder / "jobs" / "model.pt2", 1.0),
        lambda: store.fail(ID, "", "model", ""),
        store.clear,
    ):
        with pytest.raises(NotOwnError, match="CUDASPEED_CACHE_DIR"):
            change()
    assert content_below(store.folder.parent) == before
    (message,) = warnings_in(caplog)
    assert str(store.folder) in message
    assert reason in message
    assert ("chmod" in message) == remedy, "only where it would help"
    assert "set CUDASPEED_CACHE_DIR to a folder of your own" in message


@posix
def test_what_is_opened_to_others_while_it_is_read_is_not_given_out(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish(store)

    def meanwhile(path: Path, most: int) -> PrivateCopy:
        copy = PrivateCopy(path, most)
        store.folder.parent.chmod(0o777)
        return copy

    monkeypatch.setattr(artifacts, "PrivateCopy", meanwhile)
    assert store.copy_of(ID) is None
    (message,) = warnings_in(caplog)
    assert "CUDASPEED_CACHE_DIR" in message


@posix
@pytest.mark.parametrize("spoil", [group_writable_index, world_writable_parent, world_writable_grandparent])
def test_the_remedy_that_is_told_helps(
    store: ArtifactStore, spoil: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store)
    spoil(store, monkeypatch)
    if spoil is group_writable_index:
        store.folder.chmod(0o770)
    assert given(store, ID) is None
    (message,) = warnings_in(caplog)
    subprocess.run(message[message.index("chmod") : message.index(", or set")].split(), check=True)
    assert given(store, ID) == b"machine code"


@posix
def test_folders_that_all_may_add_to_and_nobody_may_take_away_from_are_passed(store: ArtifactStore) -> None:
    publish(store)
    store.folder.parent.chmod(0o1777)
    assert given(store, ID) == b"machine code"


@posix
def test_a_group_of_the_user_alone_is_nobody_else(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(store)
    store.folder.parent.chmod(0o775)
    monkeypatch.setattr(ownership, "_is_private", lambda group: group == store.folder.stat().st_gid)
    assert given(store, ID) == b"machine code"


@posix
def test_who_is_in_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    me = os.getuid() or 1000
    monkeypatch.setattr(ownership.os, "getuid", lambda: me)
    user = {name: SimpleNamespace(pw_name=name, pw_uid=uid, pw_gid=gid) for name, uid, gid in [
        ("root", 0, 0), ("alice", me, 500), ("bob", me + 1, 501)]}  # fmt: skip
    members = {0: [], 500: ["alice"], 501: [], 502: ["alice", "bob"], 503: [], 504: ["alice", "who left"]}
    monkeypatch.setattr(ownership.pwd, "getpwall", lambda: list(user.values()))
    monkeypatch.setattr(ownership.grp, "getgrgid", lambda group: SimpleNamespace(gr_mem=members[group]))
    private = [group for group in (*members, 505) if ownership._is_private.__wrapped__(group)]
    assert private == [0, 500]


@posix
def test_a_link_on_the_way_is_as_good_as_where_it_lies_and_leads(store: ArtifactStore, tmp_path: Path) -> None:
    publish(store)
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "link").symlink_to(tmp_path / "cache")
    (tmp_path / "way").symlink_to("open/../open/link")
    through = ArtifactStore(tmp_path / "way" / "compiled")
    assert given(through, ID) == b"machine code"
    (tmp_path / "open").chmod(0o777)
    assert given(through, ID) is None, "others can make it lead elsewhere"
    assert given(store, ID) == b"machine code"
    (tmp_path / "round").symlink_to("round")
    assert ArtifactStore(tmp_path / "round" / "compiled").entries() == {}


@posix
def test_what_is_made_above_the_folder_is_its_users_alone_whatever_the_umask(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(mode=0o755)
    store, old = ArtifactStore(tmp_path / "there" / "a" / "b" / "compiled"), os.umask(0)
    try:
        publish(store)
    finally:
        os.umask(old)
    made = [tmp_path / "there" / "a", tmp_path / "there" / "a" / "b", store.folder, store.folder / "jobs"]
    assert [path.stat().st_mode & 0o777 for path in made[:3]] == [0o700] * 3
    assert (tmp_path / "there").stat().st_mode & 0o777 == 0o755, "what was there is left as it is"


# --- a file that changes hands while it is loaded -------------------------------------------------------------------


@pytest.fixture(params=["in memory", "in a folder"])
def copies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where copies are kept: on Linux, and on other systems."""
    if request.param == "in a folder":
        monkeypatch.setattr(private_copy, "_memory", lambda: None)


@pytest.mark.usefixtures("copies")
def test_what_was_checked_is_what_is_loaded_whatever_becomes_of_the_file(store: ArtifactStore) -> None:
    path = publish(store)
    copy = store.copy_of(ID)
    path.write_bytes(b"another's code")
    assert copy.path.read_bytes() == b"machine code"
    path.unlink()
    assert copy.path.read_bytes() == b"machine code"
    place = copy.path
    copy.close()
    copy.close()
    assert not place.exists()
    assert not list((store.folder / "jobs").glob("tmp*"))


@posix
@pytest.mark.usefixtures("copies")
def test_a_file_that_is_swapped_again_and_again_is_never_given_out(store: ArtifactStore, tmp_path: Path) -> None:
    path, evil, over = publish(store), tmp_path / "evil", threading.Event()

    def swap() -> None:
        while not over.is_set():
            for content in (b"another's co", b"machine code"):
                evil.write_bytes(content)
                evil.chmod(0o600)
                evil.replace(path)
                path.write_bytes(content)

    thread = threading.Thread(target=swap)
    thread.start()
    found, tries, until = set(), 0, time.monotonic() + 60
    try:
        while tries < 200 or (b"machine code" not in found and time.monotonic() < until):  # busy, it may always lose
            tries += 1
            found.add(given(store, ID))
            if store.get(ID).state != "ready":  # it was seen to be wrong
                store.claim(ID, WHAT)
                job = store.folder / "jobs" / "model.pt2"
                job.write_bytes(b"machine code")
                store.publish(ID, job, 1.0)
    finally:
        over.set()
        thread.join()
    assert found <= {None, b"machine code"}
    assert b"machine code" in found


def test_a_copy_in_memory_cannot_be_written_to(store: ArtifactStore) -> None:
    if sys.platform != "linux":
        pytest.skip("it lies in a folder there")
    publish(store)
    with store.copy_of(ID) as copy, pytest.raises(PermissionError):
        copy.path.write_bytes(b"another's code")


# --- no files where files should be ----------------------------------------------------------------------------------


def fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder_there(path: Path) -> None:
    path.mkdir(mode=0o700)


@posix
@pytest.mark.parametrize("make", [fifo, device, folder_there])
@pytest.mark.parametrize("name", ["index.json", "index.lock", "index.new", f"{ID}.pt2", f"{ID}.log"])
def test_what_is_no_file_is_not_waited_for(store: ArtifactStore, make: Any, name: str) -> None:
    publish(store)
    (store.folder / name).unlink(missing_ok=True)
    make(store.folder / name)
    done = subprocess.run(
        [sys.executable, "-c", CHILD + _EVERYTHING, str(ROOT), str(store.folder), ID],
        input="go\n", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == ["here", "over"], done.stderr
    if name == "index.json" and make is fifo:
        assert store.entries(), "it was begun anew"


_EVERYTHING = """
from contextlib import suppress
store.get(ID), store.entries(), store.copy_of(ID)
store.note("b" * 24, WHAT, Usage(eager_seconds=1.0))
for change in (lambda: store.claim("c" * 24, WHAT), lambda: store.fail("d" * 24, "", "model", ""), store.clear):
    with suppress(OSError):
        change()
with suppress(OSError):
    store.claim("e" * 24, WHAT)
print("over")
"""


# --- room ------------------------------------------------------------------------------------------------------------


def test_what_was_used_longest_ago_goes_first_and_keeps_what_was_measured(folder: Path) -> None:
    store = ArtifactStore(folder, limit_bytes=250)
    first, second = publish(store, ID, b"1" * 100), publish(store, OTHER, b"2" * 100)
    store.note(OTHER, WHAT, Usage(eager_seconds=60.0, eager_rate=3.0, compiled_rate=2.0))
    assert given(store, ID) == first.read_bytes(), "used last"
    third = publish(store, THIRD, b"3" * 100)
    assert (first.exists(), second.exists(), third.exists()) == (True, False, True)
    assert store.size() == 200
    entry = store.get(OTHER)
    assert (entry.state, entry.bytes, entry.sha256) == ("seen", 0, "")
    assert (entry.eager_seconds, entry.eager_rate, entry.compiled_rate, entry.compile_seconds) == (60.0, 3.0, 2.0, 7.5)
    assert given(store, OTHER) is None
    assert given(store, ID) == first.read_bytes()


def test_the_newest_stays_even_if_it_is_too_large(folder: Path) -> None:
    store = ArtifactStore(folder, limit_bytes=10)
    publish(store, ID, b"1" * 5)
    path = publish(store, OTHER, b"2" * 100)
    assert given(store, OTHER) == path.read_bytes()
    assert store.get(ID).state == "seen"


def test_on_windows_a_file_in_use_is_deleted_later(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore(folder, limit_bytes=10)
    path = publish(store, ID, b"1" * 10)

    def in_use(path: Path) -> None:
        raise PermissionError(errno.EACCES, "used by another process")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", in_use)
        publish(store, OTHER, b"2" * 10)
        assert given(store, ID) is None
    assert path.exists()
    store.note(THIRD, WHAT, Usage(eager_seconds=1.0))
    assert not path.exists()


def test_the_index_does_not_grow_without_end(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "_MOST_WITHOUT_FILE", 10)
    path = publish(store)
    assert store.claim(OTHER, WHAT)
    ids = [f"{number:024x}" for number in range(15)]
    for entry_id in ids:
        store.note(entry_id, WHAT, Usage(eager_seconds=1.0))
    assert store.entries().keys() == {ID, OTHER, *ids[5:]}
    (store.folder / f"{ids[5]}.log").write_text("why")
    (store.folder / f"{ids[6]}.log").write_text("why")
    store.fail(THIRD, "why", "model", "")
    assert not (store.folder / f"{ids[5]}.log").exists(), "its log goes with an entry"
    assert (store.folder / f"{ids[6]}.log").exists()
    assert given(store, ID) == path.read_bytes()


def test_what_killed_processes_left_is_cleaned_up(store: ArtifactStore) -> None:
    orphan, job, young = store.folder / f"{OTHER}.pt2", store.folder / "jobs" / "old", store.folder / "jobs" / "young"
    foreign = [store.folder / "a model of mine.pt2", store.folder / "notes.log"]
    for part in (job, young):
        part.mkdir(parents=True)
        (part / "weights.safetensors").write_bytes(b"w")
    store.folder.chmod(0o700)
    os.utime(job, (time.time() - 2 * DAY,) * 2)
    for path in (orphan, *foreign):
        path.write_bytes(b"x")
    publish(store)
    assert not orphan.exists(), "moved there and then killed, before the index knew"
    assert not job.exists()
    assert young.exists()
    assert all(path.exists() for path in foreign), "what is not ours is left alone"


def test_a_killed_processs_scratch_goes_with_the_next_work_and_a_living_ones_stays(
    store: ArtifactStore, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from cudaspeed.storage.scratch import scratch_folder\n"
    code += "print(scratch_folder(store.folder), flush=True); sys.stdin.read()"
    children = [start(code).ready().go() for _ in range(2)]
    folders = [Path(child.line()) for child in children]
    ours, theirs = scratch.scratch_folder(store.folder), scratch.scratch_folder(store.folder)
    (theirs / "owner").write_text(f"{dead_process()} another machine")
    children[0].kill()
    children[0].process.wait()
    assert store.claim(ID, WHAT)
    assert [folder.exists() for folder in (*folders, ours, theirs)] == [False, True, True, True]
    scratch.hand_over(ours, dead_process())
    assert store.claim(OTHER, WHAT)
    assert not ours.exists()


def test_clearing_leaves_nothing_and_says_how_much_that_was(store: ArtifactStore) -> None:
    publish(store, content=b"1" * 100)
    store.fail(OTHER, "why", "model", "")
    (store.folder / f"{OTHER}.log").write_text("why")
    (store.folder / "jobs" / "ab").mkdir(parents=True)
    (store.folder / "jobs" / "ab" / "kernel.cpp").write_bytes(b"2" * 50)
    assert store.size() == 150
    assert store.clear() == 150
    assert store.entries() == {}
    assert {path.name for path in store.folder.iterdir()} == {"index.json", "index.lock"}
    assert (store.size(), store.clear()) == (0, 0)


def test_clearing_leaves_a_running_compile_alone(store: ArtifactStore, start: Any) -> None:
    publish(store, content=b"1" * 100)
    child = start("print(store.claim('b' * 24, WHAT), flush=True); sys.stdin.read()").ready().go()
    assert child.line() == "True"
    job = store.folder / "jobs" / "running"
    job.mkdir(parents=True)
    (job / "file").write_bytes(b"2" * 50)
    assert store.clear() == 100
    assert store.entries().keys() == {OTHER}
    assert (job / "file").exists()
    store.publish(OTHER, job / "file", 1.0)
    assert given(store, OTHER)
    child.kill()
    assert store.clear() == 50
    assert store.entries() == {}


def test_entries_can_be_read_while_they_are_written(store: ArtifactStore, start: Any) -> None:
    publish(store)
    child = start("for _ in range(100): store.note('b' * 24, WHAT, Usage(eager_seconds=1.0))").ready().go()
    seen = 0.0
    while child.process.poll() is None:
        entries = store.entries()
        assert entries[ID].state == "ready"
        now = entries.get(OTHER, Entry(OTHER, {})).eager_seconds
        assert now >= seen
        seen = now
    assert store.get(OTHER).eager_seconds == 100.0


def test_what_was_asked_for_is_the_askers_to_change(store: ArtifactStore) -> None:
    store.note(ID, WHAT, Usage(eager_seconds=1.0))
    del store.entries()[ID]
    assert store.entries().keys() == {ID}


# --- improving what is published -------------------------------------------------------------------------------------


def better(store: ArtifactStore) -> Path:
    file = store.folder / "jobs" / "better.pt2"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"faster machine code")
    return file


def test_an_improved_file_is_given_out_and_nothing_is_said_of_it_yet(store: ArtifactStore) -> None:
    path = publish(store)
    store.note(ID, WHAT, Usage(eager_seconds=5.0, eager_rate=3.0, compiled_rate=2.0, verified=True))
    assert store.improve(ID, better(store))
    assert given(store, ID) == path.read_bytes()
    assert path.read_bytes() == b"faster machine code"
    entry = store.get(ID)
    assert (entry.compiled_rate, entry.verified) == (0.0, False)
    assert (entry.eager_rate, entry.eager_seconds, entry.compile_seconds) == (3.0, 5.0, 7.5)


def test_what_a_run_learned_of_the_file_before_is_not_told_of_the_improved_one(store: ArtifactStore) -> None:
    publish(store)
    before = store.get(ID).sha256
    store.improve(ID, better(store))
    store.note(ID, WHAT, Usage(eager_rate=3.0, compiled_rate=2.0, verified=True, sha256=before))
    assert (store.get(ID).compiled_rate, store.get(ID).verified, store.get(ID).eager_rate) == (0.0, False, 3.0)
    store.note(ID, WHAT, Usage(compiled_rate=1.0, verified=True, sha256=store.get(ID).sha256))
    assert (store.get(ID).compiled_rate, store.get(ID).verified) == (1.0, True)


@pytest.mark.parametrize("gone", ["never there", "cleared away", "refused"])
def test_what_is_gone_is_not_improved(gone: str, store: ArtifactStore) -> None:
    path = publish(store, entry_id=OTHER)
    if gone != "never there":
        path = publish(store)
    if gone == "cleared away":
        store.clear()
    if gone == "refused":
        store.fail(ID, "its result was refused", "model", "here")
    assert not store.improve(ID, better(store))
    assert given(store, ID) is None
    assert ID not in store.entries() or store.get(ID).state == "failed"
    assert gone == "never there" or not path.exists()


def test_which_engine_made_a_file_is_known_until_the_file_goes(store: ArtifactStore, folder: Path) -> None:
    publish(store)
    assert ArtifactStore(folder).get(ID).engine == ""
    assert store.improve(ID, better(store), "openvino")
    assert ArtifactStore(folder).get(ID).engine == "openvino"
    assert store.improve(ID, better(store))
    assert ArtifactStore(folder).get(ID).engine == "", "torch's own was faster after all"
    store.improve(ID, better(store), "openvino")
    store.fail(ID, "its result was refused", "model", "here")
    assert store.get(ID).engine == ""


def test_what_is_published_before_there_were_engines_is_torchs(store: ArtifactStore, folder: Path) -> None:
    path = publish(store)
    told = index_of(store)
    assert "engine" not in told["entries"][ID], "as it was written before"
    assert given(ArtifactStore(folder), ID) == path.read_bytes()
