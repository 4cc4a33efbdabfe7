"""A film through the engine: decoded, upscaled and encoded side by side, with few frames in memory at once.

file --FilmReader, ToPixels--> ByteQueue --FilmSource, engine, FilmSink--> ByteQueue --FilmWriter--> file
          (a thread)       \\------------ packets that are copied ------------/        (a thread)
"""

from __future__ import annotations

import errno
import logging
import queue
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from spandrel import ImageModelDescriptor
from torch import Tensor

from ..api.context import RunContext
from ..api.errors import CudaspeedError, OutputError, first_line
from ..api.options import UpscaleOptions
from ..api.report import UpscaleReport
from ..api.resize import Resize
from ..tiling.fit import result_size
from ..upscale_engine import upscale_frames
from .copies import CopyPlan
from .deinterlace import AS_IT_IS
from .ends import (
    FrameFiles,
    FrameReader,
    FrameWriter,
    OutputFormat,
    exactly,
    open_frames,
    open_writer,
    plan_copied,
    plan_output,
    write_output,
)
from .facts import FilmFacts, Frame, Losses
from .folder_reader import PictureFrame
from .frames import FilmSink, FilmSource, FrameReading, MadeFrame, ReadFrame
from .inputs import FilmInput
from .options import VideoOptions
from .queues import ByteQueue, Stopped

if TYPE_CHECKING:
    from av.packet import Packet

logger = logging.getLogger("cudaspeed")

_MOST_BYTES = 256 << 20  # in both queues together
_MOST_ITEMS = 16  # in each: more would smooth nothing, and take memory that a short film does not
_COPIED_AHEAD = Fraction(1)  # second that copied packets may come before the pictures of their time


@dataclass(frozen=True)
class FilmJob:
    """A film to upscale from `source`, a file or what reads a film that is not open yet, into `target`, whose ending
    says in which container, and how it is written: `tags` are added to the film's own."""

    source: Path | FilmInput
    target: Path
    video: VideoOptions = field(default_factory=VideoOptions)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FilmProgress:
    """How far a film is: `done` of about `total` frames, after so many `seconds`; `pixels` is how many of the source
    these frames have. `frame` [H, W, C] float32 of 0..1 is the last one of them, to be looked at until the call that
    brings it returns: its memory is used again."""

    done: int
    total: int
    seconds: float
    pixels: int
    frame: Tensor | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        """In a few words: "120 of 2400 frames, 8.3 frames/s, 0.64 MP/s, 4:35 left"."""
        seconds = max(self.seconds, 1e-6)
        left = round(max(0, self.total - self.done) * seconds / max(1, self.done))
        minutes, rest = divmod(left, 60)
        hours, minutes = divmod(minutes, 60)
        time_left = f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
        speed, megapixels = self.done / seconds, self.pixels / seconds / 1e6
        return f"{self.done} of {self.total} frames, {speed:.1f} frames/s, {megapixels:.2f} MP/s, {time_left} left"


