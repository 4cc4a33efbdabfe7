"""What the picture that comes of another is called: its own name where that is possible, and no other's."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..api.errors import BadOptionError
from .kinds import ENDINGS, WRITABLE_ENDINGS

_SPELLINGS = {"png": (".png", ".apng"), "jpg": (".jpg", ".jpeg"), "tiff": (".tiff", ".tif")}
_OTHER_SPELLINGS = {ending for endings in _SPELLINGS.values() for ending in endings[1:]}
FORMATS = tuple(ending[1:] for ending in WRITABLE_ENDINGS if ending not in _OTHER_SPELLINGS)
"""The formats that can be asked for."""


@dataclass(frozen=True)
class FolderOptions:
    """How pictures are found in folders, and named in the output's.

    `recursive`: with those of subfolders. `format`: one of `FORMATS`; "" keeps each picture's. `suffix` comes between
    name and ending. `skip_existing`: an output that exists counts as done. Raises `BadOptionError` for another format,
    and for a suffix that would lead into another folder.
    """

    recursive: bool = False
    format: str = ""
    suffix: str = ""
    skip_existing: bool = False

    def __post_init__(self) -> None:
        if self.format and self.format not in FORMATS:
            raise BadOptionError(f"format is {self.format!r}; use one of {', '.join(FORMATS)}")
        if any(letter in self.suffix for letter in ("/", "\\", "\0")):
            raise BadOptionError(f"suffix is {self.suffix!r}; it is part of a name, without slashes, such as _x4")


@dataclass(frozen=True)
class Source:
    """A picture, and where it lies below the folder that was named: `Path()` if that itself was named, or holds it."""

    path: Path
    below: Path = Path()


def is_in_format(path: Path, name: str) -> bool:
    """Whether `path` ends as files in the format `name`, one of `FORMATS`, do."""
    return path.suffix.lower() in _SPELLINGS.get(name, (f".{name}",))


def targets_of(sources: Iterable[Source], output: Path, options: FolderOptions) -> dict[Source, Path]:
    """Where in the folder `output` each goes; subfolders are mirrored.

    A picture keeps its name, and its ending where that can be written; else that becomes .png. Those of one folder that
    would get one name are told apart by their whole names: photo.png stays photo.png, photo.bmp becomes photo.bmp.png.
    Where that does not help, as for pictures of one name from two folders, they have the same target still.
    """
    short = {source: output / source.below / name_for(source.path.name, options) for source in sources}
    wanted = Counter(map(place_of, short.values()))
    return {
        source: target
        if wanted[place_of(target)] == 1 or source.path.suffix == target.suffix
        else target.with_name(name_for(source.path.name, options, whole=True))
        for source, target in short.items()
    }


def writers_of(targets: Mapping[Source, Path]) -> dict[str, Source]:
    """Who writes what, by `place_of` the target: of several the first, those first that keep their ending."""
    writers: dict[str, Source] = {}
    for source in sorted(targets, key=lambda source: source.path.suffix != targets[source].suffix):
        writers.setdefault(place_of(targets[source]), source)
    return writers


def place_of(target: Path) -> str:
    """The same text for the same file, whatever way leads to its folder."""
    return os.path.join(os.path.realpath(target.parent), target.name)  # noqa: PTH118


def folded(target: Path | str) -> str:
    """The same text for names that some file systems take for the same: of other letter case, or other accents."""
    name = str(target)
    return name.lower() if name.isascii() else unicodedata.normalize("NFKC", name).casefold()


def name_for(source: str, options: FolderOptions, whole: bool = False) -> str:
    """What comes of the picture of this name is called in the output folder. The ending is cut off unless `whole`, or
    where it is none of a picture's but part of a name, such as v1.2."""
    stem, ending = stem_and_ending(source)
    name = stem if ending.lower() in ENDINGS and not whole else source
    if options.format or ending.lower() not in WRITABLE_ENDINGS:
        ending = f".{options.format or 'png'}"
    return f"{name}{options.suffix}{ending}"


def stem_and_ending(name: str) -> tuple[str, str]:
    """As `Path.stem` and `Path.suffix` tell them of a file's name, without a path being made: there may be many."""
    point = name.rfind(".")
    return (name[:point], name[point:]) if 0 < point < len(name) - 1 else (name, "")
