"""ComfyUI's VIDEO, one that is upscaled while somebody saves it: what our video node gives.

All that is of ComfyUI comes from `host`; what is done with films, from `video/`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import torch
from spandrel import ImageModelDescriptor

from ..api.context import RunContext
from ..api.errors import OutOfMemoryError
from ..api.options import UpscaleOptions
from ..host.context import errors_said, run_context
from ..host.executing import complete_output
from ..host.video_types import temporary_folder, video_types
from ..images.whole import write_whole
from ..memory import free_or_assumed_bytes
from ..tiling.fit import result_size
from ..video.encoders import CONTAINERS
from ..video.ends import OutputFormat
from ..video.facts import FilmFacts
from ..video.in_memory import upscale_into_memory
from ..video.inputs import FilmInput
from ..video.options import AUTOMATIC, VideoOptions
from ..video.pipeline import FilmJob, as_stored, plan_film, upscale_film
from ..video.pixel_formats import bits_of, has_alpha
from ..video.previews import Previews
from ..video.remux import copy_film
from ..video.sources import Source, colour_name
from ..video.window import WHOLE, Window
from ..video.wishes import Made, Wish, ending_of
from .last_film import summary, told_of_film
from .last_run import KEY, told_of

logger = logging.getLogger("cudaspeed")

_SHARE = 2  # of the free memory that frames may take: a half
_FINEST = 10**6  # parts of a second that a time on a wire is told in


@dataclass(frozen=True)
class Work:
    """What is to be done with a film, on which `devices` ("": the host's), and for which node: its id, None outside of
    one."""

    model: ImageModelDescriptor
    options: UpscaleOptions
    video: VideoOptions
    devices: str = ""
    node: str | None = None


@dataclass(frozen=True)
class _Outline:
    """What is known of the result before it is computed. `begins`: the second of the source that is its first."""

    facts: FilmFacts
    planned: OutputFormat
    colour: str
    begins: Fraction

    @property
    def seconds(self) -> Fraction:
        return self.facts.count.seconds + 1 / self.facts.rate


class LazyVideo:
    """The part of a film that is in `window`, upscaled: a mixin before the host's own class of VIDEO.

    Nothing is computed before it is saved, or its frames are asked for; who does that is whose node shows the progress,
    and can be interrupted. What is told of the run afterwards stands on the node that this comes from. A file that was
    saved is copied when it is wanted again, as long as it is there unchanged.
    """

    def __init__(self, source: Source, work: Work, window: Window = WHOLE) -> None:
        self._source, self._work, self._window = source, work, window
        self._known: _Outline | None = None
        self._made: list[Made] = []
        self._told: str | None = None  # of the last run

    def check(self) -> None:
        """Raise what can be known to go wrong: no film, no such devices, an encoder that does not open, sizes that it
        does not write."""
        if self._work.devices:
            with self._context():
                pass
        self._outline()

    def get_dimensions(self) -> tuple[int, int]:
        """(width, height)"""
        height, width = self._outline().planned.stored
        return width, height

    def get_frame_rate(self) -> Fraction:
        return self._outline().facts.rate

    def get_frame_count(self) -> int:
        return self._outline().facts.count.packets

    def get_duration(self) -> float:
        return float(self._outline().seconds)

    def get_bit_depth(self) -> int:
        return 10 if bits_of(self._outline().planned.pixel_format) > 8 else 8

    def get_color_space(self) -> str:
        return self._outline().colour

    def get_container_format(self) -> str:
        return CONTAINERS[self._usual.ending]

    def get_active_trim_window(self) -> tuple[float, float]:
        """None: what `get_stream_source` gives is trimmed already."""
        return 0.0, 0.0

    def as_trimmed(
        self, start_time: float | None = None, duration: float | None = None, strict_duration: bool = False
    ) -> LazyVideo | None:
        """From `start_time` seconds on, negative ones before the end, for `duration` (0: to the end); None where
        nothing is left, or, if it is strict, not that much. What is cut off is never computed."""
        known = self._outline()
        start, length = seconds(start_time), seconds(duration)
        start = max(Fraction(0), known.seconds + start) if start < 0 else start
        left = known.seconds - start
        if left <= 0 or (strict_duration and left < length):
            return None
        at = known.begins + start
        ends = [end for end in (self._window.end, at + length if length else None) if end is not None]
        return type(self)(self._source, self._work, Window(at, min(ends) - at if ends else None))

    @errors_said()
    def save_to(
        self,
        path: str | os.PathLike[str] | BinaryIO,
        format: Any = AUTOMATIC,  # noqa: A002  # the host's name
        codec: Any = AUTOMATIC,
        metadata: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """Compute it into a file, or a stream. `more` are `bit_depth`, `crf` and `color_space` (a name of `COLOURS`),
        and what newer hosts ask for, which is left out. What is "auto" or None is as the node has it. `metadata` is
        written as the host does, what is no text as JSON. A failure, or an interrupt, leaves nothing at `path`."""
        target = path if hasattr(path, "write") else Path(os.fspath(path))  # type: ignore[arg-type]
        ending = ending_of(_text(format), target.name if isinstance(target, Path) else "")
        wish = Wish(ending, self._work.video) if ending else self._usual
        wish = wish.but(_text(codec), *(more.pop(name, None) for name in ("crf", "bit_depth", "color_space")))
        for name in [name for name, value in more.items() if value is not None]:
            logger.warning("a video is to be saved with %s, which this version does not know; it is left out", name)
        tags = {
            name: value if isinstance(value, str) else json.dumps(value) for name, value in (metadata or {}).items()
        }
        self._save(target, wish, tags)  # type: ignore[arg-type]
        self._tell()

    @errors_said()
    def get_stream_source(self) -> str:
        """The path of a file in the host's temporary folder, which is made once."""
        usual, folder = self._usual, temporary_folder()
        there = [made.path for made in self._made if made.wish == usual and made.is_there()]
        path = next((path for path in there if path.parent == folder), None)
        if path is None:
            path = _temporary(usual.ending)
            self._save(path, usual, {})
            self._tell()
        return str(path)

    @errors_said()
    def get_components(self) -> Any:
        """All frames, and the sound, in memory. Raises `OutOfMemoryError` where the frames take more than half of what
        is free."""
        model, options = self._work.model, self._work.options
        with self._context() as context, self._source.reader(self._window, self._usual.ending) as reader:
            _check_memory(reader, model.scale, options)
            result = upscale_into_memory(reader, model, options, context)
            facts, tags = reader.facts, dict(reader.tags.of_file)
            start = reader.begins + reader.first.pts * facts.time_base
        self._told = told_of(result.report, options)
        self._tell()
        images = result.image.rot90(facts.rotation // 90 % 4, (1, 2))  # as it is shown
        sound = self._source.sound(start, self._window.end)
        kind = video_types().components
        content = {
            "images": images[..., :3].contiguous(),
            "frame_rate": facts.rate,
            "audio": sound and {"waveform": sound.samples, "sample_rate": sound.rate},
            "metadata": tags,
            "alpha": images[..., 3:].contiguous() if images.shape[-1] == 4 else None,
        }
        fields = {field.name for field in dataclasses.fields(kind)}
        return kind(**{name: value for name, value in content.items() if name in fields})

    @errors_said()
    def _outline(self) -> _Outline:
        if self._known is None:
            wish, work = self._usual, self._work
            with self._source.reader(self._window, wish.ending) as reader:
                resize = as_stored(work.options.resize, reader.facts)
                planned = plan_film(reader, work.model.scale, resize, Path(f"film{wish.ending}"), wish.video)
                self._known = _Outline(reader.facts, planned, colour_name(reader), reader.begins)
        return self._known

    @property
    def _usual(self) -> Wish:
        return Wish.usual(self._work.video)

    def _save(self, target: Path | BinaryIO, wish: Wish, tags: Mapping[str, str]) -> None:
        """Copy what there is, or compute it: where it is wanted, or else in a temporary file that is then copied."""
        self._made = [made for made in self._made if made.is_there()]
        made = next((made for made in self._made if made.wish == wish), None)
        if made is None:
            direct = isinstance(target, Path) and target.suffix.lower() == wish.ending
            path = target if direct and isinstance(target, Path) else _temporary(wish.ending)
            self._compute(path, wish, tags)
            made = Made.now(path, wish, tags)
            self._made.append(made)
            if direct:
                return
        if isinstance(target, Path):
            write_whole(target, lambda file: copy_film(made.path, wish.ending, file, tags, made.tags))
            self._made.append(Made.now(target, wish, tags))
        else:
            copy_film(made.path, wish.ending, target, tags, made.tags)

    def _context(self) -> AbstractContextManager[RunContext]:
        return run_context(self._work.model, self._work.devices)

    def _tell(self) -> None:
        """Of the run to which is owed what was saved just now, be it a copy."""
        if self._told is not None:
            complete_output(self._work.node, {KEY: (self._told,)})

    def _compute(self, path: Path, wish: Wish, tags: Mapping[str, str]) -> None:
        source = self._source if wish.colour is None else self._source.in_colour(wish.colour)
        # Save Video numbers its files on by the names that it finds, but for those that begin with a dot
        parts = path.with_name(f".{path.name}.parts")
        with self._context() as context:
            job = FilmJob(source.reader(self._window, wish.ending), path, wish.video, tags, parts)
            previews = Previews(context, self._outline().facts.rotation)
            report = upscale_film(job, self._work.model, self._work.options, context, previews.tell)
            context.say(summary(report))
        self._told = told_of_film(report, self._work.options)


def _check_memory(reader: FilmInput, scale: int, options: UpscaleOptions) -> None:
    facts = reader.facts
    height, width = result_size(facts.size, scale, as_stored(options.resize, facts))
    frames, channels = facts.count.packets, 4 if has_alpha(facts.pixel_format) else 3
    needed, free = frames * height * width * channels * 4, free_or_assumed_bytes(torch.device("cpu"))
    if needed > free / _SHARE:
        raise OutOfMemoryError(
            f"{frames} frames of {width}x{height} take {needed / 1e9:.1f} GB as images, and {free / 1e9:.1f} GB are "
            "free, of which they may take half; save the video first (Save Video needs little memory), or lower "
            "scale_by"
        )


def _temporary(ending: str) -> Path:
    return temporary_folder() / f"cudaspeed-{uuid.uuid4().hex}{ending}"


def _text(choice: Any) -> str:
    """What the host says by an enumeration, or by its values."""
    return str(getattr(choice, "value", choice))


def seconds(told: float | None) -> Fraction:
    """A time on a wire, exactly as it is meant: 0.04, and not the nearest float; None is 0."""
    return Fraction(told or 0).limit_denominator(_FINEST)
