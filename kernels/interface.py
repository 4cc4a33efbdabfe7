"""What the C++ of csrc takes: its structures, in the order of its own, and nothing of torch's."""

from __future__ import annotations

import ctypes
from enum import IntEnum


class Picture(ctypes.Structure):
    """[N, h, w, C] floats, channels dense: where they begin, and how many floats apart pictures, rows, pixels lie."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("picture", ctypes.c_int64),
        ("row", ctypes.c_int64),
        ("pixel", ctypes.c_int64),
    )


class Curve(IntEnum):
    """What a convolution's result goes through; a gate takes what is added, too."""

    STRAIGHT = 0
    SILU = 1
    GELU = 2
    GATE = 3


class Ending(ctypes.Structure):
    """What follows a convolution: (y + bias), negative ones times slope, on a `Curve`, times scale, plus added."""

    _fields_ = (
        ("bias", ctypes.c_void_p),
        ("slope", ctypes.c_void_p),
        ("curve", ctypes.c_int),
        ("scale", ctypes.c_float),
        ("added", Picture),
    )


class ConvolutionSizes(ctypes.Structure):
    """Of a convolution by csrc/winograd.cpp."""

    _fields_ = tuple(
        (name, ctypes.c_int)
        for name in (
            *("pictures", "x_height", "x_width", "edge", "height", "width"),
            *("channels", "outputs", "lanes", "run", "threads", "piece", "pieces", "bfloat16"),
        )
    )


class LinearSizes(ctypes.Structure):
    """Of a linear layer by csrc/linear.cpp."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        *((name, ctypes.c_int) for name in ("channels", "outputs", "lanes", "threads", "gelu")),
    )


class Windows(ctypes.Structure):
    """[W, H, N, d] floats, the last dense: where they begin, and how many floats apart windows, heads, rows lie."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("window", ctypes.c_int64),
        ("head", ctypes.c_int64),
        ("row", ctypes.c_int64),
    )


class AttentionSizes(ctypes.Structure):
    """Of attention by csrc/attention.cpp."""

    _fields_ = tuple(
        (name, ctypes.c_int)
        for name in ("windows", "heads", "rows", "columns", "channels", "biases", "lanes", "threads", "bfloat16")
    )


class BlockPictures(ctypes.Structure):
    """What csrc/transformer_block.cpp reads and writes."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("added", ctypes.c_void_p),
        ("result", ctypes.c_void_p),
        ("scale", ctypes.c_float),
    )


class Layer(ctypes.Structure):
    """A linear layer of it."""

    _fields_ = (("weights", ctypes.c_void_p), ("bias", ctypes.c_void_p))


class BlockLayers(ctypes.Structure):
    """Its layers: queries, keys and values; behind attention; and the two after the second norm."""

    _fields_ = (
        ("layers", Layer * 4),
        ("biases", ctypes.c_void_p),
        ("epsilons", ctypes.c_float * 2),
    )


class BlockSizes(ctypes.Structure):
    """Of a block by csrc/transformer_block.cpp."""

    _fields_ = (
        *(
            (name, ctypes.c_int)
            for name in (
                *("pictures", "height", "width", "channels", "heads", "window", "shift", "hidden"),
                *("threads", "bfloat16"),
            )
        ),
        ("first", ctypes.c_int64),
        ("count", ctypes.c_int64),
    )