@dataclass(frozen=True)
class FilmReport:
    """How a film was upscaled and written. Sizes are (height, width). `losses` are what could not be read, `upscaling`
    is the engine's report, of the frames of the last size. `notes` are sentences on what is not as it was."""

    frames: int
    input_size: tuple[int, int]
    output_size: tuple[int, int]
    encoder: str
    pixel_format: str
    variable_rate: bool
    losses: Losses
    seconds: float
    upscaling: UpscaleReport
    notes: tuple[str, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know, in sentences."""
        return (*dict.fromkeys((*self.notes, *self.losses.warnings, *self.upscaling.warnings)),)


Tell = Callable[[FilmProgress], None]


def upscale_film(
    job: FilmJob,
    model: ImageModelDescriptor,
    options: UpscaleOptions,
    context: RunContext,
    tell: Tell = lambda progress: None,
) -> FilmReport:
    """Upscale the film of `job` by `model`, and write it with everything that is in its file. Memory does not grow with
    its length. `tell` hears of every frame, on this thread.

    What is there at the target is replaced once the film is whole; a failure, or an interrupt, leaves it as it was.
    Raises `BadFilmError`, `BadOptionError` where it cannot be written as asked, `OutputError`, and what `upscale`
    raises.
    """
    began = time.perf_counter()
    with open_frames(job.source, job.video) as reader:
        facts = reader.facts
        options = replace(options, resize=as_stored(options.resize, facts))
        planned = plan_film(reader, model.scale, options.resize, job.target, job.video)
        copies = plan_copied(reader, planned, tagged=bool(job.tags))
        options = exactly(options, planned)
        film = _Film(reader, planned, copies, tell, job.tags)
        for note in film.notes:
            logger.warning("%s: %s", facts.path, note)
        try:
            made, reports = write_output(job.target, lambda file: film.run(file, model, options, context))
        except OutputError as error:
            if getattr(error.__cause__, "errno", None) != errno.ENOSPC:
                raise
            raise OutputError(f"{error}; {film.room_needed(job.target)}") from error
        return FilmReport(
            frames=made,
            input_size=facts.size,
            output_size=planned.stored,
            encoder=planned.name,
            pixel_format=planned.pixel_format,
            variable_rate=facts.count.variable,
            losses=reader.losses,
            seconds=time.perf_counter() - began,
            upscaling=reports[-1],
            notes=tuple(film.notes),
        )


def plan_film(reader: FrameReader, scale: int, resize: Resize, target: Path, video: VideoOptions) -> OutputFormat:
    """How the film that is open in `reader` is written into `target`, by a model of this `scale` and in a size that is
    wanted of its frames as they are stored. Raises what `plan_output` does."""
    facts = reader.facts
    size = result_size(facts.size, scale, resize)
    shaped = replace(facts, pixel_aspect=_pixel_aspect(facts, size, resize))
    return plan_output(shaped, reader, size, target, video)


class _Film:
    """One film on its way. `notes` are sentences on what is not as it was."""

    def __init__(
        self, reader: FrameReader, planned: OutputFormat, copies: CopyPlan, tell: Tell, tags: Mapping[str, str]
    ) -> None:
        self._reader, self._planned, self._copies, self._tell, self._tags = reader, planned, copies, tell, tags
        self._read: ByteQueue[ReadFrame] = ByteQueue(_MOST_BYTES // 2, _MOST_ITEMS)
        self._made: ByteQueue[MadeFrame | Packet[Any]] = ByteQueue(_MOST_BYTES // 2, _MOST_ITEMS)
        self._free: queue.SimpleQueue[Tensor] = queue.SimpleQueue()
        self._done = self._pixels = self._bytes = 0
        self.notes = [*planned.notes, *copies.notes]
        if reader.facts.interlaced:
            self.notes.append(AS_IT_IS)

    def run(
        self, file: BinaryIO | FrameFiles, model: ImageModelDescriptor, options: UpscaleOptions, context: RunContext
    ) -> tuple[int, list[UpscaleReport]]:
        """Write the film into `file`; return how many frames it has, and a report for each size that they came in."""
        try:
            writes = open_writer(file, self._reader, self._planned, self._copies, self._tags)
            with writes as writer, self._beside(writer):
                reading = FrameReading(self._read, self._reader.facts.count.packets)
                reports = [*self._upscale(reading, model, options, context)]
        finally:
            self._bytes = file.tell()
        for note in (*self._reader.notes, *writer.notes):
            self._note(note)
        return self._done, reports

    def room_needed(self, target: Path) -> str:
        """What is free at the target, now that what was written is gone, and what the film would take: as much a frame
        as it took so far."""
        free = shutil.disk_usage(target.absolute().parent).free
        needed = self._bytes * max(1, self._reader.facts.count.packets) / max(1, self._done)
        return (
            f"the film takes about {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free there; make room, name "
            "another folder, or ask for less (a larger crf, a smaller size)"
        )

    @contextmanager
    def _beside(self, writer: FrameWriter) -> Iterator[None]:
        """Decoding and encoding go on in threads of their own while the body does; when it ends well, both are over and
        the film is written. When it does not, they stop."""
        decoding = threading.Thread(target=self._decode, name="cudaspeed decoding", daemon=True)
        encoding = threading.Thread(target=self._encode, args=(writer,), name="cudaspeed encoding", daemon=True)
        decoding.start()
        encoding.start()
        try:
            yield
            decoding.join()
            self._made.end()
            _wait_for(encoding)
        finally:  # both know open files, which are closed next
            self._read.stop()
            self._made.stop()
            decoding.join()
            encoding.join()
        self._made.raise_error()

    def _upscale(
        self, reading: FrameReading, model: ImageModelDescriptor, options: UpscaleOptions, context: RunContext
    ) -> Iterator[UpscaleReport]:
        """All frames through the engine: in one run, and one more whenever their size changes."""
        height, width = self._planned.size
        began = time.perf_counter()
        while reading.next is not None:
            source = FilmSource(reading, options.batch_size, self._reader.facts.count.rate)
            if source.size != self._reader.facts.size:
                told = f"{source.size[1]}x{source.size[0]} from frame {self._done}"
                kind = "the film changes its size"
                self._note(f"{kind}, to {told}; all of it is written as {width}x{height}", kind)
                options = replace(options, resize=Resize(0, width, height, "stretch", options.resize.resample))

            def finished(frame: Tensor | None, pixels: int = source.size[0] * source.size[1]) -> None:
                self._done, self._pixels = self._done + 1, self._pixels + pixels
                total = max(self._done, reading.expected)
                self._tell(FilmProgress(self._done, total, time.perf_counter() - began, self._pixels, frame))

            sink = FilmSink(source, self._made, (height, width, source.channels), self._free, finished)
            yield upscale_frames((source, sink), model, options, context)

    def _note(self, note: str, kind: str = "") -> None:
        """Once, or once of all that begin like its `kind`: a film may change its size again and again."""
        if note and not any(known.startswith(kind or note) for known in self.notes):
            logger.warning("%s: %s", self._reader.facts.path, note)
            self.notes.append(note)

    def _decode(self) -> None:
        """On a thread: frames into one queue, packets past the engine into the other."""
        to_pixels, before = self._reader.to_pixels(self._planned.has_alpha), None
        try:
            for item in self._reader.items():
                if isinstance(item, (Frame, PictureFrame)):
                    pixels = to_pixels(item.picture)
                    repeats = before is not None and np.array_equal(pixels, before)
                    self._read.put(ReadFrame(pixels, item.pts, item.duration, repeats), pixels.nbytes)
                    before = pixels
                else:
                    self._made.put(item, item.size)
            self._read.end()
        except Stopped:
            pass
        except MemoryError as error:  # which the engine would take for its own, and try again with less
            width, height = self._reader.facts.size[::-1]
            told = f"{self._reader.facts.path}: a frame of {width}x{height} does not fit into memory any more"
            self._read.end(CudaspeedError(f"{told} ({first_line(error)}); close other programs"))
        except BaseException as error:  # raised where the engine asks for the next frame
            self._read.end(error)

    def _encode(self, writer: FrameWriter) -> None:
        """On a thread: packets wait for the pictures of their time, so that both lie near each other in the file."""
        waiting: deque[Packet[Any]] = deque()
        written, pixels = Fraction(-1), None
        try:
            while (item := self._made.get()) is not None:
                if isinstance(item, MadeFrame):
                    if item.pixels is not None:
                        if pixels is not None:
                            self._free.put(pixels)
                        pixels = item.pixels
                    assert pixels is not None
                    writer.write(pixels.numpy(), item.pts, item.duration)
                    written = item.pts * self._planned.time_base
                    self._made.done(item.nbytes)
                else:
                    waiting.append(item)
                    self._made.done(item.size)
                while waiting and _time_of(waiting[0]) <= written + _COPIED_AHEAD:
                    writer.copy(waiting.popleft())
            for packet in waiting:
                writer.copy(packet)
            writer.finish()
        except Stopped:
            pass
        except BaseException as error:  # raised where the engine hands over the next frame
            self._made.stop(error)


def _time_of(packet: Packet[Any]) -> Fraction:
    """In seconds; of one that does not say, before all others."""
    time = packet.dts if packet.dts is not None else packet.pts
    return Fraction(-1) if time is None else time * packet.time_base


def _wait_for(thread: threading.Thread) -> None:
    while thread.is_alive():
        thread.join(0.1)  # so that it can be interrupted everywhere


def as_stored(resize: Resize, facts: FilmFacts) -> Resize:
    """The size that is wanted, of frames as they are stored: those of a film that is shown lying are turned."""
    if facts.rotation % 180 == 90:
        return replace(resize, width=resize.height, height=resize.width)
    return resize


def _pixel_aspect(facts: FilmFacts, size: tuple[int, int], resize: Resize) -> Fraction:
    """The shape of a pixel afterwards: the film's. Where its pixels are not square, and it is stretched to a size, what
    makes it look as it did."""
    if facts.pixel_aspect == 1 or not (resize.width and resize.height) or resize.fit != "stretch":
        return facts.pixel_aspect
    (height, width), (rows, columns) = facts.size, size
    return (facts.pixel_aspect * width * rows / (height * columns)).limit_denominator(1000)
