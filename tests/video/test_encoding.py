"""Frames become packets with the times at which they are shown, however few there are."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from films import av, picture

from cudaspeed.video.encoders import ENCODERS
from cudaspeed.video.encoding import Encoding

MILLISECONDS = Fraction(1, 1000)
_FILLED_WITH = -6  # M_PERTURB of glibc's malloc.h


@pytest.fixture
def memory_that_is_not_zero() -> Iterator[None]:
    """What the C library hands out holds no zeros, as in a process that has run for long."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        pytest.skip("this C library does not fill what it hands out")
    mallopt(_FILLED_WITH, 0xFE)  # a number like 0x0101010101010101, where eight such bytes are read
    yield
    mallopt(_FILLED_WITH, 0)


@pytest.mark.usefixtures("memory_that_is_not_zero")
@pytest.mark.parametrize("frames", [1, 2, 3])
@pytest.mark.parametrize("name", [name for name in ENCODERS if "nvenc" not in name])
def test_few_frames_have_their_times(tmp_path: Path, name: str, frames: int) -> None:
    times = [1000 + 40 * number for number in range(frames)]
    with av.open(str(tmp_path / "film.mkv"), "w") as container:
        stream: Any = container.add_stream(name, rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, ENCODERS[name].formats[0]
        stream.codec_context.time_base = MILLISECONDS
        encoding = Encoding(stream)
        packets = []
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = time, MILLISECONDS
            packets += encoding.packets_of(frame)
        packets += encoding.rest()
        told = [(packet.dts, packet.pts) for packet in packets]
        container.mux(packets)
    assert sorted(shown for _, shown in told) == times
    assert all(shown - 200 <= decoded <= shown for decoded, shown in told)
    assert [decoded for decoded, _ in told] == sorted({decoded for decoded, _ in told})
    with av.open(str(tmp_path / "film.mkv")) as container:
        assert [frame.pts * frame.time_base for frame in container.decode(video=0)] == [
            Fraction(time, 1000) for time in times
        ]
