"""Frames that are pictures in a folder become a film, or frames again, and a film becomes frames: all of them, in
order, with what their files hold; and none is ever half there."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clocks import new_sessions
from films import LIMITED, Beside, Look, decoded, every, make_film, picture
from numpy.typing import NDArray
from spandrel import ImageModelDescriptor

import cudaspeed
from cudaspeed.api.errors import BadFilmError, OutputError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.resize import Resize
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.images import files
from cudaspeed.images.codecs.metadata import Metadata
from cudaspeed.images.codecs.picture import Picture
from cudaspeed.images.files import read_image, write_image
from cudaspeed.upscale_engine import upscale
from cudaspeed.video.colour import ToPixels
from cudaspeed.video.options import VideoOptions
from cudaspeed.video.pipeline import FilmJob, upscale_film
from cudaspeed.video.report import FilmProgress, FilmReport

PLAIN = UpscaleOptions(precision="fp32", compile=False, reproducible=True)
RATE = VideoOptions(fps=Fraction(24000, 1001))
NONE = VideoOptions()


@pytest.fixture(scope="module")
def model() -> ImageModelDescriptor:
    return cudaspeed.load_model("cudaspeed-compact-x2")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDASPEED_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


def run(source: Path, target: Path, model: ImageModelDescriptor, video: VideoOptions = NONE, **more: Any) -> FilmReport:
    target.parent.mkdir(exist_ok=True)
    return upscale_film(FilmJob(source, target, video), model, PLAIN, StandaloneContext("cpu"), **more)


def pixels(number: int, size: tuple[int, int] = (48, 64), channels: int = 3) -> NDArray[np.float32]:
    """[H, W, channels]: as `picture`, or its green alone; alpha is a disc of its own."""
    colour = picture(number, size)[..., slice(1, 2) if channels <= 2 else slice(None)].astype(np.float32) / 255
    if channels in (1, 3):
        return colour
    y, x = np.mgrid[: size[0], : size[1]]
    return np.dstack([colour, ((y - 20) ** 2 + (x - 20 - number) ** 2 < 200).astype(np.float32)])


def put(folder: Path, name: str, values: NDArray[np.float32], bits: int = 8, **more: Any) -> Path:
    folder.mkdir(exist_ok=True)
    write_image(folder / name, Picture(values, bits, **more))
    return folder / name


def computed(path: Path, model: ImageModelDescriptor) -> Picture:
    """What upscaling the picture alone gives."""
    given = read_image(path)
    result = upscale(torch.from_numpy(given.pixels)[None], model, PLAIN, StandaloneContext("cpu"), new_sessions())
    return Picture(result.image[0].numpy(), given.bits, given.metadata, white=given.white)


@pytest.mark.parametrize(
    ("ending", "bits", "channels"),
    [(".png", 8, 3), (".png", 16, 3), (".png", 16, 4), (".png", 8, 1), (".png", 8, 2), (".tif", 16, 3), (".tif", 32, 3),
     (".webp", 8, 4), (".jpg", 8, 3)],
)  # fmt: skip
def test_frames_become_the_frames_that_pictures_become(
    tmp_path: Path, model: ImageModelDescriptor, ending: str, bits: int, channels: int
) -> None:
    for k, number in enumerate((9, 10, 11)):
        put(tmp_path / "in", f"f{number}{ending}", pixels(k, channels=channels), bits)
    report = run(tmp_path / "in" / f"f%d{ending}", tmp_path / "out" / f"%04d{ending}", model)
    assert (report.frames, report.output_size, report.encoder) == (3, (96, 128), ending[1:])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{n:04}{ending}" for n in (9, 10, 11)]
    for number in (9, 10, 11):
        wanted = put(
            tmp_path / "wanted", f"{number}{ending}", **_of(computed(tmp_path / "in" / f"f{number}{ending}", model))
        )
        assert (tmp_path / "out" / f"{number:04}{ending}").read_bytes() == wanted.read_bytes()
        assert read_image(wanted).pixels.shape[2] == channels and read_image(wanted).bits == bits


def _of(made: Picture) -> dict[str, Any]:
    return {"values": made.pixels, "bits": made.bits, "metadata": made.metadata, "white": made.white}


def test_what_is_in_a_frames_file_beside_its_pixels_stays(tmp_path: Path, model: ImageModelDescriptor) -> None:
    resolution = Metadata(resolution=(300.0, 300.0), text=((b"tEXt", b"Title\0Dawn"),))
    put(tmp_path / "in", "1.png", pixels(0), metadata=resolution)
    put(tmp_path / "in", "2.tif", pixels(1) * 0.9, 32, white=3.0)
    run(tmp_path / "in" / "%d.png", tmp_path / "out" / "%d.png", model)
    run(tmp_path / "in" / "%d.tif", tmp_path / "out" / "%d.tif", model)
    assert read_image(tmp_path / "out" / "1.png").metadata.text == resolution.text
    assert read_image(tmp_path / "out" / "2.tif").white > 2


def test_frames_become_a_film_of_the_rate_asked_for(tmp_path: Path, model: ImageModelDescriptor) -> None:
    for number in (98, 99, 100, 101):
        put(tmp_path, f"{number}.png", pixels(number))
    report = run(tmp_path / "%d.png", tmp_path / "out.mp4", model, RATE)
    frames = decoded(tmp_path / "out.mp4", "rgb24")
    assert (report.frames, report.pixel_format, report.variable_rate, report.warnings) == (4, "yuv420p", False, ())
    times = [frame.time for frame in decoded(tmp_path / "out.mp4")]
    assert times == pytest.approx([number * 1001 / 24000 for number in range(4)], abs=1e-4)
    for number, frame in zip((98, 99, 100, 101), frames, strict=True):
        wanted = np.rint(computed(tmp_path / f"{number}.png", model).pixels * 255)
        assert np.abs(frame - wanted).mean() < 5


@pytest.mark.parametrize(("bits", "channels", "stored"), [(8, 3, "bgr0"), (16, 3, "gbrp10le"), (8, 4, "bgra")])
def test_nothing_of_frames_is_lost_in_a_lossless_film(
    tmp_path: Path, model: ImageModelDescriptor, bits: int, channels: int, stored: str
) -> None:
    for number in range(2):
        put(tmp_path, f"{number}.png", pixels(number, channels=channels), bits)
    report = run(tmp_path / "%d.png", tmp_path / "out.mkv", model, VideoOptions("ffv1", fps=Fraction(25)))
    assert report.pixel_format == stored
    top = 255 if bits == 8 else 1023
    for number, frame in enumerate(decoded(tmp_path / "out.mkv")):
        made = ToPixels(alpha=channels == 4)(frame) / (255 if bits == 8 else 1)
        assert np.abs(made - computed(tmp_path / f"{number}.png", model).pixels).max() < 1.5 / top


def test_grey_frames_become_a_film(tmp_path: Path, model: ImageModelDescriptor) -> None:
    for number in range(3):
        put(tmp_path, f"{number}.png", pixels(number, channels=number % 2 + 1))
    run(tmp_path / "%d.png", tmp_path / "out.mp4", model, RATE)
    frames = decoded(tmp_path / "out.mp4", "rgb24")
    assert len(frames) == 3 and np.ptp(frames[0].astype(int), axis=2).max() <= 3


@pytest.mark.parametrize(("pixel_format", "bits"), [("yuv420p", 8), ("yuv420p10le", 16)])
def test_a_film_becomes_frames_of_its_bits(
    tmp_path: Path, model: ImageModelDescriptor, pixel_format: str, bits: int
) -> None:
    colour = None if bits == 8 else (9, LIMITED, 9, 16)
    make_film(
        tmp_path / "film.mkv", [0, 40, 300], Look("ffv1", pixel_format, colour=colour), Beside(("eng",), subtitles=True)
    )
    report = run(tmp_path / "film.mkv", tmp_path / "out" / "%06d.png", model)
    names = [f"{number:06}.png" for number in (1, 2, 3)]
    assert report.frames == 3 and sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert {read_image(tmp_path / "out" / name).bits for name in names} == {bits}
    told = " ".join(report.warnings)
    assert all(text in told for text in ("sound 1", "subtitles 2", "rate is variable")) and ("HDR" in told) == (
        bits > 8
    )
    run(tmp_path / "film.mkv", tmp_path / "film_out.mkv", model, VideoOptions("ffv1"))
    wanted = decoded(tmp_path / "film_out.mkv", "rgb24")[2]
    assert np.abs(read_image(tmp_path / "out" / names[2]).pixels * 255 - wanted).mean() < 2


def test_bits_may_be_asked_for(tmp_path: Path, model: ImageModelDescriptor) -> None:
    put(tmp_path / "in", "1.png", pixels(0), 16)
    run(tmp_path / "in" / "%d.png", tmp_path / "out" / "%d.png", model, VideoOptions(bits=8))
    assert read_image(tmp_path / "out" / "1.png").bits == 8
    run(tmp_path / "out" / "%d.png", tmp_path / "deep" / "%d.png", model, VideoOptions(bits=10))
    assert read_image(tmp_path / "deep" / "1.png").bits == 16


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_frames_of_a_film_that_is_turned_are_upright(
    tmp_path: Path, model: ImageModelDescriptor, rotation: int
) -> None:
    make_film(tmp_path / "film.mp4", every(40, 2), Look("libx264", rotation=rotation, options={"qp": "0"}))
    report = run(tmp_path / "film.mp4", tmp_path / "out" / "%d.png", model)
    frame = decoded(tmp_path / "film.mp4")[0]
    shown = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    made = read_image(tmp_path / "out" / "1.png").pixels
    assert made.shape[:2] == report.output_size == tuple(2 * side for side in shown.shape[:2])
    small = made.reshape(shown.shape[0], 2, shown.shape[1], 2, 3).mean(axis=(1, 3))
    assert np.abs(small * 255 - shown).mean() < 8


def test_alpha_of_a_film_and_of_single_frames_is_kept(tmp_path: Path, model: ImageModelDescriptor) -> None:
    look = Look("libvpx-vp9", "yuva420p", tags={"alpha_mode": "1"}, options={"cpu-used": "8"})
    make_film(tmp_path / "film.webm", every(40, 3), look)
    run(tmp_path / "film.webm", tmp_path / "out" / "%d.png", model)
    alpha = read_image(tmp_path / "out" / "2.png").pixels[..., 3]
    assert alpha[48, 64] > 0.98 and alpha[0, 0] < 0.02
    report = run(tmp_path / "film.webm", tmp_path / "out" / "%d.jpg", model)
    assert any("transparency" in warning for warning in report.warnings)
    for number, channels in enumerate((3, 4, 1, 4)):
        put(tmp_path / "mixed", f"{number}.png", pixels(number, channels=channels))
    report = run(tmp_path / "mixed" / "%d.png", tmp_path / "made" / "%d.png", model)
    assert report.frames == 4 and not report.warnings
    for number, channels in enumerate((3, 4, 1, 4)):
        made, wanted = (
            read_image(tmp_path / "made" / f"{number}.png"),
            computed(tmp_path / "mixed" / f"{number}.png", model),
        )
        assert made.pixels.shape[2] == channels and np.abs(made.pixels - wanted.pixels).max() < 0.51 / 255


@pytest.mark.parametrize("target", ["out.mkv", "out/%d.png"])
def test_gaps_damage_and_other_sizes_are_told_and_the_rest_is_there(
    tmp_path: Path, model: ImageModelDescriptor, target: str
) -> None:
    for number in (3, 4, 8, 9, 11):
        put(tmp_path / "in", f"{number}.png", pixels(number, (64, 48) if number == 9 else (48, 64)))
    (tmp_path / "in" / "4.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    video = VideoOptions(fps=Fraction(25)) if target.endswith("mkv") else NONE
    report = run(tmp_path / "in" / "%d.png", tmp_path / target, model, video)
    assert report.frames == 4 and report.losses.damaged == 1
    told = " ".join(report.warnings)
    assert "missing between the first and the last: 5 to 7, and 1 more" in told and "48x64 from frame 2" in told
    if target.endswith("mkv"):
        assert [(frame.width, frame.height) for frame in decoded(tmp_path / target)] == [(128, 96)] * 4
    else:
        assert sorted(int(path.stem) for path in (tmp_path / "out").iterdir()) == [3, 8, 9, 11]
        assert {read_image(path).pixels.shape for path in (tmp_path / "out").iterdir()} == {(96, 128, 3)}


def test_where_no_frame_is_there_or_none_can_be_read_one_sentence_says_so(
    tmp_path: Path, model: ImageModelDescriptor
) -> None:
    with pytest.raises(BadFilmError, match=r"there is no frame, 1\.png would be one"):
        run(tmp_path / "%d.png", tmp_path / "out.mp4", model, RATE)
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(BadFilmError, match=r"none of its 1 frames can be read .*1\.png"):
        run(tmp_path / "%d.png", tmp_path / "out.mp4", model, RATE)
    assert [path.name for path in tmp_path.iterdir()] == ["1.png"]


def test_sizes_that_pictures_do_not_have_are_told_before_the_first(tmp_path: Path, model: ImageModelDescriptor) -> None:
    put(tmp_path / "in", "1.png", pixels(0))
    options = UpscaleOptions(precision="fp32", compile=False, resize=Resize(width=17000, height=10))
    job = FilmJob(tmp_path / "in" / "%d.png", tmp_path / "%d.webp", NONE)
    with pytest.raises(ValueError, match="17000x10 pixels do not fit"):
        upscale_film(job, model, options, StandaloneContext("cpu"))


class Ended(BaseException):
    """As a host's interrupt."""


