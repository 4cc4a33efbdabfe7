"""Segments that are computed by themselves: together they are the film that is computed in one go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zoo
from films import Beside, Look, av, decoded, every, make_film, overwrite, packets

from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.video.alone import NotAloneError
from cudaspeed.video.options import VideoOptions
from cudaspeed.video.pipeline import FilmJob, plan_segments, upscale_film, upscale_segment
from cudaspeed.video.reader import FilmReader
from cudaspeed.video.stages import Engine

FP32 = UpscaleOptions(precision="fp32", compile=False)
VIDEO = VideoOptions(codec="ffv1", segment_seconds=1)


def engine() -> Engine:
    return Engine(zoo.compact(), FP32, StandaloneContext("cpu"))


def alone(source: Path, target: Path, folder: Path, by: Engine) -> list[int]:
    """Each segment in a folder of its own, then all in `folder`; their frames."""
    places, counted = plan_segments(FilmJob(source, target, VIDEO), by)
    folder.mkdir()
    for place in reversed(places):
        own = folder.parent / f"own{place.index}"
        own.mkdir()
        reader = FilmReader(source, counted=counted)
        upscale_segment(FilmJob(reader, target, VIDEO, parts=own), place, by)
        assert len([*own.iterdir()]) == 2
        for path in own.iterdir():
            path.replace(folder / path.name)
    return [place.frames for place in places]


def same(one: Path, other: Path) -> bool:
    first, second = ([(frame.pts, frame.to_ndarray()) for frame in decoded(path)] for path in (one, other))
    return len(first) == len(second) and all(
        a[0] == b[0] and np.array_equal(a[1], b[1]) for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize(
    "options", [{"g": "10"}, {"g": "50", "bf": "3", "x264-params": "open-gop=1"}, {"g": "300"}, {"g": "1"}]
)
def test_a_film_of_segments_made_alone_is_that_of_one_go(tmp_path: Path, options: dict[str, str]) -> None:
    source, by = tmp_path / "film.mkv", engine()
    make_film(source, every(40, 90), Look(options=options), Beside(("eng",), subtitles=True))
    whole, joined = tmp_path / "whole.mkv", tmp_path / "joined.mkv"
    upscale_film(FilmJob(source, whole, VIDEO), *by)
    assert sum(alone(source, joined, tmp_path / "parts", by)) == 90
    report = upscale_film(FilmJob(source, joined, VIDEO, parts=tmp_path / "parts"), *by)
    assert report.resumed == report.frames == 90
    assert not report.warnings
    assert same(whole, joined)
    assert packets(whole, 1) == packets(joined, 1)


def test_frames_at_odd_times_are_of_the_segment_that_they_stand_in(tmp_path: Path) -> None:
    times = [0, 10, 990, 1000, 1010, 2500, 5000, 5001, 5999]
    source, by = tmp_path / "film.mkv", engine()
    make_film(source, times)
    assert alone(source, tmp_path / "out.mkv", tmp_path / "parts", by) == [3, 2, 1, 3]
    report = upscale_film(FilmJob(source, tmp_path / "out.mkv", VIDEO, parts=tmp_path / "parts"), *by)
    assert report.resumed == report.frames == len(times)
    assert [round(frame.time * 1000) for frame in decoded(tmp_path / "out.mkv")] == times


def test_a_segment_that_lacks_is_made_where_they_are_joined(tmp_path: Path) -> None:
    source, by = tmp_path / "film.mkv", engine()
    make_film(source, every(40, 90))
    upscale_film(FilmJob(source, tmp_path / "whole.mkv", VIDEO), *by)
    alone(source, tmp_path / "out.mkv", tmp_path / "parts", by)
    (tmp_path / "parts" / "000001.mkv").unlink()
    report = upscale_film(FilmJob(source, tmp_path / "out.mkv", VIDEO, parts=tmp_path / "parts"), *by)
    assert (report.frames, report.resumed) == (90, 65)
    assert same(tmp_path / "whole.mkv", tmp_path / "out.mkv")


def test_a_film_that_is_short_has_alpha_or_is_to_be_deinterlaced_is_not_split(tmp_path: Path) -> None:
    short, clear = tmp_path / "short.mkv", tmp_path / "clear.webm"
    make_film(short, every(40, 20))
    assert not plan_segments(FilmJob(short, tmp_path / "out.mkv", VIDEO), engine())[0]
    make_film(clear, every(40, 90), Look(codec="libvpx-vp9", pixel_format="yuva420p"))
    assert not plan_segments(FilmJob(clear, tmp_path / "out.mkv", VIDEO), engine())[0]
    film = tmp_path / "film.mkv"
    make_film(film, every(40, 90))
    woven = VideoOptions(codec="ffv1", segment_seconds=1, deinterlace=True)
    assert not plan_segments(FilmJob(film, tmp_path / "out.mkv", woven), engine())[0]
    whole = VideoOptions(codec="ffv1")
    assert not plan_segments(FilmJob(film, tmp_path / "out.mkv", whole), engine())[0]


def test_a_segment_with_packets_that_cannot_be_decoded_is_none(tmp_path: Path) -> None:
    source, by = tmp_path / "film.mkv", engine()
    make_film(source, every(40, 90), Look(options={"g": "10"}))
    places, _ = plan_segments(FilmJob(source, tmp_path / "out.mkv", VIDEO), by)
    overwrite(source, 30, 8)
    own = tmp_path / "own"
    own.mkdir()
    with pytest.raises(NotAloneError):
        upscale_segment(FilmJob(source, tmp_path / "out.mkv", VIDEO, parts=own), places[1], by)
    assert not [*own.glob("*.json")]


def joined_of_those_that_count(source: Path, folder: Path) -> tuple[list[int], bool, int]:
    """Segments that cannot be made alone; whether the film of the others, and of what lacks, is that of one go; and how
    much of it was damaged."""
    by, whole, joined, parts = engine(), folder / "whole.mkv", folder / "joined.mkv", folder / "parts"
    truth = upscale_film(FilmJob(source, whole, VIDEO), *by)
    places, counted = plan_segments(FilmJob(source, joined, VIDEO), by)
    parts.mkdir()
    refused = []
    for place in places:
        own = folder / f"own{place.index}"
        own.mkdir()
        try:
            upscale_segment(FilmJob(FilmReader(source, counted=counted), joined, VIDEO, parts=own), place, by)
        except NotAloneError:
            refused.append(place.index)
        else:
            for path in own.iterdir():
                path.replace(parts / path.name)
    report = upscale_film(FilmJob(source, joined, VIDEO, parts=parts), *by)
    assert report.frames == truth.frames
    assert report.losses == truth.losses
    return refused, same(whole, joined), report.losses.damaged


def test_a_packet_without_a_picture_is_not_made_up_for_by_the_next_segments_frame(tmp_path: Path) -> None:
    """As DivX and Xvid drop frames: a VOP that is said not to be coded."""
    source = tmp_path / "film.mkv"
    make_film(source, every(40, 90), Look(codec="mpeg4", options={"g": "10"}, b_frames=0))
    with av.open(str(source)) as container:
        position, body = [(packet.pos, bytes(packet)) for packet in container.demux(video=0) if packet.size][33]
    data, begins = bytearray(source.read_bytes()), body.find(b"\0\0\1\xb6") + 4
    bits = "".join(f"{byte:08b}" for byte in body[begins : begins + 12])
    coded = bits.index("0", 2) + 1 + 1 + 10 + 1  # behind the type, the seconds, and the time with its two markers
    header = bits[:coded] + "00"  # not coded, and stuffing up to a whole byte
    header += "1" * (-len(header) % 8)
    vop = body[:begins] + bytes(int(header[at : at + 8], 2) for at in range(0, len(header), 8))
    at = data.find(body, position)
    data[at : at + len(body)] = vop.ljust(len(body), b"\0")
    source.write_bytes(data)
    assert joined_of_those_that_count(source, tmp_path) == ([1], True, 0)


def test_damage_before_a_segment_that_reaches_into_it_is_noticed(tmp_path: Path) -> None:
    """A key frame every twelve seconds, of which one is damaged: all that follows shows it."""
    source = tmp_path / "film.mkv"
    make_film(source, every(200, 90), Look(options={"g": "60", "keyint_min": "60", "sc_threshold": "0"}))
    with av.open(str(source)) as container:
        position, size = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size][60]
    data = bytearray(source.read_bytes())
    data[position + size // 2 : position + size - 4] = bytes(size - 4 - size // 2)
    source.write_bytes(data)
    assert joined_of_those_that_count(source, tmp_path) == ([*range(12, 18)], True, 1)


def test_times_that_run_back_are_not_split(tmp_path: Path) -> None:
    one, other, source = (tmp_path / f"{name}.ts" for name in ("one", "other", "film"))
    make_film(one, every(40, 90), Look(options={"g": "10"}, b_frames=0))
    make_film(other, [507 + time for time in every(40, 90)], Look(options={"g": "10"}, b_frames=0))
    source.write_bytes(one.read_bytes() + other.read_bytes())
    assert not plan_segments(FilmJob(source, tmp_path / "out.mkv", VIDEO), engine())[0]
