"""How a film is to be written: decided, and refused, before its first frame is computed."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Any

from ..api.errors import BadOptionError
from .colour import Colour, colour_of, tag
from .encoders import ENCODERS, Encoder
from .options import VideoOptions
from .pixel_formats import bits_of, chroma_text, format_for, has_alpha, multiples
from .pyav import load_av
from .side_data import Brightness, brightness_of, lost_of, svt_parameters, x264_parameters, x265_parameters

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame

    from .facts import FilmFacts

_FRAME_DURATION = 1 << 8  # AV_CODEC_FLAG_FRAME_DURATION: frames' durations go on to their packets
_FASTEST = Fraction(240)  # frames a second that encoders plan their bits for
_PARAMETERS = {
    "libx264": ("x264-params", x264_parameters, {}),
    "libx265": ("x265-params", x265_parameters, {"log-level": "error"}),
    "libsvtav1": ("svtav1-params", svt_parameters, {}),
}
_MOST_IN_MP4 = 65535  # pixels along a side: sizes are 16 bits there, and in QuickTime's


@dataclass(frozen=True)
class FilmFormat:
    """How a film is written. `size` is (height, width) of the frames that come, `stored` that of those that are
    encoded, with rows and columns replicated where the encoder takes no odd ones. `notes` are sentences on what is not
    kept as it was."""

    ending: str
    encoder: Encoder
    options: dict[str, str]
    pixel_format: str
    colour: Colour
    size: tuple[int, int]
    stored: tuple[int, int]
    pixel_aspect: Fraction
    time_base: Fraction
    rate: Fraction
    reorders: bool
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The encoder's."""
        return self.encoder.name

    @property
    def has_alpha(self) -> bool:
        return has_alpha(self.pixel_format)

    def set_up(self, context: VideoCodecContext) -> None:
        """Make an encoder that is not open yet write it so."""
        context.height, context.width = self.stored
        context.pix_fmt = self.pixel_format
        context.time_base, context.framerate = self.time_base, self.rate
        if self.pixel_aspect != 1:
            context.sample_aspect_ratio = self.pixel_aspect
        if not self.reorders:
            context.max_b_frames = 0
        context.flags |= _FRAME_DURATION
        if self.encoder.name in ("libx265", "hevc_nvenc") and self.ending in (".mp4", ".mov"):
            context.codec_tag = "hvc1"  # which Apple's players ask for
        tag(context, self.colour, load_av().VideoFormat(self.pixel_format).is_rgb)


def plan_format(
    facts: FilmFacts, first: VideoFrame, size: tuple[int, int], ending: str, options: VideoOptions
) -> FilmFormat:
    """How the film that `facts` and its `first` frame describe is written with frames of `size` (height, width) into a
    file with this `ending`.

    Raises `BadOptionError` for an encoder that does not go into the container, that is not there or does not open
    here, and for what it does not write: bits, quality, sizes.
    """
    encoder = options.encoder(ending)
    options.check(ending)
    check_opens(encoder)
    pixel_format = format_for(facts.pixel_format, _offered(encoder), options.bits, encoder.name)
    stored = _stored(size, encoder, pixel_format)
    _check_size(stored, encoder, ending)
    brightness = brightness_of(first)
    opened_with, told = _parameters(encoder, brightness, options.crf)
    height, width = size
    odd = [
        f"the film gets one more {what}, a copy of its last: {encoder.name} takes no odd {side} in "
        f"{chroma_text(pixel_format)}"
        for what, side, more in (("row", "height", stored[0] - height), ("column", "width", stored[1] - width))
        if more
    ]
    made = FilmFormat(
        ending=ending,
        encoder=encoder,
        options=opened_with,
        pixel_format=pixel_format,
        colour=colour_of(first),
        size=size,
        stored=stored,
        pixel_aspect=facts.pixel_aspect,
        time_base=facts.time_base,
        rate=min(facts.rate, _FASTEST),
        reorders=encoder.reorders and not (facts.count.variable and ending in (".mp4", ".mov")),
        notes=(*_lost(facts, first, pixel_format, encoder, ending), *told, *odd),
    )
    _try(made)
    return made


def encoders_here() -> tuple[str, ...]:
    """The names of those that open on this machine, with these libraries."""
    return tuple(name for name in ENCODERS if not _why_not(name))


def check_opens(encoder: Encoder) -> None:
    """Raise `BadOptionError`, with those that do, for an encoder that is not there or does not open here at all."""
    _offered(encoder)
    why = _why_not(encoder.name)
    if why:
        driver = " (it needs an NVIDIA card and its driver)" if encoder.name.endswith("_nvenc") else ""
        raise BadOptionError(f"{encoder.name} does not open here: {why}{driver}; here open {_listed()}")


