"""The names of frames that are pictures in a folder: a pattern such as `frames/%06d.png`, as FFmpeg has them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..api.errors import BadFilmError
from ..images.kinds import ENDINGS

_NUMBER = re.compile(r"%(?:0([1-9][0-9]?))?d")
_NUMBERED = re.compile(r"(.*?)([0-9]+)(\D*)")  # the last number in a name


@dataclass(frozen=True)
class FramePattern:
    """Names in `folder` that consist of `before`, a number of at least `digits` digits, and `after`."""

    folder: Path
    before: str
    digits: int
    after: str

    def __str__(self) -> str:
        """As it is written on the command line."""
        number = f"%0{self.digits}d" if self.digits > 1 else "%d"
        return str(self.folder / f"{_escaped(self.before)}{number}{_escaped(self.after)}")

    @property
    def ending(self) -> str:
        """Of its files, in small letters, with the dot."""
        return Path(f"0{self.after}").suffix.lower()

    def path(self, number: int) -> Path:
        """Of the frame with this number."""
        return self.folder / f"{self.before}{number:0{self.digits}}{self.after}"

    def numbers(self) -> tuple[int, ...]:
        """Those of the files that are there, in order; gaps are left out. Raises `OSError`."""
        form = re.compile(re.escape(self.before) + "([0-9]+)" + re.escape(self.after))
        found = (form.fullmatch(name) for name in os.listdir(self.folder))  # noqa: PTH208  # their names alone
        numbers = sorted(int(match[1]) for match in found if match and self._is_ours(match[1]))
        return (*numbers,)

    def frames(self) -> tuple[int, ...]:
        """As `numbers`. Raises `BadFilmError` where there is none, with a pattern that would find some."""
        try:
            numbers = self.numbers()
        except OSError as error:
            raise BadFilmError(f"{self}: cannot look into {self.folder}: {error.strerror or error}") from error
        if not numbers:
            others = pattern_of_pictures(self.folder)
            remedy = f"; {others} finds those that are there" if others else ""
            raise BadFilmError(f"{self}: there is no frame, {self.path(1).name} would be one{remedy}")
        return numbers

    def _is_ours(self, digits: str) -> bool:
        """Whether it is how the number would be written."""
        return f"{int(digits):0{self.digits}}" == digits


def frame_pattern(path: Path) -> FramePattern | None:
    """What `path` says of the names of frames; None where it names one file: it has no picture's ending, or no place
    for a number (or several)."""
    parts = [part for part in re.split(r"(%%|%0?[0-9]*d)", path.name) if part]
    places = [k for k, part in enumerate(parts) if _NUMBER.fullmatch(part)]
    if path.suffix.lower() not in ENDINGS or len(places) != 1:
        return None
    before, after = "".join(parts[: places[0]]), "".join(parts[places[0] + 1 :])
    match = _NUMBER.fullmatch(parts[places[0]])
    digits = int(match[1] or 1) if match else 1
    return FramePattern(path.parent, before.replace("%%", "%"), digits, after.replace("%%", "%"))


def pattern_of_pictures(folder: Path) -> FramePattern | None:
    """The pattern that the first numbered picture in `folder` has; None where there is none. Raises nothing."""
    try:
        names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
    except OSError:
        return None
    for name in names:
        found = _NUMBERED.fullmatch(name[: -len(Path(name).suffix)])
        if found and not name.startswith("."):
            digits = len(found[2]) if len(found[2]) > 1 and _same_length(names, found[2]) else 1
            return FramePattern(folder, found[1], digits, f"{found[3]}{Path(name).suffix}")
    return None


def bytes_of(path: Path) -> int:
    """Of the file at `path`, or of all those that it names, if it is a pattern."""
    pattern = frame_pattern(path)
    paths = [pattern.path(number) for number in pattern.numbers()] if pattern else [path]
    return sum(one.stat().st_size for one in paths)


def _same_length(names: list[str], number: str) -> bool:
    """Whether the first number has zeros before it, or all names are as long, so that it may."""
    return number.startswith("0") or len({len(name) for name in names}) == 1


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
