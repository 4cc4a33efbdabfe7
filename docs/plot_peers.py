"""Draws how many times as fast the pack is as ComfyUI core's node, from what `python -m bench.peers --json FILE` has
measured: `python docs/plot_peers.py FILE`, into docs/peers.svg."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TARGET = Path(__file__).absolute().parent / "peers.svg"

_CORE, _OURS = "core", "ours-balanced-fp32-eager"
_WIDTH, _LEFT, _RIGHT, _TOP = 720, 190, 70, 76
_BAR, _STEP = 18, 56  # the height of a bar, and from one pair of them to the next
_COLOURS = {_CORE: "#b2521f", _OURS: "#1f6fb2"}
_NAMES = {_CORE: "ComfyUI core", _OURS: "CUDAspeed"}
_FONT = 'font-family="system-ui, sans-serif" font-size="13"'


class Pair(NamedTuple):
    """A model on a size of picture: how long core's node takes, and ours, in seconds."""

    name: str
    core: float
    ours: float


def pairs_of(rows: Sequence[dict[str, Any]]) -> list[Pair]:
    """Those of which both are there and gave a picture."""
    took: dict[str, dict[str, float]] = {}
    for row in rows:
        if "seconds" in row:
            height, width = row["size"]
            took.setdefault(f"{row['model']} x{row['scale']}, {width}x{height}", {})[row["row"]] = row["seconds"]
    return [Pair(name, by[_CORE], by[_OURS]) for name, by in took.items() if {_CORE, _OURS} <= {*by}]


def drawing(pairs: Sequence[Pair], told: dict[str, Any]) -> str:
    """The text of an SVG: two bars for each, as long as it is many times as fast as core's node."""
    most = math.ceil(max(pair.core / pair.ours for pair in pairs))
    height = _TOP + _STEP * len(pairs) + 12
    environment = told["environment"]
    where = f"{environment['hardware']}, {told['threads']} threads, torch {environment['torch']}, {told['date'][:10]}"
    title = "Times as fast as ComfyUI core's node: fp32, eager, the same picture"
    body = [*_legend(), *(line for k, pair in enumerate(pairs) for line in _bars(pair, _TOP + _STEP * k, most))]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
            f"<title>{title}</title>",
            f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
            f'<text x="16" y="26" {_FONT} font-weight="600" fill="#222222">{title}</text>',
            _text(16, 46, where, "#777777"),
            *body,
            "</svg>",
            "",
        ]
    )


def _legend() -> Iterator[str]:
    for k, row in enumerate((_CORE, _OURS)):
        yield _text(_WIDTH - 230 + 120 * k, 46, _NAMES[row], _COLOURS[row])


def _bars(pair: Pair, top: float, most: float) -> Iterator[str]:
    yield _text(16, top + _BAR + 4, pair.name, "#222222")
    for k, (row, seconds) in enumerate(((_CORE, pair.core), (_OURS, pair.ours))):
        times = pair.core / seconds
        width = (_WIDTH - _LEFT - _RIGHT) * times / most
        y = top + k * (_BAR + 2)
        yield f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{_COLOURS[row]}"/>'
        yield _text(_LEFT + width + 8, y + _BAR - 5, f"{times:.1f}x, {seconds:.2g} s", "#444444")


def _text(x: float, y: float, text: str, colour: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {_FONT} fill="{colour}">{text}</text>'


def main() -> None:
    told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    pairs = pairs_of(told["rows"])
    if not pairs:
        sys.exit(f"{sys.argv[1]} has no rows of both {_CORE} and {_OURS}")
    TARGET.write_text(drawing(pairs, told), encoding="utf-8")


if __name__ == "__main__":
    main()
