"""A first try of a library just built: loaded and called in a process that may die of it. It needs no torch.

Whether the results are right is seen later, in the user's process (`_flaw` of winograd.py and the like), by
calls like these.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from pathlib import Path

from .interface import (
    AttentionSizes,
    BlockLayers,
    BlockPictures,
    BlockSizes,
    ConvolutionSizes,
    Curve,
    Ending,
    LinearSizes,
    Picture,
    Windows,
)

_CHANNELS, _RUN = 32, 12
_FINE = "fine"


def main(name: str, library: str, openmp: str, threads: str, verdict: str) -> None:
    """Call all that csrc/<name>.cpp has, in the file `library`, by one thread and by `threads`, with the OpenMP in the
    file `openmp`, and write into the file `verdict` that it went well."""
    if openmp:
        ctypes.CDLL(openmp, ctypes.RTLD_GLOBAL)
    loaded = ctypes.CDLL(library)
    loaded.scratch_bytes.restype = ctypes.c_int64
    for count in sorted({1, int(threads)}):
        for lanes in sorted({8, loaded.widest()}):
            _CALLS[name](loaded, lanes, count)
    Path(verdict).write_text(_FINE, encoding="ascii")


def went_well(verdict: Path) -> bool:
    """Whether `main` has come to its end."""
    return verdict.is_file() and verdict.read_text(encoding="ascii") == _FINE


def _convolve(library: ctypes.CDLL, lanes: int, threads: int) -> None:
    pictures, height, width = 2, 9, 14
    x, y, added = (_floats(pictures * height * width * _CHANNELS) for _ in range(3))
    weights, bias, slope = _floats(36 * _CHANNELS**2), _floats(_CHANNELS), _floats(_CHANNELS)
    strides = height * width * _CHANNELS, width * _CHANNELS, _CHANNELS
    more = Picture(ctypes.addressof(added), *strides)
    for bfloat16, curve in itertools.product((False, True), Curve):
        ending = Ending(ctypes.addressof(bias), ctypes.addressof(slope), curve, 0.5, more)
        sizes = ConvolutionSizes(
            *(pictures, height, width, 1, height, width, _CHANNELS, _CHANNELS),
            lanes=lanes,
            run=_RUN,
            threads=threads,
            piece=0,
            pieces=1,
            bfloat16=bfloat16,
        )
        scratch = _floats(library.scratch_bytes(ctypes.byref(sizes)) // 4)
        library.convolve(
            ctypes.byref(Picture(ctypes.addressof(x), *strides)),
            ctypes.c_void_p(ctypes.addressof(weights)),
            ctypes.byref(ending),
            ctypes.byref(Picture(ctypes.addressof(y), *strides)),
            ctypes.byref(sizes),
            ctypes.c_void_p(ctypes.addressof(scratch)),
        )


def _apply(library: ctypes.CDLL, lanes: int, threads: int) -> None:
    rows, channels, outputs, wide = 101, 60, 41, 48
    x, y, weights, bias = (_floats(count) for count in (rows * channels, rows * outputs, channels * wide, wide))
    sizes = LinearSizes(rows, channels, outputs, lanes=lanes, threads=threads, gelu=True)
    scratch = _floats(library.scratch_bytes(ctypes.byref(sizes)) // 4)
    library.apply(
        *(ctypes.c_void_p(ctypes.addressof(numbers)) for numbers in (x, weights, bias, y)),
        ctypes.byref(sizes),
        ctypes.c_void_p(ctypes.addressof(scratch)),
    )


def _attend(library: ctypes.CDLL, lanes: int, threads: int) -> None:
    windows, heads, channels = 9, 2, 11
    for rows, columns in ((31, 48), (61, 112)):
        query, result = (_floats(windows * heads * rows * channels) for _ in range(2))
        keys, values = (_floats(windows * heads * columns * channels) for _ in range(2))
        bias, mask = _floats(heads * rows * columns), _floats(windows * columns)
        given = (Windows * 5)(
            *(
                Windows(ctypes.addressof(held), heads * n * channels, n * channels, channels)
                for held, n in ((query, rows), (keys, columns), (values, columns))
            ),
            Windows(ctypes.addressof(bias), 0, rows * columns, columns),
            Windows(ctypes.addressof(mask), columns, 0, 0),
        )
        for bfloat16 in (False, True):
            sizes = AttentionSizes(windows, heads, rows, columns, channels, 2, lanes, threads, bfloat16)
            scratch = _floats(library.scratch_bytes(ctypes.byref(sizes)) // 4)
            library.attend(
                ctypes.byref(given),
                ctypes.c_void_p(ctypes.addressof(result)),
                ctypes.byref(sizes),
                ctypes.c_void_p(ctypes.addressof(scratch)),
            )


def _transform(library: ctypes.CDLL, _lanes: int, threads: int) -> None:
    pictures, window, heads, channels, hidden, wide = 2, 4, 2, 20, 26, 96
    height, width, area = 3 * window, 2 * window, window * window
    x, added, result = (_floats(pictures * height * width * channels) for _ in range(3))
    weights, bias, biases = _floats(wide * wide), _floats(wide), _floats(heads * area * area)
    layer = ctypes.addressof(weights), ctypes.addressof(bias)
    layers = BlockLayers((layer,) * 4, ctypes.addressof(biases), (1e-5, 1e-5))
    given = BlockPictures(*(ctypes.addressof(picture) for picture in (x, added, result)), 0.5)
    for bfloat16 in (False, True):
        sizes = BlockSizes(
            *(pictures, height, width, channels, heads, window, 1, hidden),
            threads=threads,
            bfloat16=bfloat16,
            first=0,
            count=pictures * height * width // area,
        )
        scratch = _floats(library.scratch_bytes(ctypes.byref(sizes)) // 4)
        library.compute(*map(ctypes.byref, (given, layers, sizes)), ctypes.c_void_p(ctypes.addressof(scratch)))


def _floats(count: int) -> ctypes.Array[ctypes.c_float]:
    return (ctypes.c_float * count)(*([0.5] * min(count, 1000)))


_CALLS: dict[str, Callable[[ctypes.CDLL, int, int], None]] = {
    "winograd": _convolve,
    "linear": _apply,
    "attention": _attend,
    "transformer_block": _transform,
}
