"""A worker: a process that holds one model, and does one unit after the other."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..api.errors import BadFilmError, BadImageError, BadOptionError, CudaspeedError, OutputError, first_line
from .units import WHOLE, Outcome, Part, Unit, together_of

logger = logging.getLogger("cudaspeed")


@dataclass(frozen=True)
class Task:
    """A `unit` that is to become the file `target`. What lies beside it, in the same folder, goes to its place before
    it does. `together`: where the parts of the unit's source are put together, if it has any."""

    unit: Unit
    target: Path
    together: Path

    @property
    def source(self) -> Path:
        return Path(self.unit.source)


@dataclass(frozen=True)
class Split:
    """A unit that is done in `parts`, and put together then, for which it is `given` something. Their targets are names
    of files in one folder."""

    parts: tuple[Part, ...]
    given: dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What a worker does, by `run`. `made_by` says what decides the results, by names that are told to users: two
    workers that differ there do not work for one farm. Nor do two with another kind of `device`, where parts of one
    source are put together."""

    run: Callable[[Task], dict[str, Any] | Split]
    made_by: Mapping[str, str]
    device: str = ""


@dataclass(frozen=True)
class Folders:
    """Where results go, where they grow, and where it is noted that they are done: on one file system."""

    output: str
    parts: str
    notes: str


class Worker:
    """Does units for one farm, by the `Work` that `make_work` makes of what was `given`. Ray makes an actor of it, in a
    process of its own."""

    def __init__(
        self, make_work: Callable[[Mapping[str, Any]], Work], given: Mapping[str, Any], folders: Folders
    ) -> None:
        self._work, self._folders = make_work(given), folders
        self._name = f"{socket.gethostname()}:{os.getpid()}"

    def about(self) -> dict[str, Any]:
        """Who it is, what decides its results, and what it computes on."""
        return {"name": self._name, "made_by": dict(self._work.made_by), "device": self._work.device}

    def do(self, unit: Unit) -> Outcome:
        """Do a unit. Its result is in its place, whole, before it is noted; nothing is raised."""
        began = time.perf_counter()
        outcome = Outcome(unit.number, unit.made_from, worker=self._name)
        # With a name of its own: another worker may be at the unit as well, which was thought to be lost.
        part = Path(self._folders.parts, f"{unit.number}-{uuid.uuid4().hex}")
        try:
            outcome = self._made(unit, part, outcome)
        except Exception as error:  # what breaks on one unit must not cost the others
            logger.debug("%s", unit.source, exc_info=True)
            told = reason_of(unit, error)
            told["error"] = told["error"].replace(str(part), self._folders.output)
            outcome = dataclasses.replace(outcome, **told)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        outcome = dataclasses.replace(outcome, seconds=time.perf_counter() - began)
        if not (outcome.error or outcome.parts):
            note(self._folders, outcome)
        return outcome

    def _made(self, unit: Unit, part: Path, outcome: Outcome) -> Outcome:
        """Make the result in the folder `part`, and move it to its place."""
        target, together = Path(self._folders.output, unit.target), together_of(unit)
        if target.is_dir():
            raise OutputError(f"{target} is a folder; move it away")
        target.parent.mkdir(parents=True, exist_ok=True)  # what cannot be is told before anything is computed
        part.mkdir()
        grown = part / target.name
        made = self._work.run(Task(unit, grown, Path(self._folders.output, together)))
        if isinstance(made, Split):
            parts = tuple(dataclasses.replace(one, target=f"{together}/{one.target}") for one in made.parts)
            return dataclasses.replace(outcome, parts=parts, given=made.given)
        for beside in part.iterdir():
            if beside != grown:
                beside.replace(target.parent / beside.name)
        grown.replace(target)
        told = made if unit.part != WHOLE else {**made, "output": str(target)}
        return dataclasses.replace(outcome, record=told)


def note(folders: Folders, outcome: Outcome) -> None:
    """Note that a unit is done, for whoever drives the farm after a driver that was not told of it."""
    with suppress(OSError):  # the driver is told all the same
        # vars, not asdict, which copies the record first: what is done has no parts, which alone would need it
        _write(Path(folders.notes, str(outcome.number)), json.dumps(vars(outcome)))


def reason_of(unit: Unit, error: Exception) -> dict[str, Any]:
    """The fields of an outcome that say why nothing came of a unit."""
    reason = str(error) if isinstance(error, CudaspeedError) else f"{type(error).__name__}: {first_line(error)}"
    full = any(getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) for cause in _causes(error))
    of_input = isinstance(error, BadImageError | BadFilmError | BadOptionError)  # and comes out the same another time
    reason = reason if unit.source in reason else f"{unit.source}: {reason}"
    return {"error": reason, "again": not (of_input or full), "full": full}


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text, "utf-8")
    new.replace(path)
