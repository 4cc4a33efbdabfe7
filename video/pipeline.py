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
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from spandrel import ImageModelDescriptor
from torch import Tensor

from ..api.context import RunContext
from ..api.errors import CudaspeedError, OutputError, first_line
from ..api.options import UpscaleOptions
from ..api.report import UpscaleReport
from ..api.resize import Resize
from ..images.whole import write_whole
from ..tiling.fit import result_size
from ..upscale_engine import upscale_frames
from .colour import ToPixels
from .copies import CopyPlan, plan_copies
from .facts import FilmFacts
from .formats import FilmFormat, plan_format
from .frames import FilmSink, FilmSource, FrameReading, MadeFrame, ReadFrame
from .interleave import is_due
from .join import Joining
from .manifest import Manifest, of_input, of_work
from .options import VideoOptions
from .pixel_formats import has_alpha
from .queues import ByteQueue, Stopped
from .reader import FilmReader, Frame
from .report import FilmProgress, FilmReport, FilmResult, Tell
from .resume import Grouping
from .segmented import SegmentedWork, write_in_segments
from .segments import SegmentWriter
from .writer import FilmWriter

if TYPE_CHECKING:
    from av.packet import Packet

logger = logging.getLogger("cudaspeed")

_MOST_BYTES = 256 << 20  # in both queues together
_MOST_ITEMS = 16  # in each: more would smooth nothing, and take memory that a short film does not

Writer = FilmWriter | SegmentWriter
Items = Callable[[ToPixels], "Generator[ReadFrame, None, None] | Generator[ReadFrame | Packet[Any], None, None]"]


@dataclass(frozen=True)
class FilmJob:
    """A film to upscale from `source` into `target`, whose ending says in which container, and how it is written. With
    `restart`, segments of it that are there are not gone on with."""

    source: Path
    target: Path
    video: VideoOptions = field(default_factory=VideoOptions)
    restart: bool = False


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
    with FilmReader(job.source) as reader:
        facts = reader.facts
        options = replace(options, resize=_as_stored(options.resize, facts))
        size = result_size(facts.size, model.scale, options.resize)
        shaped = replace(facts, pixel_aspect=_pixel_aspect(facts, size, options.resize))
        planned = plan_format(shaped, reader.first.picture, size, job.target.suffix.lower(), job.video)
        copies = plan_copies(reader.others, planned.ending)
        film = _Film(reader, planned, copies, _Engine(model, options, context), tell)
        for note in film.notes:
            logger.warning("%s: %s", job.source, note)
        if job.video.segment_seconds:
            work = SegmentedWork(
                reader=reader,
                target=job.target,
                joining=Joining(facts, planned, copies),
                made_from=Manifest(
                    {**of_input(job.source), **of_work(planned, model, options, job.video, context.device)}
                ),
                restart=job.restart,
                grouping=Grouping(job.video.segment_seconds, options.batch_size, film.with_alpha),
            )
            done = write_in_segments(work, film.run)
        else:
            done = film.at_once(job.target)
        return FilmReport(
            frames=done.frames,
            input_size=facts.size,
            output_size=planned.stored,
            encoder=planned.encoder.name,
            pixel_format=planned.pixel_format,
            variable_rate=facts.count.variable,
            losses=done.losses,
            seconds=time.perf_counter() - began,
            upscaling=done.reports[-1] if done.reports else None,
            notes=(*film.notes, *done.notes),
            resumed=done.resumed,
        )


class _Engine(NamedTuple):
    model: ImageModelDescriptor
    options: UpscaleOptions
    context: RunContext


