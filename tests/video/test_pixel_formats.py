"""Of an encoder's pixel formats the one in which a film loses the least."""

from __future__ import annotations

import films  # skips where there is no PyAV
import pytest

from cudaspeed.api.errors import BadOptionError
from cudaspeed.video.encoders import ENCODERS
from cudaspeed.video.pixel_formats import format_for, multiples

assert films


@pytest.mark.parametrize(
    ("source", "encoder", "bits", "chosen"),
    [
        ("yuv420p", "libx264", 0, "yuv420p"),
        ("yuvj420p", "libx264", 0, "yuv420p"),
        ("nv12", "libx264", 0, "yuv420p"),
        ("p010le", "libx265", 0, "yuv420p10le"),
        ("yuv422p", "libx264", 0, "yuv422p"),
        ("yuv411p", "libx264", 0, "yuv422p"),
        ("yuv410p", "libx264", 0, "yuv420p"),
        ("yuv440p", "libx264", 0, "yuv444p"),
        ("gray", "libx264", 0, "yuv420p"),
        ("rgb24", "libx264", 0, "yuv444p"),
        ("pal8", "libx264", 0, "yuv444p"),
        ("rgb24", "ffv1", 0, "bgr0"),
        ("bgra", "ffv1", 0, "bgra"),
        ("gbrp12le", "ffv1", 0, "gbrp10le"),
        ("yuv420p12le", "libx265", 0, "yuv420p10le"),
        ("yuv420p", "libx265", 10, "yuv420p10le"),
        ("yuv420p10le", "libx264", 8, "yuv420p"),
        ("yuv444p10le", "libsvtav1", 0, "yuv420p10le"),
        ("yuva420p", "libvpx-vp9", 0, "yuva420p"),
        ("yuva420p", "libx264", 0, "yuv420p"),
        ("yuva444p10le", "prores_ks", 0, "yuva444p10le"),
        ("yuv420p", "prores_ks", 0, "yuv422p10le"),
        ("yuva420p", "ffv1", 0, "yuva420p"),
        ("yuv420p10le", "hevc_nvenc", 0, "p010le"),
        ("yuv444p", "hevc_nvenc", 0, "yuv444p"),
    ],
)
def test_it_is_near_to_the_source(source: str, encoder: str, bits: int, chosen: str) -> None:
    assert format_for(source, ENCODERS[encoder].formats, bits, encoder) == chosen


def test_bits_that_an_encoder_does_not_write_are_refused() -> None:
    with pytest.raises(BadOptionError, match=r"bits is 8; prores_ks writes 10"):
        format_for("yuv420p", ENCODERS["prores_ks"].formats, 8, "prores_ks")


def test_sides_that_chroma_asks_for() -> None:
    assert multiples("yuv420p") == (2, 2)
    assert multiples("yuv422p10le") == (1, 2)
    assert multiples("yuv444p") == multiples("gbrp") == (1, 1)
