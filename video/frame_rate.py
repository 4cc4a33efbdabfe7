"""Frames a second, as people write them."""

from __future__ import annotations

from fractions import Fraction

from ..api.errors import BadOptionError

_LEAST, _MOST = Fraction(1, 100), Fraction(1000)
_NTSC = Fraction(1000, 1001)  # of a whole number: television's rates, which people round
_ROUNDING = Fraction(1, 200)


def parse_rate(text: str) -> Fraction:
    """ "24000/1001", "25" and "12.5" as they are; a rounded rate of NTSC, as 23.976 or 29.97, as the rate that it
    stands for. Raises `BadOptionError` for anything else, and below one in 100 seconds or above 1000 a second."""
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not _LEAST <= rate <= _MOST:
        raise BadOptionError(
            f"fps is {text!r}; give frames a second, {float(_LEAST):g} to {_MOST}, such as 25, 23.976 or 24000/1001"
        )
    exact = round(rate / _NTSC) * _NTSC
    return exact if "." in text and rate.denominator > 1 and abs(rate - exact) < _ROUNDING else rate
