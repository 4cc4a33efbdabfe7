"""Animations: all frames of a file through one function, into a file of the same timing; a few in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..api.errors import BadImageError
from ..api.options import AlphaMode
from .codecs import (
    animated_gif,
    animated_png,
    animated_webp,
    composed,
    gif_metadata,
    png_chunks,
    png_metadata,
    webp_metadata,
)
from .codecs.frames import Film, Frame, Played, Timing
from .codecs.metadata import Carried, carried_by
from .codecs.picture import Picture, levels, lost_depth, picture_of
from .codecs.source import open_regular, read_whole
from .files import ENDINGS_OF_16_BITS
from .kinds import HEAD_BYTES, recognise
from .limits import DEFAULT_LIMITS, DecodeLimits
from .whole import write_whole

Enlarge = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Frames [n, H, W, C] -> [n, H * scale, W * scale, C], values 0..1."""

_LARGEST_FRAMES = 48  # as many of the largest that is read; of 1280x720 five minutes at 30 frames a second
_WRITERS = {
    ".png": animated_png.write,
    ".apng": animated_png.write,
    ".webp": animated_webp.write,
    ".gif": animated_gif.write,
}
_METADATA = {"PNG": png_metadata.read, "WebP": webp_metadata.read, "GIF": gif_metadata.read}
_NOTHING = np.empty((0, 0, 1), np.float32)
ENDINGS = tuple(_WRITERS)  # of the formats that hold animations


@dataclass(frozen=True)
class Animation:
    """An animation that was looked through once, and is decoded again as its frames are asked for.

    `size` is (height, width) of a frame, in pixels. All frames have `channels`, as `Picture` counts them, and `bits` a
    sample. `alpha_has_edges`: that of some frame does. `warnings` say what was lost.
    """

    data: bytes
    size: tuple[int, int]
    channels: int
    bits: int
    timing: Timing
    alpha_has_edges: bool
    carried: Carried
    warnings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.timing.durations)

    def frames(self) -> Iterator[NDArray[np.float32]]:
        """[H, W, C] in 0..1, upright, one after the other."""
        for frame in _decoded(self.data):
            yield picture_of(_with_channels(frame.samples, self.channels), self.carried).pixels

    def alpha_mode(self, asked: AlphaMode, scale: int) -> AlphaMode:
        """One for all frames: what is best for each alone would change from one to the next."""
        if asked != "auto" or self.channels in (1, 3):
            return asked
        return "model" if self.alpha_has_edges and scale > 1 else asked


def open_animation(path: Path, limits: DecodeLimits = DEFAULT_LIMITS) -> Animation | None:
    """The animated GIF, WebP or PNG in `path`; None if it is anything else, of which `read_image` tells more.

    All frames are decoded once, to know that they can be, and what they have in common. Raises `BadImageError` if one
    is damaged or larger than `limits`, or if they have more pixels in all than 48 of the largest.
    """
    try:
        with open_regular(path) as file:
            kind = recognise(file.read(HEAD_BYTES))
            data = read_whole(file, limits) if kind in ("PNG", "WebP", "GIF") else b""
        found = _played(data) if data else None
    except (OSError, BadImageError):
        return None
    if found is None:
        return None
    try:
        return _looked_through(data, found, limits)
    except BadImageError as error:
        raise BadImageError(f"{path}: {error}") from error


def _played(data: bytes) -> Played | None:
    try:
        return animated_png.played(data) if _is_png(data) else composed.played(data)
    except Exception as error:  # on broken bytes decoders raise all sorts: SyntaxError, struct.error, ...
        raise BadImageError(f"the animation is damaged ({type(error).__name__}: {error})") from error


def _is_png(data: bytes) -> bool:
    return data.startswith(png_chunks.SIGNATURE)


