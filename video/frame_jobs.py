"""What is refused of frames that are pictures, before any of them is read, and how people are told of their names."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..api.errors import BadOptionError
from ..images.folders import identity
from ..images.jobs import Job
from ..images.kinds import ENDINGS, WRITABLE_ENDINGS
from .frame_pattern import FramePattern, frame_pattern, pattern_of_pictures
from .options import AUTOMATIC, VideoOptions


def check_named(target: Path, options: VideoOptions, overwrite: bool) -> None:
    """Raise `BadOptionError` where pictures cannot be written by the pattern `target`, exist, unless `overwrite`, or
    are no film, of which something is asked for."""
    pattern = frame_pattern(target)
    assert pattern is not None
    if pattern.ending not in WRITABLE_ENDINGS:
        raise BadOptionError(f"cannot write {target}; frames must end with one of {', '.join(WRITABLE_ENDINGS)}")
    asked = [f"--{name}" for name, is_there in _OF_FILMS.items() if is_there(options)]
    if asked:
        raise BadOptionError(f"{target}: frames are written as pictures, without {' and '.join(asked)}; leave that out")
    there = _there(pattern)
    if there and not overwrite:
        raise BadOptionError(
            f"{pattern.path(there[0])} exists; --overwrite replaces frames that are there, or name another folder"
        )


def check_jobs(jobs: Iterable[Job], options: VideoOptions) -> None:
    """Raise `BadOptionError` for frames that become a film at no rate, or others at one, and for what is asked of a
    film and there is none."""
    named = [(job, frame_pattern(job.source), frame_pattern(job.target)) for job in jobs]
    become_films = [job for job, source, target in named if source and not target]
    if become_films and options.fps is None:
        raise BadOptionError(
            f"{become_films[0].source}: pictures do not say how many of them are shown a second; say it, as --fps 25 "
            "or --fps 24000/1001"
        )
    if options.fps is not None and not become_films:
        why = "a film has its own times" if any(not source for _, source, _ in named) else "they become frames again"
        raise BadOptionError(f"--fps is of pictures that become a film; {named[0][0].source}: {why}, leave it out")
    if options.deinterlace and all(source for _, source, _ in named):
        raise BadOptionError("--deinterlace is of films: pictures do not say whether they are interlaced; leave it out")
    for job, source, target in named:
        if source and target:
            _keep_inputs(job, source, target)


def film_of(pattern: FramePattern) -> str:
    """What a film of such frames is called: as their folder is."""
    return Path(os.path.realpath(pattern.folder)).name or "frames"


def pictures_instead(folder: Path) -> str:
    """How the pictures in a folder without films are upscaled, in half a sentence; "" where there are none."""
    pattern = pattern_of_pictures(folder)
    if pattern:
        return f"its pictures are frames if they are named so: {pattern}, with --fps for a film of them"
    try:
        pictures = any(path.suffix.lower() in ENDINGS for path in folder.iterdir())
    except OSError:
        return ""
    return "'cudaspeed upscale' upscales its pictures" if pictures else ""


_OF_FILMS = {"codec": lambda options: options.codec != AUTOMATIC, "crf": lambda options: options.crf is not None}


def _there(pattern: FramePattern) -> tuple[int, ...]:
    try:
        return pattern.numbers()
    except OSError:  # no such folder yet; what else there is, writing tells
        return ()


def _keep_inputs(job: Job, source: FramePattern, target: FramePattern) -> None:
    """Raise `BadOptionError` where a frame would be written over an input."""
    numbers = _there(source)
    inputs = {identity(source.path(number)) for number in numbers}
    for number in numbers:
        known = identity(target.path(number))
        if known and known in inputs:
            raise BadOptionError(f"{target.path(number)} is an input; name another output than {job.target}")
