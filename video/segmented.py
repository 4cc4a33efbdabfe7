"""A film that is written in segments: what is done is kept, gone on with, and joined in the end."""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from ..api.errors import CudaspeedError, OutputError
from ..api.report import UpscaleReport
from .frames import ReadFrame
from .join import Joining, Piece
from .manifest import Manifest
from .parts import Parts, opened_parts, partial_of
from .reader import FilmReader
from .report import FilmResult
from .resume import FramesLeft, Grouping, ToPixels
from .segments import SegmentWriter, Unfinished

logger = logging.getLogger("cudaspeed")

Run = Callable[[SegmentWriter, Callable[[ToPixels], Generator[ReadFrame, None, None]], int], list[UpscaleReport]]
"""Takes the frames that are left through the engine into a writer, when so many are there; returns its reports."""


class FilmStopped(KeyboardInterrupt):
    """A film was stopped after `frames` frames, which can be looked at in the file `partial`, if there was room for
    it; the next call goes on."""

    def __init__(self, frames: int, partial: Path | None) -> None:
        shown = f", which are in {partial} meanwhile" if partial else ""
        super().__init__(f"stopped after {frames} frames{shown}; the same call goes on with them")
        self.frames, self.partial = frames, partial


@dataclass(frozen=True)
class SegmentedWork:
    """A film that `reader` has open and that becomes `target`, `joining` segments in the folder `parts`, which are gone
    on with if they were `made_from` the same, unless it is a `restart`."""

    reader: FilmReader
    target: Path
    joining: Joining
    made_from: Manifest
    grouping: Grouping
    parts: Path
    restart: bool


def write_in_segments(work: SegmentedWork, run: Run) -> FilmResult:
    """Have `run` compute what is missing of a film, and write the film.

    Raises `BadOptionError` where what is there is of another film or was made with other options, `FilmStopped` on an
    interrupt after the first frame, and `OutputError`; what is done by then is kept.
    """
    facts = work.reader.facts
    with opened_parts((work.parts, work.target), work.made_from, work.restart) as parts:
        for note in parts.notes:
            logger.warning("%s", note)
        resumed = parts.frames
        left = FramesLeft(work.reader, parts, work.grouping)
        writer = SegmentWriter(parts, work.joining.planned, left)
        try:
            reports = run(writer, left.items, resumed)
        except KeyboardInterrupt as stop:
            begun = _begun(parts, writer.unfinished)
            if not begun:
                raise
            raise _stopped(work, parts, begun) from stop
        except OSError as error:
            if isinstance(error, CudaspeedError):
                raise
            raise _not_written(error, parts, facts.count.packets) from error
        frames, losses = parts.frames, left.losses
        try:
            work.joining.whole(work.target, [_piece(parts, index) for index in sorted(parts.segments)])
        except KeyboardInterrupt as stop:
            raise FilmStopped(frames, None) from stop
        parts.remove()
    return FilmResult(frames, reports, losses, resumed, (*parts.notes,))


def _piece(parts: Parts, index: int) -> Piece:
    return Piece(parts.path(index), lambda: parts.times(index).packets)


def _begun(parts: Parts, unfinished: Unfinished | None) -> list[Piece]:
    """What there is from the film's start on without a gap."""
    segments = parts.begun()
    pieces = [_piece(parts, segment.index) for segment in segments]
    if unfinished and unfinished.packets and unfinished.first == sum(segment.frames for segment in segments):
        pieces.append(Piece(unfinished.path, lambda: unfinished.packets))
    return pieces


def _stopped(work: SegmentedWork, parts: Parts, begun: list[Piece]) -> FilmStopped:
    """With a file of what is done, unless there is no room, or something else is called like it."""
    partial = partial_of(work.target)
    try:
        shown = parts.mark_partial()
        if shown:
            work.joining.begun(partial, begun)
    except OSError as error:
        logger.warning("%s: what is done cannot be looked at: %s", work.target, error)
        shown = False
    return FilmStopped(sum(len(piece.packets()) for piece in begun), partial if shown else None)


def _not_written(error: OSError, parts: Parts, frames: int) -> OutputError:
    told = f"{parts.folder}: segments cannot be written: {error.strerror or error}"
    if error.errno == errno.ENOSPC:
        needed = parts.bytes * max(1, frames - parts.frames) / max(1, parts.frames)
        free = shutil.disk_usage(parts.folder).free
        told += (
            f"; what is left of the film takes about {needed / 1e9:.2f} GB, all of it as much again while it is "
            f"joined, and {free / 1e9:.2f} GB are free; make room, and the same call goes on: what is done is kept"
        )
    return OutputError(told)
