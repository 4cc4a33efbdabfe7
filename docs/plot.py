"""Draws what a film takes of memory over its frames, from what `python -m bench.video --parts memory core --json FILE`
has measured: `python docs/plot.py FILE`, into docs/video_memory.svg."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TARGET = Path(__file__).absolute().parent / "video_memory.svg"

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 150, 48, 56  # of the drawing, free beside the axes
_OURS, _CORES = ("cudaspeed video", "#1f6fb2"), ("ComfyUI core", "#b2521f")
_FONT = 'font-family="system-ui, sans-serif" font-size="13"'


class Series(NamedTuple):
    """A line: at so many frames so many bytes."""

    name: str
    colour: str
    frames: Sequence[int]
    sizes: Sequence[int]


def series_of(rows: Sequence[dict[str, Any]]) -> list[Series]:
    """Those that the benchmark's rows have."""
    keys = ((_OURS, "memory", "peak_bytes"), (_CORES, "core", "core_peak_bytes"))
    return [
        Series(*named, row["frames"], row[key])
        for named, part, key in keys
        for row in rows
        if row["part"] == part and "frames" in row and key in row
    ]


def drawing(lines: Sequence[Series]) -> str:
    """The text of an SVG of `lines`, with axes from 0 on: frames to the right, GB upwards."""
    most_frames = max(max(line.frames) for line in lines)
    step = _round_step(max(max(line.sizes) for line in lines) / 1e9 / 4)
    most = step * math.ceil(max(max(line.sizes) for line in lines) / 1e9 / step)
    body = [*_axes(most_frames, step, most)]
    for line in lines:
        points = [(_x(frames, most_frames), _y(size / 1e9, most)) for frames, size in zip(*line[2:], strict=True)]
        body += _line(line, points)
    title = "The most memory that a film takes, by its length (320x240 pixels, x2)"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
            f"<title>{title}</title>",
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
            f'<text x="{_LEFT}" y="26" {_FONT} font-weight="600" fill="#222222">{title}</text>',
            *body,
            "</svg>",
            "",
        ]
    )


def _axes(most_frames: int, step: float, most: float) -> Iterator[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    for k in range(round(most / step) + 1):
        y = _y(k * step, most)
        yield f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#dddddd"/>'
        yield _text(_LEFT - 8, y + 4, f"{k * step:g} GB" if k else "0", "end")
    for k in range(5):
        frames = most_frames * k // 4
        yield _text(_x(frames, most_frames), bottom + 20, str(frames), "middle")
    yield _text((_LEFT + right) / 2, bottom + 42, "frames", "middle")


def _line(line: Series, points: Sequence[tuple[float, float]]) -> Iterator[str]:
    told = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    yield f'<polyline points="{told}" fill="none" stroke="{line.colour}" stroke-width="2"/>'
    for x, y in points:
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{line.colour}"/>'
    x, y = points[-1]
    yield _text(x + 10, y + 4, line.name, "start", line.colour)


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#444444") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {_FONT} fill="{colour}" text-anchor="{anchor}">{text}</text>'


def _x(frames: int, most: int) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * frames / most


def _y(size: float, most: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * size / most


def _round_step(least: float) -> float:
    """The next of 1, 2, 5, 10, ... of a power of ten."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)


def main() -> None:
    rows = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["rows"]
    lines = series_of(rows)
    if not lines:
        sys.exit(f"{sys.argv[1]} has no rows of the parts memory and core")
    TARGET.write_text(drawing(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
