"""Frames in memory as a film."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from films import av

from cudaspeed.api.errors import BadFilmError
from cudaspeed.video.clip import Clip, ClipReader
from cudaspeed.video.colour import ToPixels, colour_of
from cudaspeed.video.reader import Frame
from cudaspeed.video.sound import Sound
from cudaspeed.video.window import WHOLE, Window

RATE = Fraction(24000, 1001)


def clip(channels: int = 3, **more: Any) -> Clip:
    return Clip(torch.rand(8, 10, 14, channels, generator=torch.Generator().manual_seed(0)), RATE, **more)


def frames(given: Clip, window: Window = WHOLE) -> tuple[list[Any], list[Fraction], ClipReader]:
    """Pixels, and times in seconds."""
    with ClipReader(given, ".mp4", window) as reader:
        to_pixels = ToPixels(given.images.shape[-1] == 4)
        items = [item for item in reader.items() if isinstance(item, Frame)]
        return (
            [to_pixels(item.picture) for item in items],
            [item.pts * reader.facts.time_base for item in items],
            reader,
        )


@pytest.mark.parametrize("channels", [3, 4])
def test_every_bit_of_the_frames_reaches_the_model(channels: int) -> None:
    given = clip(channels)
    pixels, times, _ = frames(given)
    assert np.array_equal(np.stack(pixels), given.images.numpy())
    assert times == [k / RATE for k in range(8)]


def test_alpha_that_is_not_wanted_changes_nothing_else() -> None:
    given = clip(4)
    with ClipReader(given, ".mp4") as reader:
        assert np.array_equal(ToPixels(alpha=False)(next(iter(reader.items())).picture), given.images[0, ..., :3])  # type: ignore[union-attr]


@pytest.mark.parametrize(("bits", "form"), [(8, "yuv420p"), (10, "yuv420p10le")])
def test_it_is_to_be_written_as_its_maker_asked(bits: int, form: str) -> None:
    _, _, reader = frames(clip(bits=bits, colour="HDR"))
    colour = colour_of(reader.first.picture)
    assert reader.facts.pixel_format == form
    assert (colour.matrix, colour.levels, colour.primaries, colour.transfer) == (9, 1, 9, 18)
    assert not reader.facts.count.variable
    assert reader.facts.count.packets == 8


def test_a_part_has_the_frames_and_the_sound_of_its_time() -> None:
    ramp = torch.arange(24000, dtype=torch.float32)[None, None] / 24000
    given = clip(sound=Sound(ramp, 24000))
    start = 2 / RATE
    pixels, times, reader = frames(given, Window(start - Fraction(1, 100), Fraction(1, 10)))
    assert np.array_equal(np.stack(pixels), given.images[2:5].numpy())
    assert times[0] == 0
    assert reader.begins == start
    cut = given.part(Window(start, Fraction(1, 10))).sound
    assert cut is not None
    assert torch.equal(cut.samples, ramp[..., 2002 : 2002 + cut.samples.shape[-1]])


@pytest.mark.parametrize(("ending", "codec"), [(".mp4", "aac"), (".mkv", "flac"), (".webm", "opus")])
@pytest.mark.parametrize("channels", [1, 2, 6, 7])
def test_its_sound_is_encoded_for_the_container(ending: str, codec: str, channels: int) -> None:
    tone = torch.sin(torch.arange(22050) / 9)[None, None].repeat(1, channels, 1)
    with ClipReader(clip(sound=Sound(tone, 44100)), ending) as reader:
        (stream,) = reader.others
        assert stream.codec_context.name == codec
        found = [packet for packet in reader.items() if not isinstance(packet, Frame)]
        seconds = float(sum((packet.duration or 0) * packet.time_base for packet in found))
        assert abs(seconds - 0.5) < 0.06
        found.clear()


def test_no_frames_is_one_clear_error() -> None:
    with pytest.raises(BadFilmError, match=r"no frames in the part that begins at 9 s"):
        ClipReader(clip(), ".mp4", Window(Fraction(9)))
    assert av
