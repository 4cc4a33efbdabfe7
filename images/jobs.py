"""Which picture file goes where: planned, and refused, before any of them is read or written."""

from __future__ import annotations

import mimetypes
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..api.errors import BadOptionError
from .files import READABLE_ENDINGS, WRITABLE_ENDINGS


@dataclass(frozen=True)
class Job:
    """One picture to upscale from `source` into `target`."""

    source: Path
    target: Path


def plan_jobs(inputs: Sequence[str], output: str) -> list[Job]:
    """Which picture goes where; changes nothing on disk.

    A folder among `inputs` stands for its pictures, sorted, without those of its subfolders. `output` is a folder if
    it exists as one, ends with a separator, or has no picture's ending. In a folder a picture
    keeps its name, and its ending where that can be written, .png otherwise. An input that does not exist is kept: it
    fails when its turn comes. Raises `BadOptionError` for an empty folder, an output whose format cannot be written,
    several inputs for one file, two inputs with one output, and an output that is an input.
    """
    sources = [source for given in inputs for source in _pictures_in(Path(given))]
    if _is_folder(output):
        jobs = [Job(source, Path(output) / _name_for(source)) for source in sources]
    elif Path(output).suffix.lower() not in WRITABLE_ENDINGS:
        raise BadOptionError(f"cannot write {output}; its ending must be one of {', '.join(WRITABLE_ENDINGS)}")
    elif len(inputs) > 1 or Path(inputs[0]).is_dir():
        raise BadOptionError(f"several pictures cannot all become {output}; name a folder")
    else:
        jobs = [Job(sources[0], Path(output))]
    _refuse_clashes(jobs)
    return jobs


def _pictures_in(given: Path) -> list[Path]:
    if not given.is_dir():
        return [given]
    try:
        inside = sorted(given.iterdir())
    except OSError as error:
        raise BadOptionError(f"cannot look into the folder {given}: {error.strerror or error}") from error
    found = [
        path
        for path in inside
        if path.suffix.lower() in READABLE_ENDINGS and path.is_file() and not path.name.startswith(".")
    ]
    if not found:
        raise BadOptionError(f"the folder {given} holds no pictures ({', '.join(READABLE_ENDINGS)})")
    return found


def _is_folder(output: str) -> bool:
    separators = tuple(separator for separator in (os.sep, os.altsep) if separator)
    if Path(output).is_dir() or output.endswith(separators):
        return True
    kind = mimetypes.guess_type(output)[0] or ""  # so that out.jp2 is a picture we cannot write, and not a folder
    return Path(output).suffix.lower() not in READABLE_ENDINGS and not kind.startswith("image/")


def _name_for(source: Path) -> str:
    return source.name if source.suffix.lower() in WRITABLE_ENDINGS else f"{source.stem}.png"


def _refuse_clashes(jobs: Sequence[Job]) -> None:
    # Device and inode know a file under all its names: links, letter case.
    sources = {(stat.st_dev, stat.st_ino) for job in jobs if (stat := _stat(job.source))}
    writers: dict[str, Path] = {}
    for job in jobs:
        stat = _stat(job.target)
        if stat and (stat.st_dev, stat.st_ino) in sources:
            raise BadOptionError(f"{job.target} is an input; choose another output, inputs are never overwritten")
        place = os.path.realpath(job.target)
        if place in writers:
            raise BadOptionError(f"{writers[place]} and {job.source} would both become {job.target}; use two outputs")
        writers[place] = job.source


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # it does not exist, or cannot be reached, which reading or writing it will tell
        return None


def refuse_unwritable(folder: Path) -> None:
    """Find out before hours of work; creates nothing that stays."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise BadOptionError(f"cannot write into {folder}: {error.strerror or error}") from error
