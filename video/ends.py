"""The two ends of a film's way: read from a film's file or from pictures in a folder, and written into either."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from ..api.options import UpscaleOptions
from ..images.files import check_fits
from ..images.whole import write_whole
from .colour import colour_of
from .copies import CopyPlan, name_of, plan_copies
from .facts import FilmFacts
from .folder_reader import FolderReader
from .folder_writer import WITHOUT_ALPHA, FolderWriter, FrameFiles, FramesFormat, counted, with_bits
from .formats import FilmFormat, plan_format
from .frame_pattern import frame_pattern
from .inputs import FilmInput
from .options import VideoOptions
from .pixel_formats import bits_of, has_alpha
from .pyav import load_av
from .reader import FilmReader
from .writer import FilmWriter

Result = TypeVar("Result")

_LOSSLESS = ("ffv1",)
_REC2020 = 9  # primaries, as ITU-T H.273 numbers them
# As a film of frames is stored where nothing of them is to be lost, instead of in what every player takes.
_AS_RGB = {"yuv420p": "rgb24", "yuva420p": "rgba", "yuv420p10le": "gbrp10le", "yuva420p10le": "gbrap10le"}


FrameReader = FilmInput | FolderReader
"""Who reads frames, from `with` on, gives them and the packets between them by `items`. What `to_pixels` makes turns a
frame's `picture` into pixels; the frame stands at `pts` for `duration` ticks. What could not be read is in `losses` and
`notes`."""
FrameWriter = FilmWriter | FolderWriter
"""Who writes frames, from `with` on: `write` takes the next one, `copy` packets, `finish` is told of the end."""
OutputFormat = FilmFormat | FramesFormat
"""How they are written."""


def open_frames(source: Path | FilmInput, options: VideoOptions) -> FrameReader:
    """Who reads what is at `source`: a film, or the pattern of frames' names; or `source` itself."""
    if not isinstance(source, Path):
        return source
    pattern = frame_pattern(source)
    return FolderReader(pattern, options.fps) if pattern else FilmReader(source, deinterlace=options.deinterlace)


def plan_output(
    facts: FilmFacts, reader: FrameReader, size: tuple[int, int], target: Path, options: VideoOptions
) -> OutputFormat:
    """How frames of `size` (height, width) are written into `target`, a film or the pattern of frames' names. `facts`
    are the reader's, with what is to become of them.

    Raises what `plan_format` does, and `BadImageError` for sizes that the pictures' format does not have.
    """
    if frame_pattern(target):
        return _plan_frames(facts, reader, size, target, options)
    ending = target.suffix.lower()
    if not isinstance(reader, FolderReader):
        return plan_format(facts, reader.first.picture, size, ending, options)
    if options.encoder(ending).name in _LOSSLESS:
        facts = replace(facts, pixel_format=_AS_RGB[facts.pixel_format])
    stand_in = load_av().VideoFrame(16, facts.size[0], facts.pixel_format)
    planned = plan_format(facts, stand_in, size, ending, options)
    return replace(planned, notes=(*planned.notes, *reader.notes))


def plan_copied(reader: FrameReader, planned: OutputFormat, tagged: bool) -> CopyPlan:
    """What of the source is copied beside its frames; more tags may be written (`tagged`) into the film."""
    if isinstance(reader, FolderReader) or isinstance(planned, FramesFormat):
        return CopyPlan()
    return plan_copies(reader.others, planned.ending, tagged)


def open_writer(
    file: BinaryIO | FrameFiles, reader: FrameReader, planned: OutputFormat, copies: CopyPlan, tags: Mapping[str, str]
) -> FrameWriter:
    """Who writes what `reader` reads into `file`, as it was planned by `plan_output`; a film with more `tags`."""
    if isinstance(planned, FilmFormat):
        return FilmWriter(cast(BinaryIO, file), reader, planned, copies, tags)
    numbered = isinstance(reader, FolderReader)
    origin = reader.beside if numbered else counted(planned.bits)
    if numbered and planned.bits != reader.first.picture.bits:  # other bits are asked for
        origin = with_bits(origin, planned.bits)
    return FolderWriter(cast(FrameFiles, file), planned, origin)


def write_output(target: Path, write: Callable[[Any], Result]) -> Result:
    """Have `write` fill the film at `target`, which appears when it is whole, or the files of the pattern `target`,
    each of which does. Returns what it returns. Raises `OutputError`."""
    pattern = frame_pattern(target)
    return write(FrameFiles(pattern)) if pattern else write_whole(target, write)


def exactly(options: UpscaleOptions, planned: OutputFormat) -> UpscaleOptions:
    """`options`, by which no bits are lost that pictures keep: half precision has 8 to 11 of them."""
    if isinstance(planned, FramesFormat) and planned.kept_bits >= 16 and options.precision == "auto":
        return replace(options, precision="fp32")
    return options


def _plan_frames(
    facts: FilmFacts, reader: FrameReader, size: tuple[int, int], target: Path, options: VideoOptions
) -> FramesFormat:
    if isinstance(reader, FolderReader):
        own, matrix, notes = reader.first.picture.bits, None, [*reader.notes]
    else:
        own = 8 if bits_of(facts.pixel_format) <= 8 else 16
        matrix, notes = facts.display_matrix, [*_lost(facts, reader, target)]
    bits = {8: 8, 10: max(own, 16)}.get(options.bits, own)
    planned = FramesFormat(target.suffix.lower(), size, bits, facts.time_base, matrix)
    check_fits(target, planned.stored[1], planned.stored[0])
    return replace(planned, notes=tuple(notes))


def _lost(facts: FilmFacts, reader: FilmInput, target: Path) -> Iterator[str]:
    """What a film loses that becomes pictures, in sentences."""
    names = [name_of(stream) for stream in reader.others]
    if names:
        yield f"{', '.join(names)} of the film's file: pictures have no place for that, it is left out"
    if facts.count.variable:
        yield "the film's rate is variable: pictures do not say how long each is shown"
    if facts.pixel_aspect != 1:
        shape = f"{facts.pixel_aspect.numerator}:{facts.pixel_aspect.denominator}"
        yield f"the film's pixels are {shape}: those of the pictures will be taken for square"
    if has_alpha(facts.pixel_format) and target.suffix.lower() in WITHOUT_ALPHA:
        yield f"transparency is left out, {target.suffix} has none"
    colour = colour_of(reader.first.picture)
    if colour.is_hdr or colour.primaries == _REC2020:
        yield "the film's colours are HDR's or of a wide gamut: the pictures have its numbers, and do not say so"
    if not colour.is_known:
        yield "the film's matrix is one that is not converted: the pictures have not quite its colours"