def test_an_interrupt_leaves_whole_frames_and_an_old_one_that_was_not_reached(
    tmp_path: Path, model: ImageModelDescriptor
) -> None:
    for number in range(30):
        put(tmp_path / "in", f"{number}.png", pixels(number))
    old = put(tmp_path / "out", "29.png", pixels(5))
    before = old.read_bytes()

    def tell(progress: FilmProgress) -> None:
        if progress.done == 6:
            raise Ended

    with pytest.raises(Ended):
        run(tmp_path / "in" / "%d.png", tmp_path / "out" / "%d.png", model, tell=tell)
    left = [*(tmp_path / "out").iterdir()]
    assert all(path.suffix == ".png" for path in left) and len(left) < 30 and old.read_bytes() == before
    for path in left:
        read_image(path)


def test_what_an_earlier_run_has_left_behind_the_end_is_told(tmp_path: Path, model: ImageModelDescriptor) -> None:
    for number in (1, 2, 3, 4):
        put(tmp_path / "out", f"{number}.png", pixels(0))
    make_film(tmp_path / "film.mkv", every(40, 2))
    report = run(tmp_path / "film.mkv", tmp_path / "out" / "%d.png", model)
    assert any("2 frames of an earlier run are still there, 3.png is the first" in told for told in report.warnings)


def test_a_disk_that_is_full_is_told(
    tmp_path: Path, model: ImageModelDescriptor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        put(tmp_path / "in", f"{number}.png", pixels(number))
    whole, written = files.write_whole, [0]

    def fill(path: Path, write: Any) -> Any:
        written[0] += 1
        if written[0] > 3:
            raise OutputError(f"{path}: cannot be written: No space left") from OSError(28, "No space left on device")
        return whole(path, write)

    monkeypatch.setattr(files, "write_whole", fill)
    with pytest.raises(OutputError, match=r"No space left.*the film takes about .* GB, and .* GB are free"):
        run(tmp_path / "in" / "%d.png", tmp_path / "out" / "%d.png", model)
    assert len([*(tmp_path / "out").iterdir()]) == 3


def test_frames_into_frames_need_no_pyav(
    tmp_path: Path, model: ImageModelDescriptor, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "in", "1.png", pixels(0))
    monkeypatch.setitem(sys.modules, "av", None)
    assert run(tmp_path / "in" / "%d.png", tmp_path / "out" / "%d.png", model).frames == 1
