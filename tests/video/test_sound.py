"""Sound out of films and into packets."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from films import Beside, every, make_film, overwrite

from cudaspeed.video.sound import Sound, encode_sound, read_sound

RATE = 44100


def tone() -> Sound:
    return Sound(torch.sin(torch.arange(RATE * 2) / 20)[None, None] * 0.5, RATE)


@pytest.mark.parametrize(("start", "end"), [("0", None), ("0.5", "0.75"), ("1.2", None), ("0.001", "1.999")])
def test_a_part_is_exact_to_the_sample(start: str, end: str | None) -> None:
    since, until = Fraction(start), None if end is None else Fraction(end)
    found = read_sound(encode_sound(tone(), "flac"), since, until)
    assert found is not None
    wanted = tone().part(since, until).samples
    assert found.rate == RATE
    assert found.samples.shape == wanted.shape
    assert (found.samples - wanted).abs().max() < 1e-4


def test_a_codec_that_loses_something_keeps_the_time() -> None:
    found = read_sound(encode_sound(tone(), "aac"), Fraction(1, 2), Fraction(3, 2))
    assert found is not None
    assert (found.samples - tone().part(Fraction(1, 2), Fraction(3, 2)).samples).abs().mean() < 0.02


def test_silence_stands_where_sound_begins_late(tmp_path: Path) -> None:
    found = read_sound(encode_sound(tone(), "flac"), Fraction(-1, 10), Fraction(1, 10))
    assert found is not None
    assert not found.samples[..., :4410].any()
    assert torch.allclose(found.samples[..., 4410:], tone().samples[..., :4410], atol=1e-4)


def test_a_film_without_sound_has_none_and_damage_is_left_out(tmp_path: Path) -> None:
    make_film(tmp_path / "silent.mp4", every(40, 5))
    assert read_sound(tmp_path / "silent.mp4", Fraction(0), None) is None
    make_film(tmp_path / "film.mkv", every(40, 25), beside=Beside(sounds=("eng", "fra")))
    overwrite(tmp_path / "film.mkv", 3, 4)
    assert read_sound(tmp_path / "film.mkv", Fraction(0), None) is not None
