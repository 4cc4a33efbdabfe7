"""What a model file told once, by its header or when it was loaded, kept so that models can be listed without.

    <cache folder>/models/loaded.json, headers.json, lock

A file counts as the one that was read while its path and its `stamp` are the same. Nothing here is worth an error:
what cannot be read or written is a log line for debugging, and found out anew.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from .files import delete, locked, replace_whole
from .ownership import NotOwnError, check_way, make_own_folder, read_own, status_if_own

logger = logging.getLogger("cudaspeed")

_SCHEMA = 1
_LOCK_SECONDS = 1.0
_MOST_BYTES = 1 << 22
_MOST_FILES = 4000  # those told of last; some hundred bytes each

Told = dict[str, object]
"""Names -> values, as JSON has them."""
_Kept = dict[str, tuple[str, Told]]  # path -> stamp and what was told


class LoadedStore:
    """What was told of model files, in `file` in the folder of compiled models. Making one touches nothing on disk."""

    def __init__(self, cache_folder: Path, file: str = "loaded.json") -> None:
        self._folder = cache_folder / "models"
        self._file = self._folder / file
        self._known: _Kept | None = None

    def get(self, path: Path, stamp: str) -> Told | None:
        """What was told of the file with this stamp; None where nothing is known."""
        if self._known is None:
            self._known = self._read()
        known, told = self._known.get(str(path), ("", {}))
        return told if known == stamp else None

    def keep(self, told: Mapping[Path, tuple[str, Told]]) -> None:
        """Keep what was told of these files, each with its stamp, for later sessions."""
        if not told:
            return
        try:
            make_own_folder(self._folder)
            with locked(self._folder / "lock", _LOCK_SECONDS):
                known = self._read()
                for path, of_file in told.items():
                    known.pop(str(path), None)  # so that it becomes the last
                    known[str(path)] = of_file
                self._known = dict(list(known.items())[-_MOST_FILES:])
                replace_whole(self._file, json.dumps({"schema": _SCHEMA, "files": self._known}, indent=1))
        except (OSError, ValueError) as error:  # ValueError: a name that UTF-8 cannot write
            logger.debug("what loading models told is not kept: %s", error)

    def clear(self) -> None:
        """Forget everything, on disk too."""
        self._known = {}
        delete(self._folder)

    def _read(self) -> _Kept:
        """What is on disk, if this user wrote it and it makes sense."""
        try:
            check_way(self._folder)
            if status_if_own(self._folder) is not None:
                return _parsed(json.loads(read_own(self._file, _MOST_BYTES)))
        except FileNotFoundError:
            pass
        except NotOwnError as error:
            logger.debug("what loading models told is not trusted: %s", error)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            logger.debug("%s is found out anew: %s", self._file, error)
        return {}


def _parsed(found: object) -> _Kept:
    """Raises `ValueError` or `TypeError` for what `LoadedStore` does not write."""
    if type(found) is not dict or found.get("schema") != _SCHEMA or type(found.get("files")) is not dict:
        raise ValueError("it has another schema")
    kept = {path: (stamp, told) for path, (stamp, told) in found["files"].items()}
    if not all(type(stamp) is str and type(told) is dict for stamp, told in kept.values()):
        raise ValueError("it tells nothing of a file")
    return kept
