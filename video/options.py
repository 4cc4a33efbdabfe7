"""What is asked for of films beside what is asked for of their pictures."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from ..api.checks import check_choice
from ..api.errors import BadOptionError
from .encoders import ENCODERS, Encoder, usual_encoder

AUTOMATIC = "auto"
CODECS: tuple[str, ...] = (AUTOMATIC, *ENCODERS)
BITS = (0, 8, 10)
SEGMENT_SECONDS = (0.1, 3600)


@dataclass(frozen=True)
class VideoOptions:
    """How a film is written: by which encoder (one of `CODECS`; "auto": the container's usual one), with which `crf`,
    the encoder's own number for quality, small is good (None: its default here), and with how many `bits` a channel (0:
    8 as the source, or 10 for one of more). Frames that are pictures follow each other at `fps` a second, which films
    say themselves (None). With `deinterlace`, interlaced frames become whole pictures first. With `segment_seconds`,
    what is done of a film is kept in segments of so many seconds beside the target, and gone on with after an interrupt
    (0: not). Raises `BadOptionError` for what makes no sense."""

    codec: str = AUTOMATIC
    crf: int | None = None
    bits: int = 0
    fps: Fraction | None = None
    deinterlace: bool = False
    segment_seconds: float = 0

    def __post_init__(self) -> None:
        check_choice("codec", self.codec, CODECS)
        if self.bits not in BITS:
            raise BadOptionError(f"bits is {self.bits!r}; use 8, 10, or 0 for the film's own")
        least, most = SEGMENT_SECONDS
        if self.segment_seconds != 0 and not least <= self.segment_seconds <= most:
            raise BadOptionError(f"segment_seconds is {self.segment_seconds}; use {least} to {most}, or 0 for none")
        if self.crf is not None and self.codec != AUTOMATIC:
            ENCODERS[self.codec].check_crf(self.crf)

    def encoder(self, ending: str) -> Encoder:
        """The one that writes films with this ending."""
        return usual_encoder(ending) if self.codec == AUTOMATIC else ENCODERS[self.codec]

    def check(self, ending: str) -> None:
        """Raise `BadOptionError` where they do not go with films of this ending."""
        encoder = self.encoder(ending)
        encoder.check_container(ending)
        if self.crf is not None:
            encoder.check_crf(self.crf)
