"""Decoding, the engine and encoding side by side, with few frames in memory at once.

FrameReader --items--> ByteQueue --FilmSource, engine, FilmSink--> ByteQueue --FrameWriter
   (a thread)       \\------------ packets that are copied ------------/        (a thread)
"""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from spandrel import ImageModelDescriptor
from torch import Tensor

from ..api.context import RunContext
from ..api.errors import CudaspeedError, first_line
from ..api.options import UpscaleOptions
from ..api.report import UpscaleReport
from ..api.resize import Resize
from ..pipeline.threads import Stage, end
from ..upscale_engine import upscale_frames
from .ends import FrameReader, FrameWriter, OutputFormat
from .facts import Frame
from .folder_reader import PictureFrame
from .frames import FilmSink, FilmSource, FrameReading, MadeFrame, ReadFrame
from .interleave import is_due
from .queues import ByteQueue, Stopped
from .report import FilmProgress, Tell
from .segments import SegmentWriter

if TYPE_CHECKING:
    from av.packet import Packet

logger = logging.getLogger("cudaspeed")

_MOST_BYTES = 256 << 20  # in both queues together
_MOST_ITEMS = 16  # in each: more would smooth nothing, and take memory that a short film does not

Writer = FrameWriter | SegmentWriter
ToPixels = Callable[[Any], NDArray[Any]]
Items = Callable[[ToPixels], "Generator[ReadFrame, None, None] | Generator[ReadFrame | Packet[Any], None, None]"]
"""Gives frames with their pixels, and perhaps packets between them."""


class Engine(NamedTuple):
    """What frames are upscaled by."""

    model: ImageModelDescriptor
    options: UpscaleOptions
    context: RunContext


class Stages:
    """Those of the film that `reader` has open, and that is written as `planned`. `done` counts the frames that were
    computed; `notes` are sentences on what was met on the way, and is not as it was. `tell` hears of every frame, on
    the thread of `run`."""

    def __init__(self, reader: FrameReader, planned: OutputFormat, engine: Engine, tell: Tell) -> None:
        self._reader, self._planned, self._engine, self._tell = reader, planned, engine, tell
        self._read: ByteQueue[ReadFrame] = ByteQueue(_MOST_BYTES // 2, _MOST_ITEMS)
        self._made: ByteQueue[MadeFrame | Packet[Any]] = ByteQueue(_MOST_BYTES // 2, _MOST_ITEMS)
        self._free: queue.SimpleQueue[Tensor] = queue.SimpleQueue()
        self._resumed = self._pixels = self.done = 0
        self.notes: list[str] = []

    def run(self, writer: Writer, items: Items, resumed: int) -> list[UpscaleReport]:
        """Take the frames among `items` through the engine into `writer`, and packets past it; `resumed` frames of the
        film are done already. Returns a report for each run of the engine: of a segment, or of a size that frames came
        in."""
        self._resumed = resumed
        with writer, self._beside(writer, items):
            reading = FrameReading(self._read, self._reader.facts.count.packets - resumed)
            return [*self._upscale(reading)]

    def all_items(self, to_pixels: ToPixels) -> Generator[ReadFrame | Packet[Any], None, None]:
        """All of the film's."""
        for item in self._reader.items():
            if isinstance(item, (Frame, PictureFrame)):
                yield ReadFrame(to_pixels(item.picture), item.pts, item.duration)
            else:
                yield item

    @contextmanager
    def _beside(self, writer: Writer, items: Items) -> Iterator[None]:
        """Decoding and encoding go on in threads of their own while the body does; when it ends well, both are over and
        the film is written. When it does not, they stop."""
        decoding = Stage("cudaspeed decoding", lambda: self._decode(items))
        encoding = Stage("cudaspeed encoding", lambda: self._encode(writer))
        try:
            decoding.start()
            encoding.start()
            yield
            decoding.wait()
            self._made.end()
            encoding.wait()
        finally:
            end((decoding, encoding), self._stop)  # both know open files, which are closed next
        self._made.raise_error()

    def _stop(self) -> None:
        self._read.stop()
        self._made.stop()

    def _upscale(self, reading: FrameReading) -> Iterator[UpscaleReport]:
        """All frames through the engine: in one run, and one more whenever their size changes."""
        (model, options, context), (height, width) = self._engine, self._planned.size
        began, facts = time.perf_counter(), self._reader.facts
        if self._resumed:
            self._tell(FilmProgress(self._resumed, self._resumed + reading.expected, 0.0, 0, self._resumed))
        while reading.next is not None:
            source = FilmSource(reading, options.batch_size, facts.count.rate)
            asked = options
            if source.size != facts.size:
                told = f"{source.size[1]}x{source.size[0]} from frame {self._resumed + self.done}"
                self._note_change(f"the film changes its size, to {told}; all of it is written as {width}x{height}")
                asked = replace(options, resize=Resize(0, width, height, "stretch", options.resize.resample))

            def finished(frame: Tensor | None, pixels: int = source.size[0] * source.size[1]) -> None:
                self.done, self._pixels = self.done + 1, self._pixels + pixels
                done, seconds = self._resumed + self.done, time.perf_counter() - began
                total = max(done, self._resumed + reading.expected)
                self._tell(FilmProgress(done, total, seconds, self._pixels, self._resumed, frame))

            sink = FilmSink(source, self._made, (height, width, source.channels), self._free, finished)
            yield upscale_frames((source, sink), model, asked, context)

    def _note_change(self, note: str) -> None:
        """Once: a film may change its size again and again."""
        if not self.notes:
            logger.warning("%s: %s", self._reader.facts.path, note)
            self.notes.append(note)

    def _decode(self, items: Items) -> None:
        """On a thread: frames into one queue, packets past the engine into the other."""
        before: NDArray[Any] | None = None
        try:
            with closing(items(self._reader.to_pixels(self._planned.has_alpha))) as found:
                for item in found:
                    if isinstance(item, ReadFrame):
                        repeats = before is not None and np.array_equal(item.pixels, before)
                        before = item.pixels
                        self._read.put(replace(item, repeats=repeats), item.pixels.nbytes)
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
                while waiting and is_due(waiting[0], written):
                    writer.copy(waiting.popleft())
            for packet in waiting:
                writer.copy(packet)
            writer.finish()
        except Stopped:
            pass
        except BaseException as error:  # raised where the engine hands over the next frame
            self._made.stop(error)
