"""What was found out about a model, kept by its weights' content: in memory, and in a small file for later sessions.

    <cache folder>/profiles/<content>.json, lock

Nothing here is worth a picture: what cannot be read or written is a log line for debugging, and found out anew.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from .files import delete, locked, replace_whole
from .fingerprint import content_of
from .ownership import NotOwnError, check_way, make_own_folder, read_own, status_if_own

logger = logging.getLogger("cudaspeed")

_SCHEMA = 4  # also of how the values are measured: another number, and they are measured anew
_LOCK_SECONDS = 1.0
_MOST_BYTES = 1 << 16
_MOST_PIXELS = 4096
_CONTENT = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Profile:
    """What is known of a model. `receptive_field` and `unbounded` are `ReceptiveField`'s (None: never measured).

    The others are by place, "fp16 autocast on <card>, torch <version>": `raised`, the precision to start with instead;
    `fastest`, the mode in which it was computed fastest (`str` of an `ExecutionMode`); `throughputs`, what a pixel cost
    in forwards of different sizes (`Throughput.points`).
    """

    receptive_field: int | None = None
    unbounded: bool = False
    raised: Mapping[str, str] = field(default_factory=dict)
    fastest: Mapping[str, str] = field(default_factory=dict)
    throughputs: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)


def profiles_folder(cache_folder: Path) -> Path:
    """Where the profiles lie: in the folder of compiled models."""
    return cache_folder / "profiles"


class ProfileStore:
    """The profiles in `folder`. Making one touches nothing on disk; the folder is made with the first profile."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, Profile] = {}

    def of(self, module: nn.Module) -> ModelProfile:
        """The profile of the model with the weights that `module` has now."""
        return ModelProfile(self, module)

    def get(self, content: str) -> Profile:
        """What is known of the model with these weights; an empty profile where nothing is."""
        if content not in self._known:
            found = self._read(content)
            if found is None:
                return Profile()
            self._known[content] = found
        return self._known[content]

    def update(self, content: str, **changes: Any) -> Profile:
        """Change what is known, for now and for later sessions, and return it. `changes` are `Profile`'s fields."""
        profile = self._known[content] = replace(self.get(content), **changes)
        try:
            make_own_folder(self._folder)
            with locked(self._folder / "lock", _LOCK_SECONDS):
                for left in self._folder.glob("*.new"):  # by a process that was killed: who writes has the lock
                    delete(left)
                # another process may have found out something else meanwhile
                profile = self._known[content] = replace(self._read(content) or profile, **changes)
                replace_whole(self._file(content), _text(profile))
        except OSError as error:
            logger.debug("a model's profile is not kept: %s", error)
        return profile

    def clear(self) -> None:
        """Forget everything, on disk too."""
        self._known.clear()
        delete(self._folder)

    def _file(self, content: str) -> Path:
        if not _CONTENT.fullmatch(content):
            raise ValueError(f"{content!r} is no SHA-256")
        return self._folder / f"{content}.json"

    def _read(self, content: str) -> Profile | None:
        """The profile on disk, if there is one that this user wrote and that makes sense."""
        path = self._file(content)
        try:
            check_way(self._folder)
            if status_if_own(self._folder) is None:
                return None
            return _parse(json.loads(read_own(path, _MOST_BYTES)))
        except FileNotFoundError:
            return None
        except NotOwnError as error:
            logger.debug("a model's profile is not trusted: %s", error)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            logger.debug("%s is no profile of a model, which is made anew: %s", path, error)
        return None


class ModelProfile:
    """One model's profile in `store`. Its weights are read when something is first asked for."""

    def __init__(self, store: ProfileStore, module: nn.Module) -> None:
        self._store, self._module = store, module

    @property
    def known(self) -> Profile:
        """What is known; an empty profile where nothing is."""
        return self._store.get(content_of(self._module))

    def keep(self, **changes: Any) -> Profile:
        """Change `Profile`'s fields, for now and for later sessions, and return what is known then."""
        return self._store.update(content_of(self._module), **changes)


def _text(profile: Profile) -> str:
    """What `_parse` reads."""
    told = {field.name: getattr(profile, field.name) for field in fields(Profile)}
    told |= {"raised": dict(profile.raised), "fastest": dict(profile.fastest), "throughputs": dict(profile.throughputs)}
    return json.dumps({"schema": _SCHEMA, **told}, indent=1)


def _parse(told: Any) -> Profile:
    """Raises `ValueError` or `TypeError` for what `ProfileStore` does not write."""
    if type(told) is not dict or told.pop("schema", None) != _SCHEMA:
        raise ValueError("it has another schema")
    if told.keys() != {field.name for field in fields(Profile)}:
        raise ValueError(f"it has the keys {sorted(told)}")
    profile = Profile(**told)
    if profile.receptive_field is not None and not (
        type(profile.receptive_field) is int and 0 <= profile.receptive_field <= _MOST_PIXELS
    ):
        raise ValueError(f"receptive_field is {profile.receptive_field!r}")
    if type(profile.unbounded) is not bool:
        raise ValueError(f"unbounded is {profile.unbounded!r}")
    for told in (profile.raised, profile.fastest):
        if type(told) is not dict or not all(type(text) is str for text in told.values()):
            raise ValueError(f"{told!r} is no table of texts")
    if type(profile.throughputs) is not dict:
        raise ValueError(f"throughputs are {profile.throughputs!r}")
    return replace(profile, throughputs={place: _parse_points(points) for place, points in profile.throughputs.items()})


def _parse_points(told: Any) -> tuple[tuple[int, float], ...]:
    points = tuple((pixels, seconds) for pixels, seconds in told)
    sizes = [pixels for pixels, _ in points]
    if not all(type(pixels) is int and pixels > 0 and type(s) is float and s > 0 for pixels, s in points):
        raise ValueError(f"a throughput is {told!r}")
    if sizes != sorted(set(sizes)):
        raise ValueError(f"a throughput has the sizes {sizes}")
    return points
