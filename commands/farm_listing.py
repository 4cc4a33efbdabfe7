"""What a farm is to do: the pictures and films of its inputs, each with a name of its own in the output folder.

By strings where the rest of the pack has paths: there may be hundreds of thousands.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NamedTuple

from ..images.folders import Identity, identity, is_picture
from ..images.kinds import ENDINGS, WRITABLE_ENDINGS
from ..images.naming import FolderOptions, folded, name_for, stem_and_ending
from ..scaleout.units import Listed
from ..video.encoders import CONTAINERS
from ..video.films import ENDINGS as FILMS
from ..video.films import ending_of_film
from ..video.options import VideoOptions
from ..video.parts import is_partial

_LIST = ".txt"
_PICTURES = tuple(ENDINGS)


@dataclass(frozen=True)
class Listing:
    """What was found: `units`, and why some of the inputs cannot be."""

    units: tuple[Listed, ...]
    failures: tuple[str, ...]


class _Source(NamedTuple):
    """A picture or a film, where it lies below the folder that was named ("": there), and what tells its content from
    another."""

    path: str
    below: str
    known_by: Identity
    made_from: str


@dataclass(frozen=True)
class Naming:
    """How pictures and films are found and named."""

    pictures: FolderOptions
    films: VideoOptions


def list_units(inputs: Sequence[str], output: Path, options: Naming, known: Mapping[str, str]) -> Listing:
    """The pictures and films of `inputs`, which are such, folders of them, or texts with a path in each line. What is
    `known` keeps the name that it has; others get their own, or, where that is taken or an input's, another. What a
    farm made in `output` is no input."""
    failures: list[str] = []
    there = os.path.realpath(output)
    results = {os.path.join(there, target) for target in known.values()}  # noqa: PTH118
    sources: dict[str, _Source] = {}
    for path, below in _found(inputs, identity(output), options.pictures.recursive, failures):
        if path in sources or (path.startswith(there) and path in results):
            continue
        if source := _looked_at(path, below, failures):
            sources[path] = source
    names = _Names(there, options, known, sources.values())
    keeping = [one for one in sources.values() if one.path.lower().endswith((*WRITABLE_ENDINGS, *CONTAINERS))]
    named = {one.path: names.of(one) for one in (*keeping, *sources.values())}
    return Listing(tuple(Listed(one.path, named[one.path], one.made_from) for one in sources.values()), tuple(failures))


class _Names:
    """Paths in the output folder, each given once. `sources` are written over by none."""

    def __init__(self, output: str, options: Naming, known: Mapping[str, str], sources: Iterable[_Source]) -> None:
        self._output, self._options = output, options
        self._given = dict(known)
        self._taken = {folded(name) for name in known.values()}
        within = output + os.sep
        self._taken |= {folded(path[len(within) :]) for path in known if path.startswith(within)}
        self._inputs = {source.known_by for source in sources}
        self._numbers: dict[str, Iterator[int]] = {}  # the next, of names that were taken
        # What lies in folders of the output, as far as was asked; None: it is not told.
        self._there: dict[str, set[str] | None] = {}

    def of(self, source: _Source) -> str:
        """Of one source always the same."""
        if source.path not in self._given:
            self._given[source.path] = next(name for name in self._wishes(source) if self._take(name))
        return self._given[source.path]

    def _wishes(self, source: _Source) -> Iterator[str]:
        """Names for what comes of a picture, the best first."""
        short = os.path.join(source.below, self._name(source.path))  # noqa: PTH118
        yield short
        yield os.path.join(source.below, self._name(source.path, whole=True))  # noqa: PTH118
        stem, ending = os.path.splitext(short)  # noqa: PTH122
        for number in self._numbers.setdefault(short, count(2)):
            yield f"{stem} ({number}){ending}"

    def _name(self, source: str, whole: bool = False) -> str:
        """With all of its own name, if that is asked for."""
        name = os.path.basename(source)  # noqa: PTH119
        pictures, films = self._options.pictures, self._options.films
        if not source.lower().endswith(FILMS):
            return name_for(name, pictures, whole)
        stem, own = stem_and_ending(name)
        ending = ending_of_film(Path(source), films)
        return f"{name if whole else stem}{pictures.suffix}{own if ending == own.lower() else ending}"

    def _take(self, name: str) -> bool:
        """Whether it is given now: no other has it, and no input lies there, under whatever name."""
        alike = folded(name)
        if alike in self._taken or (self._is_there(name, alike) and self._is_input(name)):
            return False
        self._taken.add(alike)
        return True

    def _is_there(self, name: str, alike: str) -> bool:
        """Whether something of the name, or one like it, may lie in the output: to ask for each file would take
        longer."""
        below = os.path.dirname(name)  # noqa: PTH120
        if below not in self._there:
            self._there[below] = self._names_in(below)
        there = self._there[below]
        return there is None or alike in there

    def _names_in(self, below: str) -> set[str] | None:
        try:
            names = os.listdir(os.path.join(self._output, below))  # noqa: PTH118, PTH208
        except FileNotFoundError:
            return set()
        except OSError:  # what may not be listed may still hold an input
            return None
        return {folded(os.path.join(below, one)) for one in names}  # noqa: PTH118

    def _is_input(self, name: str) -> bool:
        try:
            status = os.stat(os.path.join(self._output, name))  # noqa: PTH116, PTH118
        except OSError:
            return False
        return (status.st_dev, status.st_ino) in self._inputs


def _found(
    inputs: Iterable[str], output: Identity | None, recursive: bool, failures: list[str]
) -> Iterator[tuple[str, str]]:
    """Paths, and where they lie below the folder that was named."""
    for given in map(os.path.abspath, inputs):
        if os.path.isdir(given):  # noqa: PTH112  # raises nothing for odd names
            yield from _inside(given, "", recursive, output, failures)
        elif given.lower().endswith(_LIST):
            yield from _found(_lines(given, failures), output, recursive, failures)
        else:
            yield given, ""


def _inside(
    folder: str, below: str, recursive: bool, output: Identity | None, failures: list[str]
) -> Iterator[tuple[str, str]]:
    """The pictures and films in a folder, by their names, and those of its subfolders after them, as `look_into` takes
    them."""
    try:
        with os.scandir(os.path.join(folder, below)) as entries:  # noqa: PTH118
            inside = sorted((entry.name, entry) for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        failures.append(f"cannot look into the folder {folder}: {error.strerror or error}")
        return
    deeper = []
    for name, entry in inside:
        if entry.is_dir():
            if recursive and not entry.is_symlink() and identity(Path(entry.path)) != output:
                deeper.append(name)
        elif name.lower().endswith(FILMS):
            if entry.is_file() and not is_partial(Path(entry.path)):
                yield entry.path, below
        elif (name.lower().endswith(_PICTURES) and entry.is_file()) or is_picture(Path(entry.path)):
            yield entry.path, below
    for name in deeper:
        yield from _inside(folder, os.path.join(below, name), recursive, output, failures)  # noqa: PTH118


def _lines(path: str, failures: list[str]) -> list[str]:
    """The paths in a list; relative ones are from where it lies."""
    try:
        text = Path(path).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        failures.append(f"{path}: this list cannot be read: {error}")
        return []
    folder = os.path.dirname(path)  # noqa: PTH120
    paths = [os.path.join(folder, line.strip()) for line in text.splitlines() if line.strip()]  # noqa: PTH118
    lists = [one for one in paths if one.lower().endswith(_LIST) and not os.path.isdir(one)]  # noqa: PTH112
    failures += [f"{one}: is a list in the list {path}; name it by itself" for one in lists]
    return [one for one in paths if one not in lists]


def _looked_at(path: str, below: str, failures: list[str]) -> _Source | None:
    """With another `made_from` for another content, by size and time: reading thousands of pictures would take hours.
    None, and why, where there is nothing."""
    try:
        path.encode()  # a name that is no text cannot be written down
        status = os.stat(path)  # noqa: PTH116
    except UnicodeEncodeError:
        failures.append(f"{os.fsencode(path)!r}: its name is no UTF-8; give it another")
        return None
    except (OSError, ValueError) as error:
        failures.append(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}")
        return None
    made_from = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:16]
    return _Source(path, below, (status.st_dev, status.st_ino), made_from)
