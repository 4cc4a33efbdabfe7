"""The pictures in a folder: told by what is in the files, with everything else named that is passed over."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from ..api.errors import BadImageError
from .codecs.source import open_regular
from .kinds import ENDINGS, HEAD_BYTES, recognise

Identity = tuple[int, int]
"""Device and inode, which know a file or folder under all its names: links, letter case."""


@dataclass(frozen=True)
class Found:
    """What a folder holds: its pictures; what else there is, by its path within the folder, with a separator at the end
    of a subfolder's; and what could not be looked into, and why."""

    pictures: tuple[Path, ...]
    passed_over: tuple[str, ...]
    failures: tuple[tuple[Path, str], ...]


def look_into(folder: Path, recursive: bool, output: Path) -> Found:
    """The pictures in `folder` and, if `recursive`, in its subfolders, sorted by name, those of subfolders after it.

    A picture is a regular file, or a link to one, that begins like a picture or is called like one. Hidden files and
    folders are not looked at, nor is `output`, should it lie within; links to folders are not followed. Raises nothing.
    """
    pictures: list[Path] = []
    passed_over: list[str] = []
    failures: list[tuple[Path, str]] = []
    seen = {identity(output)}  # folders, each looked into once whatever leads there
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            inside = sorted(path for path in here.iterdir() if not path.name.startswith("."))
        except OSError as error:
            failures.append((here, f"cannot look into the folder {here}: {error.strerror or error}"))
            continue
        deeper: list[Path] = []
        for path in inside:
            if not os.path.isdir(path):  # noqa: PTH112  # raises nothing, whatever a link leads to
                if is_picture(path):
                    pictures.append(path)
                else:
                    passed_over.append(str(path.relative_to(folder)))
                continue
            known = identity(path)
            if known and known in seen:
                continue
            if recursive and not path.is_symlink():
                seen.add(known)
                deeper.append(path)
            else:
                passed_over.append(f"{path.relative_to(folder)}{os.sep}")
        waiting += reversed(deeper)
    return Found(tuple(pictures), tuple(passed_over), tuple(failures))


def is_picture(path: Path) -> bool:
    """Whether `path` is a regular file that begins like a picture, or is called like one, whatever is in it: then
    reading it tells what is wrong."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
    except OSError:  # a link that leads nowhere
        return False
    if path.suffix.lower() in ENDINGS:
        return True
    try:
        with open_regular(path) as file:
            return recognise(file.read(HEAD_BYTES)) is not None
    except (OSError, BadImageError):  # it may not be read, or is a pipe by now
        return False


def identity(path: Path) -> Identity | None:
    """Of what `path` leads to; None where that is nothing, or cannot be looked at."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
