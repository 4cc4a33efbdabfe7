"""What the user asks for, and the choices there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from .checks import check_choice, check_number, check_switch
from .errors import BadOptionError
from .resize import MODELS_SIZE, Resize

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
MAX_STILL = 255


@dataclass(frozen=True)
class UpscaleOptions:
    """What the user asks for. 0 means automatic for `tile`, `overlap`; sizes are pixels of the input picture.

    `tile` is an upper bound for a tile's side, `overlap` a lower bound for what two neighbours share.
    `batch_size` is the most frames in flight. With `compile`, `compile_mode` says when: "auto" where the work repays
    it, "background" at once, both while eager pictures go on; "wait" before the first tile. `tiling_mode` names the
    axes along which the picture is tileable and stays so: both ("wrap"), left to right ("wrap_x"), top to bottom
    ("wrap_y"). `alpha_mode` says how alpha is enlarged; "auto": by the model where it has sharp edges. `reproducible`:
    only choices that need no measuring, so that two machines of one kind agree. `resize`: the size that results are
    wanted in. `still`: how much a tile's values may differ, in 255ths, from when it was last computed, and it is
    not computed again. `fallback`: what the engine of a device such as "tpu" cannot compute, torch computes on the CPU;
    else it is an error. Raises `BadOptionError` on a value out of range.
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
    resize: Resize = MODELS_SIZE
    still: int = 0
    fallback: bool = False

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, PRECISION_CHOICES)
        check_choice("optimization level", self.level, LEVELS)
        check_choice("compile mode", self.compile_mode, COMPILE_MODES)
        check_choice("tiling mode", self.tiling_mode, TILING_MODES)
        check_choice("alpha mode", self.alpha_mode, ALPHA_MODES)
        check_switch("autocast", self.autocast)
        check_switch("compile", self.compile)
        check_switch("reproducible", self.reproducible)
        check_switch("fallback", self.fallback)
        if not isinstance(self.resize, Resize):
            raise BadOptionError(f"resize is {self.resize!r}; give a Resize(scale_by=..., width=..., height=...)")
        check_number("tile size", self.tile, 0, MAX_TILE)
        check_number("overlap", self.overlap, 0, MAX_OVERLAP)
        check_number("batch size", self.batch_size, 1, MAX_BATCH)
        check_number("still", self.still, 0, MAX_STILL)
