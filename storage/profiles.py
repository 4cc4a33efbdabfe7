"""What was found out about a model, kept by its weights' content: in memory, and in a small file for later sessions.

    <cache folder>/profiles/<content>.json, lock

Nothing here is worth a picture: what cannot be read or written is a log line for debugging, and found out anew.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from .files import delete, locked, replace_whole
from .fingerprint import content_of
from .ownership import NotOwnError, check_way, make_own_folder, read_own, status_if_own
from .peaks import KEPT, PLAUSIBLE, SIZES, Peak, factors_of

logger = logging.getLogger("cudaspeed")

_SCHEMA = 10  # also of how the values are measured: another number, and they are measured anew
_LOCK_SECONDS = 1.0
_MOST_BYTES = 1 << 16
_MOST_PIXELS = 4096
_CONTENT = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Account:
    """Input pixels of forwards, and the seconds that they took: for pictures (`work`), and to find something out
    (`learning`)."""

    work_pixels: int = 0
    work_seconds: float = 0.0
    learning_pixels: int = 0
    learning_seconds: float = 0.0

    def __add__(self, other: Account) -> Account:
        return Account(
            self.work_pixels + other.work_pixels,
            self.work_seconds + other.work_seconds,
            self.learning_pixels + other.learning_pixels,
            self.learning_seconds + other.learning_seconds,
        )


@dataclass(frozen=True)
class Profile:
    """What is known of a model. `receptive_field` and `unbounded` are `ReceptiveField`'s (None: never measured).

    The others are by place, "fp16 autocast on <card>, torch <version>": `trials`, what came of computing a piece of a
    picture in a mode ("": it is as good as in fp32; else why it is not used); `raised`, why a mode that was used was
    left for a safer one; `fastest`, the mode in which it was computed fastest (`str` of an `ExecutionMode`);
    `throughputs`, what a pixel cost in forwards of different sizes (`Throughput.points`); `costs`, the memory that a
    forward takes (`MemoryCost`'s values); `peaks`, what forwards were seen to take over that, the last ratios
    (peaks.py); `chosen`, by what was asked for, the mode that the last run began with.

    `revision` counts how often any of these changed: runs of one revision decide the same. `accounts`, by hardware,
    decide nothing that they compute.
    """

    revision: int = 0
    receptive_field: int | None = None
    unbounded: bool = False
    trials: Mapping[str, str] = field(default_factory=dict)
    raised: Mapping[str, str] = field(default_factory=dict)
    fastest: Mapping[str, str] = field(default_factory=dict)
    throughputs: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    costs: Mapping[str, Sequence[float]] = field(default_factory=dict)
    peaks: Mapping[str, Sequence[Peak]] = field(default_factory=dict)
    chosen: Mapping[str, str] = field(default_factory=dict)
    accounts: Mapping[str, Account] = field(default_factory=dict)

    def changed(self, changes: Mapping[str, Any]) -> Profile:
        """This with `changes` of its fields, tables by their entries; of the next revision if anything is another."""
        merged = {name: {**getattr(self, name), **new} if name in _TABLES else new for name, new in changes.items()}
        new = replace(self, **merged)
        # costs are no measurement: whoever asks finds the same; and of peaks only what is made of them decides
        decides = replace(new, costs=self.costs, peaks=self.peaks) != self or new.factors != self.factors
        return self if new == self else replace(new, revision=self.revision + decides)

    @property
    def factors(self) -> Mapping[str, Mapping[int, float]]:
        """By place and size of forwards, what an estimate of memory is multiplied by."""
        return {place: factors_of(peaks) for place, peaks in self.peaks.items()}

    def charged(self, spent: Mapping[str, Account]) -> Profile:
        """This with what was `spent` since, by hardware."""
        sums = {hardware: self.accounts.get(hardware, Account()) + more for hardware, more in spent.items()}
        return replace(self, accounts={**self.accounts, **sums})


_TEXTS = ("trials", "raised", "fastest", "chosen")
_TABLES = (*_TEXTS, "throughputs", "costs", "peaks")


def profiles_folder(cache_folder: Path) -> Path:
    """Where the profiles lie: in the folder of compiled models."""
    return cache_folder / "profiles"


class ProfileStore:
    """The profiles in `folder`. Making one touches nothing on disk; the folder is made with the first profile."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, Profile] = {}
        self._spent: dict[str, dict[str, Account]] = {}  # by content and hardware: not on disk yet
        self._unwritten: dict[str, list[Mapping[str, Any]]] = {}  # what could not be written: with the next change

    def of(self, module: nn.Module) -> ModelProfile:
        """The profile of the model with the weights that `module` has now."""
        return ModelProfile(self, module)

    def get(self, content: str) -> Profile:
        """What is known of the model with these weights; an empty profile where nothing is."""
        if content not in self._known:
            self._known[content] = self._read(content) or Profile()
        return self._known[content]

    def update(self, content: str, **changes: Any) -> Profile:
        """Change what is known, for now and for later sessions, and return it. `changes` are `Profile`'s fields; of
        tables, the entries that are new."""
        known = self.get(content)
        return known if known.changed(changes) is known else self._write(content, changes)

    def note(self, content: str, **changes: Any) -> Profile:
        """As `update`, for what comes with every run: where it decides nothing, it is written with the next change, or
        by `flush`."""
        known = self.get(content)
        new = known.changed(changes)
        if new.revision != known.revision:
            return self.update(content, **changes)
        if new is not known:
            self._known[content] = new
            self._unwritten.setdefault(content, []).append(changes)
        return new

    def flush(self) -> None:
        """Write down what was spent, and noted."""
        for content in {**self._spent, **self._unwritten}:
            self._write(content, {})

    def _write(self, content: str, changes: Mapping[str, Any]) -> Profile:
        known = self.get(content)
        profile = known.changed(changes)
        unwritten = [*self._unwritten.pop(content, []), changes]
        try:
            make_own_folder(self._folder)
            with locked(self._folder / "lock", _LOCK_SECONDS):
                for left in self._folder.glob("*.new"):  # by a process that was killed: who writes has the lock
                    delete(left)
                # another process may have found out something else meanwhile
                found = self._read(content) or known
                for change in unwritten:
                    found = found.changed(change)
                found = replace(found, revision=max(found.revision, profile.revision))
                charged = found.charged(self._spent.get(content, {}))
                replace_whole(self._file(content), _text(charged))
                self._spent.pop(content, None)
                profile = charged
        except OSError as error:
            self._unwritten[content] = unwritten
            logger.debug("a model's profile is not kept: %s", error)
        self._known[content] = profile
        return profile

    def spend(self, content: str, hardware: str, spent: Account) -> None:
        """Note what forwards took; it is written with the next change, or by `flush`."""
        waiting = self._spent.setdefault(content, {})
        waiting[hardware] = waiting.get(hardware, Account()) + spent

    def account(self, content: str, hardware: str) -> Account:
        """What forwards took on `hardware`, in this session and earlier ones."""
        waiting = self._spent.get(content, {}).get(hardware, Account())
        return self.get(content).accounts.get(hardware, Account()) + waiting

    def clear(self) -> None:
        """Forget everything, on disk too."""
        self._known.clear()
        self._spent.clear()
        self._unwritten.clear()
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
    """One model's profile in `store`, for one run. Its weights are read when something is first asked for."""

    def __init__(self, store: ProfileStore, module: nn.Module) -> None:
        self._store, self._module = store, module

    @functools.cached_property
    def content(self) -> str:
        """The digest of the weights that it has now."""
        return content_of(self._module)

    @property
    def known(self) -> Profile:
        """What is known; an empty profile where nothing is."""
        return self._store.get(self.content)

    def keep(self, **changes: Any) -> Profile:
        """Change `Profile`'s fields, of tables the entries given, for now and for later sessions, and return what is
        known then."""
        return self._store.update(self.content, **changes)

    def note(self, **changes: Any) -> Profile:
        """As `keep`, for what comes with every run and mostly decides nothing; that is written later."""
        return self._store.note(self.content, **changes)

    def spend(self, hardware: str, spent: Account) -> None:
        """Note what forwards took on `hardware`."""
        self._store.spend(self.content, hardware, spent)

    def account(self, hardware: str) -> Account:
        """What forwards took on `hardware`, in this session and earlier ones."""
        return self._store.account(self.content, hardware)


def _text(profile: Profile) -> str:
    """What `_parse` reads."""
    told = {field.name: getattr(profile, field.name) for field in fields(Profile)}
    told |= {name: dict(told[name]) for name in _TABLES}
    told["accounts"] = {hardware: astuple(account) for hardware, account in profile.accounts.items()}
    return json.dumps({"schema": _SCHEMA, **told}, indent=1)


def _parse(told: Any) -> Profile:
    """Raises `ValueError` or `TypeError` for what `ProfileStore` does not write."""
    if type(told) is not dict or told.pop("schema", None) != _SCHEMA:
        raise ValueError("it has another schema")
    if told.keys() != {field.name for field in fields(Profile)}:
        raise ValueError(f"it has the keys {sorted(told)}")
    profile = Profile(**told)
    if not _is_count(profile.revision):
        raise ValueError(f"revision is {profile.revision!r}")
    if profile.receptive_field is not None and not (
        _is_count(profile.receptive_field) and profile.receptive_field <= _MOST_PIXELS
    ):
        raise ValueError(f"receptive_field is {profile.receptive_field!r}")
    if type(profile.unbounded) is not bool:
        raise ValueError(f"unbounded is {profile.unbounded!r}")
    for name in (*_TABLES, "accounts"):
        if type(told[name]) is not dict:
            raise ValueError(f"{name} are {told[name]!r}")
    for name in _TEXTS:
        if not all(type(text) is str for text in told[name].values()):
            raise ValueError(f"{told[name]!r} is no table of texts")
    return replace(
        profile,
        throughputs={place: _parse_points(points) for place, points in profile.throughputs.items()},
        costs={place: _parse_cost(cost) for place, cost in profile.costs.items()},
        peaks={place: _parse_peaks(peaks) for place, peaks in profile.peaks.items()},
        accounts={hardware: _parse_account(account) for hardware, account in told["accounts"].items()},
    )


def _parse_points(told: Any) -> tuple[tuple[int, float], ...]:
    points = tuple((pixels, seconds) for pixels, seconds in told)
    sizes = [pixels for pixels, _ in points]
    if not all(_is_count(pixels) and pixels and _is_amount(s) and s for pixels, s in points):
        raise ValueError(f"a throughput is {told!r}")
    if sizes != sorted(set(sizes)):
        raise ValueError(f"a throughput has the sizes {sizes}")
    return points


def _parse_cost(told: Any) -> tuple[int, float, float]:
    weights, linear, square = told
    if not (_is_count(weights) and _is_amount(linear) and _is_amount(square)):
        raise ValueError(f"a cost is {told!r}")
    return weights, linear, square


def _parse_peaks(told: Any) -> tuple[Peak, ...]:
    least, most = PLAUSIBLE
    peaks = tuple((size, ratio) for size, ratio in told)
    if not all(type(size) is int and _is_amount(ratio) and least <= ratio <= most for size, ratio in peaks):
        raise ValueError(f"peaks are {told!r}")
    counts = Counter(size for size, _ in peaks)
    if not counts or counts.keys() - SIZES or max(counts.values()) > KEPT:
        raise ValueError(f"peaks are {told!r}")
    return peaks


def _parse_account(told: Any) -> Account:
    account = Account(*told)
    pixels, seconds = (account.work_pixels, account.learning_pixels), (account.work_seconds, account.learning_seconds)
    if not (all(map(_is_count, pixels)) and all(map(_is_amount, seconds))):
        raise ValueError(f"an account is {told!r}")
    return account


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_amount(value: object) -> bool:
    return type(value) is float and value >= 0 and math.isfinite(value)
