"""Frames a second, as people write them."""

from __future__ import annotations

from fractions import Fraction

import pytest

from cudaspeed.api.errors import BadOptionError
from cudaspeed.video.frame_rate import parse_rate


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("25", Fraction(25)),
        ("24000/1001", Fraction(24000, 1001)),
        ("23.976", Fraction(24000, 1001)),
        ("23.98", Fraction(24000, 1001)),
        ("29.97", Fraction(30000, 1001)),
        ("59.94", Fraction(60000, 1001)),
        ("12.5", Fraction(25, 2)),
        ("25.0", Fraction(25)),
        ("0.5", Fraction(1, 2)),
        ("1/5", Fraction(1, 5)),
        ("1000", Fraction(1000)),
    ],
)
def test_a_rate_is_exact_and_rounded_ones_of_television_become_so(text: str, rate: Fraction) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "0", "-25", "fast", "25/0", "nan", "inf", "1e9", "1001", "0.001", "24,5"])
def test_what_is_no_rate_is_told_with_examples(text: str) -> None:
    with pytest.raises(BadOptionError, match=r"fps is .*24000/1001"):
        parse_rate(text)
