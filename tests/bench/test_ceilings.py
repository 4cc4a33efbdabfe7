"""How many operations a model needs for a pixel."""

from __future__ import annotations

import zoo

from bench.ceilings import flops_per_pixel


def test_operations_are_counted_twice_for_each_weight_and_pixel() -> None:
    weights = 9 * (3 * 8 + 3 * 8 * 8 + 8 * 3 * 2**2)  # 3x3: in, three between, out to the pixel shuffle
    assert flops_per_pixel(zoo.compact(2, features=8, convs=3)) == 2 * weights


def test_operations_are_counted_by_computing_where_nothing_else_helps() -> None:
    model = zoo.toy(1, lambda x: x * float(x.mean()))  # which is not to be had on the meta device
    assert flops_per_pixel(model) == 0
