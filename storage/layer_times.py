"""What layers were timed to take on this machine, in a small file that all models share.

    <cache folder>/profiles/layers-<digest>.json

By the hardware, the versions and our kernels that `surroundings` tells: what was timed with others is not read. As with
profiles, nothing here is worth a picture: what cannot be read or written is a log line for debugging, and timed anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import locked, replace_whole
from .ownership import NotOwnError, check_way, make_own_folder, read_own, status_if_own

logger = logging.getLogger("cudaspeed")

LayerKey = tuple[str, tuple[int, ...], str]
"""A layer's name, its sizes, and the way it is computed: what `kernels/layer_times.py` times."""

_SCHEMA = 1  # also of how layers are timed: another number, and they are timed anew
_LOCK_SECONDS = 1.0
_MOST_BYTES = 1 << 18
_MOST_LAYERS = 2000  # the file stays within its bytes; a model has some ten kinds
_MOST_SIZES = 8


class LayerTimesStore:
    """The times in `folder`, that of the profiles, for these `surroundings`: any texts. Making one touches nothing."""

    def __init__(self, folder: Path, surroundings: Mapping[str, str]) -> None:
        told = json.dumps(dict(surroundings), sort_keys=True)
        self._folder = folder
        self._file = folder / f"layers-{hashlib.sha256(told.encode()).hexdigest()[:16]}.json"

    def get(self) -> dict[LayerKey, float]:
        """Seconds for a megapixel of each layer that was timed; none where there is no file that this user wrote and
        that makes sense."""
        try:
            check_way(self._folder)
            if status_if_own(self._folder) is None:
                return {}
            return _parse(json.loads(read_own(self._file, _MOST_BYTES)))
        except FileNotFoundError:
            return {}
        except NotOwnError as error:
            logger.debug("layer times are not trusted: %s", error)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            logger.debug("%s holds no layer times, which are made anew: %s", self._file, error)
        return {}

    def add(self, times: Mapping[LayerKey, float]) -> None:
        """Keep these for later sessions, beside those that are kept; the oldest go where there are too many."""
        try:
            make_own_folder(self._folder)
            with locked(self._folder / "lock", _LOCK_SECONDS):
                known = {key: seconds for key, seconds in self.get().items() if key not in times} | dict(times)
                kept = list(known.items())[-_MOST_LAYERS:]
                rows = [[name, [*sizes], way, seconds] for (name, sizes, way), seconds in kept]
                replace_whole(self._file, json.dumps({"schema": _SCHEMA, "layers": rows}))
        except OSError as error:
            logger.debug("layer times are not kept: %s", error)


def _parse(told: Any) -> dict[LayerKey, float]:
    """Raises `ValueError` or `TypeError` for what `LayerTimesStore` does not write."""
    if type(told) is not dict or told.keys() != {"schema", "layers"} or told["schema"] != _SCHEMA:
        raise ValueError("it has another schema")
    if type(told["layers"]) is not list or len(told["layers"]) > _MOST_LAYERS:
        raise ValueError("its layers are no list, or too many")
    found: dict[LayerKey, float] = {}
    for name, sizes, way, seconds in told["layers"]:
        if type(name) is not str or type(way) is not str or type(sizes) is not list or len(sizes) > _MOST_SIZES:
            raise ValueError(f"a layer is {name!r}, {sizes!r}, {way!r}")
        if not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"a layer has the sizes {sizes!r}")
        if type(seconds) is not float or not 0 < seconds < math.inf:
            raise ValueError(f"a layer takes {seconds!r}")
        found[name, tuple(sizes), way] = seconds
    return found