def _offered(encoder: Encoder) -> tuple[str, ...]:
    """The pixel formats of ours that it takes here. Raises `BadOptionError` where it is missing."""
    av = load_av()
    try:
        formats = {form.name for form in av.Codec(encoder.name, "w").video_formats or ()}
    except ValueError as error:  # it is not part of this FFmpeg
        raise BadOptionError(f"there is no encoder {encoder.name} here; there are {_listed()}") from error
    return tuple(name for name in encoder.formats if name in formats)


def _stored(size: tuple[int, int], encoder: Encoder, pixel_format: str) -> tuple[int, int]:
    rows, columns = multiples(pixel_format) if encoder.even else (1, 1)
    return -(-size[0] // rows) * rows, -(-size[1] // columns) * columns


def _check_size(stored: tuple[int, int], encoder: Encoder, ending: str) -> None:
    least, most = encoder.sides
    if ending in (".mp4", ".mov"):
        most = min(most, _MOST_IN_MP4)
    if not least <= min(stored) <= max(stored) <= most:
        raise BadOptionError(
            f"the film would become {stored[1]}x{stored[0]}; {encoder.name} writes sides of {least} to {most} pixels: "
            "ask for another size (resize), or choose another encoder (codec)"
        )


def _parameters(encoder: Encoder, brightness: Brightness, crf: int | None) -> tuple[dict[str, str], list[str]]:
    """What the encoder is opened with, and what of the brightness it does not write, in a sentence."""
    opened_with, told = encoder.opened_with(crf), []
    if encoder.name in _PARAMETERS:
        option, parameters, own = _PARAMETERS[encoder.name]
        given = {**own, **parameters(brightness)}
        if given:
            opened_with[option] = ":".join(f"{name}={value}" for name, value in given.items())
    elif brightness:
        told.append(
            f"the master's brightness (HDR10) is lost, {encoder.name} writes none; {', '.join(_PARAMETERS)} keep it"
        )
    return opened_with, told


def _lost(facts: FilmFacts, first: VideoFrame, pixel_format: str, encoder: Encoder, ending: str) -> list[str]:
    """What the film loses, in sentences."""
    told = [f"{name} is lost: it describes the pixels of each frame as it was" for name in lost_of(first)]
    source = facts.pixel_format
    if has_alpha(source) and not has_alpha(pixel_format):
        keep = [name for name, other in ENCODERS.items() if any("a" in form[:4] for form in other.formats)]
        told.append(f"transparency is left out, {encoder.name} has none here; {', '.join(keep)} keep it")
    if bits_of(source) > max(8, bits_of(pixel_format)):
        told.append(f"{bits_of(source)} bits a channel become {bits_of(pixel_format)}")
    before, after = multiples(source), multiples(pixel_format)
    if any(its > mine for its, mine in zip(after, before, strict=True)):
        told.append(
            f"chroma becomes {chroma_text(pixel_format)} from {chroma_text(source)}, as {encoder.name} takes it"
        )
    if facts.pixel_aspect != 1 and ending in (".mkv", ".webm") and not encoder.writes_aspect:
        shape = f"{facts.pixel_aspect.numerator}:{facts.pixel_aspect.denominator}"
        told.append(
            f"players will take its pixels for square, they are {shape}: {encoder.name} does not say so in "
            f"{ending[1:]}; mp4, libx264 and libx265 keep it"
        )
    if not colour_of(first).is_known:
        told.append("the film's matrix is one that is not converted: what the model sees are not quite its colours")
    return told


def _try(made: FilmFormat) -> None:
    """Open its encoder once. Raises `BadOptionError` where it does not."""
    av = load_av()
    context: Any = av.CodecContext.create(made.encoder.name, "w")
    made.set_up(context)
    context.options = dict(made.options)
    try:
        context.open()
    except (av.error.FFmpegError, ValueError) as error:
        width, height = made.stored[1], made.stored[0]
        raise BadOptionError(
            f"{made.encoder.name} does not open here for {width}x{height} {made.pixel_format} "
            f"({getattr(error, 'strerror', None) or error}); here open {_listed()}"
        ) from error


def _listed() -> str:
    return ", ".join(encoders_here()) or "none"


@cache
def _why_not(name: str) -> str:
    """Why it does not open for a small film; "" where it does. Tried once in a process."""
    av, encoder = load_av(), ENCODERS[name]
    try:
        context: Any = av.CodecContext.create(encoder.name, "w")
        context.width, context.height, context.pix_fmt = 320, 240, _offered(encoder)[0]
        context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
        context.options = {"x265-params": "log-level=error"} if encoder.name == "libx265" else {}
        context.open()
    except (av.error.FFmpegError, ValueError, IndexError) as error:
        return getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ""
