"""Layer times that ship: for processors on which they were measured, by the instructions that torch finds in them.

Made by `python -m bench.layer_table`. Only ways are compared by it, so that it holds for processors of other speeds.
"""

from __future__ import annotations

import functools

import torch

from .layer_times import LayerTimes, Way
from .layers import LayerKind, LayerName

# AVX2: one core of an AMD EPYC of Zen 3 (512 KiB of second-level cache), torch 2.11, one thread, the least of 12 calls
# in the processor's own time, beside eight other processes on two cores, 2026-11-26.
_SECONDS: dict[str, dict[tuple[LayerName, tuple[int, ...]], dict[Way, float]]] = {
    "AVX2": {
        ("attention", (64, 64, 10, 6)): {"plain": 1.61, "attention": 0.709},
        ("attention", (64, 64, 30, 6)): {"plain": 1.8, "attention": 1.34},
        ("attention", (256, 256, 10, 3)): {"plain": 3.09, "attention": 1.08},
        ("attention", (256, 256, 10, 6)): {"plain": 6.35, "attention": 2.28},
        ("attention", (256, 256, 24, 6)): {"plain": 5.29, "attention": 3.55},
        ("attention", (256, 576, 24, 6)): {"plain": 12.7, "attention": 7.75},
        ("conv3x3", (3, 32)): {"plain": 0.0444, "plain channels last": 0.0331, "winograd": 0.0539},
        ("conv3x3", (3, 48)): {"plain": 0.06, "plain channels last": 0.0441, "winograd": 0.0661},
        ("conv3x3", (3, 55)): {"plain": 0.0634, "plain channels last": 0.058, "winograd": 0.0754},
        ("conv3x3", (3, 60)): {"plain": 0.0725, "plain channels last": 0.0618, "winograd": 0.0807},
        ("conv3x3", (3, 64)): {"plain": 0.0717, "plain channels last": 0.0557, "winograd": 0.0818},
        ("conv3x3", (3, 144)): {"plain": 0.121, "plain channels last": 0.152, "winograd": 0.181},
        ("conv3x3", (3, 180)): {"plain": 0.146, "plain channels last": 0.217, "winograd": 0.263},
        ("conv3x3", (6, 144)): {"plain": 0.219, "plain channels last": 0.238, "winograd": 0.203},
        ("conv3x3", (8, 8)): {"plain": 0.044, "plain channels last": 0.0265, "winograd": 0.0242},
        ("conv3x3", (8, 16)): {"plain": 0.0518, "plain channels last": 0.037, "winograd": 0.0301},
        ("conv3x3", (8, 32)): {"plain": 0.0743, "plain channels last": 0.0642, "winograd": 0.0456},
        ("conv3x3", (8, 64)): {"plain": 0.136, "plain channels last": 0.119, "winograd": 0.0812},
        ("conv3x3", (8, 128)): {"plain": 0.273, "plain channels last": 0.247, "winograd": 0.186},
        ("conv3x3", (8, 256)): {"plain": 0.491, "plain channels last": 0.517, "winograd": 0.358},
        ("conv3x3", (15, 60)): {"plain": 0.289, "plain channels last": 0.241, "winograd": 0.151},
        ("conv3x3", (16, 8)): {"plain": 0.074, "plain channels last": 0.0409, "winograd": 0.0326},
        ("conv3x3", (16, 16)): {"plain": 0.0846, "plain channels last": 0.0597, "winograd": 0.0406},
        ("conv3x3", (16, 32)): {"plain": 0.132, "plain channels last": 0.112, "winograd": 0.0668},
        ("conv3x3", (16, 64)): {"plain": 0.267, "plain channels last": 0.232, "winograd": 0.132},
        ("conv3x3", (16, 128)): {"plain": 0.534, "plain channels last": 0.472, "winograd": 0.263},
        ("conv3x3", (16, 256)): {"plain": 0.969, "plain channels last": 0.962, "winograd": 0.556},
        ("conv3x3", (32, 8)): {"plain": 0.129, "plain channels last": 0.0703, "winograd": 0.0502},
        ("conv3x3", (32, 12)): {"plain": 0.154, "plain channels last": 0.133, "winograd": 0.0742},
        ("conv3x3", (32, 16)): {"plain": 0.155, "plain channels last": 0.113, "winograd": 0.0646},
        ("conv3x3", (32, 32)): {"plain": 0.262, "plain channels last": 0.222, "winograd": 0.117},
        ("conv3x3", (32, 64)): {"plain": 0.519, "plain channels last": 0.457, "winograd": 0.227},
        ("conv3x3", (32, 128)): {"plain": 1.05, "plain channels last": 0.958, "winograd": 0.482},
        ("conv3x3", (32, 256)): {"plain": 1.96, "plain channels last": 1.87, "winograd": 1.08},
        ("conv3x3", (48, 48)): {"plain": 0.658, "plain channels last": 0.515, "winograd": 0.275},
        ("conv3x3", (55, 48)): {"plain": 0.75, "plain channels last": 0.581, "winograd": 0.342},
        ("conv3x3", (55, 55)): {"plain": 0.8, "plain channels last": 0.751, "winograd": 0.393},
        ("conv3x3", (60, 15)): {"plain": 0.322, "plain channels last": 0.269, "winograd": 0.15},
        ("conv3x3", (60, 48)): {"plain": 0.836, "plain channels last": 0.639, "winograd": 0.381},
        ("conv3x3", (60, 60)): {"plain": 1.1, "plain channels last": 0.939, "winograd": 0.518},
        ("conv3x3", (64, 3)): {"plain": 0.254, "plain channels last": 0.15, "winograd": 0.0959},
        ("conv3x3", (64, 8)): {"plain": 0.263, "plain channels last": 0.155, "winograd": 0.103},
        ("conv3x3", (64, 16)): {"plain": 0.32, "plain channels last": 0.232, "winograd": 0.132},
        ("conv3x3", (64, 32)): {"plain": 0.53, "plain channels last": 0.444, "winograd": 0.244},
        ("conv3x3", (64, 48)): {"plain": 0.842, "plain channels last": 0.679, "winograd": 0.327},
        ("conv3x3", (64, 64)): {"plain": 1.1, "plain channels last": 0.92, "winograd": 0.454},
        ("conv3x3", (64, 128)): {"plain": 2.13, "plain channels last": 1.94, "winograd": 1.03},
        ("conv3x3", (64, 256)): {"plain": 3.74, "plain channels last": 3.57, "winograd": 1.67},
        ("conv3x3", (96, 32)): {"plain": 0.781, "plain channels last": 0.681, "winograd": 0.345},
        ("conv3x3", (128, 8)): {"plain": 0.521, "plain channels last": 0.292, "winograd": 0.216},
        ("conv3x3", (128, 16)): {"plain": 0.628, "plain channels last": 0.438, "winograd": 0.288},
        ("conv3x3", (128, 32)): {"plain": 1.13, "plain channels last": 0.904, "winograd": 0.507},
        ("conv3x3", (128, 64)): {"plain": 2.29, "plain channels last": 1.9, "winograd": 1.06},
        ("conv3x3", (128, 128)): {"plain": 4.13, "plain channels last": 3.47, "winograd": 1.73},
        ("conv3x3", (128, 256)): {"plain": 7.74, "plain channels last": 6.67, "winograd": 3.28},
        ("conv3x3", (144, 6)): {"plain": 0.589, "plain channels last": 0.386, "winograd": 0.282},
        ("conv3x3", (144, 64)): {"plain": 2.58, "plain channels last": 2.09, "winograd": 1.13},
        ("conv3x3", (144, 144)): {"plain": 5.41, "plain channels last": 4.34, "winograd": 2.36},
        ("conv3x3", (160, 32)): {"plain": 1.33, "plain channels last": 1.12, "winograd": 0.611},
        ("conv3x3", (180, 64)): {"plain": 3.18, "plain channels last": 2.47, "winograd": 1.55},
        ("conv3x3", (180, 180)): {"plain": 8.19, "plain channels last": 6.86, "winograd": 4.29},
        ("conv3x3", (192, 64)): {"plain": 3.25, "plain channels last": 2.65, "winograd": 1.37},
        ("conv3x3", (256, 8)): {"plain": 1.08, "plain channels last": 0.601, "winograd": 0.53},
        ("conv3x3", (256, 16)): {"plain": 1.34, "plain channels last": 0.913, "winograd": 0.675},
        ("conv3x3", (256, 32)): {"plain": 2.32, "plain channels last": 1.9, "winograd": 1.37},
        ("conv3x3", (256, 64)): {"plain": 4.26, "plain channels last": 3.52, "winograd": 1.82},
        ("conv3x3", (256, 128)): {"plain": 8.11, "plain channels last": 6.87, "winograd": 3.98},
        ("conv3x3", (256, 256)): {"plain": 16, "plain channels last": 13.4, "winograd": 8.72},
        ("pointwise", (1, 1)): {"plain": 0.00384},
        ("pointwise", (1, 3)): {"plain": 0.00464},
        ("pointwise", (2, 1)): {"plain": 0.00377},
        ("pointwise", (3, 1)): {"plain": 0.00391},
        ("pointwise", (6, 144)): {"plain": 0.0962},
        ("pointwise", (7, 60)): {"plain": 0.0372},
        ("pointwise", (8, 64)): {"plain": 0.0397},
        ("pointwise", (15, 15)): {"plain": 0.0141},
        ("pointwise", (16, 128)): {"plain": 0.0759},
        ("pointwise", (55, 55)): {"plain": 0.0942},
        ("pointwise", (55, 110)): {"plain": 0.17},
        ("pointwise", (55, 165)): {"plain": 0.231},
        ("pointwise", (60, 3)): {"plain": 0.02},
        ("pointwise", (60, 7)): {"plain": 0.0329},
        ("pointwise", (60, 60)): {"plain": 0.105},
        ("pointwise", (60, 120)): {"plain": 0.195},
        ("pointwise", (60, 180)): {"plain": 0.274},
        ("pointwise", (64, 8)): {"plain": 0.0321},
        ("pointwise", (110, 55)): {"plain": 0.179},
        ("pointwise", (120, 60)): {"plain": 0.195},
        ("pointwise", (128, 16)): {"plain": 0.0834},
        ("pointwise", (144, 6)): {"plain": 0.061},
        ("pointwise", (144, 144)): {"plain": 0.526},
        ("pointwise", (144, 288)): {"plain": 0.952},
        ("pointwise", (144, 432)): {"plain": 1.49},
        ("pointwise", (165, 55)): {"plain": 0.253},
        ("pointwise", (180, 180)): {"plain": 0.765},
        ("pointwise", (180, 360)): {"plain": 1.58},
        ("pointwise", (180, 540)): {"plain": 2.29},
        ("pointwise", (192, 48)): {"plain": 0.254},
        ("pointwise", (220, 55)): {"plain": 0.356},
        ("pointwise", (275, 55)): {"plain": 0.42},
        ("pointwise", (288, 144)): {"plain": 0.971},
        ("pointwise", (330, 55)): {"plain": 0.497},
        ("pointwise", (360, 180)): {"plain": 1.61},
    },
}


@functools.cache
def shipped_times() -> LayerTimes:
    """The times that ship for this processor's instructions; none at all where there was no such processor to measure
    on."""
    known = _SECONDS.get(torch.backends.cpu.get_cpu_capability(), {})
    return LayerTimes(
        {(LayerKind(*kind), way): seconds for kind, ways in known.items() for way, seconds in ways.items()}
    )
