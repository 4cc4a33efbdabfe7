"""What the user asks for, and the choices there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from .errors import BadOptionError

Precision = Literal["fp16", "bf16", "fp32"]
PrecisionChoice = Literal["auto", "fp16", "fp32", "bf16"]
Level = Literal["balanced", "speed", "memory"]
CompileMode = Literal["auto", "wait", "background"]
TilingMode = Literal["none", "wrap", "wrap_x", "wrap_y"]
AlphaMode = Literal["auto", "model", "lanczos"]
PRECISION_CHOICES: tuple[str, ...] = get_args(PrecisionChoice)
LEVELS: tuple[str, ...] = get_args(Level)
COMPILE_MODES: tuple[str, ...] = get_args(CompileMode)
TILING_MODES: tuple[str, ...] = get_args(TilingMode)
ALPHA_MODES: tuple[str, ...] = get_args(AlphaMode)
MAX_TILE = 2048  # pixels; the limit the original pack's widget had
MAX_OVERLAP = 128
MAX_BATCH = 16


@dataclass(frozen=True)
class UpscaleOptions:
    """What the user asks for. 0 means automatic for `tile`, `overlap`; sizes are pixels of the input picture.

    `tile` is an upper bound for a tile's side, `overlap` a lower bound for what two neighbours share.
    `batch_size` is the most frames in flight. With `compile`, `compile_mode` says when: "auto" where the work repays
    it, "background" at once, both while eager pictures go on; "wait" before the first tile. `tiling_mode` names the
    axes along which the picture is tileable and stays so: both ("wrap"), left to right ("wrap_x"), top to bottom
    ("wrap_y"). `alpha_mode` says how alpha is enlarged; "auto": by the model where it has sharp edges.
    `reproducible` leaves only choices that need no measuring, so that two machines of one kind give the same bits.
    Raises `BadOptionError` on a value out of range.
    """

    precision: PrecisionChoice = "auto"
    autocast: bool = True
    tile: int = 0
    overlap: int = 0
    compile: bool = True
    level: Level = "balanced"
    batch_size: int = 1
    compile_mode: CompileMode = "auto"
    tiling_mode: TilingMode = "none"
    alpha_mode: AlphaMode = "auto"
    reproducible: bool = False

    def __post_init__(self) -> None:
        _check_choice("precision", self.precision, PRECISION_CHOICES)
        _check_choice("optimization level", self.level, LEVELS)
        _check_choice("compile mode", self.compile_mode, COMPILE_MODES)
        _check_choice("tiling mode", self.tiling_mode, TILING_MODES)
        _check_choice("alpha mode", self.alpha_mode, ALPHA_MODES)
        _check_switch("autocast", self.autocast)
        _check_switch("compile", self.compile)
        _check_switch("reproducible", self.reproducible)
        _check_number("tile size", self.tile, 0, MAX_TILE)
        _check_number("overlap", self.overlap, 0, MAX_OVERLAP)
        _check_number("batch size", self.batch_size, 1, MAX_BATCH)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise BadOptionError(f"{name} is {value!r}; choose one of {', '.join(choices)}")


def _check_switch(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise BadOptionError(f"{name} is {value!r}; choose True or False")


def _check_number(name: str, value: object, low: int, high: int) -> None:
    """An int, and nothing that merely converts to one: True, 256.0 and NumPy's numbers are mistakes more often."""
    if isinstance(value, int) and not isinstance(value, bool):
        if low <= value <= high:
            return
        kind = ""
    else:
        kind = f" ({type(value).__name__}, not int)"
    automatic = " (0 = automatic)" if low == 0 else ""
    raise BadOptionError(f"{name} is {value!r}{kind}; choose a whole number from {low} to {high}{automatic}")
