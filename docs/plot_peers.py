"""Draws how many times as fast as plain spandrel each engine computes, from what `python -m bench.peers --json FILE`
has measured on one machine: `python docs/plot_peers.py FILE...`, into docs/peers.svg."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TARGET = Path(__file__).absolute().parent / "peers.svg"

_PLAIN = "plain-fp32"
_WIDTH, _LEFT, _RIGHT, _TOP = 720, 190, 130, 72
_BAR, _APART = 15, 16  # the height of a bar, and what lies between two models
_FONT = 'font-family="system-ui, sans-serif" font-size="13"'


class Engine(NamedTuple):
    """What a row of the measurements is called here, and its colour."""

    name: str
    colour: str


_ENGINES: Mapping[str, Engine] = {
    "core": Engine("ComfyUI core", "#8a8a8a"),
    "onnxruntime": Engine("onnxruntime", "#7d6bb0"),
    "openvino-f32": Engine("OpenVINO f32", "#e0a26a"),
    "openvino-bf16": Engine("OpenVINO bf16", "#b2521f"),
    "tensorrt": Engine("TensorRT", "#5b8c3a"),
    "ours-balanced-fp32-eager": Engine("CUDAspeed fp32", "#79b0dc"),
    "ours-balanced-auto-eager": Engine("CUDAspeed", "#1f6fb2"),
}


class Bar(NamedTuple):
    """How many times as fast as plain spandrel an engine was, and how close to it its picture, dB."""

    engine: Engine
    times: float
    decibels: float


def bars_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Bar]]:
    """By model and size, in the order of the measurements, those of the engines that gave a picture."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        if "seconds" in row:
            height, width = row["size"]
            found.setdefault(f"{row['model']} x{row['scale']}, {width}x{height}", {})[row["row"]] = row
    return {
        name: [
            Bar(engine, by[_PLAIN]["seconds"] / by[row]["seconds"], by[row]["psnr"])
            for row, engine in _ENGINES.items()
            if row in by
        ]
        for name, by in found.items()
        if _PLAIN in by
    }


def drawing(models: Mapping[str, Sequence[Bar]], where: str) -> str:
    """The text of an SVG: for each model a bar for each engine, as long as it is many times as fast as plain."""
    most = math.ceil(max(bar.times for bars in models.values() for bar in bars))
    title, body, top = "Times as fast as plain spandrel in fp32, the same picture", list[str](), float(_TOP)
    for name, bars in models.items():
        body.append(_text(16, top + _BAR - 3, name, "#222222"))
        for bar in bars:
            body += _bar(bar, top, most)
            top += _BAR + 2
        top += _APART
    engines = dict.fromkeys(bar.engine for bars in models.values() for bar in bars)
    step = (_WIDTH - 32) / len(engines)
    legend = [_text(16 + step * k, top + 8, engine.name, engine.colour) for k, engine in enumerate(engines)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top + 24:.0f}" role="img">',
            f"<title>{title}</title>",
            f'<rect width="{_WIDTH}" height="{top + 24:.0f}" fill="#ffffff"/>',
            f'<text x="16" y="26" {_FONT} font-weight="600" fill="#222222">{title}</text>',
            _text(16, 46, where, "#777777"),
            *body,
            *legend,
            "</svg>",
            "",
        ]
    )


def _bar(bar: Bar, top: float, most: float) -> Iterator[str]:
    width = (_WIDTH - _LEFT - _RIGHT) * bar.times / most
    yield f'<rect x="{_LEFT}" y="{top:.0f}" width="{width:.1f}" height="{_BAR}" fill="{bar.engine.colour}"/>'
    yield _text(_LEFT + width + 8, top + _BAR - 3, f"{bar.times:.1f}x, {min(bar.decibels, 200):.0f} dB", "#444444")


def _text(x: float, y: float, text: str, colour: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {_FONT} fill="{colour}">{text}</text>'


def main() -> None:
    told = [json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:]]
    models = bars_of(row for one in told for row in one["rows"])
    if not models:
        sys.exit(f"{sys.argv[1:]} have no rows of {_PLAIN}")
    around = told[0]["environment"]
    dates = sorted({one["date"][:10] for one in told})
    where = f"{around['hardware']}, {told[0]['threads']} threads, torch {around['torch']}, {' and '.join(dates)}"
    TARGET.write_text(drawing(models, where), encoding="utf-8")


if __name__ == "__main__":
    main()
