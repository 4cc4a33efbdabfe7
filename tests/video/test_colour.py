"""Colours are what the film says, and stay what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from films import FULL, LIMITED, REC601, REC709, REC2020, av, picture, plane

from cudaspeed.video.colour import HLG, PQ, UNSPECIFIED, Colour, FromPixels, ToPixels, colour_of

RED = np.zeros((16, 16, 3), np.float32) + np.array([1, 0, 0], np.float32)


def values(frame: Any) -> list[int]:
    """Those of the middle of each plane."""
    planes = [plane(frame, number) for number in range(len(frame.planes))]
    return [int(one[len(one) // 2, one.shape[1] // 2]) for one in planes]


def frame_of(pixel_format: str, numbers: tuple[int, ...], size: tuple[int, int] = (16, 16)) -> Any:
    frame = av.VideoFrame(size[1], size[0], pixel_format)
    for number, value in zip(range(len(frame.planes)), numbers, strict=True):
        kind = np.uint16 if frame.format.components[number].bits > 8 else np.uint8
        frame.planes[number].update(np.full(frame.planes[number].buffer_size // kind().itemsize, value, kind).tobytes())
    frame.colorspace = frame.color_primaries = frame.color_trc = UNSPECIFIED
    frame.color_range = 0
    return frame


@pytest.mark.parametrize(
    ("matrix", "levels", "numbers"),
    [
        (REC709, LIMITED, [63, 102, 240]),
        (REC601, LIMITED, [81, 90, 240]),
        (5, LIMITED, [81, 90, 240]),
        (REC2020, LIMITED, [74, 97, 240]),
        (REC709, FULL, [54, 98, 255]),
        (REC601, FULL, [76, 84, 255]),
    ],
)
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p"])
def test_red_is_written_by_the_films_matrix_and_read_again(
    matrix: int, levels: int, numbers: list[int], pixel_format: str
) -> None:
    frame = FromPixels(pixel_format, Colour(matrix, levels, 1, 1))(RED)
    assert np.abs(np.subtract(values(frame), numbers)).max() <= 1
    assert matrix not in (REC709, REC601) or levels != LIMITED or values(frame) == numbers
    assert (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc) == (matrix, levels, 1, 1)
    assert np.abs(ToPixels(alpha=False)(frame)[8, 8].astype(int) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize(
    ("height", "expected", "numbers"), [(576, REC601, (81, 90, 240)), (720, REC709, (63, 102, 240))]
)
def test_a_film_that_does_not_say_is_read_by_its_size(
    height: int, expected: int, numbers: tuple[int, int, int]
) -> None:
    frame = frame_of("yuv420p", numbers, (height, 32))
    assert colour_of(frame) == Colour(expected, LIMITED, UNSPECIFIED, UNSPECIFIED)
    assert np.abs(ToPixels(alpha=False)(frame)[8, 8].astype(int) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize(("tag", "numbers"), [(REC709, (63, 102, 240)), (REC2020, (74, 97, 240))])
def test_a_tag_counts_more_than_the_size(tag: int, numbers: tuple[int, int, int]) -> None:
    frame = frame_of("yuv420p", numbers, (48, 64))
    frame.colorspace = tag
    assert colour_of(frame).matrix == tag
    assert np.abs(ToPixels(alpha=False)(frame)[8, 8].astype(int) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize(
    ("pixel_format", "levels"),
    [("yuv420p", LIMITED), ("yuvj420p", FULL), ("gray", FULL), ("yuv422p10le", LIMITED), ("nv12", LIMITED)],
)
def test_a_range_that_is_not_told_is_the_formats_usual_one(pixel_format: str, levels: int) -> None:
    frame = av.VideoFrame(16, 16, pixel_format)
    assert colour_of(frame).levels == levels


def ramp_frame(pixel_format: str, matrix: int, levels: int, bits: int) -> Any:
    """All values that the range has, from left to right, of no colour."""
    grey = 1 << (bits - 1)
    frame = frame_of(pixel_format, (0, grey, grey), (4, 1024))
    low, high = (16 << (bits - 8), 235 << (bits - 8)) if levels == LIMITED else (0, (1 << bits) - 1)
    lines = np.zeros((4, frame.planes[0].line_size // 2), np.uint16)
    lines[:, :1024] = np.linspace(low, high, 1024).round()
    frame.planes[0].update(lines.tobytes())
    frame.colorspace, frame.color_range = matrix, levels
    return frame


@pytest.mark.parametrize(
    ("pixel_format", "bits"), [("yuv420p10le", 10), ("yuv422p10le", 10), ("yuv444p10le", 10), ("yuv420p12le", 12)]
)
@pytest.mark.parametrize("matrix", [REC601, REC709, REC2020])
@pytest.mark.parametrize("levels", [LIMITED, FULL])
def test_a_deep_ramp_comes_back_as_it_was(pixel_format: str, bits: int, matrix: int, levels: int) -> None:
    frame = ramp_frame(pixel_format, matrix, levels, bits)
    pixels = ToPixels(alpha=False)(frame)
    assert pixels.dtype == np.float32
    assert np.abs(pixels[0] - np.linspace(0, 1, 1024)[:, None]).max() < 0.7 / (1 << min(bits, 10))
    again = FromPixels(pixel_format, colour_of(frame))(pixels.clip(0, 1))
    for number in range(3):
        assert np.array_equal(plane(again, number), plane(frame, number)), number


@pytest.mark.parametrize("levels", [LIMITED, FULL])
@pytest.mark.parametrize(("pixel_format", "bits"), [("yuv420p", 8), ("yuv420p10le", 10), ("yuv444p12le", 12)])
def test_white_is_white_however_many_bits_it_has(pixel_format: str, bits: int, levels: int) -> None:
    """So that a film may become one of more bits, or fewer, and is as bright as it was."""
    frame = FromPixels(pixel_format, Colour(REC709, levels))(np.ones((16, 16, 3), np.float32))
    white, grey = (235 << (bits - 8) if levels == LIMITED else (1 << bits) - 1), 1 << (bits - 1)
    assert values(frame) == [white, grey, grey]
    seen = ToPixels(alpha=False)(frame)
    assert np.abs(seen / (255 if seen.dtype == np.uint8 else 1) - 1).max() < 1e-4


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p"])
def test_an_8_bit_picture_that_is_read_and_written_again_stays_the_same(pixel_format: str) -> None:
    y, x = np.mgrid[:96, :128]
    smooth = np.stack([(np.sin(x / 30 + k) * np.cos(y / 20 + k) + 1) / 2.4 + 0.05 for k in range(3)], -1)
    first = FromPixels(pixel_format, Colour(REC709, LIMITED))(smooth.astype(np.float32))
    second = FromPixels(pixel_format, Colour(REC709, LIMITED))(ToPixels(alpha=False)(first).astype(np.float32) / 255)
    for number in range(3):
        off = np.abs(plane(first, number).astype(int) - plane(second, number))
        assert off.max() <= 1 and off.mean() < 0.05


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_pq_and_hlg_keep_their_transfer(transfer: int) -> None:
    frame = frame_of("yuv420p10le", (700, 500, 520))
    frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range = 9, 9, transfer, LIMITED
    colour = colour_of(frame)
    assert colour.is_hdr
    again = FromPixels("yuv420p10le", colour)(ToPixels(alpha=False)(frame))
    assert values(again) == [700, 500, 520] and again.color_trc == transfer


@pytest.mark.parametrize("pixel_format", ["yuva420p", "yuva444p10le", "bgra"])
def test_alpha_goes_along(pixel_format: str) -> None:
    pixels = np.dstack([RED, np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)])
    frame = FromPixels(pixel_format, Colour(REC709, LIMITED))(pixels)
    seen = ToPixels(alpha=True)(frame)
    seen = seen.astype(np.float32) / 255 if seen.dtype == np.uint8 else seen
    assert np.abs(seen - pixels).max() < 0.02


@pytest.mark.parametrize("pixel_format", ["gbrp", "rgb24", "bgr0", "rgb48le"])
def test_rgb_films_are_read_as_they_are(pixel_format: str) -> None:
    frame = av.VideoFrame.from_ndarray(picture(0), "rgb24").reformat(format=pixel_format)
    frame.color_range = 0
    seen = ToPixels(alpha=False)(frame)
    seen = (seen * 255).round() if seen.dtype != np.uint8 else seen
    assert np.abs(seen.astype(int) - picture(0)).max() <= 1


@pytest.mark.parametrize("matrix", [8, 14])
def test_a_matrix_that_nobody_converts_does_no_harm(matrix: int) -> None:
    """YCgCo, ICtCp: the model sees other colours, but what is written is what was read."""
    frame = frame_of("yuv444p10le", (500, 480, 540))
    frame.colorspace, frame.color_range = matrix, LIMITED
    colour = colour_of(frame)
    assert not colour.is_known and colour.matrix == matrix
    again = FromPixels("yuv444p10le", colour)(ToPixels(alpha=False)(frame))
    assert values(again) == [500, 480, 540] and again.colorspace == matrix
