"""Pixel formats, by FFmpeg's names: which one a film is written in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..api.errors import BadOptionError
from .pyav import load_av

_SIDE = 64  # pixels, of a picture to ask with


class _Traits(NamedTuple):
    """`halved`: by which powers of two its chroma has fewer columns and rows."""

    bits: int
    alpha: bool
    rgb: bool
    halved: tuple[int, int]


def _traits(name: str) -> _Traits:
    form = load_av().VideoFormat(name)
    rgb = form.is_rgb or form.has_palette
    bits = max((component.bits for component in form.components), default=8)
    alpha = any(component.is_alpha for component in form.components) and not form.has_palette
    grey = not rgb and len(form.components) < 3
    wide, high = form.chroma_width(_SIDE), form.chroma_height(_SIDE)
    halved = (1, 1) if grey else (0, 0) if rgb else (_halvings(wide), _halvings(high))
    return _Traits(bits, alpha, rgb, halved)


def _halvings(side: int) -> int:
    return (_SIDE // side).bit_length() - 1


def is_deep(name: str) -> bool:
    """Whether it has more than 8 bits a channel."""
    return _traits(name).bits > 8


def bits_of(name: str) -> int:
    """Bits a channel."""
    return _traits(name).bits


def has_alpha(name: str) -> bool:
    """Whether it has an alpha channel; a palette's is not counted."""
    return _traits(name).alpha


def multiples(name: str) -> tuple[int, int]:
    """(height, width) that sides must be multiples of, for chroma to have whole pixels."""
    columns, rows = _traits(name).halved
    return 1 << rows, 1 << columns


def format_for(source: str, offered: Sequence[str], bits: int, encoder: str) -> str:
    """The one of `offered`, an encoder's by preference, in which a film stored as `source` loses the least: of `bits`
    (0: 8 as the source, or 10), then with alpha if the source has some, in RGB if it is, and with no less chroma.

    Raises `BadOptionError` where none has the bits that are asked for.
    """
    wanted = _traits(source)
    depth = bits or (8 if wanted.bits <= 8 else 10)
    traits = {name: _traits(name) for name in offered}
    if bits and not any(_depth(one) == bits for one in traits.values()):
        there = " or ".join(str(depth) for depth in sorted({_depth(one) for one in traits.values()}))
        raise BadOptionError(f"bits is {bits}; {encoder} writes {there} here")

    def losses(name: str) -> tuple[object, ...]:
        one = traits[name]
        less = [max(0, mine - its) for mine, its in zip(one.halved, wanted.halved, strict=True)]
        more = [max(0, its - mine) for mine, its in zip(one.halved, wanted.halved, strict=True)]
        return (
            abs(_depth(one) - depth),
            wanted.alpha and not one.alpha,
            sum(less),
            one.alpha and not wanted.alpha,
            one.rgb != wanted.rgb,
            sum(more),
        )

    return min(offered, key=losses)


def _depth(traits: _Traits) -> int:
    """Whether it is of 8 bits or of 10: some encoders take 10 in 16."""
    return 8 if traits.bits <= 8 else 10


def chroma_text(name: str) -> str:
    """As people say it: "4:2:0", "RGB"."""
    traits = _traits(name)
    names = {(1, 1): "4:2:0", (1, 0): "4:2:2", (0, 0): "4:4:4", (2, 0): "4:1:1", (2, 2): "4:1:0", (0, 1): "4:4:0"}
    return "RGB" if traits.rgb else names.get(traits.halved, name)
