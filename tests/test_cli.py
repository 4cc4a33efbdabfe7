"""The command line: what is written where, what is said on which stream, and with which exit code it ends."""

import json
import logging
import os
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path

import numpy as np
import pytest
import torch
from clocks import new_sessions
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from processors import fast_at_bf16
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact

from cudaspeed.api.errors import OutOfMemoryError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.cli import main
from cudaspeed.commands import upscale as command
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.images.codecs.metadata import Metadata
from cudaspeed.images.codecs.picture import Picture
from cudaspeed.images.files import read_image, write_image
from cudaspeed.models import loader
from cudaspeed.storage.artifacts import ArtifactStore, Usage
from cudaspeed.storage.location import compiled_folder
from cudaspeed.storage.profiles import Profile, ProfileStore, profiles_folder
from cudaspeed.upscale_engine import tune

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_file(Compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=2).state_dict(), path)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def upscale(run: Run, model: Path) -> Run:
    """`cudaspeed upscale` with the tiny model, small work and nothing compiled."""
    return lambda *arguments: run("upscale", *arguments, "--model", model, "--device", "cpu", "--no-compile")


def picture(path: Path, channels: int = 3, bits: int = 8, icc: bytes | None = None) -> Path:
    """A picture of 16 x 12 pixels."""
    y, x = np.mgrid[0:12, 0:16] / 16
    pixels = np.stack([x, y, 0.2 + 0.5 * x, 0.9 - 0.5 * y][:channels], axis=2).astype(np.float32)
    if path.suffix == ".bmp":
        Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(path)
    else:
        write_image(path, Picture(pixels, bits, Metadata(icc=icc)))
    return path


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_installed_command_is_main() -> None:
    (command,) = entry_points(group="console_scripts", name="cudaspeed")
    assert command.load() is main


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--version"], version("cudaspeed")),
        (["--help"], "upscale"),
        (["upscale", "--help"], "--no-autocast"),
        (["models", "--help"], "--json"),
    ],
)
def test_help_and_version(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    assert told in capsys.readouterr().out


def test_a_checkout_that_is_not_installed_runs_too(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unknown(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", unknown)
    assert run("cache", "list")[0] == 0
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == "cudaspeed (not installed)\n"


def test_one_picture_to_one_file(upscale: Run, tmp_path: Path) -> None:
    code, out, err = upscale(picture(tmp_path / "in.png"), "-o", tmp_path / "new" / "out.webp")
    assert (code, err) == (0, "")
    assert "in.png: 16x12 -> 32x24" in out
    assert "megapixels/s" in out
    assert str(tmp_path / "new" / "out.webp") in out
    with Image.open(tmp_path / "new" / "out.webp") as image:
        assert (image.format, image.size) == ("WEBP", (32, 24))


def test_json_tells_all(upscale: Run, tmp_path: Path) -> None:
    source, target = picture(tmp_path / "in.png"), tmp_path / "out.png"
    code, out, _ = upscale(source, "-o", target, "--json", "--precision", "fp32", "--no-autocast")
    (record,) = map(json.loads, out.splitlines())
    assert code == 0
    seconds, peak = record.pop("seconds"), record.pop("peak_bytes")
    assert seconds > 0
    assert peak >= 0
    assert record.pop("model")
    assert record.pop("architecture") == "RealESRGAN Compact 8nf 2nc"
    assert record == {
        "input": str(source),
        "output": str(target),
        "input_size": [16, 12],
        "output_size": [32, 24],
        "frames": 1,
        "scale": 2,
        "sizes": "16x12, model 32x24",
        "passes": 1,
        "precision": "fp32",
        "autocast": False,
        "tile": [16, 12],
        "overlap": [0, 0],
        "tiles": 1,
        "still_tiles": 0,
        "still_frames": 0,
        "devices": [],
        "compiled": False,
        "compiling": "off",
        "compiled_shapes": 0,
        "profile": "rev 1",
        "warnings": [],
    }


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_depth_channels_and_colour_profile_survive(upscale: Run, tmp_path: Path, ending: str, channels: int) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source = picture(tmp_path / f"in{ending}", channels, bits=16, icc=icc)
    assert upscale(source, "-o", tmp_path / f"out{ending}")[0] == 0
    result = read_image(tmp_path / f"out{ending}")
    assert (result.pixels.shape, result.bits, result.metadata.icc) == ((24, 32, channels), 16, icc)
    assert len(np.unique(np.rint(result.pixels * 65535) % 257)) > 1, "only 8 of the 16 bits are used"


def animation(path: Path, count: int = 3, **settings: object) -> Path:
    """Frames of 16 x 12 pixels, in which a bar moves."""
    frames = []
    for index in range(count):
        samples = np.full((12, 16, 3), 40, np.uint8)
        samples[:, 3 * index : 3 * index + 4] = 200, 30, 90
        frames.append(Image.fromarray(samples))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[50, 70, 90][:count], loop=2, **settings)
    return path


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_all_frames_of_an_animation_are_upscaled(upscale: Run, tmp_path: Path, ending: str) -> None:
    (tmp_path / "in").mkdir()
    source = animation(tmp_path / "in" / f"a.{ending}")
    picture(tmp_path / "in" / "still.png")
    code, out, _ = upscale(source.parent, "-o", tmp_path / "out", "--json", "--batch-size", "2")
    moving, still = map(json.loads, out.splitlines())
    assert code == 0
    assert (moving["frames"], moving["output_size"], still["frames"]) == (3, [32, 24], 1)
    with Image.open(tmp_path / "out" / f"a.{ending}") as image, Image.open(source) as before:
        assert (image.n_frames, image.size, image.info["loop"]) == (3, (32, 24), before.info["loop"])
        durations = []
        for index in range(image.n_frames):
            image.seek(index)
            image.load()
            durations.append(image.info["duration"])
    assert durations == [50, 70, 90]


def test_of_an_animation_a_format_without_takes_the_first_frame_and_says_so(upscale: Run, tmp_path: Path) -> None:
    code, out, _ = upscale(animation(tmp_path / "a.gif"), "-o", tmp_path / "a.tif", "--json")
    record = json.loads(out)
    assert (code, record["frames"]) == (0, 1)
    assert any("3 pictures" in warning for warning in record["warnings"])


def test_an_animation_that_is_too_large_is_refused_before_any_work(upscale: Run, tmp_path: Path) -> None:
    code, out, _ = upscale(
        animation(tmp_path / "a.gif"), "-o", tmp_path / "b.gif", "--json", "--max-megapixels", "0.0001"
    )
    assert code == 1
    assert "--max-megapixels" in json.loads(out)["error"]


def test_what_could_not_be_kept_is_in_the_record(upscale: Run, tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("Title", "a boat")
    info.add_text("parameters", "a boat, 20 steps")
    Image.new("RGB", (16, 12)).save(tmp_path / "a.png", pnginfo=info, dpi=(300, 300))
    _, out, _ = upscale(tmp_path / "a.png", "-o", tmp_path / "b.jpg", "--json")
    (warning,) = json.loads(out)["warnings"]
    assert "Title" in warning
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.info["dpi"] == (300, 300)
    upscale(tmp_path / "a.png", "-o", tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as image:
        image.load()
        assert image.text == {"Title": "a boat", "parameters": "a boat, 20 steps"}


def test_a_folder_keeps_names_and_endings(upscale: Run, tmp_path: Path) -> None:
    (tmp_path / "in" / "folder.png").mkdir(parents=True)
    for name in ("b.png", "a.jpg", "c.bmp", "D.TIF"):
        picture(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("not a picture")
    (tmp_path / "in" / ".b.png").write_text("what some systems leave beside a picture")

    code, out, err = upscale(tmp_path / "in", "-o", tmp_path / "out", "--json")

    passed_over, *records = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert passed_over == {"input": str(tmp_path / "in"), "passed_over": 2, "names": ["folder.png/", "notes.txt"]}
    assert err == f"cudaspeed: WARNING: {tmp_path / 'in'}: 2 passed over: folder.png/, notes.txt\n"
    assert [Path(record["input"]).name for record in records] == ["D.TIF", "a.jpg", "b.png", "c.bmp"]
    assert files(tmp_path / "out") == ["D.TIF", "a.jpg", "b.png", "c.png"]


def test_subfolders_formats_and_suffixes(upscale: Run, tmp_path: Path) -> None:
    for name in ("a.png", "s/a.png", "s/t/b.bmp"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(tmp_path / "in" / name)
    arguments = (tmp_path / "in", "-o", tmp_path / "in" / "out", "--recursive", "--format", "webp", "--suffix", "_x2")
    code, out, err = upscale(*arguments, "--json")
    assert (code, err) == (0, "")
    assert [json.loads(line)["output"] for line in out.splitlines()] == [
        str(tmp_path / "in" / "out" / name) for name in ("a_x2.webp", "s/a_x2.webp", "s/t/b_x2.webp")
    ]
    with Image.open(tmp_path / "in" / "out" / "s" / "t" / "b_x2.webp") as image:
        assert (image.format, image.size) == ("WEBP", (32, 24))


def test_what_exists_is_skipped_if_asked_for(upscale: Run, tmp_path: Path) -> None:
    inputs = [picture(tmp_path / f"{name}.png") for name in "abc"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.png").write_bytes(b"done before")
    (tmp_path / "out" / "c.png").symlink_to("nowhere")
    code, out, err = upscale(*inputs, "-o", tmp_path / "out", "--skip-existing", "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert records[1] == {"input": str(inputs[1]), "output": str(tmp_path / "out" / "b.png"), "skipped": True}
    assert ["skipped" in record for record in records] == [False, True, False]
    assert (tmp_path / "out" / "b.png").read_bytes() == b"done before"
    code, out, _ = upscale(*inputs, "-o", tmp_path / "out", "--skip-existing")
    assert (code, out.count(": skipped, ")) == (0, 3)
    assert upscale(inputs[1], "-o", tmp_path / "out")[0] == 0
    with Image.open(tmp_path / "out" / "b.png") as image:
        assert image.size == (32, 24)


def test_a_name_that_becomes_too_long_costs_only_itself(upscale: Run, tmp_path: Path) -> None:
    inputs = [picture(tmp_path / f"{'x' * 240}.png"), picture(tmp_path / "a.png")]
    for skip in ([], ["--skip-existing"]):
        code, _, err = upscale(*inputs, "-o", tmp_path / "out", "--suffix", "y" * 20, *skip)
        assert code == 1
        assert err.count("File name too long") == len(err.splitlines()) == 1
        assert files(tmp_path / "out") == [f"a{'y' * 20}.png"]


def test_pictures_that_clash_cost_nobody_else(upscale: Run, tmp_path: Path) -> None:
    for name in ("p/photo.png", "p/photo.bmp", "p/z.png", "q/z.png", "q/y.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(tmp_path / name)
    code, out, err = upscale(tmp_path / "p", tmp_path / "q", "-o", tmp_path / "out", "--json")
    assert code == 1
    assert files(tmp_path / "out") == ["photo.bmp.png", "photo.png", "y.png", "z.png"]
    errors = [record["error"] for record in map(json.loads, out.splitlines()) if "error" in record]
    assert len(errors) == len(err.splitlines()) == 1
    assert f"{tmp_path / 'p' / 'z.png'} and {tmp_path / 'q' / 'z.png'} would both become" in errors[0]


@pytest.mark.parametrize("skip", [[], ["--skip-existing"]])
def test_two_names_that_are_one_file_on_this_file_system_are_not_written_over(
    upscale: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skip: list[str]
) -> None:
    """Where letter case makes no difference; here a link makes the second name."""
    really = command.write_image

    def write(path: Path, content: Picture) -> tuple[str, ...]:
        lost = really(path, content)
        os.link(path, path.with_name(path.name.swapcase()))
        return lost

    monkeypatch.setattr(command, "write_image", write)
    inputs = [picture(tmp_path / "A.PNG"), picture(tmp_path / "a.png"), picture(tmp_path / "b.png")]
    code, out, _ = upscale(*inputs, "-o", tmp_path / "out", "--json", *skip)
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert ["error" in record for record in records] == [False, True, False]
    assert f"{inputs[0]} became {tmp_path / 'out' / 'a.png'} already" in records[1]["error"]


def test_an_output_that_is_a_link_is_replaced_and_not_followed(upscale: Run, tmp_path: Path) -> None:
    source = picture(tmp_path / "in.png")
    (tmp_path / "mine.png").write_bytes(b"mine")
    (tmp_path / "out.png").symlink_to("mine.png")
    assert upscale(source, "-o", tmp_path / "out.png")[0] == 0
    assert not (tmp_path / "out.png").is_symlink()
    assert (tmp_path / "mine.png").read_bytes() == b"mine"


def test_what_a_format_cannot_hold_says_which_one_to_ask_for(upscale: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (4, 9000)).save(tmp_path / "in" / "tall.webp")
    code, _, err = upscale(tmp_path / "in", "-o", tmp_path / "out")
    assert code == 1
    assert "--format png" in err
    assert upscale(tmp_path / "in", "-o", tmp_path / "out", "--format", "png")[0] == 0
    assert files(tmp_path / "out") == ["tall.png"]


def test_an_output_folder_that_cannot_be_made_costs_only_its_pictures(upscale: Run, tmp_path: Path) -> None:
    for name in ("a.png", "s/b.png", "t/c.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(tmp_path / "in" / name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "s").write_text("a file")
    code, _, err = upscale(tmp_path / "in", "-o", tmp_path / "out", "--recursive")
    assert code == 1
    assert f"{tmp_path / 'in' / 's' / 'b.png'}: cannot write into {tmp_path / 'out' / 's'}: Not a directory" in err
    assert files(tmp_path / "out" / "t") == ["c.png"]


def test_how_large_a_picture_may_be_can_be_said(upscale: Run, tmp_path: Path) -> None:
    inputs = [picture(tmp_path / "in.png"), tmp_path / "large.png"]
    Image.new("RGB", (100, 100)).save(inputs[1])
    code, out, _ = upscale(*inputs, "-o", tmp_path / "out", "--max-megapixels", "0.005", "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert ["error" in record for record in records] == [False, True]
    assert "raise the limit with --max-megapixels" in records[1]["error"]
    assert upscale(*inputs, "-o", tmp_path / "out", "--max-megapixels", "0.01")[0] == 0


@pytest.mark.parametrize("megapixels", ["0", "-1", "nan", "inf", "many"])
def test_a_limit_that_is_none_is_bad_usage(upscale: Run, tmp_path: Path, megapixels: str) -> None:
    code, _, err = upscale(picture(tmp_path / "in.png"), "-o", tmp_path / "out", f"--max-megapixels={megapixels}")
    assert code == 2
    assert "max" in err
    assert len(err.splitlines()) == 1


def test_what_a_kill_left_is_cleared_away(upscale: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    left = tmp_path / "out" / f".cudaspeed-{'0a' * 16}.tmp"
    left.write_bytes(b"half a picture")
    os.utime(left, (0, 0))
    assert upscale(picture(tmp_path / "in.png"), "-o", tmp_path / "out")[0] == 0
    assert files(tmp_path / "out") == ["in.png"]


def test_one_bad_picture_does_not_stop_the_others(upscale: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    inputs = [tmp_path / "bad.png", tmp_path / "absent.png", picture(tmp_path / "good.png")]

    code, out, err = upscale(*inputs, "-o", tmp_path / "out", "--json")

    records = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [record["input"] for record in records] == [str(path) for path in inputs]
    assert ["error" in record for record in records] == [True, True, False]
    assert "is no picture" in records[0]["error"]
    assert "No such file" in records[1]["error"]
    assert files(tmp_path / "out") == ["good.png"]
    assert len(err.splitlines()) == 2


def test_what_could_not_be_written_for_want_of_memory_is_refused_before_any_work(
    upscale: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (200, 100)).save(tmp_path / "in" / "large.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "in" / "small.png")
    monkeypatch.setattr("cudaspeed.commands.upscale.free_host_bytes", lambda: 1_000_000)
    code, _, err = upscale(tmp_path / "in", "-o", tmp_path / "out")
    assert code == 1
    assert "large.png: the result and writing it take" in err
    assert "smaller picture" in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["small.png"]


def test_memory_that_runs_out_costs_one_picture_and_says_what_helps(
    upscale: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*arguments: object) -> None:
        raise MemoryError("Unable to allocate 87.9 MiB")

    picture(tmp_path / "a.png")
    monkeypatch.setattr("cudaspeed.commands.upscale.write_image", no_memory)
    code, _, err = upscale(tmp_path / "a.png", "-o", tmp_path / "b.png")
    assert code == 1
    assert "a.png: the memory ran out (Unable to allocate 87.9 MiB)" in err
    assert "GiB are free; close other programs" in err


def test_an_unexpected_failure_costs_one_picture(upscale: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really_upscale, calls = command.upscale, []

    def fails_at_first(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) % 2:
            raise RuntimeError("cuDNN is unwell\nwith details")
        return really_upscale(*arguments)

    monkeypatch.setattr(command, "upscale", fails_at_first)
    inputs = [picture(tmp_path / "a.png"), picture(tmp_path / "b.png")]

    code, _, err = upscale(*inputs, "-o", tmp_path / "out")
    assert code == 1
    assert files(tmp_path / "out") == ["b.png"]
    (line,) = err.splitlines()
    assert "a.png: unexpected RuntimeError: cuDNN is unwell" in line

    _, _, err = upscale(*inputs, "-o", tmp_path / "out", "--verbose")
    assert "Traceback" in err


def test_ctrl_c_ends_with_130_and_leaves_what_is_finished(
    upscale: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_upscale, calls = command.upscale, []

    def stopped_at_second(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return really_upscale(*arguments)

    monkeypatch.setattr(command, "upscale", stopped_at_second)
    inputs = [picture(tmp_path / f"{name}.png") for name in "abc"]
    code, _, err = upscale(*inputs, "-o", tmp_path / "out")
    assert (code, err) == (130, "cudaspeed: stopped\n")
    assert files(tmp_path / "out") == ["a.png"]


@pytest.mark.usefixtures("plain_kernels")
def test_a_full_disk_is_told_and_leaves_nothing(upscale: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    source = picture(tmp_path / "in.png")
    monkeypatch.setattr(Path, "replace", full)
    code, out, err = upscale(source, "-o", tmp_path / "out.png")
    assert (code, out) == (1, "")
    assert f"{tmp_path / 'out.png'}: cannot be written: No space left on device" in err
    assert {*files(tmp_path)} - {"compiled"} == {"in.png"}, "beside what is known of the model"


def test_the_model_is_loaded_once(upscale: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really_load, loaded = command.load_model, []

    def load(path: Path) -> object:
        loaded.append(path)
        return really_load(path)

    monkeypatch.setattr(command, "load_model", load)
    inputs = [picture(tmp_path / f"{name}.png") for name in "abc"]
    assert upscale(*inputs, "-o", tmp_path / "out")[0] == 0
    assert len(loaded) == 1


def test_warnings_go_to_standard_error_once_and_into_the_record(upscale: Run, tmp_path: Path) -> None:
    logger = logging.getLogger("cudaspeed")
    before = (logger.level, list(logger.handlers))
    source = picture(tmp_path / "in.png", bits=16)
    for _ in range(2):
        code, out, err = upscale(source, "-o", tmp_path / "out.jpg", "--json")
        assert code == 0
        assert "8 bits" in json.loads(out)["warnings"][0]
        assert len([line for line in err.splitlines() if "8 bits" in line]) == 1
    assert (logger.level, logger.handlers) == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "COMMAND"),
        (["enlarge"], "enlarge"),
        (["upscale"], "INPUT"),
        (["upscale", "in.png"], "--output"),
        (["upscale", "in.png", "-o", "out.png", "--precision", "fp8"], "fp8"),
        (["upscale", "in.png", "-o", "out.png", "--tile", "many"], "many"),
        (["upscale", "in.png", "-o", "out.png", "--tile", "5000"], "5000"),
        (["upscale", "in.png", "-o", "out.png", "--batch-size", "0"], "batch size"),
        (["upscale", "in.png", "-o", "out.png", "--device", "abacus:3"], "abacus"),
        (["upscale", "in.png", "-o", "out.png", "--reserve-vram", "much"], "much"),
        (["upscale", "in.png", "-o", "out.png", "--reserve-vram", "-1"], "-1.0; give GB"),
        (["upscale", "in.png", "-o", "out.png", "--reserve-vram", "nan"], "nan; give GB"),
        (["upscale", "in.png", "-o", "out.png", "--reserve-vram", "inf"], "inf; give GB"),
        (["upscale", "in.png", "-o", "out.png", "--reserve-vram", "1e6", "--device", "cpu"], "reserve less"),
        (["upscale", "in.png", "-o", "out.png", "--model", "absent-model"], "absent-model"),
        (["upscale", "in.png", "-o", "out.png", "--model", "broken.pth"], "broken.pth"),
        (["upscale", "in.png", "-o", "out.bmp"], "out.bmp"),
        (["upscale", "in.png", "-o", "out.jp2"], "out.jp2"),
        (["upscale", "in.png", "-o", "in.png"], "never overwritten"),
        (["upscale", "in.png", "-o", "link.png"], "never overwritten"),
        (["upscale", "in.png", "-o", "."], "never overwritten"),
        (["upscale", "in.png", "-o", "out.png", "--format", "webp"], "does not end as format webp does"),
        (["upscale", "in.png", "-o", "out.png", "--suffix", "_x2"], "_x2"),
        (["upscale", "in.png", "-o", "out", "--suffix", "../x"], "without slashes"),
        (["upscale", "in.png", "-o", "out", "--format", "psd"], "psd"),
        (["upscale", "empty", "-o", "out"], "holds no pictures"),
        (["upscale", "in.png", "other/in.png", "-o", "notes.txt"], "notes.txt"),
        (["upscale", "in.png", "-o", "notes.txt/out.png"], "cannot write into notes.txt"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path, arguments: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("other", "empty"):
        (tmp_path / folder).mkdir()
    for name in ("in.png", "in.bmp", "other/in.png"):
        picture(tmp_path / name)
    (tmp_path / "link.png").symlink_to("in.png")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "broken.pth").write_text("not a model")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    if arguments[:1] == ["upscale"] and "--model" not in arguments:
        arguments = [*arguments, "--model", str(model)]

    code, out, err = run(*arguments)

    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("cudaspeed: error: ")
    assert told in line
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path) -> Path:
    """The only folder of models there is, with a good one and a broken one."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "good.safetensors").write_bytes(model.read_bytes())
    (folder / "broken.pth").write_text("not a model")
    monkeypatch.setattr(loader, "bundled_folder", lambda: folder)
    monkeypatch.delenv("CUDASPEED_MODELS", raising=False)
    return folder


def test_models_are_listed_and_a_broken_one_with_its_error(run: Run, shelf: Path) -> None:
    code, out, _ = run("models", "--json")
    broken, good = map(json.loads, out.splitlines())
    assert code == 0
    assert good == {
        "name": "good.safetensors",
        "path": str(shelf / "good.safetensors"),
        "bytes": (shelf / "good.safetensors").stat().st_size,
        "scale": 2,
        "architecture": "RealESRGAN Compact",
        "input_channels": 3,
        "output_channels": 3,
        "precisions": ["fp32", "fp16", "bf16"],
    }
    assert (broken["name"], "damaged" in broken["error"]) == ("broken.pth", True)

    code, out, _ = run("models")
    lines = out.splitlines()
    assert code == 0
    assert "broken.pth" in lines[0]
    for told in ("good.safetensors", "x2", "RealESRGAN Compact", "3->3", "fp32 fp16 bf16", str(shelf)):
        assert told in lines[1]


def delete(path: Path) -> None:
    path.unlink()


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_a_broken_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("absent.pth")


def replace_by_a_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "spoil", [delete, replace_by_a_folder, replace_by_a_broken_link, replace_by_a_link_to_itself, empty]
)
def test_a_model_that_is_spoilt_meanwhile_is_one_line_among_the_others(
    run: Run, shelf: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None]
) -> None:
    def find_then_spoil() -> dict[str, Path]:
        found = loader.find_models()
        spoil(shelf / "broken.pth")
        return found

    monkeypatch.setattr("cudaspeed.commands.models.find_models", find_then_spoil)
    code, out, _ = run("models", "--json")
    spoilt, good = map(json.loads, out.splitlines())
    assert code == 0
    assert str(shelf / "broken.pth") in spoilt["error"]
    assert good["scale"] == 2


def test_models_that_may_not_be_read_cost_only_themselves(
    run: Run, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root may read everything, the refusals are made up."""
    (tmp_path / "private").mkdir()
    (shelf / "hidden.pth").write_text("behind a link into a folder of someone else")
    monkeypatch.setenv("CUDASPEED_MODELS", f"{tmp_path / 'private'}{os.pathsep}{shelf / 'broken.pth'}")
    really = {name: getattr(Path, name) for name in ("is_file", "iterdir")}
    really_open = os.open

    def refusing_open(path: object, *arguments: int, **named: object) -> int:
        if path == shelf / "broken.pth":
            raise PermissionError(13, "Permission denied")
        return really_open(path, *arguments, **named)  # type: ignore[call-overload]

    def refusing(name: str, refused: Path) -> Callable[..., object]:
        def call(self: Path, *arguments: object, **named: object) -> object:
            if self == refused:
                raise PermissionError(13, "Permission denied")
            return really[name](self, *arguments, **named)

        return call

    monkeypatch.setattr(Path, "is_file", refusing("is_file", shelf / "hidden.pth"))
    monkeypatch.setattr(Path, "iterdir", refusing("iterdir", tmp_path / "private"))
    monkeypatch.setattr(os, "open", refusing_open)
    code, out, err = run("models")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["broken.pth", "good.safetensors"]
    assert "broken.pth: cannot be read: Permission denied" in out
    assert f"cannot look at the model {shelf / 'hidden.pth'}: Permission denied" in err
    assert f"cannot look for models in {tmp_path / 'private'}: Permission denied" in err
    assert f"cannot look for models in {shelf / 'broken.pth'}" in err, "a file is no folder"


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("too deep"), ValueError("odd"), SystemError("odder")])
def test_whatever_a_model_does_to_its_reader_costs_only_itself(
    run: Run, shelf: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    save_file({"odd.weight": torch.zeros(3)}, shelf / "broken.pth")  # which has to be loaded to be known
    really = loader.load_model

    def load(path: Path) -> object:
        if path.name == "broken.pth":
            raise error
        return really(path)

    monkeypatch.setattr("cudaspeed.commands.models.load_model", load)
    code, out, err = run("models", "--json")
    broken, good = map(json.loads, out.splitlines())
    assert (code, err) == (0, "")
    assert broken["error"].startswith(f"{shelf / 'broken.pth'}: cannot be loaded: {type(error).__name__}")
    assert good["scale"] == 2


def test_a_pickle_of_nine_bytes_that_asks_for_gigabytes_is_one_line(run: Run, shelf: Path) -> None:
    (shelf / "broken.pth").write_bytes(bytes.fromhex("80024e72ffffff7f2e"))
    code, out, _ = run("models")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["broken.pth", "good.safetensors"]
    assert "cannot be used" in out


def test_a_model_can_be_meant_by_its_name(run: Run, shelf: Path, tmp_path: Path) -> None:
    source = picture(tmp_path / "in.png")
    assert run("upscale", source, "-o", tmp_path / "out.png", "--model", "good", "--no-compile")[0] == 0
    code, _, err = run("upscale", source, "-o", tmp_path / "out2.png")
    assert code == 2
    assert "broken.pth, good.safetensors" in err


def test_a_progress_bar_only_on_a_terminal_and_without_json(
    upscale: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (picture(tmp_path / "in.png"), "-o", tmp_path / "out.png")
    assert upscale(*arguments)[2] == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "in.png: 100%" in upscale(*arguments)[2]
    assert upscale(*arguments, "--json")[2] == ""


@pytest.mark.usefixtures("plain_kernels")
def test_automatic_precision_keeps_what_16_bits_tell(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine where half precision is fast."""
    fast_at_bf16(monkeypatch)
    bundled, context = loader.load_model("cudaspeed-compact-x2"), StandaloneContext("cpu")
    tune(bundled, (24, 400), UpscaleOptions(compile=False), context, new_sessions())  # as some pictures would
    used, levels = {}, {}
    for source, target, bits in (("in.png", "out.png", 16), ("in.tif", "out.jpg", 16), ("in8.png", "out8.png", 8)):
        ramp = np.linspace(0.3, 0.7, 400, dtype=np.float32)[None, :, None].repeat(24, 0).repeat(3, 2)
        write_image(tmp_path / source, Picture(ramp, bits))
        arguments = ("upscale", tmp_path / source, "-o", tmp_path / target, "--device", "cpu", "--no-compile", "--json")
        code, out, _ = run(*arguments)
        used[target] = json.loads(out)["precision"]
        assert code == 0
        levels[target] = len(np.unique(read_image(tmp_path / target).pixels))
    assert used == {"out.png": "fp32", "out.jpg": "bf16", "out8.png": "bf16"}
    assert levels["out.png"] > 500, "bfloat16 has 154 of them here"


def test_a_seamless_texture_stays_seamless(run: Run, tmp_path: Path) -> None:
    ends = np.linspace(0, 2 * np.pi, 33, dtype=np.float32)[:-1]
    texture = 0.5 + 0.4 * (np.sin(ends)[:, None] * np.cos(3 * ends))[..., None].repeat(3, 2)
    results = {}
    for mode in ("none", "wrap"):
        pixels = []
        for turn in (0, 16):
            write_image(tmp_path / "in.png", Picture(np.roll(texture, (turn, turn), (0, 1)), 16))
            arguments = (tmp_path / "in.png", "-o", tmp_path / "out.png", "--device", "cpu", "--no-compile")
            assert run("upscale", *arguments, "--tiling-mode", mode)[0] == 0
            pixels.append(np.roll(read_image(tmp_path / "out.png").pixels, (-2 * turn, -2 * turn), (0, 1)))
        results[mode] = float(np.abs(pixels[0] - pixels[1]).max())
    assert results["wrap"] <= 2 / 255 < results["none"]


def test_alpha_by_the_model_or_by_lanczos(upscale: Run, tmp_path: Path) -> None:
    pixels = np.full((16, 16, 4), 0.5, np.float32)
    pixels[:, :8, 3], pixels[:, 8:, 3] = 0, 1
    write_image(tmp_path / "in.png", Picture(pixels))
    tiles = {}
    for mode in ("auto", "model", "lanczos"):
        code, out, _ = upscale(
            tmp_path / "in.png", "-o", tmp_path / "out.png", "--precision", "fp32", "--alpha-mode", mode, "--json"
        )
        tiles[mode] = json.loads(out)["tiles"]
        alpha = read_image(tmp_path / "out.png").pixels[..., 3]
        assert code == 0
        assert (alpha[:, :8] == 0).all()
        assert (alpha[:, 24:] == 1).all()
    assert tiles == {"auto": 2, "model": 2, "lanczos": 1}
    assert upscale(tmp_path / "in.png", "-o", tmp_path / "out.png", "--alpha-mode", "both")[0] == 2


def test_several_pictures_do_not_become_one_file(upscale: Run, tmp_path: Path) -> None:
    inputs = [picture(tmp_path / "a.png"), picture(tmp_path / "b.png")]
    code, _, err = upscale(*inputs, "-o", tmp_path / "out.png")
    assert code == 2
    assert "name a folder" in err
    assert files(tmp_path) == ["a.png", "b.png"]


def test_a_name_that_no_file_system_takes_is_bad_usage(upscale: Run, tmp_path: Path) -> None:
    code, _, err = upscale(picture(tmp_path / "a.png"), "-o", tmp_path / ("x" * 300 + ".png"))
    assert code == 2
    assert "too long" in err


def test_the_cache_can_be_listed_and_emptied(run: Run, tmp_path: Path) -> None:
    store = ArtifactStore(compiled_folder())
    assert run("cache", "list")[:2] == (0, f"0 compiled, 0.0 MB, in {store.folder}\n")
    assert run("cache", "clear")[0] == 0
    what = {"model": "Compact 64nf 16nc", "shapes": "tiles of 64x64", "precision": "bf16 autocast", "device": "cpu"}
    ids = [letter * 24 for letter in "abc"]
    for name in ids:
        store.claim(name, what)
    (store.folder / "package").write_bytes(b"x" * 2_000_000)
    store.publish(ids[0], store.folder / "package", 31.0, "openvino")
    store.note(ids[0], what, Usage(eager_rate=3.0, compiled_rate=2.0))
    store.fail(ids[1], "it uses an unknown operator", "model", "here")
    store.release(ids[2])

    code, out, _ = run("cache", "list")
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 4
    for told in (
        "Compact 64nf 16nc",
        "tiles of 64x64",
        "bf16 autocast",
        "ready",
        "2.0 MB",
        "31 s",
        "1.50x eager, by openvino",
    ):
        assert any(told in line for line in lines[:3]), told
    assert any("failed" in line and "it uses an unknown operator" in line for line in lines[:3])
    assert lines[3] == f"1 compiled, 2.0 MB, in {store.folder}"
    records = [json.loads(line) for line in run("cache", "list", "--json")[1].splitlines()]
    assert {record["id"]: record["state"] for record in records} == dict(
        zip(ids, ["ready", "failed", "seen"], strict=True)
    )

    profiles = ProfileStore(profiles_folder(store.folder))
    profiles.update("0" * 64, receptive_field=5)
    assert json.loads(run("cache", "clear", "--json")[1]) == {"folder": str(store.folder), "freed_bytes": 2_000_000}
    assert ProfileStore(profiles_folder(store.folder)).get("0" * 64) == Profile()
    assert run("cache", "list")[1].startswith("0 compiled")


@pytest.mark.parametrize(
    "size", ["640", "640x", "x480", "0x480", "640x480x3", "1e3x10", "99999x9", "-4x4", "9" * 5000 + "x9", "٣x٤"]
)
def test_a_size_that_is_none_is_bad_usage(run: Run, model: Path, size: str) -> None:
    code, _, err = run("cache", "warm", model, f"--size={size}", "--device", "cpu")
    assert code == 2
    assert "such as 1920x1080" in err


def test_warming_up_tells_for_each_size_how_it_went(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[tuple[int, int], UpscaleOptions]] = []

    def warm_up(model: object, size: tuple[int, int], options: UpscaleOptions, context: object) -> str:
        asked.append((size, options))
        return "compiled" if size == (480, 640) else "eager: no C++ compiler was found"

    monkeypatch.setattr("cudaspeed.upscale_engine.warm_up", warm_up)
    sizes = ("--size", "640x480", "1280x720", "--precision", "fp32", "--tile", "256", "--device", "cpu")
    code, out, _ = run("cache", "warm", model, *sizes, "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 1, "one of them could not be compiled"
    assert [(record["size"], record["status"]) for record in records] == [
        ([640, 480], "compiled"),
        ([1280, 720], "eager: no C++ compiler was found"),
    ]
    assert asked[0] == ((480, 640), UpscaleOptions(precision="fp32", tile=256))


def test_warming_up_went_well_where_another_engine_than_torchs_compiled(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cudaspeed.upscale_engine.warm_up", lambda *_: "compiled by openvino")
    code, _, _ = run("cache", "warm", model, "--size", "64x48", "--device", "cpu")
    assert code == 0


def test_a_size_that_fails_costs_only_itself(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def warm_up(model: object, size: tuple[int, int], options: UpscaleOptions, context: object) -> str:
        if size == (1, 1):
            raise OutOfMemoryError("the smallest tile does not fit")
        if size == (2, 2):
            raise RuntimeError("cuDNN is unwell\nwith details")
        return "compiled"

    monkeypatch.setattr("cudaspeed.upscale_engine.warm_up", warm_up)
    code, out, _ = run("cache", "warm", model, "--size", "1x1", "2x2", "3x3", "--device", "cpu", "--json")
    assert code == 1
    assert [json.loads(line)["status"] for line in out.splitlines()] == [
        "failed: the smallest tile does not fit",
        "failed: unexpected RuntimeError: cuDNN is unwell",
        "compiled",
    ]


@pytest.mark.parametrize("mode", ["auto", "wait", "background"])
def test_when_to_compile_can_be_said(run: Run, model: Path, tmp_path: Path, mode: str) -> None:
    arguments = (picture(tmp_path / "in.png"), "-o", tmp_path / "out.png", "--model", model, "--device", "cpu")
    code, out, _ = run("upscale", *arguments, "--compile-mode", mode, "--no-compile", "--json")
    assert (code, json.loads(out)["compiling"]) == (0, "off")
    assert run("upscale", *arguments, "--compile-mode", "soon")[0] == 2


def test_tuning_tells_for_each_model_what_was_found(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, tuple[int, int] | None, UpscaleOptions]] = []

    def tune(loaded: object, size: tuple[int, int] | None, options: UpscaleOptions, context: object) -> str:
        asked.append((type(loaded).__name__, size, options))
        if len(asked) == 1:
            raise OutOfMemoryError("the smallest tile does not fit")
        if len(asked) == 2:
            raise RuntimeError("cuDNN is unwell\nwith details")
        return "fp32 winograd, 2.1 times plain"

    monkeypatch.setattr("cudaspeed.upscale_engine.tune", tune, raising=False)
    how = ("--size", "640x480", "--precision", "fp32", "--no-autocast", "--no-compile", "--level", "speed")
    code, out, err = run("tune", model, model, model, *how, "--device", "cpu", "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (1, "")
    assert [record["model"] for record in records] == [str(model)] * 3
    assert [record.get("error") for record in records] == [
        "the smallest tile does not fit",
        "unexpected RuntimeError: cuDNN is unwell",
        None,
    ]
    assert records[2]["found"] == "fp32 winograd, 2.1 times plain"
    options = UpscaleOptions(precision="fp32", autocast=False, compile=False, level="speed")
    assert asked == [("ImageModelDescriptor", (480, 640), options)] * 3

    code, out, _ = run("tune", model, "--device", "cpu")
    assert (code, asked[-1]) == (0, ("ImageModelDescriptor", None, UpscaleOptions()))
    assert "tiny.safetensors: fp32 winograd, 2.1 times plain (" in out


def test_what_a_model_takes_is_listed_for_a_size_a_device_and_a_precision(run: Run, model: Path) -> None:
    code, out, err = run("info", model, "--size", "100x60", "--device", "cpu", "--precision", "fp32", "--json")
    (record,) = map(json.loads, out.splitlines())
    assert (code, err) == (0, "")
    assert (record["size"], record["device"], record["model"]) == ([100, 60], "cpu", str(model))
    items, scale = record["bytes"], loader.load_model(model).scale
    assert record["total"] == sum(items.values())
    assert items["result"] == 100 * 60 * scale**2 * 3 * 4
    assert {*record["in_main_memory"]} == {*items}
    assert items["forward"] > 0 < items["weights"]

    code, out, _ = run("info", model, "--size", "100x60", "--device", "cpu", "--precision", "fp32")
    first, *rest = out.splitlines()
    assert code == 0
    assert first.startswith(f"{model}, 100x60, cpu, fp32")
    assert any(line.endswith("the result") for line in rest)
    assert all("B  " in line for line in rest)

    code, out, _ = run("info", model, "--device", "cpu", "--json")
    assert (code, json.loads(out)["size"]) == (0, [1024, 1024])


@pytest.mark.parametrize("frozen", [False, True])
def test_choosing_by_measuring_can_be_ruled_out(
    upscale: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    really, asked = command.upscale, []

    def noting(image: object, model: object, options: UpscaleOptions, context: object) -> object:
        asked.append(options.reproducible)
        return really(image, model, options, context)

    monkeypatch.setattr(command, "upscale", noting)
    arguments = (picture(tmp_path / "in.png"), "-o", tmp_path / "out.png")
    assert upscale(*arguments, *(["--frozen"] if frozen else []))[0] == 0
    assert asked == [frozen]


# the size that is wanted


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        (["--resize", "30x20"], (30, 20)),
        (["--resize", "48x"], (48, 32)),
        (["--resize", "x64"], (96, 64)),
        (["--resize", "0x16"], (24, 16)),
        (["--resize", "0x0"], (48, 32)),
        (["--resize", "20x20", "--fit", "inside"], (20, 13)),
        (["--resize", "20x20", "--fit", "pad", "--resample", "area"], (20, 20)),
        (["--scale-by", "0.5"], (12, 8)),
        (["--scale-by", "4"], (96, 64)),
    ],
)
def test_results_come_in_the_size_that_is_asked_for_under_the_same_names(
    arguments: list[str], size: tuple[int, int], upscale: Run, tmp_path: Path
) -> None:
    write_image(tmp_path / "a.png", Picture(np.random.default_rng(0).random((16, 24, 3), np.float32), 8))
    code, out, err = upscale(tmp_path / "a.png", "-o", f"{tmp_path / 'out'}/", "--json", *arguments)
    assert code == 0
    with Image.open(tmp_path / "out" / "a.png") as made:
        assert made.size == size
    record = json.loads(out)
    assert record["output_size"] == [*size]
    assert record["sizes"].endswith(f"{size[0]}x{size[1]}")
    assert record["passes"] == (2 if size in ((96, 64),) else 1)
    assert not record["warnings"]
    assert not err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--resize", "30x20", "--scale-by", "2"], "scale_by is 2 and the target 30x20; choose one of them"),
        (["--resize", "x"], "resize is 'x'; give width and height in pixels"),
        (["--resize="], "resize is ''; give width and height in pixels"),
        (["--resize", "30"], "resize is '30'; give width and height in pixels"),
        (["--resize", "-3x5"], "expected one argument"),
        (["--resize=-3x5"], "resize is '-3x5'; give width and height in pixels"),
        (["--resize", "9999999x5"], "target width is 9999999; choose a whole number from 0 to 1000000"),
        (["--scale-by", "9"], "scale_by is 9.0; choose a number from 0.05 to 8"),
        (["--scale-by", "nan"], "scale_by is nan; choose a number from 0.05 to 8"),
        (["--scale-by", "twice"], "argument --scale-by: invalid float value: 'twice'"),
        (["--fit", "best"], "argument --fit: invalid choice: 'best'"),
    ],
)
def test_a_size_that_makes_no_sense_is_bad_usage(arguments: list[str], told: str, upscale: Run, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", Picture(np.zeros((8, 8, 3), np.float32), 8))
    code, _, err = upscale(tmp_path / "a.png", "-o", tmp_path / "b.png", *arguments)
    assert code == 2
    assert told in err
    assert not (tmp_path / "b.png").exists()


def test_a_size_that_no_memory_holds_is_refused_before_any_work(
    upscale: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "a.png", Picture(np.zeros((64, 64, 3), np.float32), 8))
    monkeypatch.setattr(command, "upscale", None)
    code, _, err = upscale(tmp_path / "a.png", "-o", tmp_path / "b.tif", "--resize", "100000x100000")
    assert code == 1
    assert "the result and writing it take 223.52 GiB of memory and" in err
    assert "ask for a smaller result (--scale-by, --resize)" in err


def test_an_animation_comes_in_the_size_that_is_asked_for(upscale: Run, tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((16, 24, 3), level, np.uint8)) for level in (0, 120, 250)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=50, lossless=True)
    code, _, _ = upscale(tmp_path / "a.webp", "-o", tmp_path / "b.webp", "--scale-by", "4")
    assert code == 0
    with Image.open(tmp_path / "b.webp") as made:
        assert (made.size, made.n_frames) == ((96, 64), 3)
