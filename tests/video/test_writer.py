"""Films are written with all that was in their files, and what a container or an encoder does not take is told before
the first frame."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from films import (
    FULL,
    LIMITED,
    MASTERING,
    REC601,
    REC709,
    REC2020,
    SRT,
    Beside,
    Look,
    av,
    decoded,
    every,
    make_film,
    packets,
    picture,
    plane,
)

from cudaspeed.api.errors import BadOptionError
from cudaspeed.video.colour import ToPixels
from cudaspeed.video.copies import plan_copies
from cudaspeed.video.encoders import CONTAINERS, ENCODERS
from cudaspeed.video.facts import Frame
from cudaspeed.video.formats import FilmFormat, encoders_here, plan_format
from cudaspeed.video.options import VideoOptions
from cudaspeed.video.reader import FilmReader
from cudaspeed.video.side_data import brightness_of
from cudaspeed.video.writer import FilmWriter

QUICK = VideoOptions(crf=30)
ALL = Beside(("eng", "deu"), subtitles=True, chapters=True, font=True, tags={"title": "A film"})
each_container = pytest.mark.parametrize("ending", [*CONTAINERS])


def rewrite(
    source: Path, target: Path, options: VideoOptions = QUICK, scale: int = 2
) -> tuple[FilmFormat, tuple[str, ...]]:
    """Every pixel of every frame becomes `scale` x `scale` of them; return how it was written, and all that is told."""
    with FilmReader(source) as reader, target.open("wb") as file:
        height, width = reader.facts.size
        size = height * scale, width * scale
        planned = plan_format(reader.facts, reader.first.picture, size, target.suffix, options)
        copies = plan_copies(reader.others, target.suffix)
        to_pixels = ToPixels(planned.has_alpha)
        with FilmWriter(file, reader, planned, copies) as writer:
            for item in reader.items():
                if isinstance(item, Frame):
                    pixels = to_pixels(item.picture)
                    values = pixels.astype(np.float32) / 255 if pixels.dtype == np.uint8 else pixels.clip(0, 1)
                    writer.write(values.repeat(scale, 0).repeat(scale, 1), item.pts, item.duration)
                else:
                    writer.copy(item)
            writer.finish()
    return planned, (*planned.notes, *copies.notes)


def streams(path: Path) -> list[tuple[str, str, str]]:
    """(type, codec, language) of each."""
    with av.open(str(path)) as container:
        return [
            (s.type, s.codec_context.name if s.codec_context else "", s.metadata.get("language", ""))
            for s in container.streams
        ]


def test_matroska_keeps_everything(tmp_path: Path) -> None:
    source, target = tmp_path / "film.mkv", tmp_path / "out.mkv"
    make_film(source, every(40, 30), beside=ALL)
    _, told = rewrite(source, target)
    assert told == ()
    assert streams(target) == streams(source)
    for stream in (1, 2, 3):
        assert packets(target, stream) == packets(source, stream)
    with av.open(str(source)) as before, av.open(str(target)) as after:
        assert after.metadata["title"] == "A film"
        for old, new in zip(before.chapters(), after.chapters(), strict=True):
            assert (old["start"], old["end"], old["metadata"]) == (new["start"], new["end"], new["metadata"])
        assert [stream.disposition for stream in before.streams] == [stream.disposition for stream in after.streams]
        font = after.streams[4]
        assert (font.data, font.metadata["filename"], font.mimetype) == (b"not quite a font", "serif.ttf", "font/ttf")


@pytest.mark.parametrize(("ending", "german"), [(".mp4", "deu"), (".mov", "ger")])
def test_subtitles_become_the_text_that_a_container_takes_and_what_it_refuses_is_named(
    tmp_path: Path, ending: str, german: str
) -> None:
    source, target = tmp_path / "film.mkv", tmp_path / f"out{ending}"
    make_film(source, every(40, 30), beside=ALL)
    _, told = rewrite(source, target)
    assert streams(target)[1:4] == [
        ("audio", "aac", "eng"),
        ("audio", "aac", german),
        ("subtitle", "mov_text", "eng"),
    ]
    said = [(time, data[2:].decode()) for time, data in packets(target, 3) if len(data) > 2]
    assert said == [(0.0, SRT[0]), (0.2, SRT[1])]
    with av.open(str(target)) as container:
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["Dawn", "Dusk"]
    assert len(told) == 2
    assert "srt" in told[0] and "mov_text" in told[0] and "serif.ttf" in told[1] and "mkv keeps it" in told[1]
    assert [data for _, data in packets(target, 1)] == [data for _, data in packets(source, 1)]


def test_webm_takes_vp9_and_webvtt_and_leaves_out_the_rest(tmp_path: Path) -> None:
    make_film(tmp_path / "film.mkv", every(40, 10), beside=ALL)
    planned, told = rewrite(tmp_path / "film.mkv", tmp_path / "out.webm")
    assert planned.encoder.name == "libvpx-vp9"
    assert [kind for kind, *_ in streams(tmp_path / "out.webm")] == ["video", "subtitle"]
    assert [line.encode() for line in SRT] == [data for _, data in packets(tmp_path / "out.webm", 1)]
    assert len(told) == 4 and sum("left out" in line for line in told) == 3


def test_text_comes_back_from_mp4_and_its_chapters_do_not_double(tmp_path: Path) -> None:
    make_film(tmp_path / "film.mkv", every(40, 10), beside=ALL)
    rewrite(tmp_path / "film.mkv", tmp_path / "once.mp4", scale=1)
    _, told = rewrite(tmp_path / "once.mp4", tmp_path / "twice.mp4", scale=1)
    assert told == () and len(streams(tmp_path / "twice.mp4")) == len(streams(tmp_path / "once.mp4"))
    _, told = rewrite(tmp_path / "once.mp4", tmp_path / "back.mkv", scale=1)
    assert len(told) == 1 and "subrip" in told[0]
    assert [data for _, data in packets(tmp_path / "back.mkv", 3)] == [line.encode() for line in SRT]


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_a_cover_stays_a_cover(tmp_path: Path, ending: str) -> None:
    make_film(tmp_path / "film.mp4", every(40, 5), beside=Beside(("eng",), cover=True))
    for source, target in (("film.mp4", f"once{ending}"), (f"once{ending}", f"twice{ending}")):
        rewrite(tmp_path / source, tmp_path / target)
        with av.open(str(tmp_path / target)) as container:
            film, cover = container.streams.video
            assert cover.disposition == av.stream.Disposition.attached_pic
            assert (film.width, cover.width) == (128 if target.startswith("once") else 256, 32)
    _, told = rewrite(tmp_path / "film.mp4", tmp_path / "out.mov")
    assert any("cover" in line and "left out" in line for line in told)


@each_container
@pytest.mark.parametrize("times", [every(40, 20), [0, 40, 80, 300, 310, 320, 900, 940, 941, 980]])
def test_frames_stand_where_they_stood(tmp_path: Path, ending: str, times: list[int]) -> None:
    make_film(tmp_path / "film.mkv", times)
    planned, _ = rewrite(tmp_path / "film.mkv", tmp_path / f"out{ending}")
    frames = decoded(tmp_path / f"out{ending}")
    assert [round(frame.time * 1000) for frame in frames] == times
    pictures = [frame.to_ndarray(format="rgb24", src_colorspace=5, src_color_range=LIMITED) for frame in frames]
    for number, seen in enumerate(pictures):
        near = [np.abs(seen[::2, ::2].astype(int) - picture(other)).mean() for other in range(len(times))]
        assert int(np.argmin(near)) == number
    variable_in_mp4 = times[1] - times[0] != times[-1] - times[-2] or 941 in times
    assert planned.reorders == (ending == ".mkv" or (ending in (".mp4", ".mov") and not variable_in_mp4))


@pytest.mark.parametrize("matrix", [REC601, REC709, REC2020])
@pytest.mark.parametrize("levels", [LIMITED, FULL])
def test_colours_are_tagged_and_stay_what_they_are(tmp_path: Path, matrix: int, levels: int) -> None:
    source, target = tmp_path / "film.mkv", tmp_path / "out.mp4"
    make_film(source, every(40, 3), Look(colour=(matrix, levels, 1, 1), options={"crf": "1"}))
    rewrite(source, target, VideoOptions(crf=1))
    before, after = decoded(source)[1], decoded(target)[1]
    assert (after.colorspace, after.color_range, after.color_primaries, after.color_trc) == (matrix, levels, 1, 1)
    small = after.reformat(64, 48, format=before.format.name, interpolation="AREA")
    for number in range(3):
        assert np.abs(plane(before, number).astype(int) - plane(small, number)).mean() < 2.5


def test_a_film_that_does_not_say_its_colours_says_them_afterwards(tmp_path: Path) -> None:
    """Or players would take it for BT.709 by its new size."""
    make_film(tmp_path / "film.mkv", every(40, 3))
    rewrite(tmp_path / "film.mkv", tmp_path / "out.mkv")
    frame = decoded(tmp_path / "out.mkv")[0]
    assert (frame.colorspace, frame.color_range) == (REC601, LIMITED)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1"])
def test_hdr_10_comes_back(tmp_path: Path, codec: str) -> None:
    parameters = f"log-level=none:master-display={MASTERING}:max-cll=1000,400"
    look = Look("libx265", "yuv420p10le", (96, 128), (9, LIMITED, 9, 16), {"x265-params": parameters})
    make_film(tmp_path / "film.mkv", every(40, 5), look)
    _, told = rewrite(tmp_path / "film.mkv", tmp_path / "out.mkv", VideoOptions(codec, crf=30), scale=1)
    assert told == ()
    before, after = decoded(tmp_path / "film.mkv")[0], decoded(tmp_path / "out.mkv")[0]
    assert after.format.name == "yuv420p10le"
    assert (after.colorspace, after.color_primaries, after.color_trc) == (9, 9, 16)
    old, new = brightness_of(before), brightness_of(after)
    assert new.light == old.light == (1000, 400)
    assert old.mastering and new.mastering and old.mastering.primaries and new.mastering.primaries
    assert old.mastering.luminance and new.mastering.luminance
    pairs = [*zip(old.mastering.primaries, new.mastering.primaries, strict=True)]
    for mine, its in [*pairs, (old.mastering.luminance, new.mastering.luminance)]:
        assert [float(value) for value in its] == pytest.approx([float(value) for value in mine], rel=1e-3, abs=1e-3)


def test_an_encoder_that_does_not_write_hdr_10_says_so(tmp_path: Path) -> None:
    look = Look("libx265", "yuv420p10le", colour=(9, 1, 9, 16), options={"x265-params": "log-level=none:max-cll=9,4"})
    make_film(tmp_path / "film.mkv", every(40, 3), look)
    _, told = rewrite(tmp_path / "film.mkv", tmp_path / "out.mkv", VideoOptions("ffv1"))
    assert len(told) == 1 and "HDR10" in told[0] and "libx265" in told[0]


@pytest.mark.parametrize(
    ("name", "ending"),
    [(name, ending) for name, encoder in ENCODERS.items() if "nvenc" not in name for ending in encoder.containers],
)
def test_every_encoder_goes_into_its_containers_and_a_films_turn_and_shape_are_kept_or_told(
    tmp_path: Path, name: str, ending: str
) -> None:
    make_film(tmp_path / "film.mp4", every(40, 3), Look(rotation=90, pixel_aspect=Fraction(16, 15)))
    _, told = rewrite(tmp_path / "film.mp4", tmp_path / f"out{ending}", VideoOptions(name))
    with FilmReader(tmp_path / f"out{ending}") as reader:
        assert (reader.facts.rotation, reader.facts.size) == (90, (96, 128))
        kept = reader.facts.pixel_aspect == Fraction(16, 15)
        assert kept != any("square" in line for line in told)
        assert sum(isinstance(item, Frame) for item in reader.items()) == 3


@pytest.mark.parametrize(
    ("codec", "ending", "pixel_format"),
    [("auto", ".webm", "yuva420p"), ("prores_ks", ".mov", "yuva444p10le"), ("ffv1", ".mkv", "yuva420p")],
)
def test_alpha_is_kept(tmp_path: Path, codec: str, ending: str, pixel_format: str) -> None:
    look = Look("libvpx-vp9", "yuva420p", tags={"alpha_mode": "1"}, options={"cpu-used": "8", "crf": "10", "b": "0"})
    make_film(tmp_path / "film.webm", every(40, 4), look)
    bits = VideoOptions(codec)
    planned, told = rewrite(tmp_path / "film.webm", tmp_path / f"out{ending}", bits)
    assert planned.pixel_format == pixel_format and told == ()
    with FilmReader(tmp_path / f"out{ending}") as reader:
        alpha = ToPixels(alpha=True)(reader.first.picture)[..., 3]
        alpha = alpha / (255 if alpha.dtype == np.uint8 else 1)
    assert alpha[48, 64] > 0.97 and alpha[0, 0] < 0.03


def test_an_encoder_without_alpha_says_who_has_some(tmp_path: Path) -> None:
    look = Look("libvpx-vp9", "yuva420p", tags={"alpha_mode": "1"}, options={"cpu-used": "8"})
    make_film(tmp_path / "film.webm", every(40, 2), look)
    _, told = rewrite(tmp_path / "film.webm", tmp_path / "out.mkv")
    assert len(told) == 1 and "transparency" in told[0] and "ffv1" in told[0]
    assert "ALPHA_MODE" not in streams(tmp_path / "out.mkv")


@pytest.mark.parametrize(
    ("codec", "stored"),
    [
        ("libx264", (46, 64)),
        ("libx265", (46, 64)),
        ("libsvtav1", (45, 63)),
        ("libvpx-vp9", (45, 63)),
        ("ffv1", (45, 63)),
    ],
)
def test_odd_sizes(tmp_path: Path, codec: str, stored: tuple[int, int]) -> None:
    look = Look("ffv1", size=(45, 63))
    make_film(tmp_path / "film.mkv", every(40, 3), look)
    crf = None if codec == "ffv1" else 5
    planned, told = rewrite(tmp_path / "film.mkv", tmp_path / "out.mkv", VideoOptions(codec, crf), scale=1)
    frame = decoded(tmp_path / "out.mkv")[1]
    assert (frame.height, frame.width) == planned.stored == stored
    assert len(told) == (2 if stored != (45, 63) else 0) and all("one more" in line for line in told)
    seen = frame.to_ndarray(format="rgb24", src_colorspace=5, src_color_range=LIMITED).astype(int)
    assert np.abs(seen[-1] - seen[44]).max() < 24 and np.abs(seen[:45, :63] - picture(1, (45, 63))).mean() < 14


@pytest.mark.parametrize(("bits", "pixel_format"), [(0, "yuv420p"), (8, "yuv420p"), (10, "yuv420p10le")])
def test_bits_are_the_films_or_those_asked_for(tmp_path: Path, bits: int, pixel_format: str) -> None:
    make_film(tmp_path / "film.mkv", every(40, 2))
    rewrite(tmp_path / "film.mkv", tmp_path / "out.mkv", VideoOptions(bits=bits))
    assert decoded(tmp_path / "out.mkv")[0].format.name == pixel_format


@pytest.mark.parametrize(
    ("options", "ending", "size", "told"),
    [
        (VideoOptions("libx264"), ".webm", (96, 128), r"libx264 does not go into \.webm.*libvpx-vp9"),
        (VideoOptions("ffv1"), ".mp4", (96, 128), r"ffv1 does not go into \.mp4.*libx264"),
        (VideoOptions(crf=60), ".mkv", (96, 128), r"crf is 60; libx264 takes 0.*51"),
        (VideoOptions("prores_ks", bits=8), ".mov", (96, 128), r"bits is 8; prores_ks writes 10"),
        (VideoOptions(), ".mkv", (64, 16386), r"16386x64; libx264 writes sides of 2 to 16384"),
        (VideoOptions("libsvtav1"), ".mkv", (2, 2), r"2x2; libsvtav1 writes sides of 4"),
        (VideoOptions("libx265"), ".mkv", (8, 8), r"8x8; libx265 writes sides of 16"),
        (VideoOptions("libx265"), ".mp4", (64, 65600), r"to 65535"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_first_frame(
    tmp_path: Path, options: VideoOptions, ending: str, size: tuple[int, int], told: str
) -> None:
    make_film(tmp_path / "film.mkv", every(40, 2))
    with FilmReader(tmp_path / "film.mkv") as reader, pytest.raises(BadOptionError, match=told):
        plan_format(reader.facts, reader.first.picture, size, ending, options)


def test_an_encoder_that_does_not_open_here_is_refused_with_those_that_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Driverless:
        def __init__(self, context: Any) -> None:
            self.__dict__["context"] = context

        def __setattr__(self, name: str, value: Any) -> None:
            setattr(self.context, name, value)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.context, name)

        def open(self) -> None:
            raise av.error.PermissionError(1, "Operation not permitted")

    create = av.CodecContext.create

    class Contexts:
        @staticmethod
        def create(name: str, mode: str) -> Any:
            context = create("libx264" if name.endswith("nvenc") else name, mode)
            return Driverless(context) if name.endswith("nvenc") else context

    make_film(tmp_path / "film.mkv", every(40, 2))
    monkeypatch.setattr(av, "CodecContext", Contexts)
    with FilmReader(tmp_path / "film.mkv") as reader, pytest.raises(BadOptionError) as raised:
        plan_format(reader.facts, reader.first.picture, (480, 640), ".mkv", VideoOptions("h264_nvenc"))
    assert "h264_nvenc does not open here" in str(raised.value) and "not permitted" in str(raised.value)
    assert "libx264" in str(raised.value) and "hevc_nvenc" not in str(raised.value).split("here open")[1]
    assert "libx264" in encoders_here()


@pytest.mark.parametrize("codec", ["vp8", "libx264"])
def test_options_that_make_no_sense(codec: str) -> None:
    with pytest.raises(BadOptionError):
        VideoOptions(codec, crf=-1)
    with pytest.raises(BadOptionError):
        VideoOptions(bits=9)
    with pytest.raises(BadOptionError):
        VideoOptions("ffv1", crf=4)


def test_trials_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_film(tmp_path / "film.mkv", every(40, 3), beside=ALL)
    monkeypatch.chdir(tmp_path)
    with FilmReader(tmp_path / "film.mkv") as reader:
        for ending in CONTAINERS:
            plan_copies(reader.others, ending)
    assert [path.name for path in tmp_path.iterdir()] == ["film.mkv"]
