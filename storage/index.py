"""What is known of each compiled model: its state, who works on it, what was measured; and how that is written down."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from .processes import began, is_alive

State = Literal["seen", "compiling", "ready", "failed"]

_SCHEMA = 1
_ID = re.compile("[0-9a-f]{24}")
_MOST = 1e18  # of any number here; a larger one in the index is nonsense, and no float takes every integer


@dataclass(frozen=True)
class Entry:
    """What is known of one model in one set of tile shapes, on one device, under one set of versions.

    `what` says which, for people. Times are unix seconds, durations seconds, rates seconds per megapixel of input, 0
    for not measured. `eager_seconds` went into eager forwards so far, over all runs: what decides whether a compile
    pays. `engine` made the file, "" where torch's own did, and `verified` says that its results were compared with
    eager ones, or, of kernels, with torch's. A failure has a `reason` and a `scope`
    ("environment", "model" or "shapes": what it speaks against; "time": it took too long, which may pass), and holds
    under the `environment` of that fingerprint.
    `undecided`: what is faster than the file was not looked for to the end, or timings did not repeat;
    `search_seconds` is what looking took the last time.
    The owner is the process that compiles, or looks for what is faster, or, where the entry is "seen", one that died at
    it; process ids are used again, so it has a beginning too.
    """

    id: str
    what: dict[str, str]
    state: State = "seen"
    created: float = 0.0
    used: float = 0.0
    hits: int = 0
    bytes: int = 0
    sha256: str = ""
    engine: str = ""
    compile_seconds: float = 0.0
    undecided: bool = False
    search_seconds: float = 0.0
    eager_seconds: float = 0.0
    eager_rate: float = 0.0
    compiled_rate: float = 0.0
    verified: bool = False
    reason: str = ""
    scope: str = ""
    environment: str = ""
    owner_pid: int = 0
    owner_started: float = 0.0


@dataclass(frozen=True)
class Usage:
    """What a run learned. `eager_seconds` are added to the entry's; rates above 0 replace its; `verified` stays. What
    was compiled had the hash `sha256`, where that is known; rate and verdict say nothing of another file."""

    eager_seconds: float = 0.0
    eager_rate: float = 0.0
    compiled_rate: float = 0.0
    verified: bool = False
    sha256: str = ""


_DEFAULTS = {field.name: field.default for field in fields(Entry) if field.name not in ("id", "what")}


def is_id(text: str) -> bool:
    """Whether `text` is 24 lower-case hexadecimal digits, and so safe as the name of a file."""
    return _ID.fullmatch(text) is not None


def plain(entry: Entry) -> Entry:
    """The entry with what was measured, and without file, failure and owner."""
    return replace(
        entry, state="seen", bytes=0, sha256="", engine="", undecided=False, verified=False, reason="", scope="",
        environment="", owner_pid=0, owner_started=0.0,
    )  # fmt: skip


def owned(entry: Entry, pid: int) -> Entry:
    """The entry while process `pid` compiles it."""
    return replace(plain(entry), state="compiling", owner_pid=pid, owner_started=began(pid))


def searched_by(entry: Entry, pid: int) -> Entry:
    """The ready entry while process `pid` looks for what is faster."""
    return replace(entry, owner_pid=pid, owner_started=began(pid))


def in_search(entry: Entry) -> bool:
    """Whether a living process looks for what is faster than the ready entry's file."""
    return entry.state == "ready" and is_alive(entry.owner_pid, entry.owner_started)


def settled(entry: Entry) -> Entry:
    """The entry, only "seen" where the process that compiled it is gone."""
    if entry.state != "compiling":
        return entry
    return entry if is_alive(entry.owner_pid, entry.owner_started) else replace(entry, state="seen")


def with_usage(entry: Entry, usage: Usage) -> Entry:
    """The entry with what a run learned."""
    known = replace(
        entry,
        eager_seconds=entry.eager_seconds + max(0.0, usage.eager_seconds),
        eager_rate=usage.eager_rate if usage.eager_rate > 0 else entry.eager_rate,
    )
    if usage.sha256 and entry.sha256 and usage.sha256 != entry.sha256:  # it was improved meanwhile
        return known
    return replace(
        known,
        compiled_rate=usage.compiled_rate if usage.compiled_rate > 0 else entry.compiled_rate,
        verified=entry.verified or usage.verified,
    )


def to_json(entries: dict[str, Entry]) -> str:
    """The index. Of an entry only what differs from the defaults: it is for people too."""
    told = {}
    for entry_id, entry in entries.items():
        values = {name: getattr(entry, name) for name in _DEFAULTS}
        told[entry_id] = {"what": entry.what, **{name: v for name, v in values.items() if v != _DEFAULTS[name]}}
    return json.dumps({"schema": _SCHEMA, "entries": told}, indent=1)


def from_json(text: bytes, complain: Callable[[str], None]) -> dict[str, Entry]:
    """The good entries of an index. `complain` is told what is not good, in one line; nothing raises."""
    try:
        content = json.loads(text)
        if content["schema"] != _SCHEMA:
            raise ValueError(f"its schema is {content['schema']!r}, not {_SCHEMA}")
        told = dict(content["entries"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        complain(f"is not an index of compiled models; they are made anew ({error!r})")
        return {}
    entries, bad = {}, []
    for entry_id, values in told.items():
        try:
            entries[entry_id] = _parse(entry_id, values)
        except (ValueError, TypeError) as error:
            bad.append(str(error))
    if bad:
        complain(f"has {len(bad)} of {len(told)} entries that make no sense and are forgotten, such as: {bad[0]}")
    return entries


def _parse(entry_id: str, values: dict[str, Any]) -> Entry:
    """One entry. Raises `ValueError` or `TypeError` for what `to_json` does not write."""
    entry = Entry(entry_id, **values)
    if not is_id(entry_id):
        raise ValueError(f"{entry_id!r} is no id")
    if type(entry.what) is not dict or not all(type(text) is str for text in entry.what.values()):
        raise ValueError(f"{entry_id}: what is {entry.what!r}")
    for name, default in _DEFAULTS.items():
        value, kind = getattr(entry, name), type(default)
        # JSON has one kind of number, and Python reads NaN and Infinity into it
        fits = type(value) in {int, kind} and 0 <= value < _MOST if kind in {int, float} else type(value) is kind
        if not fits:
            raise ValueError(f"{entry_id}: {name} is {value!r}")
    if entry.state not in get_args(State):
        raise ValueError(f"{entry_id}: state is {entry.state!r}")
    return entry
