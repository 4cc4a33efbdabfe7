"""What a farm has to do, and what came of it: a database in the output folder, written by one process.

    <output>/.farm/manifest.sqlite   units and what came of them
                   lock, owner       who writes it
                   done/<number>     what a worker did of which the manifest does not know yet
                   parts/            results that grow
                   together/         parts of a film that is not whole yet

A worker first writes the result, then its record in `done`, which is deleted once the manifest has it. So whatever
kills the writer, what is finished is known.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from ..api.errors import BadOptionError, OutputError
from ..storage.files import locked
from .units import FOLDER, TOGETHER, WHOLE, Listed, Outcome, State, Unit, together_of

PARTS = "parts"
_SCHEMA = "2"  # another one is not read
_PATIENCE = 5.0  # seconds, for who reads while another writes
_TABLES = f"""
begin;
create table if not exists run (name text primary key, value text not null) without rowid;
create table if not exists units (
    number integer primary key, source text not null, part integer not null default {WHOLE},
    target text not null unique, made_from text not null, given text not null default '{{}}',
    state text not null default 'waiting', tries integer not null default 0, worker text not null default '',
    seconds real not null default 0, error text not null default '', record text not null default '{{}}',
    unique (source, part)
);
create index if not exists waiting on units (number) where state = 'waiting';
create index if not exists held on units (number) where state = 'held';
create index if not exists missing on units (source) where part != {WHOLE} and state = 'waiting';
create index if not exists lost on units (source) where part != {WHOLE} and state = 'failed';
insert or ignore into run values ('schema', '"{_SCHEMA}"');
commit;
"""
_MERGE = """
insert into units (source, target, made_from) values (?, ?, ?)
on conflict (source, part) do update set
    made_from = excluded.made_from, given = '{}', state = 'waiting', tries = 0, error = '', record = '{}'
    where made_from != excluded.made_from
"""
# Parts of what was another content.
_FORGET = f"""
delete from units where part != {WHOLE} and made_from != (
    select made_from from units as whole where whole.source = units.source and whole.part = {WHOLE}
)
"""
_SPLIT = "insert or replace into units (source, part, target, made_from, given) values (?, ?, ?, ?, ?)"
# Of what waits for its parts: whether one of them is not settled, and why one was set aside.
_HELD = f"""
select number, source, target, made_from, part, given,
    exists (select 1 from units as parts where parts.source = units.source and parts.part != {WHOLE}
        and parts.state = 'waiting'),
    (select error from units as parts where parts.source = units.source and parts.part != {WHOLE}
        and parts.state = 'failed' limit 1)
from units where state = 'held'
"""
_TRY_AGAIN = f"""
update units set tries = 0, error = '', state = case
    when part = {WHOLE} and given != '{{}}' then 'held' else 'waiting'
