"""A right result is told from a wrong one, and rounding from a fault."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cudaspeed.kernels.numerics import OF_A_MODEL, Limits, compare
from cudaspeed.models.execution import DTYPES

PICTURE = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
PRECISIONS = ["fp32", "fp16", "bf16"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_rounding_does_is_accepted(precision: str) -> None:
    rounded = PICTURE.to(DTYPES[precision])
    assert compare(rounded, PICTURE, OF_A_MODEL[precision]) is None
    assert compare(PICTURE, rounded, OF_A_MODEL[precision]) is None


def hole(picture: Tensor) -> Tensor:
    picture = picture.clone()
    picture[..., 40] = torch.nan
    return picture


def stripe(picture: Tensor) -> Tensor:
    picture = picture.clone()
    picture[..., 40] += 0.4
    return picture


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "fault",
    [
        lambda x: x + 0.3,
        lambda x: x + 0.02,
        lambda x: x * 3,
        lambda x: x.roll(1, -1),
        lambda x: x.transpose(2, 3),
        lambda x: torch.zeros_like(x),
        lambda x: x[..., :-1],
        hole,
        stripe,
    ],
)
def test_a_fault_is_found_and_named(precision: str, fault) -> None:
    reason = compare(fault(PICTURE), PICTURE, OF_A_MODEL[precision])
    assert reason
    assert "\n" not in reason


def test_the_error_is_measured_against_the_size_of_the_values() -> None:
    """Models without training give values of hundreds, and their rounding is as much larger."""
    large = 500 * (PICTURE - 0.5)
    assert compare(large * (1 + 1e-5), large, OF_A_MODEL["fp32"]) is None
    assert compare(large * 1.01, large, OF_A_MODEL["fp32"])


def test_where_eager_itself_has_no_numbers_the_rest_is_compared() -> None:
    eager = hole(PICTURE)
    assert compare(PICTURE, eager, OF_A_MODEL["fp16"]) is None
    assert compare(PICTURE + 0.3, eager, OF_A_MODEL["fp16"])


def test_the_reason_says_how_much_it_is_off_and_what_rounding_explains() -> None:
    reason = compare(PICTURE + 0.25, PICTURE, OF_A_MODEL["fp16"])
    assert "differs" in reason
    assert "mean 2.5e-01" in reason
    assert "mean 5.0e-04" in reason
    assert "inf" not in (compare(PICTURE + 0.25, PICTURE, Limits(worst=1e-2)) or "inf")


def test_a_layers_values_are_measured_against_their_own_size_however_small() -> None:
    small = 1e-6 * (PICTURE - 0.5)
    assert compare(small * 1.001, small, Limits(worst=1e-2)) is None
    assert compare(small * 1.1, small, Limits(worst=1e-2))
    assert compare(small * torch.nan, small, Limits(worst=1e-2))


def test_nothing_but_zeros_can_be_compared() -> None:
    zeros = torch.zeros(1, 1, 4, 4)
    assert compare(zeros, zeros, Limits(worst=1e-2)) is None
    assert compare(zeros + 1, zeros, Limits(worst=1e-2))
