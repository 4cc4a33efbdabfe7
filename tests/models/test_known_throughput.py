"""How large forwards should be follows from the tensors that a model works on, and from nothing that is measured."""

from __future__ import annotations

import math

import pytest
import zoo

from bench import model_zoo
from cudaspeed.models.known_throughput import best_pixels, known_throughput, tensor_bytes

# Seconds a megapixel by the side of a forward, in shares of the least: docs/performance.md.
MEASURED = {
    "bundled": {64: 1.14, 96: 1.08, 128: 1.0, 192: 1.03, 256: 1.01, 384: 1.1, 512: 1.09},
    "compact": {64: 1.05, 96: 1.0, 128: 1.05, 192: 1.05, 256: 1.12, 384: 1.13, 512: 1.23},
    "span": {64: 1.0, 96: 1.25, 128: 1.24, 192: 1.24, 256: 1.24, 384: 1.32, 512: 1.6},
    "realcugan": {64: 1.19, 96: 1.07, 128: 1.0, 192: 1.21, 256: 1.31, 384: 1.5, 512: 1.55},
    "esrgan-short": {64: 1.0, 96: 1.18, 128: 1.33, 192: 1.36, 256: 1.39, 384: 1.49, 512: 1.63},
    "dat": {64: 1.03, 96: 1.02, 128: 1.0, 192: 1.08, 256: 1.17, 384: 1.73, 512: 2.25},
    "swinir": {64: 1.0, 96: 1.16, 128: 1.17, 192: 1.24, 256: 1.22, 384: 1.96, 512: 2.55},
    "dctlsa": {64: 1.0, 96: 1.02, 128: 1.14, 192: 1.19, 256: 1.21, 384: 1.43, 512: 1.76},
    "hat": {64: 1.06, 96: 1.05, 128: 1.02, 192: 1.0, 256: 1.25, 384: 1.78, 512: 2.16},
}


@pytest.mark.parametrize("name", MEASURED)
def test_the_size_that_is_best_by_the_formula_costs_at_most_a_quarter_more_than_the_best(name: str) -> None:
    best, shares = math.sqrt(best_pixels(model_zoo.build(name))), MEASURED[name]
    below = max((side for side in shares if side <= best), default=64)
    above = min((side for side in shares if side >= best), default=512)
    assert max(shares[below], shares[above]) <= 1.25


@pytest.mark.parametrize("name", MEASURED)
def test_what_large_forwards_cost_more_is_near_what_was_measured(name: str) -> None:
    throughput, shares = known_throughput(model_zoo.build(name)), MEASURED[name]
    for side, share in shares.items():
        assert 0.65 <= throughput.relative(side * side) / share <= 1.4, side


def test_wider_models_want_smaller_forwards_and_half_the_bytes_twice_as_large_ones() -> None:
    narrow, wide = zoo.compact(features=8), zoo.compact(features=32)
    assert best_pixels(narrow) > best_pixels(wide)
    assert best_pixels(wide, itemsize=2) == 2 * best_pixels(wide)
    assert tensor_bytes(wide) == 4 * 32


def test_no_model_is_without_an_answer() -> None:
    model = zoo.toy()
    assert best_pixels(model) >= 1
    assert known_throughput(model).relative(64 * 64) == 1