class _Film:
    """One film on its way. `notes` are sentences on what is not as it was."""

    def __init__(self, reader: FilmReader, planned: FilmFormat, copies: CopyPlan, engine: _Engine, tell: Tell) -> None:
        self._reader, self._planned, self._copies, self._tell = reader, planned, copies, tell
        self._engine = engine
        self.with_alpha = planned.has_alpha and has_alpha(reader.facts.pixel_format)
        self._read: ByteQueue[ReadFrame] = ByteQueue(_MOST_BYTES // 2, _MOST_ITEMS)
        self._made: ByteQueue[MadeFrame | Packet[Any]] = ByteQueue(_MOST_BYTES // 2, _MOST_ITEMS)
        self._free: queue.SimpleQueue[Tensor] = queue.SimpleQueue()
        self._resumed = self._done = self._pixels = self._bytes = 0
        self.notes = [*planned.notes, *copies.notes]
        if reader.facts.interlaced:
            self.notes.append("the film is interlaced, and upscaled as it is: its lines will show where things move")

    def at_once(self, target: Path) -> FilmResult:
        """Write all of the film into the file `target`, which is replaced once it is whole."""

        def write(file: BinaryIO) -> list[UpscaleReport]:
            try:
                return self.run(FilmWriter(file, self._reader, self._planned, self._copies), self._items, 0)
            finally:
                self._bytes = file.tell()

        try:
            reports = write_whole(target, write)
        except OutputError as error:
            if getattr(error.__cause__, "errno", None) != errno.ENOSPC:
                raise
            raise OutputError(f"{error}; {self._room_needed(target)}") from error
        return FilmResult(self._done, reports, self._reader.losses)

    def run(self, writer: Writer, items: Items, resumed: int) -> list[UpscaleReport]:
        """Take the frames among `items` through the engine into `writer`, and packets past it; `resumed` frames of the
        film are done already. Returns a report for each size that frames came in."""
        self._resumed = resumed
        with writer, self._beside(writer, items):
            reading = FrameReading(self._read, self._reader.facts.count.packets - resumed)
            return [*self._upscale(reading)]

    def _room_needed(self, target: Path) -> str:
        """What is free at the target, now that what was written is gone, and what the film would take: as much a frame
        as it took so far."""
        free = shutil.disk_usage(target.absolute().parent).free
        needed = self._bytes * max(1, self._reader.facts.count.packets) / max(1, self._done)
        return (
            f"the film takes about {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free there; make room, name "
            "another folder, or ask for less (a larger crf, a smaller size)"
        )

    @contextmanager
    def _beside(self, writer: Writer, items: Items) -> Iterator[None]:
        """Decoding and encoding go on in threads of their own while the body does; when it ends well, both are over and
        the film is written. When it does not, they stop."""
        decoding = threading.Thread(target=self._decode, args=(items,), name="cudaspeed decoding", daemon=True)
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

    def _upscale(self, reading: FrameReading) -> Iterator[UpscaleReport]:
        """All frames through the engine: in one run, and one more whenever their size changes."""
        (model, options, context), (height, width) = self._engine, self._planned.size
        began = time.perf_counter()
        if self._resumed:
            self._tell(FilmProgress(self._resumed, self._resumed + reading.expected, 0.0, 0, self._resumed))
        while reading.next is not None:
            source = FilmSource(reading, options.batch_size)
            if source.size != self._reader.facts.size:
                told = f"{source.size[1]}x{source.size[0]} from frame {self._resumed + self._done}"
                self._note(f"the film changes its size, to {told}; all of it is written as {width}x{height}")
                options = replace(options, resize=Resize(0, width, height, "stretch", options.resize.resample))

            def finished(pixels: int = source.size[0] * source.size[1]) -> None:
                self._done, self._pixels = self._done + 1, self._pixels + pixels
                done, seconds = self._resumed + self._done, time.perf_counter() - began
                total = max(done, self._resumed + reading.expected)
                self._tell(FilmProgress(done, total, seconds, self._pixels, self._resumed))

            sink = FilmSink(source, self._made, (height, width, source.channels), self._free, finished)
            yield upscale_frames((source, sink), model, options, context)

    def _note(self, note: str) -> None:
        """Once: a film may change its size again and again."""
        if not any(known.startswith("the film changes its size") for known in self.notes):
            logger.warning("%s: %s", self._reader.facts.path, note)
            self.notes.append(note)

    def _items(self, to_pixels: ToPixels) -> Generator[ReadFrame | Packet[Any], None, None]:
        """All of the film's."""
        for item in self._reader.items():
            yield ReadFrame(to_pixels(item.picture), item.pts, item.duration) if isinstance(item, Frame) else item

    def _decode(self, items: Items) -> None:
        """On a thread: frames into one queue, packets past the engine into the other."""
        try:
            with closing(items(ToPixels(self.with_alpha))) as found:
                for item in found:
                    if isinstance(item, ReadFrame):
                        self._read.put(item, item.pixels.nbytes)
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

    def _encode(self, writer: Writer) -> None:
        """On a thread: packets wait for the pictures of their time, so that both lie near each other in the file."""
        waiting: deque[Packet[Any]] = deque()
        written = Fraction(-1)
        try:
            while (item := self._made.get()) is not None:
                if isinstance(item, MadeFrame):
                    writer.write(item.pixels.numpy(), item.pts, item.duration)
                    written = item.pts * self._planned.time_base
                    self._made.done(item.pixels.nbytes)
                    self._free.put(item.pixels)
                else:
                    waiting.append(item)
                    self._made.done(item.size)
                while waiting and is_due(waiting[0], written):
                    writer.copy(waiting.popleft())
            for packet in waiting:
                writer.copy(packet)
            writer.finish()
        except Stopped:
            pass
        except BaseException as error:  # raised where the engine hands over the next frame
            self._made.stop(error)


def _wait_for(thread: threading.Thread) -> None:
    while thread.is_alive():
        thread.join(0.1)  # so that it can be interrupted everywhere


def _as_stored(resize: Resize, facts: FilmFacts) -> Resize:
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