end where state = 'failed'
"""
_NAMES = ("number", "source", "part", "target", "state", "tries", "worker", "seconds", "error", "record")
_TOLD = f"""
select {", ".join(_NAMES)} from units where number > ? and (? is null or state = ?) order by number limit 1000
"""
_SETTLE = "update units set state = ?, tries = ?, worker = ?, seconds = ?, error = ?, record = ? where number = ?"


class ManifestBusyError(OutputError):
    """Another process reads the manifest, for longer than it is waited for."""


class Manifest:
    """The units of one output folder; `open_manifest` and `read_manifest` make it."""

    def __init__(self, output: Path, database: sqlite3.Connection) -> None:
        self.output, self._database = output, database

    def begin(self, made_from: Mapping[str, Any]) -> None:
        """Note what decides the results, or check that it is what it was. Where it is not, and nothing is done yet, all
        begins anew: names and parts were for other options. Raises `BadOptionError` where something is."""
        known = self.value("made from")
        if known is None or not self.counts()["done"]:
            if known != json.loads(json.dumps(dict(made_from))):  # nor is anything begun as it should be
                with self._database:
                    self._database.execute("delete from units")
                self._drop_all_parts()
            self.set_value("made from", dict(made_from))
            return
        names = dict.fromkeys((*known, *made_from))
        changed = [
            f"{name} was {known.get(name)!r}, is {made_from.get(name)!r}"
            for name in names
            if known.get(name) != made_from.get(name)
        ]
        if changed:
            raise BadOptionError(
                f"{self.output} holds the results of a farm with other options: {', '.join(changed)}; use these again, "
                "or another output"
            )

    def merge(self, listed: Iterable[Listed]) -> None:
        """Add what is new, and let what was made from something else wait again."""
        with self._database:
            self._database.executemany(_MERGE, listed)
            self._database.execute(_FORGET)
        there = [f"{TOGETHER}/{folder.name}" for folder in (self.output / TOGETHER).iterdir()]
        wanted = {together_of(unit) for unit in self._not_whole()} if there else set[str]()
        for folder in there:
            if folder not in wanted:
                shutil.rmtree(self.output / folder, ignore_errors=True)

    def targets(self) -> dict[str, str]:
        """Where each source that is known already goes."""
        return dict(self._database.execute("select source, target from units where part = ?", (WHOLE,)))

    def waiting(self, after: int, count: int) -> list[Unit]:
        """The next units to be done whose numbers are greater, at most so many."""
        rows = self._database.execute(
            "select number, source, target, made_from, part, given from units where state = 'waiting' and number > ? "
            "order by number limit ?",
            (after, count),
        )
        return [_unit(row) for row in rows]

    def split(self, unit: Unit, outcome: Outcome) -> None:
        """Let the parts of a unit wait, whose numbers are greater than any other, and the unit for them. Raises what
        `settle` does."""
        rows = [(unit.source, one.part, one.target, unit.made_from, json.dumps(one.given)) for one in outcome.parts]
        with self._written():
            self._database.executemany(_SPLIT, rows)
            self._database.execute(
                "update units set state = 'held', given = ? where number = ?", (json.dumps(outcome.given), unit.number)
            )

    def drop_parts(self, unit: Unit) -> None:
        """Delete the files of a unit's parts: it is whole."""
        shutil.rmtree(self.output / together_of(unit), ignore_errors=True)

    def undo_splits(self) -> None:
        """Let what is done in parts, and not whole yet, wait as if it had not been split."""
        with self._database:
            self._database.execute("delete from units where part != ?", (WHOLE,))
            self._database.execute("update units set given = '{}' where given != '{}' and state != 'done'")
            self._database.execute("update units set state = 'waiting' where state = 'held'")
        self._drop_all_parts()

    def put_together(self) -> tuple[list[Unit], list[tuple[Unit, str]]]:
        """What waited for its parts and need not any more: that whose parts are done, which waits to be put together
        from now on, and that of which a part was set aside, and why. Raises what `settle` does."""
        ready: list[Unit] = []
        lost: list[tuple[Unit, str]] = []
        for *row, waiting, error in self._database.execute(_HELD).fetchall():
            if not waiting:
                unit = _unit(row)
                if error is None:
                    ready.append(unit)
                else:
                    lost.append((unit, error))
        if ready:
            with self._written():
                self._database.executemany(
                    "update units set state = 'waiting' where number = ?", [(unit.number,) for unit in ready]
                )
        return ready, lost

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Note what came of units, in one write. Raises `OutputError`, and `ManifestBusyError` where another try may do
        better."""
        rows = [
            (
                *("failed" if one.error else "done", one.tries, one.worker, one.seconds, one.error),
                *(json.dumps(one.record), one.number),
            )
            for one in outcomes
        ]
        with self._written():
            self._database.executemany(_SETTLE, rows)
        for one in outcomes:
            with suppress(FileNotFoundError):
                self.note_of(one.number).unlink()

    def take_notes(self) -> int:
        """Settle what workers finished that an earlier writer did not come to know of; how many that were."""
        found = [outcome for path in self.notes.iterdir() if path.name.isdigit() and (outcome := _noted(path))]
        finished = [one for one in found if self._is_finished(one)]
        self.settle(finished)
        for path in self.notes.iterdir():
            path.unlink()
        return len(finished)

    def noted(self, unit: Unit) -> Outcome | None:
        """What a worker that is lost noted of the unit that it was at; None where it did not come so far."""
        outcome = _noted(self.note_of(unit.number))
        return outcome if outcome and self._is_finished(outcome) else None

    def sweep(self) -> None:
        """Delete what workers that are no more left of results."""
        for part in self.parts.iterdir():
            shutil.rmtree(part, ignore_errors=True)

    def counts(self) -> dict[State, int]:
        """How many units there are of each state. What waits for its parts waits."""
        found = dict(self._database.execute("select state, count(*) from units group by state"))
        found["waiting"] = found.get("waiting", 0) + found.get("held", 0)
        return {state: found.get(state, 0) for state in ("waiting", "done", "failed")}

    def try_again(self) -> int:
        """Let what was set aside wait again; how many that are."""
        with self._database:
            return self._database.execute(_TRY_AGAIN).rowcount

    def outcomes(self, state: State | None = None) -> Iterator[dict[str, Any]]:
        """What is told of each unit, in the order of their numbers. Between two of them nothing is locked, however long
        whoever reads them takes."""
        after = -1
        while rows := self._database.execute(_TOLD, (after, state, state)).fetchall():
            after = rows[-1][0]
            for row in rows:
                told = dict(zip(_NAMES, row, strict=True))
                yield {**told, "record": json.loads(told["record"])}

    def value(self, name: str) -> Any:
        """What was noted of the run under a name; None where nothing was."""
        row = self._database.execute("select value from run where name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def set_value(self, name: str, value: Any) -> None:
        with self._database:
            self._database.execute("insert or replace into run values (?, ?)", (name, json.dumps(value)))

    @property
    def parts(self) -> Path:
        """The folder where results grow."""
        return self.output / FOLDER / PARTS

    @property
    def notes(self) -> Path:
        """The folder where workers note what they finished."""
        return self.output / FOLDER / "done"

    def note_of(self, number: int) -> Path:
        return self.notes / str(number)

    def _is_finished(self, outcome: Outcome) -> bool:
        """Whether it is of a unit that waits, made from what it is to be made from, whose result is there."""
        found = self._database.execute(
            "select target from units where state = 'waiting' and number = ? and made_from = ?",
            (outcome.number, outcome.made_from),
        ).fetchone()
        return bool(found) and (self.output / found[0]).is_file()

    def _not_whole(self) -> list[Unit]:
        """What is not done."""
        rows = self._database.execute(
            "select number, source, target, made_from, part, given from units where part = ? and state != 'done'",
            (WHOLE,),
        )
        return [_unit(row) for row in rows]

    def _drop_all_parts(self) -> None:
        for folder in (self.output / TOGETHER).iterdir():
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _written(self) -> Iterator[None]:
        """What is written within is written at once, or not at all."""
        try:
            with self._database:
                yield
        except sqlite3.OperationalError as error:
            kind = ManifestBusyError if "locked" in str(error) else OutputError
            raise kind(f"{self.output / FOLDER}: the manifest cannot be written: {error}") from error


def _unit(row: Sequence[Any]) -> Unit:
    number, source, target, made_from, part, given = row
    return Unit(number, source, target, made_from, part, json.loads(given))


@contextmanager
def open_manifest(output: Path) -> Iterator[Manifest]:
    """The manifest of the folder `output`, made where there is none, for this process alone. Raises `OutputError` where
    it cannot be written, and where another process writes it."""
    folder = output / FOLDER
    with _owned(folder), _telling(folder), closing(_connected(folder / "manifest.sqlite")) as database:
        database.executescript(_TABLES)
        manifest = Manifest(output, database)
        _check_schema(manifest)
        yield manifest


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """Made, and this process's alone."""
    owner = folder / "owner"
    with ExitStack() as held:
        try:
            for name in (f"{FOLDER}/done", f"{FOLDER}/{PARTS}", TOGETHER):
                (folder.parent / name).mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(folder / "lock", 0.0))
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", "utf-8")
        except TimeoutError as error:
            who = owner.read_text("utf-8") if owner.is_file() else "another process"
            told = f"{folder.parent} is written by {who}; wait for its end, or use another output"
            raise OutputError(told) from error
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error
        yield


