"""The sizes that a series goes through."""

from __future__ import annotations

import pytest

from bench.scaling import powers_of_four, side_for


def test_sizes_of_a_series() -> None:
    assert powers_of_four(64) == [1, 4, 16, 64]
    assert powers_of_four(63) == [1, 4, 16]
    assert (side_for(16, 4) * 4) ** 2 == pytest.approx(16e6, rel=0.02)
