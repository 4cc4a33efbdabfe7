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
    ("wrap_y"). `alpha_mode` says how alpha is enlarged; "auto": by the model where it has sharp edges. Raises
    `BadOptionError` on a value out of range.
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

    def __post_init__(self) -> None:
        for name, choice, choices in (
            ("precision", self.precision, PRECISION_CHOICES),
            ("optimization level", self.level, LEVELS),
            ("compile mode", self.compile_mode, COMPILE_MODES),
            ("tiling mode", self.tiling_mode, TILING_MODES),
            ("alpha mode", self.alpha_mode, ALPHA_MODES),
        ):
            if choice not in choices:
                raise BadOptionError(f"{name} is {choice!r}; choose one of {', '.join(choices)}")
        if not all(isinstance(value, int) for value in (self.tile, self.overlap, self.batch_size)):
            raise BadOptionError(
                f"tile size, overlap and batch size are {self.tile!r}, {self.overlap!r} and {self.batch_size!r}; "
                "they must be whole numbers"
            )
        for name, value, low, high in (
            ("tile size", self.tile, 0, MAX_TILE),
            ("overlap", self.overlap, 0, MAX_OVERLAP),
            ("batch size", self.batch_size, 1, MAX_BATCH),
        ):
            if not low <= value <= high:
                automatic = " (0 = automatic)" if low == 0 else ""
                raise BadOptionError(f"{name} is {value}; choose a whole number from {low} to {high}{automatic}")

    @staticmethod
    def from_widgets(
        use_autocast: str,
        precision: str,
        tile_size: int,
        overlap: int,
        enable_compile: str,
        optimization_level: str,
        batch_size: int = 1,
        compile_mode: str = "auto",
        tiling_mode: str = "none",
        alpha_mode: str = "auto",
    ) -> UpscaleOptions:
        """The node's widgets as options: "enable"/"disable" become booleans, the rest is checked as it is."""
        for name, value in (("use_autocast", use_autocast), ("enable_compile", enable_compile)):
            if value not in ("enable", "disable"):
                raise BadOptionError(f"{name} is {value!r}; choose enable or disable")
        return UpscaleOptions(
            precision=precision,  # type: ignore[arg-type]  # __post_init__ checks it
            autocast=use_autocast == "enable",
            tile=tile_size,
            overlap=overlap,
            compile=enable_compile == "enable",
            level=optimization_level,  # type: ignore[arg-type]
            batch_size=batch_size,
            compile_mode=compile_mode,  # type: ignore[arg-type]
            tiling_mode=tiling_mode,  # type: ignore[arg-type]
            alpha_mode=alpha_mode,  # type: ignore[arg-type]
        )
