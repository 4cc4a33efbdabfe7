"""A film upscaled into memory, for those who want its frames and not a file."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from spandrel import ImageModelDescriptor
from torch import Tensor

from ..api.context import RunContext
from ..api.options import UpscaleOptions
from ..api.report import UpscaleReport, UpscaleResult
from ..api.resize import Resize
from ..pipeline.outcome import joined_over_time
from ..tiling.fit import result_size
from ..upscale_engine import upscale_frames
from .facts import Frame
from .frames import FilmSource, FrameReading, ReadFrame
from .inputs import FilmInput
from .pipeline import as_stored

logger = logging.getLogger("cudaspeed")


def upscale_into_memory(
    reader: FilmInput, model: ImageModelDescriptor, options: UpscaleOptions, context: RunContext
) -> UpscaleResult:
    """All frames [N, H, W, C] float32 of 0..1 of the film that is open in `reader`, as they are stored, with alpha
    where it has some (C: 3 or 4), and the report of them all. Raises what `upscale` raises."""
    facts = reader.facts
    options = replace(options, resize=as_stored(options.resize, facts))
    height, width = result_size(facts.size, model.scale, options.resize)
    reading = FrameReading(_Decoded(reader), facts.count.packets)
    sink, reports = None, list[UpscaleReport]()
    while reading.next is not None:  # once, unless frames change their size
        source = FilmSource(reading, options.batch_size, facts.count.rate)
        asked = options
        if source.size != facts.size:
            asked = replace(options, resize=Resize(0, width, height, "stretch", options.resize.resample))
        sink = sink or _MemorySink(facts.count.packets, (height, width, source.channels))
        sink.begin()
        reports.append(upscale_frames((source, sink), model, asked, context))
    report = joined_over_time(reports)
    assert sink is not None and report is not None, "a reader has one frame at least"
    for warning in report.warnings:
        logger.warning("%s: %s", facts.path, warning)
    return UpscaleResult(sink.frames(), report)


class _Decoded:
    """A film's frames as pixels, each decoded when it is asked for."""

    def __init__(self, reader: FilmInput) -> None:
        self._items = reader.items()
        self._to_pixels = reader.to_pixels(alpha=True)

    def get(self) -> ReadFrame | None:
        for item in self._items:
            if isinstance(item, Frame):
                return ReadFrame(self._to_pixels(item.picture), item.pts, item.duration)
        return None

    def done(self, size: int) -> None:
        """Nothing waits for it."""


class _MemorySink:
    """A `FrameSink` for about so many frames [H, W, C] = `shape`, of which there may be more, or fewer. Several runs
    may go into it one after the other."""

    device = torch.device("cpu")
    held_bytes = 0

    def __init__(self, expected: int, shape: tuple[int, int, int]) -> None:
        self._shape, self._before, self._finished = shape, 0, 0
        self._more: dict[int, Tensor] = {}
        with torch.inference_mode(False):
            self._frames = torch.empty((expected, *shape))

    def begin(self) -> None:
        """What comes now counts its frames from 0 again."""
        self._before = self._finished

    def frames(self) -> Tensor:
        """Those that are finished."""
        if self._more:
            more = [frame for number, frame in sorted(self._more.items()) if number < self._finished]
            return torch.cat([self._frames, torch.stack(more)])
        return self._frames[: self._finished]

    def frame(self, index: int) -> Tensor:
        number = self._before + index
        if number < len(self._frames):
            return self._frames[number]
        if number not in self._more:
            with torch.inference_mode(False):
                self._more[number] = torch.empty(self._shape)
        return self._more[number]

    def finish(self, index: int) -> None:
        self._finished = self._before + index + 1

    def repeat(self, index: int) -> None:
        self.frame(index).copy_(self.frame(index - 1))
        self.finish(index)
