"""Small films for benchmarks: what is in them, and where it moves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

SIZE = (240, 320)  # (height, width)
RATE = 25

Pictures = Iterable[NDArray[np.uint8]]


def moving(frames: int, held: int = 1) -> Iterator[NDArray[np.uint8]]:
    """[240, 320, 3], everywhere another from frame to frame; with `held`, each is there so many times."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    for number in range(frames):
        time = number // held
        waves = [np.sin(x / (9 + k) + time / 3 + k) + np.cos(y / (7 + k) - time / 4) for k in range(3)]
        grain = np.random.default_rng(time).integers(-9, 10, (*SIZE, 1))
        yield np.clip(np.stack(waves, axis=2) * 55 + 128 + grain, 0, 255).astype(np.uint8)


def talking_head(frames: int) -> Iterator[NDArray[np.uint8]]:
    """The same, but that only a part above on the left moves, which one tile of two by two sees."""
    wall = next(moving(1))
    for picture in moving(frames):
        made = wall.copy()
        made[: SIZE[0] * 3 // 10, : SIZE[1] * 3 // 10] = picture[: SIZE[0] * 3 // 10, : SIZE[1] * 3 // 10]
        yield made


def write_film(path: Path, pictures: Pictures, codec: str = "libx264") -> Path:
    """A film of `pictures` [H, W, 3]; ffv1 keeps equal ones equal."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options={"preset": "veryfast"} if codec == "libx264" else {})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
