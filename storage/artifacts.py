"""The folder of compiled models that all processes of one user share: what is there, may it be loaded, what must go.

A compiled model is a shared library: loading it runs it. So the folder is its user's alone, in the reach of nobody
else, and what is given out is a copy that is byte for byte what was published. Everything known lies in one readable
index, which is changed under a lock and replaced whole: a process killed at any moment leaves the index from before its
change or from after it.

    <folder>/index.json, index.lock, index.new
    <folder>/<id>.pt2             a compiled model
    <folder>/<id>.log             what was said when its compile failed; written by others
    <folder>/jobs/                scratch of running compiles (scratch.py)
    <folder>/xla/                 what an engine keeps of its own (engines_own.py)
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from .engines_own import bytes_of_engines, clear_engines_own, make_room
from .files import bytes_in, delete, locked, replace_whole, sha256_of
from .index import (
    Entry,
    Usage,
    from_json,
    in_search,
    is_id,
    owned,
    plain,
    searched_by,
    settled,
    to_json,
    with_usage,
)
from .ownership import NotOwnError, NotRegularError, check_way, make_own_folder, read_own, status_if_own
from .private_copy import PrivateCopy
from .scratch import sweep

logger = logging.getLogger("cudaspeed")

_LOCK_SECONDS = 10.0  # a change takes milliseconds; whoever waits this long meets a process that hangs
_NOTE_SECONDS = 1.0  # what is only noted is not worth a longer wait
_MOST_WITHOUT_FILE = 500  # entries; some hundred kilobytes of index
_MOST_BYTES = 1 << 25  # of index; what it may hold has a hundredth

_warned: set[str] = set()  # once is enough for all stores of a process


class ArtifactStore:
    """The compiled models in `folder`, whose files are kept up to `limit_bytes`. Making one touches nothing on disk.

    An id is 24 lower-case hexadecimal digits; another raises `ValueError`. What begins, ends or deletes work (`claim`,
    `publish`, `fail`, `clear`) raises `OSError` when that cannot be written down: the disk is full or read-only
    (`OSError`), another process holds the lock for 10 seconds (`TimeoutError`), the folder is not this user's alone
    (`NotOwnError`). Everything else raises none of these, and knows of nothing in a folder it cannot trust or read.
    """

    def __init__(self, folder: Path, limit_bytes: int = 4 << 30) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self._index = folder / "index.json"
        self._last_read: tuple[object, dict[str, Entry]] = (None, {})

    def entries(self) -> dict[str, Entry]:
        """Every entry by its id. Cheap while nothing changes: a few questions to the file system."""
        return {entry_id: settled(entry) for entry_id, entry in self._read().items()}

    def get(self, entry_id: str) -> Entry | None:
        """The entry of `entry_id`, if there is one; as cheap."""
        entry = self._read().get(_checked(entry_id))
        return settled(entry) if entry else None

    def copy_of(self, entry_id: str) -> PrivateCopy | None:
        """A copy of a ready entry's file, to be loaded; its bytes are those that were published. The caller closes it.

        Counts a hit. A file that is missing, changed, or not this user's alone is deleted with a warning; the entry is
        then "seen" again.
        """
        entry = self.get(entry_id)
        if entry is None or entry.state != "ready":
            return None
        path, copy, flaw = self._file(entry_id), None, ""
        try:
            copy = PrivateCopy(path, entry.bytes)
            if (copy.bytes, copy.sha256) != (entry.bytes, entry.sha256):
                flaw = f"{path} is not what was compiled"
        except (NotOwnError, NotRegularError) as error:
            flaw = str(error)
        except FileNotFoundError:
            flaw = f"{path} is missing"
        except OSError as error:  # no memory, no descriptors: no word against the file
            logger.debug("a compiled model cannot be read: %s", error)
            return None
        if self._count_hit(entry, flaw) and not flaw:
            return copy
        if copy:
            copy.close()
        return None

    def claim(self, entry_id: str, what: dict[str, str], pid: int | None = None) -> bool:
        """Whether compiling the entry is now the work of process `pid`, this one if None: of all that ask, one is told.

        Not when it is ready, or when a living process, this one included, compiles it already. An earlier failure is
        forgotten. A claim lasts until `publish`, `fail` or `release`, or until its process is gone.
        """
        with self._changing() as entries:
            entry = _find(entries, entry_id, what)
            if entry.state in ("compiling", "ready"):
                return False
            entries[entry_id] = owned(replace(entry, what=what, used=time.time()), pid or os.getpid())
            sweep(self.folder)
            return True

    def adopt(self, entry_id: str, pid: int) -> None:
        """Hand the claim on the entry, or the search, over to process `pid`, a child: it lives and dies with that."""
        with _only_logged(), self._changing(_NOTE_SECONDS) as entries:
            entry = _find(entries, entry_id)
            if entry.state == "compiling":
                entries[entry_id] = owned(entry, pid)
            elif in_search(entry):
                entries[entry_id] = searched_by(entry, pid)

    def release(self, entry_id: str) -> None:
        """Give a claim up: the entry is "seen" again; or a search, which may be begun again."""
        with _only_logged(), self._changing(_NOTE_SECONDS) as entries:
            entry = _find(entries, entry_id)
            if entry.state == "compiling":
                entries[entry_id] = plain(entry)
            elif entry.state == "ready":
                entries[entry_id] = replace(entry, owner_pid=0, owner_started=0.0)

    def search(self, entry_id: str, pid: int | None = None) -> bool:
        """Whether to look for what is faster than the entry's file is now the work of process `pid`, this one if None:
        where that was not done to the end, and no living process is at it. Until `searched`, or until it is gone."""
        with self._changing() as entries:
            entry = _find(entries, entry_id)
            if entry.state != "ready" or not entry.undecided or in_search(entry):
                return False
            entries[entry_id] = searched_by(entry, pid or os.getpid())
            return True

    def searched(self, entry_id: str, seconds: float, undecided: bool) -> None:
        """Note that what is faster was looked for, in so many seconds (0: not known), and whether that left anything
        undecided."""
        with _only_logged(), self._changing() as entries:
            entry = _find(entries, entry_id)
            if entry.state == "ready":
                entry = replace(entry, undecided=undecided, search_seconds=seconds or entry.search_seconds)
                entries[entry_id] = replace(entry, owner_pid=0, owner_started=0.0)

    def publish(self, entry_id: str, file: Path, seconds: float, engine: str = "") -> None:
        """Make `file`, compiled by `engine` in `seconds`, the entry's file. It is moved, so it must lie in the same
        file system. Who has compiled it goes on to look for what is faster, until `searched`.

        Then the files used longest ago are deleted until the rest is within the limit, this one apart, and first of all
        what engines keep beside. Their entries
        are "seen" again and keep what was measured.
        """
        digest, size = sha256_of(file), file.stat().st_size
        with self._changing() as entries:
            known = _find(entries, entry_id)
            entry = replace(_in_the_same_hands(known), compile_seconds=seconds, engine=engine, undecided=True)
            self._put(entries, entry, file, digest, size)
            sweep(self.folder)

    def improve(self, entry_id: str, file: Path, engine: str = "") -> bool:
        """Make `file`, in which `engine` does the same faster, the entry's file instead of what was published; moved as
        there.

        False where that is no longer there: it was evicted, cleared away, or found to be wrong.
        """
        digest, size = sha256_of(file), file.stat().st_size
        with self._changing() as entries:
            entry = entries.get(_checked(entry_id))
            if entry is None or entry.state != "ready":
                return False
            better = replace(_in_the_same_hands(entry), undecided=entry.undecided, compiled_rate=0.0, engine=engine)
            self._put(entries, better, file, digest, size)
            return True

    def fail(self, entry_id: str, reason: str, scope: str, environment: str) -> None:
        """Note why `entry_id` cannot be compiled, or what was compiled cannot be used; its file, if any, is deleted.

        `scope` is "environment", "model", "shapes" or "time"; it holds under the `environment` of that fingerprint.
        """
        with self._changing() as entries:
            entry = replace(plain(_find(entries, entry_id)), used=time.time())
            entries[entry_id] = replace(entry, state="failed", reason=reason, scope=scope, environment=environment)

    def note(self, entry_id: str, what: dict[str, str], usage: Usage) -> None:
        """Add what a run learned to the entry, "seen" if it is new. It writes to the disk: not for every tile."""
        with _only_logged(), self._changing(_NOTE_SECONDS) as entries:
            entry = _find(entries, entry_id, what)
            entries[entry_id] = replace(with_usage(entry, usage), what=entry.what or what, used=time.time())

    def clear(self) -> int:
        """Delete all and return the bytes freed. While a living process compiles, its entry and all scratch stay; one
        that has published, and only goes on to improve that, loses its scratch and ends."""
        if not self.folder.exists():
            return 0
        before = self.size()
        with self._changing() as entries:
            for entry_id in [entry_id for entry_id, entry in entries.items() if entry.state != "compiling"]:
                del entries[entry_id]
            if not entries:  # nobody works in there
                delete(self.folder / "jobs")
            clear_engines_own(self.folder)
        return max(0, before - self.size())

    def size(self) -> int:
        """Bytes on disk of all compiled models, of what engines keep beside them, and of the scratch of those being
        compiled."""
        total = bytes_in(self.folder / "jobs") + bytes_of_engines(self.folder)
        for file in self._files(".pt2"):
            with suppress(OSError):  # deleted meanwhile
                total += file.lstat().st_size
        return total

    def _put(self, entries: dict[str, Entry], entry: Entry, file: Path, digest: str, size: int) -> None:
        file.chmod(0o600)  # many a umask lets the group write, and then it would not be given out
        file.replace(self._file(entry.id))  # not flushed to the disk: if the power fails now, the hash will tell
        entries[entry.id] = replace(entry, state="ready", bytes=size, sha256=digest, used=time.time())
        self._evict(entries, keep=entry.id)

    def _file(self, entry_id: str) -> Path:
        return self.folder / f"{_checked(entry_id)}.pt2"

    def _files(self, ending: str) -> list[Path]:
        """Files named by an id: the user may have chosen a folder in which other things lie too."""
        return [path for path in self.folder.glob(f"*{ending}") if is_id(path.stem)]

    def _count_hit(self, entry: Entry, flaw: str) -> bool:
        """Note that the entry's file is given out, or what is wrong with it; whether it is still the entry's file, in a
        folder of this user's alone."""
        try:
            with self._changing(_NOTE_SECONDS) as entries:
                now = entries.get(entry.id)
                if now is None or now.sha256 != entry.sha256:  # evicted, or made anew, while it was being read
                    return False
                if flaw:
                    logger.warning("a compiled model is deleted, to be made anew: %s", flaw)
                entries[entry.id] = plain(now) if flaw else replace(now, hits=now.hits + 1, used=time.time())
        except NotOwnError as error:
            _warn_once(f"compiled models are not used: {error}")
            return False
        except OSError as error:  # a full disk, a lock: what was compiled can be used without a note of it
            logger.debug("not written down with the compiled models: %s", error)
        return True

    def _read(self) -> dict[str, Entry]:
        """The index as it is, without the lock, and parsed only when it has changed."""
        try:
            stamp = self._stamp()
            if stamp != self._last_read[0]:
                self._last_read = (stamp, self._parse())
        except NotOwnError as error:
            _warn_once(f"compiled models are not used: {error}")
            return {}
        except OSError as error:  # on Windows also at the moment it is replaced: what was read last will do
            logger.debug("the index of compiled models cannot be read: %s", error)
        return self._last_read[1]

    def _stamp(self) -> object:
        """Changes with the index; None where there is none. Raises `NotOwnError` when others could have written it."""
        try:
            status_if_own(self.folder)
            check_way(self.folder)
            status = status_if_own(self._index)
        except NotOwnError as error:
            advice = f"{error.remedy}, or set" if error.remedy else "set"
            raise NotOwnError(f"{error}; {advice} CUDASPEED_CACHE_DIR to a folder of your own") from error
        return status and (status.st_mtime_ns, status.st_size, status.st_ino)

    def _parse(self) -> dict[str, Entry]:
        try:
            text = read_own(self._index, _MOST_BYTES)
        except FileNotFoundError:
            return {}
        except (NotRegularError, ValueError) as error:
            _warn_once(f"compiled models are made anew: {error}")
            return {}
        return from_json(text, lambda problem: _warn_once(f"{self._index} {problem}"))

    @contextmanager
    def _changing(self, patience: float | None = None) -> Iterator[dict[str, Entry]]:
        """The entries, for the body to change, under the lock; written down if it ends well."""
        self._stamp()
        make_own_folder(self.folder)
        with locked(self.folder / "index.lock", _LOCK_SECONDS if patience is None else patience):
            # Not as last read: two changes within one tick of the file system's clock can look like none.
            before = self._parse()
            entries = {entry_id: settled(entry) for entry_id, entry in before.items()}
            yield entries
            idle = sorted((e for e in entries.values() if e.state in ("seen", "failed")), key=_last_use)
            for entry in idle[: max(0, len(idle) - _MOST_WITHOUT_FILE)]:
                del entries[entry.id]
            if entries != before:
                replace_whole(self._index, to_json(entries))
            self._delete_orphans(entries)

    def _evict(self, entries: dict[str, Entry], keep: str) -> None:
        ready = [entry for entry in entries.values() if entry.state == "ready"]
        total = sum(entry.bytes for entry in ready)
        make_room(self.folder, max(0, self.limit_bytes - total))  # it is made again in seconds
        for entry in sorted(ready, key=_last_use):
            if total > self.limit_bytes and entry.id != keep:
                total -= entry.bytes
                entries[entry.id] = plain(entry)

    def _delete_orphans(self, entries: dict[str, Entry]) -> None:
        """Files that the index no longer knows: evicted, refused, failed, or moved here by a process killed then."""
        for path in self._files(".pt2"):
            if path.stem not in entries or entries[path.stem].state != "ready":
                delete(path)
        for path in self._files(".log"):
            if path.stem not in entries:
                delete(path)


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        logger.warning("%s", message)


@contextmanager
def _only_logged() -> Iterator[None]:
    """For what is not worth an error."""
    try:
        yield
    except OSError as error:
        logger.debug("not written down with the compiled models: %s", error)


def _checked(entry_id: str) -> str:
    if not is_id(entry_id):
        raise ValueError(f"{entry_id!r} is no id of a compiled model: 24 lower-case hexadecimal digits")
    return entry_id


def _find(entries: dict[str, Entry], entry_id: str, what: dict[str, str] | None = None) -> Entry:
    """The entry of `entry_id`, or a new one, which is not among `entries` yet."""
    return entries.get(_checked(entry_id)) or Entry(entry_id, what or {}, created=time.time())


def _in_the_same_hands(entry: Entry) -> Entry:
    """The entry without its file, and still with the process that works on it."""
    return replace(plain(entry), owner_pid=entry.owner_pid, owner_started=entry.owner_started)


def _last_use(entry: Entry) -> float:
    return entry.used
