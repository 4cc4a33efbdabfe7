"""`cudaspeed latent`: what LoadLatent finds in the files that it writes, what is kept, and how it ends.

Files are written here as ComfyUI's SaveLatent does it, and read as its LoadLatent does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import latent_zoo
import pytest
import torch
import zoo
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from cudaspeed.cli import main
from cudaspeed.commands import latents as command

Run = Callable[..., tuple[int, list[dict[str, Any]], str]]

TEXTS = {"prompt": json.dumps({"3": {"class_type": "KSampler", "inputs": {"text": "Wölfe 狼"}}}), "workflow": "{}"}
FIXED = "latent-upscaler-v1.0_SDv1-x2.0"


def samples(*shape: int) -> Tensor:
    return 5 * torch.randn(shape, generator=torch.Generator().manual_seed(1))


def save(path: Path, latent: Tensor, texts: Mapping[str, str] | None = None, version: bool = True) -> Path:
    """As SaveLatent does; without `version`, as it did at first."""
    path.parent.mkdir(exist_ok=True)
    content = {"latent_tensor": latent.contiguous()}
    if version:
        content["latent_format_version_0"] = torch.tensor([])
    save_file(content, path, {**texts} if texts else None)
    return path


def load(path: Path) -> Tensor:
    """As LoadLatent does."""
    content = load_file(path)
    multiplier = 1.0 if "latent_format_version_0" in content else 1.0 / 0.18215
    return content["latent_tensor"].float() * multiplier


def texts_of(path: Path) -> dict[str, str] | None:
    with safe_open(path, "pt") as file:
        return file.metadata()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def fixed(shelf: Path) -> Path:
    """Enlarges 4 channels by 2."""
    return latent_zoo.file_of(FIXED, shelf)


@pytest.fixture(scope="module")
def sesqui(shelf: Path) -> Path:
    """Enlarges 4 channels by 1 to 2."""
    return latent_zoo.file_of("upscaler_SDXL", shelf)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """The exit code, the records and standard error."""

    def call(*arguments: object) -> tuple[int, list[dict[str, Any]], str]:
        usual = ("--json", "--precision", "fp32", "--device", "cpu", "--no-compile")
        code = main(["latent", *usual, *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, [json.loads(line) for line in out.splitlines()], err

    return call


def right(latent: Tensor, name: str = FIXED, *size: tuple[int, int]) -> Tensor:
    with torch.inference_mode():
        return latent_zoo.network(name)(latent, *size)


def assert_equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


# What comes of a latent


def test_what_the_network_computes_is_written_with_the_workflow(
    fixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, target = samples(2, 4, 8, 12), tmp_path / "new" / "out.latent"
    source = save(tmp_path / "in.latent", given, TEXTS)
    before = source.read_bytes()
    arguments = ["--model", fixed, "--precision", "fp32", "--no-compile", "--device", "cpu"]
    assert main(["latent", str(source), "-o", str(target), *map(str, arguments)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("in.latent: 12x8 -> 24x16, 2 latents, ")
    assert out.endswith(f"written to {target}\n")
    assert_equal(load(target), right(given))
    assert {*load_file(target)} == {"latent_tensor", "latent_format_version_0"}
    assert texts_of(target) == TEXTS
    assert source.read_bytes() == before


def test_an_old_latent_without_version_is_made_raw_first(run: Run, fixed: Path, tmp_path: Path) -> None:
    raw = samples(1, 4, 8, 8)
    source = save(tmp_path / "old.latent", raw * 0.18215, version=False)
    code, _, err = run(source, "-o", tmp_path / "out.latent", "--model", fixed)
    assert (code, err) == (0, "")
    assert_equal(load(tmp_path / "out.latent"), right(load(source)))
    assert_equal(load(source), raw)
    assert "latent_format_version_0" in load_file(tmp_path / "out.latent")
    assert texts_of(tmp_path / "out.latent") is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_values_of_any_floating_type_are_read_as_loadlatent_reads_them(
    run: Run, fixed: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    source = save(tmp_path / "in.latent", samples(1, 4, 8, 8).to(dtype))
    assert run(source, "-o", tmp_path / "out.latent", "--model", fixed)[0] == 0
    assert load_file(tmp_path / "out.latent")["latent_tensor"].dtype == torch.float32
    assert_equal(load(tmp_path / "out.latent"), right(load(source)))


def test_a_films_latent_stays_one(run: Run, fixed: Path, tmp_path: Path) -> None:
    given = samples(1, 4, 3, 8, 12)
    code, records, _ = run(save(tmp_path / "in.latent", given), "-o", tmp_path / "out.latent", "--model", fixed)
    assert code == 0
    assert (records[0]["frames"], records[0]["input_size"], records[0]["output_size"]) == (3, [12, 8], [24, 16])
    made = load(tmp_path / "out.latent")
    assert made.shape == (1, 4, 3, 16, 24)
    assert_equal(made[:, :, 1], right(given[:, :, 1]))


def test_any_scale_of_the_model_can_be_asked_for(run: Run, sesqui: Path, tmp_path: Path) -> None:
    given = samples(1, 4, 12, 20)
    source = save(tmp_path / "in.latent", given)
    assert run(source, "-o", tmp_path / "most.latent", "--model", sesqui)[0] == 0
    assert load(tmp_path / "most.latent").shape == (1, 4, 24, 40)
    assert run(source, "-o", tmp_path / "some.latent", "--model", sesqui, "--scale-by", 1.5)[0] == 0
    assert_equal(load(tmp_path / "some.latent"), right(given, "upscaler_SDXL", (18, 30)))


def test_other_scales_are_reached_by_resampling_where_it_is_asked_for(run: Run, fixed: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "in.latent", samples(1, 4, 8, 12))
    made = []
    for how in ("area", "bislerp"):
        arguments = ("--model", fixed, "--scale-by", 1.5, "--resampling", how)
        code, records, _ = run(source, "-o", tmp_path / f"{how}.latent", *arguments)
        assert (code, records[0]["output_size"]) == (0, [18, 12])
        made.append(load(tmp_path / f"{how}.latent"))
    assert made[0].shape == (1, 4, 12, 18)
    assert not torch.equal(*made)
    code, records, err = run(source, "-o", tmp_path / "none.latent", "--model", fixed, "--scale-by", 1.5)
    assert (code, records) == (2, [])
    assert "scale_by is 1.5, and SD-Latent-Upscaler enlarges by 2; set scale_by to that, or resampling to area" in err
    assert not (tmp_path / "none.latent").exists()


def test_the_scale_of_a_renamed_file_can_be_told(run: Run, shelf: Path, tmp_path: Path) -> None:
    renamed, given = latent_zoo.file_of(FIXED, shelf, "mine"), samples(1, 4, 8, 8)
    source, target = save(tmp_path / "in.latent", given), tmp_path / "out.latent"
    code, _, err = run(source, "-o", target, "--model", renamed)
    assert code == 2
    assert "mine.safetensors" in err and "1.25, 1.5, 2" in err
    assert run(source, "-o", target, "--model", renamed, "--scale", 2)[0] == 0
    assert_equal(load(target), right(given))


def test_a_scale_that_is_not_the_models_is_bad_usage(run: Run, sesqui: Path, fixed: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "in.latent", samples(1, 4, 8, 8))
    for model, told in ((sesqui, "SesquiLSR, which enlarges by 1 to 2"), (fixed, "which enlarges by 2")):
        code, _, err = run(source, "-o", tmp_path / "out.latent", "--model", model, "--scale", 1.5)
        assert code == 2
        assert f"scale is 1.5, and {model} is" in err and told in err and "--scale-by" in err
        assert not (tmp_path / "out.latent").exists()


def test_options_reach_the_engine_and_what_they_do_is_told(
    sesqui: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "in.latent", samples(1, 4, 64, 64))
    options = ["--tile", "48", "--precision", "bf16", "--no-autocast", "--no-compile", "--device", "cpu", "--json"]
    assert main(["latent", str(source), "-o", str(tmp_path / "out.latent"), "--model", str(sesqui), *options]) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert record["tiles"] > 1 and max(record["tile"]) <= 48
    assert (record["precision"], record["autocast"], record["channels"]) == ("bf16", False, 4)
    assert (record["architecture"], record["model"]) == ("SesquiLSR", str(sesqui))
    assert "in tiles, which changes the result" in record["warnings"][0]
    assert err.count("in tiles, which changes the result") == 1


def test_tensors_that_no_latent_has_are_named(run: Run, fixed: Path, tmp_path: Path) -> None:
    more = {"latent_tensor": samples(1, 4, 8, 8), "latent_format_version_0": torch.tensor([]), "mask": torch.ones(2)}
    save_file(more, tmp_path / "in.latent")
    code, records, err = run(tmp_path / "in.latent", "-o", tmp_path / "out.latent", "--model", fixed)
    assert code == 0
    assert records[0]["warnings"] == ["tensors that LoadLatent does not read are left out: mask"]
    assert str(tmp_path / "in.latent") in err and err.count("left out: mask") == 1
    assert "mask" not in load_file(tmp_path / "out.latent")


# Files and folders


def test_a_folder_keeps_names_and_one_bad_latent_does_not_stop_the_others(
    run: Run, fixed: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "latents", tmp_path / "out"
    save(folder / "a_00001_.latent", samples(1, 4, 8, 8))
    (folder / "b_00001_.latent").write_bytes(b"this is no latent at all")
    save(folder / "c_00001_.latent", samples(1, 4, 8, 12))
    (folder / "notes.txt").write_text("beside them")
    save(folder / ".hidden.latent", samples(1, 4, 8, 8))
    single = save(tmp_path / "single.safetensors", samples(1, 4, 4, 4))
    code, records, err = run(folder, single, "-o", out, "--model", fixed)
    assert code == 1
    assert files(out) == ["a_00001_.latent", "c_00001_.latent", "single.latent"]
    assert [Path(record["input"]).name for record in records] == [
        *("a_00001_.latent", "b_00001_.latent", "c_00001_.latent", "single.safetensors")
    ]
    assert "is no latent file" in records[1]["error"]
    assert [record.get("output_size") for record in records] == [[16, 16], None, [24, 16], [8, 8]]
    assert len(err.splitlines()) == 1


def test_what_exists_is_replaced_or_skipped_if_asked_for(run: Run, fixed: Path, tmp_path: Path) -> None:
    source, target = save(tmp_path / "in.latent", samples(1, 4, 8, 8)), tmp_path / "out.latent"
    target.write_bytes(b"an earlier one")
    code, records, _ = run(source, "-o", target, "--model", fixed, "--skip-existing")
    assert (code, records) == (0, [{"input": str(source), "output": str(target), "skipped": True}])
    assert target.read_bytes() == b"an earlier one"
    assert run(source, "-o", target, "--model", fixed)[0] == 0
    assert load(target).shape == (1, 4, 16, 16)


def test_no_input_is_written_over(run: Run, fixed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    source = save(folder / "a.latent", samples(1, 4, 8, 8))
    before = source.read_bytes()
    for output in (source, folder):
        code, records, err = run(source, "-o", output, "--model", fixed)
        assert (code, records) == (2, [])
        assert f"{source} is an input; choose another output" in err
    other = save(tmp_path / "other" / "a.latent", samples(1, 4, 8, 8))
    code, records, _ = run(source, other, "-o", tmp_path / "out", "--model", fixed)
    assert code == 1
    assert f"would both become {tmp_path / 'out' / 'a.latent'}" in records[1]["error"]
    assert source.read_bytes() == before
    assert run(source, source, "-o", tmp_path / "out", "--model", fixed)[0] == 0, "given twice, done once"


def test_a_latent_that_cannot_be_written_leaves_what_was_there(
    run: Run, fixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    source, out = save(tmp_path / "in.latent", samples(1, 4, 8, 8)), tmp_path / "out"
    out.mkdir()
    (out / "in.latent").write_bytes(b"an earlier one")
    monkeypatch.setattr(Path, "replace", full)
    code, records, _ = run(source, "-o", out, "--model", fixed)
    assert code == 1
    assert f"{out / 'in.latent'}: cannot be written: No space left on device" in records[0]["error"]
    assert files(out) == ["in.latent"]
    assert (out / "in.latent").read_bytes() == b"an earlier one"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told_before_any_work(run: Run, fixed: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "in.latent", samples(1, 4, 8, 8))
    (tmp_path / "out").mkdir(mode=0o500)
    code, _, err = run(source, "-o", tmp_path / "out", "--model", fixed)
    assert code == 2 and f"cannot write into {tmp_path / 'out'}" in err


# What cannot be


def checkpoint(path: Path) -> None:
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4, 3, 3)}, path)


def cut_short(path: Path) -> None:
    save(path, samples(1, 4, 8, 8))
    path.write_bytes(path.read_bytes()[:-100])


class Opened:
    """Makes a file where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("opened", "w")


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: None, "No such file"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "text": (lambda path: path.write_text("a latent, honestly, of sixty-four by sixty-four"), "SaveLatent has written"),
    "picture": (lambda path: Image.new("RGB", (4, 4)).save(path, "PNG"), "is a picture (PNG), not a latent"),
    "pickle": (lambda path: torch.save({"latent_tensor": Opened()}, path), "is no latent file"),
    "pipe": (lambda path: os.mkfifo(path), "named pipe, not a latent file"),
    "checkpoint": (
        checkpoint,
        "has no tensor latent_tensor, but 1 other tensor(s) (model.diffusion_model.input_blocks",
    ),
    "cut": (cut_short, "is damaged or cut short"),
    "nan": (lambda path: save(path, samples(1, 4, 8, 8) / 0), "256 of the latent's 256 values are NaN or infinite"),
    "flux": (lambda path: save(path, samples(1, 16, 8, 8)), "has 16 channels (Flux, SD3, Wan, Qwen), and"),
    "shape": (lambda path: save(path, samples(4, 8, 8)), "of the shape (4, 8, 8); floats [batch, channels"),
    "integers": (lambda path: save(path, torch.zeros(1, 4, 8, 8, dtype=torch.int32)), "torch.int32"),
    "nothing": (lambda path: save(path, torch.zeros(1, 4, 0, 8)), "has no values"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_latent_for_the_model_is_one_error_that_names_the_file(
    run: Run, fixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    make, told = BAD[kind]
    if kind == "pipe" and not hasattr(os, "mkfifo"):
        pytest.skip("there are no named pipes")
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "bad.latent")
    code, records, err = run(tmp_path / "bad.latent", "-o", tmp_path / "out.latent", "--model", fixed)
    assert code == 1
    (record,) = records
    assert record["error"].startswith(f"{tmp_path / 'bad.latent'}: ")
    assert told in record["error"]
    assert err == f"cudaspeed: ERROR: {record['error']}\n"
    assert not {*files(tmp_path)} & {"out.latent", "opened"}


def picture_model(path: Path) -> None:
    save_file(zoo.compact().model.state_dict(), path)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: None, "there is no such model file"),
        (picture_model, "is a model for pictures (RealESRGAN Compact)"),
        (checkpoint, "is a text-to-image checkpoint"),
        (lambda path: save(path, samples(1, 4, 8, 8)), "is no latent upscaler that is known here"),
        (lambda path: path.write_text("this is not a model at all"), "is text, not a model"),
    ],
)
def test_what_is_no_latent_upscaler_is_bad_usage_and_nothing_is_written(
    run: Run, tmp_path: Path, make: Callable[[Path], Any], told: str
) -> None:
    make(tmp_path / "model.safetensors")
    source = save(tmp_path / "in.latent", samples(1, 4, 8, 8))
    code, records, err = run(source, "-o", tmp_path / "out.latent", "--model", tmp_path / "model.safetensors")
    assert (code, records) == (2, [])
    (line,) = err.splitlines()
    assert str(tmp_path / "model.safetensors") in line and told in line
    assert not (tmp_path / "out.latent").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a.latent", "-o", "out.png"], "cannot write out.png; its ending must be .latent"),
        (["a.latent", "b.latent", "-o", "out.latent"], "several latents cannot all become out.latent; name a folder"),
        ([".", "-o", "out.latent"], "several latents cannot all become out.latent; name a folder"),
        (["a.latent", "-o", "out", "--tile", "3000"], "tile size is 3000"),
        (["a.latent", "-o", "out", "--scale-by", "nan"], "scale_by is nan; choose a number from 0.25 to 8"),
        (["a.latent", "-o", "out", "--scale-by", "0.1", "--resampling", "area"], "scale_by is 0.1"),
        (["a.latent", "-o", "out", "--scale", "3"], "scale is 3"),
        (["a.latent", "-o", "out", "--device", "abacus:3"], "abacus:3"),
        (["a.latent", "-o", "out", "--tiling-mode", "wrap"], "--tiling-mode"),
    ],
)
def test_what_makes_no_sense_is_bad_usage(
    run: Run, sesqui: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"{name}.latent", samples(1, 4, 8, 8))
    monkeypatch.chdir(tmp_path)
    before = files(tmp_path)
    code, records, err = run("--model", sesqui, *arguments)
    assert (code, records) == (2, [])
    assert len(err.splitlines()) == 1 and told in err
    assert files(tmp_path) == before


def test_memory_that_runs_out_costs_one_latent(
    run: Run, fixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, calls = command.write_latent, []

    def first_too_large(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            raise MemoryError("Unable to allocate 87.9 MiB")
        really(*arguments)

    monkeypatch.setattr(command, "write_latent", first_too_large)
    inputs = [save(tmp_path / f"{name}.latent", samples(1, 4, 8, 8)) for name in "ab"]
    code, records, _ = run(*inputs, "-o", tmp_path / "out", "--model", fixed)
    assert code == 1
    assert f"{inputs[0]}: the memory ran out (Unable to allocate 87.9 MiB)" in records[0]["error"]
    assert "smaller latent" in records[0]["error"]
    assert files(tmp_path / "out") == ["b.latent"]
