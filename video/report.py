"""What is told of a film: how far it is, and how it was made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from ..api.report import UpscaleReport
from .facts import Losses


@dataclass(frozen=True)
class FilmProgress:
    """How far a film is: `done` of about `total` frames, after so many `seconds`; `pixels` is how many of the source
    these frames have. `resumed` frames were done by an earlier run, and count neither in seconds nor in pixels; a few
    that the engine has to compute again, for those beside them, count twice. `frame` [H, W, C] float32 of 0..1 is the
    last one, to be looked at until the call that brings it returns, after which its memory is used again; None where it
    is the one before."""

    done: int
    total: int
    seconds: float
    pixels: int
    resumed: int = 0
    frame: Tensor | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        """In a few words: "120 of 2400 frames, 8.3 frames/s, 0.64 MP/s, 4:35 left"."""
        seconds = max(self.seconds, 1e-6)
        made = self.done - self.resumed
        left = round(max(0, self.total - self.done) * seconds / max(1, made))
        minutes, rest = divmod(left, 60)
        hours, minutes = divmod(minutes, 60)
        time_left = f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
        speed, megapixels = made / seconds, self.pixels / seconds / 1e6
        return f"{self.done} of {self.total} frames, {speed:.1f} frames/s, {megapixels:.2f} MP/s, {time_left} left"


@dataclass(frozen=True)
class FilmReport:
    """How a film was upscaled and written. Sizes are (height, width). `losses` are what could not be read, `upscaling`
    is the engine's report, of all its runs, but the plan of the last one; None where all frames were there from an
    earlier run, as `resumed` ones were. `notes` are sentences on what is not as it was."""

    frames: int
    input_size: tuple[int, int]
    output_size: tuple[int, int]
    encoder: str
    pixel_format: str
    variable_rate: bool
    losses: Losses
    seconds: float
    upscaling: UpscaleReport | None
    notes: tuple[str, ...]
    resumed: int = 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know, in sentences."""
        of_engine = self.upscaling.warnings if self.upscaling else ()
        return (*dict.fromkeys((*self.notes, *self.losses.warnings, *of_engine)),)


@dataclass(frozen=True)
class FilmResult:
    """A film that is written has `frames`, of which `resumed` were there from an earlier run. `reports` are the
    engine's of the others, `losses` what could not be read, `notes` sentences on segments that were not used."""

    frames: int
    reports: list[UpscaleReport]
    losses: Losses
    resumed: int = 0
    notes: tuple[str, ...] = ()


Tell = Callable[[FilmProgress], None]
