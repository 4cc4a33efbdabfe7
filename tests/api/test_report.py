"""What a report says in words."""

from __future__ import annotations

import pytest

from cudaspeed.api.report import ImageHealth, Repair, UpscaleReport, frames_text


def report(health: ImageHealth, *notes: str) -> UpscaleReport:
    return UpscaleReport(
        model="toy",
        scale=2,
        frames=200,
        input_size=(8, 8),
        output_size=(16, 16),
        precision="fp32",
        autocast=False,
        kernels="plain",
        tile=(8, 8),
        overlap=(0, 0),
        tiles=200,
        batch=1,
        compiled=False,
        compiling="off",
        seconds=1.0,
        peak_bytes=0,
        health=health,
        notes=notes,
    )


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([0], "frame 0"),
        ([7, 6], "frames 6-7"),
        ([1, 3], "frames 1 and 3"),
        ([*range(100), 140, *range(160, 164)], "frames 0-99, 140 and 160-163"),
        ({5, 4, 9, 0, 2}, "frames 0, 2, 4-5 and 9"),
        (range(0, 200, 2), "frames 0, 2, 4, 6 and 96 more"),
        ([*range(0, 8, 2), *range(20, 30)], "frames 0, 2, 4, 6 and 10 more"),
        (range(100_000), "frames 0-99999"),
    ],
)
def test_frames_are_told_in_runs_and_only_the_first(frames: list[int], words: str) -> None:
    assert frames_text(frames) == words


def test_a_healthy_picture_has_no_warnings() -> None:
    assert report(ImageHealth()).warnings == ()


def test_notes_come_first_then_a_sentence_for_each_thing_that_was_wrong() -> None:
    health = ImageHealth(
        repairs=(Repair(3, (0, 1), "NaN", "fp16", "fp32"),),
        non_finite=12,
        wild=3,
        broken_frames=(0, *range(10, 200)),
        corrected_frames=(0,),
    )
    warnings = report(health, "fp16 was asked for, bf16 is used").warnings
    assert warnings[0] == "fp16 was asked for, bf16 is used"
    assert warnings[1].startswith("1 tile(s) had NaN in fp16 and were computed again in fp32 (the first in frame 3,")
    assert warnings[2].startswith("12 values of the output were NaN or infinite")
    assert warnings[3].startswith("3 values of the output were far from any other")
    assert warnings[4] == "the output's range was broken and was corrected by quantiles in frame 0"
    assert warnings[5].startswith("the output of frames 10-199 is far out of range")
    assert len(warnings) == 6
