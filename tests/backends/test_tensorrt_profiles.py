"""For which sizes TensorRT is asked to be fast, within what it can."""

from __future__ import annotations

import pytest

from cudaspeed.backends.errors import CompileError
from cudaspeed.backends.shapes import TileShapes
from cudaspeed.backends.tensorrt_profiles import Profile, fitting, plan

ANY = TileShapes(batch=256, least=(32, 32), most=(2048, 2048), step=4)
EXAMPLE = (2, 3, 256, 260)
PIXELS = 2 * 256 * 260


def elements(profile: Profile, for_a_pixel: int) -> int:
    count, _, height, width = profile.most
    return count * height * width * for_a_pixel


def test_one_size_is_one_profile_of_that_size() -> None:
    shape = (1, 3, 64, 80)
    assert plan(TileShapes.one(64, 80), shape, 10**6) == (Profile(shape, shape, shape),)


@pytest.mark.parametrize("for_a_pixel", [3, 64, 1024, 40_000])
def test_no_tensor_has_more_elements_than_tensorrt_takes(for_a_pixel: int) -> None:
    profiles = plan(ANY, EXAMPLE, for_a_pixel * PIXELS)
    assert [profile.most[0] for profile in profiles] == [1, 8]
    for profile in profiles:
        assert elements(profile, for_a_pixel) < 2**31
        assert profile.least == (1, 3, 32, 32)
        assert profile.takes(profile.typical)
        assert profile.most[2] % 4 == profile.most[3] % 4 == 0
    single, several = profiles
    assert min(single.most[2], 2048) >= several.most[2], "a single tile may be larger"
    larger = single.most[2] + 4
    assert single.most[2] == 2048 or larger**2 * for_a_pixel >= 2**31, "as large as can be"


def test_typical_are_the_examples_sides_where_these_are_possible() -> None:
    single, several = plan(ANY, EXAMPLE, 64 * PIXELS)
    assert (single.typical, several.typical) == ((1, 3, 256, 260), (8, 3, 256, 260))
    (small,) = plan(TileShapes(1, (32, 32), (64, 96), 4), EXAMPLE, 64 * PIXELS)
    assert small.typical == (1, 3, 64, 96)


def test_where_several_tiles_do_not_fit_there_are_single_ones() -> None:
    (only,) = plan(ANY, EXAMPLE, 400_000 * PIXELS)
    assert only.most[0] == 1


def test_where_not_even_one_fits_an_error_names_the_limit() -> None:
    with pytest.raises(CompileError, match=r"2147483647 elements for tiles of 32x32 to 2048x2048"):
        plan(ANY, EXAMPLE, 4_000_000 * PIXELS)


def test_a_batch_gets_the_profile_made_for_it_and_goes_in_pieces_where_it_must() -> None:
    single, several = profiles = plan(ANY, EXAMPLE, 1024 * PIXELS)
    assert fitting(profiles, (1, 3, 64, 64)) == (0, 1)
    assert fitting(profiles, (2, 3, 64, 64)) == (1, 2)
    assert fitting(profiles, (20, 3, 64, 64)) == (1, 8)
    large = (single.most[2], several.most[2])
    assert large[0] > large[1]
    assert fitting(profiles, (5, 3, *large)) == (0, 1), "too large for several at once"


def test_tiles_that_none_takes_are_refused_by_their_size() -> None:
    with pytest.raises(RuntimeError, match="tiles of 100x2048 are larger"):
        fitting(plan(ANY, EXAMPLE, 1024 * PIXELS), (1, 3, 2048, 100))
