"""Times that increase, whatever a file says."""

from __future__ import annotations

from fractions import Fraction

import pytest

from cudaspeed.video.timeline import Timeline

MILLISECONDS = Fraction(1, 1000)


@pytest.mark.parametrize(
    ("said", "kept", "mended"),
    [
        ([0, 40, 95, 120], [0, 40, 95, 120], 0),
        ([-80, -40, 0], [-80, -40, 0], 0),
        ([None, None, None], [0, 40, 80], 3),
        ([100, None, 180], [100, 140, 180], 1),
        ([0, 40, 40, 80], [0, 40, 41, 80], 1),
        ([0, 80, 40, 120], [0, 80, 81, 120], 1),
        ([0, 40, None, 60, 120], [0, 40, 80, 81, 120], 2),
    ],
)
def test_times_that_are_missing_equal_or_backwards_are_mended(
    said: list[int | None], kept: list[int], mended: int
) -> None:
    timeline = Timeline(MILLISECONDS)
    assert [timeline.place(time, 40) for time in said] == kept
    assert timeline.mended == mended


def test_a_recording_that_begins_anew_goes_on_where_the_first_one_ended() -> None:
    """Its frames keep their distances: put a tick apart each, minutes would be over in a moment."""
    timeline = Timeline(MILLISECONDS)
    placed = [timeline.place(time, 40) for time in [0, 40, 5000, 5040, 0, 40, 100]]
    assert placed == [0, 40, 5000, 5040, 5080, 5120, 5180]
    assert timeline.mended == 1


def test_what_is_put_after_another_is_apart_in_milliseconds_too() -> None:
    """Matroska counts nothing shorter."""
    timeline = Timeline(Fraction(1, 90000))
    assert [timeline.place(time, 3600) for time in [0, 3600, 3600, 3600, 7200]] == [0, 3600, 3690, 3780, 7200]


def test_where_times_may_be_equal_they_stay_so() -> None:
    timeline = Timeline(MILLISECONDS, step=0)
    assert [timeline.place(time, 0) for time in [0, 1, 1, 2, 1]] == [0, 1, 1, 2, 2]
    assert timeline.mended == 1


def test_a_frame_without_a_duration_still_lasts() -> None:
    timeline = Timeline(MILLISECONDS)
    assert [timeline.place(None, 0) for _ in range(3)] == [0, 1, 2]
