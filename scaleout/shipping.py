"""A farm whose workers do not see its folders: the bytes of units travel to them, and those of results back, through
Ray's object store. So does the model's file, once to each machine, where its hash is checked."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..api.errors import CudaspeedError
from .actor import Folders, Work, Worker, note, reason_of
from .units import FOLDER, Outcome, Unit

MOST_BYTES = 64 << 20  # of a unit that is shipped
_PREFIX = "cudaspeed-farm-"
ALL_AT_ONCE = "all at once"
"""What a unit is given that is not to be split: its parts would each need all of it."""


@dataclass(frozen=True)
class ShippedModel:
    """A model's file: its name, its bytes, and their SHA-256."""

    name: str
    content: bytes
    sha256: str

    @staticmethod
    def read(path: Path) -> ShippedModel:
        """That of a file."""
        content = path.read_bytes()
        return ShippedModel(path.name, content, hashlib.sha256(content).hexdigest())

    def write(self, folder: Path) -> Path:
        """Into a folder, once it is what was sent. Raises `CudaspeedError` where it is not."""
        found = hashlib.sha256(self.content).hexdigest()
        if found != self.sha256:
            raise CudaspeedError(f"the model {self.name} was damaged on its way: SHA-256 {found}, not {self.sha256}")
        path = folder / self.name
        path.write_bytes(self.content)
        return path


@dataclass(frozen=True)
class Shipped:
    """What came of a unit, and the bytes of the result, if there is one."""

    outcome: Outcome
    result: bytes | None


class ShippingWorker:
    """A `Worker` that works in a folder of its own. `model`: the file that takes the place of the one that is named in
    what was `given`; None: that is a name."""

    def __init__(
        self, make_work: Callable[[Mapping[str, Any]], Work], given: Mapping[str, Any], model: ShippedModel | None
    ) -> None:
        _sweep()
        self._folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        for name in ("in", "out", "parts", "notes"):
            (self._folder / name).mkdir()
        self._names = {"model": given.get("model")}  # as the user has it
        if model is not None:
            given = {**given, "model": str(model.write(self._folder))}
        folders = Folders(*(str(self._folder / name) for name in ("out", "parts", "notes")))
        self._worker = Worker(make_work, given, folders)

    def about(self) -> dict[str, Any]:
        """As a `Worker` tells."""
        return self._worker.about()

    def do(self, unit: Unit, content: bytes) -> Shipped:
        """Do a unit, whose source has this content. Nothing is raised."""
        here, there = self._folder / "in" / Path(unit.source).name, self._folder / "out" / Path(unit.target).name
        try:
            here.write_bytes(content)
            own = replace(unit, source=str(here), target=there.name, given={**unit.given, ALL_AT_ONCE: True})
            outcome = self._worker.do(own)
            result = None if outcome.error else there.read_bytes()
        except OSError as error:
            return Shipped(Outcome(unit.number, unit.made_from, **reason_of(unit, error)), None)
        finally:
            shutil.rmtree(self._folder / "out" / FOLDER, ignore_errors=True)
            for path in (here, there, self._folder / "notes" / str(unit.number)):
                path.unlink(missing_ok=True)
        told = {**outcome.record, **self._names, "input": unit.source} if outcome.record else {}
        return Shipped(replace(outcome, record=told, error=outcome.error.replace(str(here), unit.source)), result)


class Shipper:
    """The driver's end, for the folder `output`, in which results grow in `parts` and are noted in `notes`."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders

    def pack(self, unit: Unit) -> tuple[Unit, bytes] | Outcome:
        """What is sent to a worker; or why it cannot be."""
        source = Path(unit.source)
        try:
            size = source.stat().st_size
            if size > MOST_BYTES:
                told = (
                    f"{source} has {size / 2**20:.0f} MiB, and at most {MOST_BYTES >> 20} are shipped; share its folder"
                )
                return Outcome(unit.number, unit.made_from, error=told)
            return unit, source.read_bytes()
        except OSError as error:
            told = f"{source}: cannot be read: {error.strerror or error}"
            return Outcome(unit.number, unit.made_from, error=told, again=True)

    def unpack(self, unit: Unit, shipped: Shipped) -> Outcome:
        """What came of it, once the result is in its place, and noted."""
        outcome, target = shipped.outcome, Path(self._folders.output, unit.target)
        if shipped.result is None:
            return outcome
        grown = Path(self._folders.parts, f"{unit.number}-{uuid.uuid4().hex}")
        try:
            grown.write_bytes(shipped.result)
            target.parent.mkdir(parents=True, exist_ok=True)
            grown.replace(target)
        except OSError as error:
            grown.unlink(missing_ok=True)
            return replace(outcome, record={}, **reason_of(unit, error))
        outcome = replace(outcome, record={**outcome.record, "output": str(target)})
        note(self._folders, outcome)
        return outcome


def _sweep() -> None:
    """What workers left that were killed."""
    import psutil  # here because whoever reads a command's arguments, which needs none of it, meets this module

    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            with suppress(OSError):
                shutil.rmtree(folder, ignore_errors=True)
