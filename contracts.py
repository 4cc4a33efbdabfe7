"""What the rooms of this house say to each other: options, plans, reports, the host's face, and the errors.

Frozen dataclasses and protocols only; nothing here computes on pixels and nothing of ours is imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn

Precision = Literal["fp16", "bf16", "fp32"]
PrecisionChoice = Literal["auto", "fp16", "fp32", "bf16"]
Kernels = Literal["plain", "attention", "winograd", "fused"]
"""What computes a model: torch's own operations, or modules of ours in place of some (rewriting.py). All but "plain"
compute attention, where a model has it, in one operation (attention.py)."""
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

# Healthy networks were seen to reach -0.33 .. 1.24 on photographs, and 1 % of the values beyond 1.25 on pure noise.
# A range is broken when so many values lie beyond these.
HEALTHY_RANGE = (-0.5, 1.5)
OUTSIDE = 0.01  # the share of values that says so
# The range of an output that shows nothing, and of an input that shows something.
NO_DETAIL, DETAIL = 1e-4, 0.05

# Of compiling, in reports: kernels of ours are faster than what would be compiled.
NOT_NEEDED = "not needed"

DTYPES: dict[str, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def first_line(error: BaseException) -> str:
    """What an error says, without the pages that compilers and loaders add; its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class CudaspeedError(Exception):
    """Base of every error this pack raises on purpose. Its message names the value, the limit and what to change."""


class BadOptionError(CudaspeedError, ValueError):
    """An option or widget has a value that cannot be honoured."""


class BadImageError(CudaspeedError, ValueError):
    """The picture handed in cannot be upscaled: wrong shape, no pixels, non-finite values, an unreadable file."""


class BadModelError(CudaspeedError, ValueError):
    """The model file or object is not one that can upscale a single image, or is unsafe to load."""


class ModelFailedError(CudaspeedError, RuntimeError):
    """The model loaded well, and fails on this picture: it raises, or gives no numbers."""


class BrokenOutputError(ModelFailedError):
    """What the model gives is no picture, in fp32 and eager too: no other way to compute it helps."""


class OutputError(CudaspeedError, OSError):
    """The result cannot be written: no room, no permission, no such folder. Nothing half-written is left behind."""


class OutOfMemoryError(CudaspeedError, RuntimeError):
    """Even the smallest tile does not fit the device, or the result does not fit the memory it must be returned in."""


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


@dataclass(frozen=True)
class ModelTraits:
    """What the engine must know of a model to tile for it. Sizes are pixels of the model's input.

    `multiple_of`, `minimum` and `square` are spandrel's size requirements. `grid` is what every tile's origin must be
    a multiple of: `multiple_of` and the attention window, so that a tile's windows are the whole picture's windows.
    `convolutional` models are convolutions and pointwise maths only, so any size of picture is the same work to them;
    `small_convolutional` ones see little beyond a pixel's neighbourhood; `sees_whole` ones should not be tiled where
    that can be helped, spandrel says (SwinIR and SCUNet among them). `reach` is how far from a cut a tile still differs
    from the whole picture, as measured (`reach.py`); None: not measured. `wraps`: the windows at a picture's edges take
    this many pixels in from the opposite edges.
    """

    name: str
    scale: int
    in_channels: int
    out_channels: int
    multiple_of: int = 1
    minimum: int = 1
    square: bool = False
    grid: int = 1
    convolutional: bool = False
    small_convolutional: bool = False
    sees_whole: bool = False
    reach: int | None = None
    wraps: int = 0


@dataclass(frozen=True)
class TileShapes:
    """The tile batches [N, C, h, w] that one compiled forward takes: N up to `batch`, (h, w) from `least` to `most`,
    both multiples of `step`, in pixels of the model's input. One size only where `least` equals `most`.

    A compiled package checks none of this: it computes nonsense from other shapes, or reads beyond them.
    """

    batch: int
    least: tuple[int, int]
    most: tuple[int, int]
    step: int

    @property
    def fixed(self) -> bool:
        """One size only."""
        return self.least == self.most

    def fit(self, shape: Sequence[int]) -> bool:
        """Whether a tile batch of this [N, C, h, w] may be given to the compiled forward."""
        sides = zip(shape[2:], self.least, self.most, strict=True)
        return 1 <= shape[0] <= self.batch and all(
            least <= side <= most and side % self.step == 0 for side, least, most in sides
        )

    def __str__(self) -> str:
        """For people, widths first, and for `parse`."""
        high = f"{self.most[1]}x{self.most[0]}"
        if self.fixed:
            return f"tiles of {high}"
        low = f"{self.least[1]}x{self.least[0]}"
        return f"tiles of {low} to {high} in steps of {self.step}, up to {self.batch} at once"

    @staticmethod
    def parse(text: str) -> TileShapes:
        """What `str` gave. Raises `ValueError` for any other text."""
        size = r"(\d+)x(\d+)"
        found = re.fullmatch(rf"tiles of {size}(?: to {size} in steps of (\d+), up to (\d+) at once)?", text)
        if not found:
            raise ValueError(f"{text!r} names no tile shapes")
        width, height, *rest = (int(number) for number in found.groups() if number)
        if not rest:
            return TileShapes.one(height, width)
        most_width, most_height, step, batch = rest
        return TileShapes(batch, (height, width), (most_height, most_width), step)

    @staticmethod
    def one(height: int, width: int) -> TileShapes:
        """One tile of one size."""
        return TileShapes(batch=1, least=(height, width), most=(height, width), step=1)


