"""What model files are, in a few words: "x4 ESRGAN". Told by their headers, without loading any, and remembered.

A header of 700 tensors takes some 40 ms, so a folder of hundreds is read on a thread: whoever lists it waits a moment,
and what was not read by then has its words the next time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..api.errors import BadModelError
from ..storage.loaded import LoadedStore
from .formats.errors import DamagedError, RefusedError
from .header import Header, opened_model
from .layouts import ModelFacts, known_layout

UNREADABLE = "cannot be used"
_PATIENCE = 1.5  # seconds that a listing waits for headers that were never read
_VERSION = 1  # of what headers tell us: another one reads them anew
_USUAL_TYPES = {"float64", "float32", "float16", "bfloat16"}  # others may not be what an architecture takes


def told_by(header: Header) -> ModelFacts | None:
    """What the names and shapes of its tensors tell; None where the model has to be loaded to be known."""
    if header.flags or not {tensor.storage.dtype.name for tensor in header.tensors.values()} <= _USUAL_TYPES:
        return None
    return known_layout({name: tensor.shape for name, tensor in header.tensors.items()})


def stamp_of(path: Path) -> str:
    """Another text when the file is another one; empty where there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        return ""
    return f"{_VERSION} {status.st_size} {status.st_mtime_ns}"


def is_of_content(error: BadModelError) -> bool:
    """Whether `opened_model` raised it for what is in the file, and not because that could not be read this time."""
    return isinstance(error.__cause__, RefusedError | DamagedError)


def label_of(scale: int, architecture: str) -> str:
    return f"x{scale} {architecture}"


class ModelLabels:
    """The words for model files, kept in `store`. May be asked on any thread."""

    def __init__(self, store: LoadedStore, patience: float = _PATIENCE) -> None:
        self._store, self._patience = store, patience
        self._known: dict[Path, tuple[str, str]] = {}  # path -> stamp and label
        self._lock = threading.Lock()
        self._reading: threading.Thread | None = None

    def of(self, paths: Iterable[Path]) -> dict[Path, str]:
        """Those that are known by now. A model that only loading can tell has none before it was loaded."""
        stamps = {path: stamp for path in paths if (stamp := stamp_of(path))}
        with self._lock:
            unknown = {path: stamp for path, stamp in stamps.items() if not self._recall(path, stamp)}
            reader = self._begin(unknown) if unknown else None
        if reader is not None:
            reader.join(self._patience)
        with self._lock:
            return {path: self._known[path][1] for path in stamps if self._known.get(path, ("", ""))[1]}

    def learn(self, path: Path, label: str) -> None:
        """What loading the file has told."""
        told = {path: (stamp_of(path), label)}
        with self._lock:
            if self._known.get(path) == told[path]:
                return
            self._known |= told
        self._keep(told)

    def _recall(self, path: Path, stamp: str) -> bool:
        if self._known.get(path, ("", ""))[0] == stamp:
            return True
        told = self._store.get(path, stamp)
        if told is None or type(told.get("label")) is not str:
            return False
        self._known[path] = stamp, str(told["label"])
        return True

    def _begin(self, unknown: Mapping[Path, str]) -> threading.Thread | None:
        """A thread that reads their headers; None while another is at it, for which nobody waits twice."""
        if self._reading is not None and self._reading.is_alive():
            return None
        thread = threading.Thread(target=self._read, args=(unknown,), name="model headers of cudaspeed", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # there can be no more threads
            return None
        self._reading = thread
        return thread

    def _read(self, unknown: Mapping[Path, str]) -> None:
        told = {}
        for path, stamp in unknown.items():
            label, lasts = _told_of(path)
            with self._lock:
                self._known[path] = stamp, label
            if lasts:
                told[path] = stamp, label
        self._keep(told)

    def _keep(self, told: Mapping[Path, tuple[str, str]]) -> None:
        self._store.keep({path: (stamp, {"label": label}) for path, (stamp, label) in told.items()})


def _told_of(path: Path) -> tuple[str, bool]:
    """Its label, and whether that holds in later sessions: a file that nobody may read today may be read tomorrow."""
    try:
        with opened_model(path) as header:
            facts = told_by(header)
    except BadModelError as error:
        return UNREADABLE, is_of_content(error)
    except (MemoryError, RecursionError):  # whatever a file does to its reader must not cost the others
        return UNREADABLE, False
    return label_of(facts.scale, facts.architecture) if facts else "", True
