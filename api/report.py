"""How a picture was upscaled: what was done, what was wrong with it, and that in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from torch import Tensor

from .device_share import DeviceShare
from .memory_use import MemoryUse
from .model_info import Kernels
from .options import Precision

# Of compiling, in reports: kernels of ours are faster than what would be compiled.
NOT_NEEDED = "not needed"

_MOST_RUNS = 4  # of frames that are named one after the other; further ones are counted


@dataclass(frozen=True)
class Repair:
    """A tile that came out faulty, and well when it was computed another way. `tile` is (row, column) in the plan,
    `fault` what was wrong, `before` and `after` how it was computed: "fp16", "fp16 compiled", ..."""

    frame: int
    tile: tuple[int, int]
    fault: str
    before: str
    after: str


@dataclass(frozen=True)
class ImageHealth:
    """What was wrong with the output and what was done about it, over all frames.

    `repairs`: the tiles that were computed again, also of frames that were then done anew as a whole; where the run
    left its way to compute for a better one, `given_up` is what it began with ("fp16", "fp32 winograd"). The rest
    stayed faulty in the best way there is, mostly fp32 and eager: `non_finite` values (pixel x channel) were NaN or
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
    """How a picture was upscaled. Sizes are (height, width) in pixels; `memory` is what was estimated, item by item,
    for the plan that the run ended with, and `peak_bytes` the device's measured peak where the context measures it
    (CUDA, command line), else the estimate's sum there; `out_of_memory` counts how often memory ran out on the way,
    also where the same could be done again at once, of which no warning tells. `tile`, `overlap` and `batch` are the
    plan's that the run ended with, smaller than at the start where memory ran out; `tiles` are those of all frames, as
    they were cut. So many `still_tiles` of them were not computed: they took what came of others that are the same,
    mostly those of the frame before; `still_frames` are frames that are, as a whole, the one before, their tiles among
    those. `compiled`: tiles went through a compiled forward; `compiling` says in a few words where compiling stands,
    and which engine compiled what is used, or why there is none; `compiled_shapes`, for how many shapes of tiles it is
    there in this mode, on this device (one where it is for any size; four at most where each is for one). `kernels` are
    those that computed the model. `profile` is the revision of what was known of the model when the run began, "rev 7":
    runs of one revision, with the same options, give the same bits. Where compiled code got ready on the way, or faulty
    tiles made a mode be left for good, it went "rev 7 to 8"; where free memory decided how large tiles or batches were,
    "rev 7, tiles as memory allowed". `notes` are sentences on what was not done as asked, such as a precision that the
    model does not work in. `sizes` says how the picture came to its size, "320x240, model 1280x960, lanczos 640x480",
    in so many `passes` of the model; where these are several, the plan is the last one's, and all else is said of all
    of them. `devices` are those that shared the work, and the plan is then that of the last share; none where one did
    it all."""

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
    memory: MemoryUse = field(default_factory=MemoryUse)
    out_of_memory: int = 0
    still_tiles: int = 0
    still_frames: int = 0
    profile: str = "rev 0"
    passes: int = 1
    sizes: str = ""
    devices: tuple[DeviceShare, ...] = ()
    notes: tuple[str, ...] = ()
    compiled_shapes: int = 0

    @property
    def still_share(self) -> float:
        """How much of all tiles was not computed."""
        return self.still_tiles / max(1, self.tiles)

    @property
    def summary(self) -> str:
        """What was done, in a line: "1280x852 -> 5120x3408, bf16, 30 tiles, 51.7 s, 2 tiles repaired"."""
        (height, width), (rows, columns), repaired = self.input_size, self.output_size, len(self.health.repairs)
        frames = f"{self.frames} frames, " if self.frames != 1 else ""
        told = [
            f"{frames}{width}x{height} -> {columns}x{rows}",
            f"{self.precision}, {self._compiled_by}" if self.compiled else self.precision,
            f"{self.tiles} tiles" if self.tiles != self.frames else "one piece" + " each" * (self.frames > 1),
            f"{self.still_share:.0%} stood still" if self.still_tiles else "",
            f"on {len(self.devices)} devices" if self.devices else "",
            f"{self.seconds:.1f} s" if self.seconds >= 0.1 else f"{self.seconds * 1000:.0f} ms",
            f"{repaired} tile{'s' * (repaired > 1)} repaired" if repaired else "",
        ]
        return ", ".join(filter(None, told)) if self.frames else f"no frames of {width}x{height}"

    @property
    def _compiled_by(self) -> str:
        return self.compiling if self.compiling.startswith("compiled by ") else "compiled"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know, in sentences: the notes, and one for each thing that was wrong with the output;
        none for a picture that was healthy and computed as asked."""
        return (*self.notes, *_what_was_wrong(self.health))


@dataclass(frozen=True)
class UpscaleResult:
    """`image` is [B, H*scale, W*scale, C], or of the size that was asked for, 0..1, on the context's output device and
    in its output type."""

    image: Tensor
    report: UpscaleReport


def throughput_text(pixels: float, seconds: float) -> str:
    """So many pixels in so many seconds in words, "38 MP/s", "0.85 MP/s"; "" where it is too little to be a number."""
    megapixels = pixels / max(seconds, 1e-9) / 1e6
    digits = 0 if megapixels >= 10 else 1 if megapixels >= 1 else 2 if megapixels >= 0.1 else 3
    return f"{megapixels:.{digits}f} MP/s" if megapixels >= 0.001 else ""


def frames_text(frames: Collection[int]) -> str:
    """Frames in words, by their indices: "frame 0", "frames 0-99, 140 and 160-163", "frames 0, 2, 4, 6 and 96 more"."""
    runs: list[tuple[int, int]] = []
    for frame in sorted(frames):
        if runs and frame == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], frame
        else:
            runs.append((frame, frame))
    named, more = runs[:_MOST_RUNS], sum(last - first + 1 for first, last in runs[_MOST_RUNS:])
    told = [str(first) if first == last else f"{first}-{last}" for first, last in named]
    told += [f"{more} more"] if more else []
    listed = " and ".join([", ".join(told[:-1]), told[-1]] if len(told) > 1 else told)
    return f"{'frame' if len(frames) == 1 else 'frames'} {listed}"


def _what_was_wrong(health: ImageHealth) -> list[str]:
    """A sentence for each thing that was wrong, none for a healthy picture."""
    found = []
    if health.repairs:
        found.append(_repairs(health))
    if health.non_finite:
        found.append(f"{health.non_finite} values of the output were NaN or infinite and were filled from the input")
    if health.wild:
        found.append(f"{health.wild} values of the output were far from any other and were filled from the input")
    if health.corrected_frames:
        corrected = frames_text(health.corrected_frames)
        found.append(f"the output's range was broken and was corrected by quantiles in {corrected}")
    left = {*health.broken_frames} - {*health.corrected_frames}
    if left:
        found.append(
            f"the output of {frames_text(left)} is far out of range and unlike the input: is the model's file intact?"
        )
    return found


def _repairs(health: ImageHealth) -> str:
    """Which tiles were computed again, why and how; and what the run learned from it."""
    kinds = Counter((repair.fault, repair.before, repair.after) for repair in health.repairs)
    told = "; ".join(
        f"{count} tile(s) had {fault} in {before} and were computed again in {after}"
        for (fault, before, after), count in kinds.items()
    )
    first = health.repairs[0]
    where = f"the first in frame {first.frame}, row {first.tile[0]}, column {first.tile[1]}"
    left = f"; the rest was computed without {health.given_up}" if health.given_up else ""
    return f"{told} ({where}){left}"
