"""The size that is asked for: each value that cannot be honoured is one clear error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from cudaspeed.api.errors import BadOptionError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.resize import Resize


def test_nothing_set_is_off_whatever_the_ways() -> None:
    assert not UpscaleOptions().resize
    assert not Resize(fit="crop", resample="area")
    assert not Resize(scale_by=0, width=0, height=0)
    assert all([Resize(scale_by=2), Resize(width=5), Resize(height=5), Resize(scale_by=0.05), Resize(scale_by=8.0)])


@pytest.mark.parametrize("value", [0.049, 8.01, -1, -0.0001, math.nan, math.inf, 10**400])
def test_factors_have_limits(value: float) -> None:
    with pytest.raises(BadOptionError, match=r"^scale_by is .*; choose a number from 0.05 to 8 \(0 = off\)$"):
        Resize(scale_by=value)


@pytest.mark.parametrize("value", [True, "2", None, [2.0], np.float32(2), 1j])
def test_factors_must_be_numbers(value: Any) -> None:
    with pytest.raises(BadOptionError, match=r"^scale_by is .*not a number\); choose a number from 0.05 to 8"):
        Resize(scale_by=value)


@pytest.mark.parametrize("side", ["width", "height"])
@pytest.mark.parametrize("value", [-1, 1_000_001, 10.0, True, None, "64"])
def test_sides_are_whole_numbers_within_limits(side: str, value: Any) -> None:
    other = "height" if side == "width" else "width"
    with pytest.raises(BadOptionError, match=rf"^target {side} is .* from 0 to 1000000 \(0 = by the {other}\)$"):
        Resize(**{side: value})


@pytest.mark.parametrize("option", ["fit", "resample"])
@pytest.mark.parametrize("value", ["best", "", None, True])
def test_ways_must_be_among_those_there_are(option: str, value: Any) -> None:
    with pytest.raises(BadOptionError, match=rf"^{option} is .*; choose one of "):
        Resize(**{option: value})


@pytest.mark.parametrize("target", [{"width": 640}, {"height": 480}, {"width": 640, "height": 480}])
def test_a_factor_and_a_target_are_one_too_many(target: dict[str, int]) -> None:
    with pytest.raises(BadOptionError, match=r"^scale_by is 2 and the target .*; choose one of them and set the other"):
        Resize(scale_by=2, **target)


@pytest.mark.parametrize("value", [None, 2.0, (640, 480), {"width": 640}])
def test_what_is_no_size_is_named(value: Any) -> None:
    with pytest.raises(BadOptionError, match=r"^resize is .*; give a Resize"):
        UpscaleOptions(resize=value)
