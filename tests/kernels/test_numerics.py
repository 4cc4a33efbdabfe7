"""A compiled result is told from a wrong one, and rounding from a fault."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cudaspeed.kernels.numerics import mismatch
from cudaspeed.models.execution import DTYPES

PICTURE = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
PRECISIONS = ["fp32", "fp16", "bf16"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_rounding_does_is_accepted(precision: str) -> None:
    rounded = PICTURE.to(DTYPES[precision])
    assert mismatch(rounded, PICTURE, precision) is None
    assert mismatch(PICTURE, rounded, precision) is None


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
    reason = mismatch(fault(PICTURE), PICTURE, precision)
    assert reason
    assert "\n" not in reason


def test_the_error_is_measured_against_the_size_of_the_values() -> None:
    """Models without training give values of hundreds, and their rounding is as much larger."""
    large = 500 * (PICTURE - 0.5)
    assert mismatch(large * (1 + 1e-5), large, "fp32") is None
    assert mismatch(large * 1.01, large, "fp32")


def test_where_eager_itself_has_no_numbers_the_rest_is_compared() -> None:
    eager = hole(PICTURE)
    assert mismatch(PICTURE, eager, "fp16") is None
    assert mismatch(PICTURE + 0.3, eager, "fp16")
