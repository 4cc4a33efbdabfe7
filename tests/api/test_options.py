"""Options: each value that cannot be honoured is one clear error, whatever its type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cudaspeed.api.errors import BadOptionError
from cudaspeed.api.options import UpscaleOptions

NUMBERS = {"tile": "tile size", "overlap": "overlap", "batch_size": "batch size"}
CHOICES = {
    "precision": "precision",
    "level": "optimization level",
    "compile_mode": "compile mode",
    "tiling_mode": "tiling mode",
    "alpha_mode": "alpha mode",
}


@pytest.mark.parametrize("option", NUMBERS)
@pytest.mark.parametrize("value", [True, False, 8.0, np.float32(8), np.int64(8), np.bool_(True), "8", None, [8]])
def test_numbers_must_be_ints(option: str, value: Any) -> None:
    kind = type(value).__name__
    with pytest.raises(BadOptionError, match=rf"^{NUMBERS[option]} is .* \({kind}, not int\); choose a whole number"):
        UpscaleOptions(**{option: value})


@pytest.mark.parametrize(
    ("option", "bad", "told"),
    [
        ("tile", -1, r"0 to 2048 \(0 = automatic\)"),
        ("tile", 2049, r"0 to 2048 \(0 = automatic\)"),
        ("overlap", 129, r"0 to 128 \(0 = automatic\)"),
        ("batch_size", 0, "1 to 16$"),
        ("batch_size", 17, "1 to 16$"),
    ],
)
def test_numbers_have_limits(option: str, bad: int, told: str) -> None:
    with pytest.raises(BadOptionError, match=rf"^{NUMBERS[option]} is {bad}; choose a whole number from {told}"):
        UpscaleOptions(**{option: bad})


@pytest.mark.parametrize("option", ["autocast", "compile", "reproducible"])
@pytest.mark.parametrize("value", [0, 1, "enable", None, np.bool_(True)])
def test_switches_must_be_booleans(option: str, value: Any) -> None:
    with pytest.raises(BadOptionError, match=rf"^{option} is .*; choose True or False$"):
        UpscaleOptions(**{option: value})


@pytest.mark.parametrize("option", CHOICES)
@pytest.mark.parametrize("value", ["best", "", None, True, 0, [], np.zeros(3)])
def test_choices_must_be_among_those_there_are(option: str, value: Any) -> None:
    with pytest.raises(BadOptionError, match=rf"^{CHOICES[option]} is .*; choose one of "):
        UpscaleOptions(**{option: value})