@contextmanager
def _telling(folder: Path) -> Iterator[None]:
    """Say in a line what a database's error is of."""
    try:
        yield
    except sqlite3.Error as error:
        raise OutputError(f"{folder}: the manifest cannot be used: {error}") from error


@contextmanager
def read_manifest(output: Path) -> Iterator[Manifest]:
    """The manifest of the folder `output`, to be looked at, also while another process writes it. Raises
    `BadOptionError` where there is none."""
    file = output / FOLDER / "manifest.sqlite"
    if not file.is_file():
        raise BadOptionError(f"{output} holds no results of a farm: there is no {file}")
    with _telling(file.parent), closing(_connected(file)) as database:
        database.execute("pragma query_only = on")
        manifest = Manifest(output, database)
        if not database.execute("select 1 from sqlite_master where name = 'run'").fetchone():
            raise BadOptionError(f"{output} holds no results of a farm yet: its manifest is being made, or never was")
        _check_schema(manifest)
        yield manifest


def _connected(file: Path) -> sqlite3.Connection:
    """Without a write-ahead log, which needs memory that all processes share: network storage has none."""
    database = sqlite3.connect(file, timeout=_PATIENCE)
    database.execute("pragma synchronous = normal")
    return database


def _check_schema(manifest: Manifest) -> None:
    known = manifest.value("schema")
    if known != _SCHEMA:
        raise BadOptionError(
            f"{manifest.output} holds a manifest of another version ({known}, here {_SCHEMA}); use another output"
        )


def _noted(path: Path) -> Outcome | None:
    """What a worker noted; None where it was killed on the way."""
    try:
        return Outcome(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