@dataclass(frozen=True)
class Axis:
    """One axis of a tile plan, in input pixels.

    The picture's `size` lies at the start of a canvas of `canvas` >= size pixels (more only where the model's own
    size requirements or window grid ask for it). Tiles of `tile` pixels start at `origins`; neighbours i and i+1 are
    blended over `seams[i]` = (start, stop), outside of which exactly one tile fills the output.
    """

    size: int
    canvas: int
    tile: int
    origins: tuple[int, ...]
    seams: tuple[tuple[int, int], ...]

    @property
    def overlap(self) -> int:
        """The least that two neighbouring tiles share, 0 with one tile."""
        steps = [b - a for a, b in pairwise(self.origins)]
        return self.tile - max(steps) if steps else 0


@dataclass(frozen=True)
class TilePlan:
    """Equal tiles over a picture: the product of a vertical and a horizontal axis."""

    rows: Axis
    columns: Axis

    @property
    def count(self) -> int:
        """Tiles per frame."""
        return len(self.rows.origins) * len(self.columns.origins)

    @property
    def tile_pixels(self) -> int:
        return self.rows.tile * self.columns.tile

    @property
    def recomputed(self) -> float:
        """Pixels computed beyond the picture's own, as a share of them."""
        return self.count * self.tile_pixels / (self.rows.size * self.columns.size) - 1.0


@dataclass(frozen=True)
class MemoryCost:
    """Bytes one forward of n input pixels needs: `weights` + `per_pixel` * n + `per_pixel_squared` * n^2.

    The square term is zero for all but globally attending models.
    """

    weights: int
    per_pixel: float
    per_pixel_squared: float = 0.0

    def at(self, pixels: int) -> int:
        """Bytes for one tile of `pixels` input pixels, weights included."""
        return int(self.weights + self.per_pixel * pixels + self.per_pixel_squared * pixels * pixels)


@dataclass(frozen=True)
class Repair:
    """A tile that came out ill and was computed again, another way, well. `tile` is (row, column) in the plan,
    `ailment` what was wrong, `before` and `after` how it was computed: "fp16", "fp16 compiled", ..."""

    frame: int
    tile: tuple[int, int]
    ailment: str
    before: str
    after: str


@dataclass(frozen=True)
class ImageHealth:
    """What was wrong with the output and what was done about it, over all frames.

    `repairs`: the tiles that were computed again, also of frames that were then done anew as a whole; where the run
    left its way to compute for a better one, `given_up` is what it began with ("fp16", "fp32 winograd"). The rest
    stayed ill in the best way there is, mostly fp32 and eager: `non_finite` values (pixel x channel) were NaN or
    infinite, `wild` ones single values far from any other; both are filled from the input. The frames named had a
    broken range: corrected by quantiles where the output still resembles the input, else clamped as they are.
    """

    repairs: tuple[Repair, ...] = ()
    given_up: str | None = None
    non_finite: int = 0
    wild: int = 0
    broken_frames: tuple[int, ...] = ()
    corrected_frames: tuple[int, ...] = ()


@dataclass(frozen=True)
class UpscaleReport:
    """How a picture was upscaled. Sizes are (height, width) in pixels; `peak_bytes` is the device's measured peak where
    the context measures it (CUDA, command line), else the estimate that sized the tiles. `tile`, `overlap`, `tiles` and
    `batch` are the plan's that the run ended with, smaller than at the start where memory ran out. `compiled`: tiles
    went through a compiled forward; `compiling` says in a few words where compiling stands, or why there is none.
    `kernels` are those that computed the model."""

    model: str
    scale: int
    frames: int
    input_size: tuple[int, int]
    output_size: tuple[int, int]
    precision: Precision
    autocast: bool
    kernels: Kernels
    tile: tuple[int, int]
    overlap: tuple[int, int]
    tiles: int
    batch: int
    compiled: bool
    compiling: str
    seconds: float
    peak_bytes: int
    health: ImageHealth
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class UpscaleResult:
    """`image` is [B, H*scale, W*scale, C], 0..1, on the context's output device and in its output type."""

    image: Tensor
    report: UpscaleReport


class Resident(Protocol):
    """A model of ours that a host brings to its device. `residence` is the host's: its handle on it, kept with it."""

    module: nn.Module
    residence: object

    def release(self) -> None:
        """Give back the memory of what was made beside the weights; called when the host unloads the model."""


class RunContext(Protocol):
    """The host's face to the engine: ComfyUI's, or the standalone twin's. One per run."""

    device: torch.device
    """Where the model computes."""
    output_device: torch.device
    """Where the result must lie."""
    output_dtype: torch.dtype
    """The result's type."""
    cache_folder: Path
    """Where compiled models are kept; perhaps not there yet."""

    def make_resident(self, model: Resident, bytes_wanted: int) -> None:
        """Bring `model` to `device`, making room for `bytes_wanted` beside it if the host can."""

    def free_bytes(self) -> int:
        """Bytes the device can still give this run."""

    def peak_bytes(self) -> int | None:
        """The most bytes this run held on the device at once, or None where that is not measured."""

    def release_cached(self) -> None:
        """Give cached but unused device memory back, after an out-of-memory error."""

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether `error` means that the device's memory ran out."""

    def progress(self, done: int, total: int) -> None:
        """Tell the user that `done` of `total` tiles are finished."""

    def say(self, text: str) -> None:
        """Tell the user in a few words what is going on besides; "" when that is over."""

    def raise_if_interrupted(self) -> None:
        """Raise the host's own exception if the user asked to stop."""


Forward = Callable[[Tensor], Tensor]
"""A model's forward: [N, C, h, w] 0..1 -> [N, C', h*scale, w*scale], not clamped."""
