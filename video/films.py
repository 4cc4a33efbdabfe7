"""Which film goes where: planned, and refused, before any of them is opened."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..api.errors import BadOptionError
from ..images.jobs import Job, Plan, Refused, refuse_inputs
from ..images.kinds import ENDINGS as PICTURES
from ..images.naming import place_of
from .encoders import CONTAINERS
from .frame_jobs import check_jobs, check_named, film_of, pictures_instead
from .frame_pattern import FramePattern, frame_pattern
from .options import VideoOptions
from .parts import is_partial

ENDINGS = (
    *CONTAINERS,
    ".m4v",
    ".avi",
    ".ts",
    ".m2ts",
    ".mts",
    ".mpg",
    ".mpeg",
    ".vob",
    ".mxf",
    ".wmv",
    ".flv",
    ".ogv",
    ".3gp",
)
"""Of files that are taken for films in a folder."""
_DIGITS = 6  # of frames' numbers, where we suggest how they are named
_MOST_KEPT = ".mkv"  # what other films become, and those whose container the encoder does not go into


def plan_films(inputs: Sequence[str], output: str, options: VideoOptions, overwrite: bool) -> Plan:
    """Which film goes where; changes nothing on disk.

    A folder among `inputs` stands for the films that lie in it, by their endings, in the order of their names; the
    pattern of frames' names (`frame_pattern`) for a film that they are. `output`
    is a folder if it exists as one, ends with a separator, or is not called like a film: there a film keeps its name,
    and its ending where films with it are written and the encoder goes into them. Refused, and the rest is done: what
    would be written over an input, or over what another becomes. Raises `BadOptionError` where nothing but refusals is
    left, for an output that cannot be written by this encoder, for one that exists, unless `overwrite`, for one
    file as the output of several, and for what makes no sense with frames.
    """
    if _is_folder(output):
        steps = [*_steps([*_found(inputs)], Path(output), options)]
    else:
        steps = [_single(inputs, Path(output), options, overwrite)]
    plan = refuse_inputs(steps)
    check_jobs(plan.jobs, options)
    return plan


def is_called_like_a_film(path: Path) -> bool:
    """By its ending."""
    return path.suffix.lower() in ENDINGS


def holds_films(folder: Path) -> bool:
    """Whether it is a folder, and some lie in it. Raises nothing."""
    try:
        return any(map(is_called_like_a_film, folder.iterdir()))
    except OSError:
        return False


def _is_folder(output: str) -> bool:
    separators = tuple(separator for separator in (os.sep, os.altsep) if separator)
    if os.path.isdir(output) or output.endswith(separators):  # noqa: PTH112  # raises nothing, whatever its name is
        return True
    if Path(output).suffix.lower() in PICTURES:
        return False
    kind = mimetypes.guess_type(output)[0] or ""  # so that out.gif is a file that is no film, and not a folder
    return not is_called_like_a_film(Path(output)) and not kind.startswith(("video/", "image/", "audio/"))


def _single(inputs: Sequence[str], target: Path, options: VideoOptions, overwrite: bool) -> Job:
    ending = target.suffix.lower()
    is_pattern = frame_pattern(target) is not None
    if ending in PICTURES and not is_pattern:
        pattern = FramePattern(target.parent, f"{target.stem}_", _DIGITS, target.suffix)
        raise BadOptionError(f"cannot write {target}; films become many pictures, name them by a pattern: {pattern}")
    if ending not in CONTAINERS and not is_pattern:
        raise BadOptionError(f"cannot write {target}; its ending must be one of {', '.join(CONTAINERS)}")
    if len(inputs) == 1 and os.path.isdir(inputs[0]):  # noqa: PTH112
        only = [*_found(inputs)]
        if isinstance(only[0], Refused):
            raise BadOptionError(only[0].reason)
    if len(inputs) > 1 or os.path.isdir(inputs[0]):  # noqa: PTH112
        raise BadOptionError(f"several films cannot all become {target}; name a folder")
    if is_pattern:
        check_named(target, options, overwrite)
        return Job(Path(inputs[0]), target)
    options.check(ending)
    if os.path.exists(target) and not overwrite:  # noqa: PTH110
        raise BadOptionError(f"{target} exists; --overwrite replaces it, or name another output")
    return Job(Path(inputs[0]), target)


def _found(inputs: Sequence[str]) -> Iterator[Path | Refused]:
    """Each once."""
    seen: set[str] = set()
    for given in map(Path, inputs):
        if not os.path.isdir(given):  # noqa: PTH112
            films = [given]
        else:
            try:
                films = sorted(path for path in given.iterdir() if is_called_like_a_film(path) and path.is_file())
            except OSError as error:
                yield Refused(given, f"cannot look into the folder {given}: {error.strerror or error}")
                continue
            films = [path for path in films if not path.name.startswith(".") and not is_partial(path)]
            if not films:
                pictures = pictures_instead(given)
                told = f"the folder {given} holds no films ({', '.join(ENDINGS)})"
                yield Refused(given, f"{told}; {pictures}" if pictures else told)
        for film in films:
            place = os.path.realpath(film)
            if place not in seen:
                seen.add(place)
                yield film


def _steps(found: Sequence[Path | Refused], folder: Path, options: VideoOptions) -> Iterator[Job | Refused]:
    """In the order of `found`."""
    writers: dict[str, Path] = {}
    for source in found:
        if isinstance(source, Refused):
            yield source
            continue
        pattern = frame_pattern(source)
        ending = ending_of_film(source, options)
        kept = ending == source.suffix.lower()
        name = film_of(pattern) if pattern else source.stem
        target = folder / (source.name if kept else f"{name}{ending}")
        options.check(target.suffix.lower())
        writer = writers.setdefault(place_of(target), source)
        if writer == source:
            yield Job(source, target)
        else:
            yield Refused(source, f"{writer} and {source} would both become {target}; use two outputs")


def ending_of_film(source: Path, options: VideoOptions) -> str:
    """The ending of what becomes of a film in a folder: its own, where films with it are written and the encoder goes
    into them; else what keeps the most."""
    ending = source.suffix.lower()
    if ending in CONTAINERS and ending in options.encoder(ending).containers:
        return ending
    taken = options.encoder(_MOST_KEPT).containers
    return _MOST_KEPT if _MOST_KEPT in taken else taken[0]
