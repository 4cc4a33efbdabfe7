"""The size that results are wanted in, where that is not the model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from .checks import check_choice, check_factor, check_number
from .errors import BadOptionError

Fit = Literal["stretch", "crop", "pad", "inside"]
Resample = Literal["area", "bicubic", "lanczos"]
FITS: tuple[str, ...] = get_args(Fit)
RESAMPLES: tuple[str, ...] = get_args(Resample)
LEAST_SCALE, MOST_SCALE = 0.05, 8.0
MOST_SIDE = 1_000_000  # pixels; what fits is a matter of memory, long before


@dataclass(frozen=True)
class Resize:
    """The size of results: `scale_by` times the input's, or `width` x `height` pixels. All 0, and so False: what the
    model makes of the input.

    With one of the two sides 0 the other decides, and the aspect stays. With both, `fit` says what becomes of another
    aspect: "stretch" gives it up, "crop" fills the size and cuts off what stands over on two sides alike, "pad" puts
    all of the picture into the middle of black (of nothing, where there is alpha), and "inside" makes it as large as it
    can be within the size, which one side then falls short of.

    `resample` is how values between pixels are found: "lanczos" the sharpest, "bicubic" softer, "area" the mean of what
    a pixel covers (in between, where pixels become more, a straight line). Raises `BadOptionError` on a value out of
    range, and where both a factor and a size are given.
    """

    scale_by: float = 0.0
    width: int = 0
    height: int = 0
    fit: Fit = "stretch"
    resample: Resample = "lanczos"

    def __post_init__(self) -> None:
        check_factor("scale_by", self.scale_by, LEAST_SCALE, MOST_SCALE)
        check_number("target width", self.width, 0, MOST_SIDE, "by the height")
        check_number("target height", self.height, 0, MOST_SIDE, "by the width")
        check_choice("fit", self.fit, FITS)
        check_choice("resample", self.resample, RESAMPLES)
        if self.scale_by and (self.width or self.height):
            raise BadOptionError(
                f"scale_by is {self.scale_by:g} and the target {self.width or ''}x{self.height or ''}; choose one of "
                "them and set the other to 0"
            )

    def __bool__(self) -> bool:
        """Whether a size is asked for."""
        return bool(self.scale_by or self.width or self.height)


MODELS_SIZE = Resize()