def _looked_through(data: bytes, found: Played, limits: DecodeLimits) -> Animation | None:
    width, height = found.size
    limits.check_size(width, height)
    megapixels, most = found.frames * width * height / 1e6, _LARGEST_FRAMES * limits.pixels / 1e6
    if megapixels > most:
        raise BadImageError(
            f"has {found.frames} frames of {width}x{height} pixels, {megapixels:.1f} megapixels in all, more than the "
            f"{most:g} that are read. If it is meant, raise the limit with --max-megapixels "
            f"{math.ceil(megapixels / _LARGEST_FRAMES)}"
        )
    durations, counts, bits, has_alpha, edges = [], set(), 8, False, False
    for frame in _decoded(data):
        durations.append(frame.milliseconds)
        count, top = frame.samples.shape[2], np.iinfo(frame.samples.dtype).max
        bits = frame.samples.dtype.itemsize * 8
        counts.add(1 if count <= 2 else 3)
        if count in (2, 4) and (frame.samples[..., -1] < top).any():
            has_alpha = True
            edges = edges or _has_edges(frame.samples[..., -1].astype(np.float32) / top)
    if len(durations) < 2:
        return None
    carried = carried_by(data, _METADATA[str(recognise(data))])
    notes = list(carried.notes)
    if len(durations) < found.frames:
        notes.append(f"tells of {found.frames} frames, of which {len(durations)} are there")
    if recognise(data) == "PNG" and animated_png.has_still_beside(data):
        notes.append("its picture for viewers without animations, which is no frame, was left out")
    return Animation(
        data=data,
        size=(width, height) if carried.orientation >= 5 else (height, width),
        channels=max(counts) + has_alpha,
        bits=bits,
        timing=Timing(tuple(durations), found.plays),
        alpha_has_edges=edges,
        carried=carried,
        warnings=tuple(notes),
    )


def _has_edges(alpha: NDArray[np.floating]) -> bool:
    import torch  # here because reading a picture needs none, and the command line does it while torch is imported

    from .alpha import has_edges

    return has_edges(torch.from_numpy(alpha))


def _decoded(data: bytes) -> Iterator[Frame]:
    frames = animated_png.frames(data) if _is_png(data) else composed.frames(data)
    while True:
        try:
            frame = next(frames, None)
        except (BadImageError, MemoryError):
            raise
        except Exception as error:  # on broken bytes decoders raise all sorts
            raise BadImageError(
                f"the animation is damaged or cut short; copy or export it again ({type(error).__name__}: {error})"
            ) from error
        if frame is None:
            return
        yield frame


def _with_channels(samples: NDArray[Any], channels: int) -> NDArray[Any]:
    """[H, W, C] with `channels`, 1 to 4: grey as RGB, without alpha that is opaque everywhere, or with such alpha."""
    count = samples.shape[2]
    colour, alpha = samples[..., : 1 if count <= 2 else 3], samples[..., -1:]
    if count in (1, 3):
        alpha = np.full_like(alpha, np.iinfo(samples.dtype).max)
    colours = 1 if channels <= 2 else 3
    if colour.shape[2] < colours:
        colour = np.broadcast_to(colour, (*colour.shape[:2], colours))
    return np.concatenate([colour, alpha], axis=2) if channels in (2, 4) else colour


def upscale_animation(animation: Animation, target: Path, enlarge: Enlarge, batch: int = 1) -> tuple[str, ...]:
    """Write `animation` enlarged to `target`, whose ending is among `ENDINGS`, with `batch` frames at a time.

    The file appears complete or not at all. Returns warnings about what the format cannot hold. Raises what `enlarge`
    does, `BadImageError` if the file was changed and is damaged, `OutputError` if writing fails.
    """
    ending = target.suffix.lower()
    kept = 16 if ending in ENDINGS_OF_16_BITS else 8
    film = Film(_enlarged(animation, enlarge, batch, kept), animation.timing, animation.carried.metadata)
    lost = write_whole(target, lambda file: _WRITERS[ending](file, film))
    return lost_depth(Picture(_NOTHING, animation.bits), ending[1:].upper(), kept) + lost


def _enlarged(animation: Animation, enlarge: Enlarge, batch: int, kept: int) -> Iterator[NDArray[Any]]:
    """Samples of the bits that the animation had and the format has."""
    frames = animation.frames()
    while group := list(islice(frames, batch)):
        for large in enlarge(np.stack(group)):
            yield levels(Picture(large, animation.bits), min(animation.bits, kept))
