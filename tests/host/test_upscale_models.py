"""Upscale models by name: what is wrong with a file is said with its name and size, before and when it is loaded."""

from __future__ import annotations

import gc
import os
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hostile_models as made
import pytest
import torch
from safetensors.torch import save

from cudaspeed import nodes
from cudaspeed.api.errors import BadModelError
from cudaspeed.host import upscale_models

WHOLE = save(made.tiny_state())
WRONG = {
    "empty.pth": (b"", "it is empty"),
    "page.safetensors": (b"<!DOCTYPE html>", "is a web page"),
    "half.safetensors": (WHOLE[: len(WHOLE) // 2], "cut short"),
    "half.pth": (made.saved(made.tiny_state())[:-100], "cut short"),
    "code.pth": (made.saved({"a": made.Call(print, 1)}), "would run builtins.print"),
    "whole.pth": (made.saved(torch.nn.Linear(2, 2)), "holds more than weights"),
    "pointer.pth": (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where models are looked for."""
    monkeypatch.setenv("CUDASPEED_MODELS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("name", "content", "said"), [(name, *what) for name, what in WRONG.items()])
def test_a_wrong_file_is_named_with_its_size(folder: Path, name: str, content: bytes, said: str) -> None:
    (folder / name).write_bytes(content)
    told = upscale_models.check_upscale_model(name)
    with pytest.raises(BadModelError) as caught:
        upscale_models.load_upscale_model(name)
    for message in (told, str(caught.value)):
        assert said in message
        assert name in message
        assert message.endswith(f"The file has {len(content):,} bytes")


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"lora_unet_a.lora_down.weight": torch.zeros(2, 2)}, "is a LoRA"),
        ({"first_stage_model.encoder.weight": torch.zeros(2, 2)}, "is an autoencoder"),
        ({"control_model.a.weight": torch.zeros(2, 2)}, "is a ControlNet"),
    ],
)
def test_a_model_of_another_kind_is_told_when_it_is_loaded(
    folder: Path, weights: dict[str, torch.Tensor], said: str
) -> None:
    content = save(weights)
    (folder / "other.safetensors").write_bytes(content)
    with pytest.raises(BadModelError, match=f"other.safetensors.*{said}.*{len(content):,} bytes$"):
        upscale_models.load_upscale_model("other.safetensors")


def test_one_that_was_deleted_after_it_was_listed_is_named(folder: Path) -> None:
    path = folder / "here.safetensors"
    path.write_bytes(WHOLE)
    assert "here.safetensors" in upscale_models.upscale_model_names()
    assert upscale_models.check_upscale_model("here.safetensors") == ""
    assert upscale_models.upscale_model_stamp("here.safetensors")
    path.unlink()
    told = upscale_models.check_upscale_model("here.safetensors")
    assert told.startswith("here.safetensors: does not exist")
    assert "press R" in told
    assert upscale_models.upscale_model_stamp("here.safetensors") == ""
    with pytest.raises(BadModelError, match=r"^here\.safetensors: does not exist"):
        upscale_models.load_upscale_model("here.safetensors")


def test_in_comfyui_our_loaders_list_exported_models_which_its_own_cannot_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.safetensors", "b.stablehlo", "c.txt"):
        (tmp_path / name).write_bytes(WHOLE)
    folder_paths = SimpleNamespace(
        get_filename_list=lambda kind: ["a.safetensors"],
        get_folder_paths=lambda kind: [str(tmp_path), str(tmp_path / "missing")],
        get_full_path=lambda kind, name: str(tmp_path / name),
    )
    monkeypatch.setitem(sys.modules, "folder_paths", folder_paths)
    monkeypatch.setattr(upscale_models, "inside_comfyui", lambda: True)
    assert upscale_models.upscale_model_names() == ["a.safetensors", "b.stablehlo"]
    assert upscale_models.upscale_model_stamp("b.stablehlo")
    assert upscale_models.check_upscale_model("b.stablehlo") == ""


def test_one_that_was_mended_is_good_again(folder: Path) -> None:
    path = folder / "mended.safetensors"
    path.write_bytes(b"<html>")
    assert upscale_models.check_upscale_model(path.name)
    path.write_bytes(WHOLE)
    assert upscale_models.check_upscale_model(path.name) == ""
    assert upscale_models.load_upscale_model(path.name).scale == 2


def test_the_list_tells_scale_and_architecture_of_each(folder: Path, write_rare: Callable[[], str]) -> None:
    (folder / "four.safetensors").write_bytes(save(made.tiny_state(4)))
    rare = write_rare()
    told = upscale_models.upscale_model_labels()
    assert told["cudaspeed-compact-x2.safetensors"] == "x2 RealESRGAN Compact"
    assert told["four.safetensors"] == "x4 RealESRGAN Compact"
    assert rare not in told, "its header does not tell"
    model = upscale_models.load_upscale_model(rare)
    assert upscale_models.upscale_model_labels()[rare] == f"x2 {model.architecture.name}"


@pytest.fixture
def write_rare(folder: Path) -> Callable[[], str]:
    """Writes a model that only loading tells; its name."""

    def write() -> str:
        import zoo

        weights = {name: tensor.clone() for name, tensor in zoo.fdat().model.state_dict().items()}
        (folder / "rare.safetensors").write_bytes(save(weights))
        return "rare.safetensors"

    return write


def test_a_file_that_could_not_be_read_is_looked_at_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may read it is no part of a file's size and date."""
    (folder / "mine.safetensors").write_bytes(WHOLE)
    opened = os.open

    def closed(path: Any, *flags: Any, **more: Any) -> int:
        if Path(path).name == "mine.safetensors":
            raise PermissionError(13, "Permission denied")
        return opened(path, *flags, **more)

    with monkeypatch.context() as locked:
        locked.setattr(os, "open", closed)
        told = upscale_models.check_upscale_model("mine.safetensors")
        assert "Permission denied" in told and told.endswith(f"The file has {len(WHOLE):,} bytes")
        assert upscale_models.upscale_model_labels()["mine.safetensors"] == "cannot be used"
    assert upscale_models.check_upscale_model("mine.safetensors") == ""
    upscale_models._labels_in.cache_clear()  # a later session
    assert upscale_models.upscale_model_labels()["mine.safetensors"] == "x2 RealESRGAN Compact"


@pytest.mark.parametrize("node", [nodes.UpscaleModelLoaderCUDAspeed, nodes.UpscaleImageWithModelCUDAspeed])
@pytest.mark.parametrize("name", ["", 0, 7, 1.5, False, True, {}, {"a": 1}, [1], ["a", "b", "c"]])
def test_what_is_no_name_is_refused_in_a_sentence_before_anything_runs(node: Any, name: Any) -> None:
    told = node.VALIDATE_INPUTS(model_name=name)
    assert isinstance(told, str) and told.startswith(f"{name or repr(name)}: does not exist in any")
    assert node.IS_CHANGED(model_name=name) == ""
    assert node.VALIDATE_INPUTS(model_name=None) is True, "it comes along a wire"


def test_what_was_kept_goes_a_moment_after_the_host_was_asked_to_unload(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host unloads on another thread meanwhile, and dies of a list of models that gets shorter under its hands."""
    later: list[Callable[[], None]] = []
    monkeypatch.setattr(upscale_models.TRIMMER, "soon", later.append)
    (folder / "a.safetensors").write_bytes(WHOLE)
    kept = weakref.ref(upscale_models.load_upscale_model("a.safetensors", keep=True))
    assert upscale_models.let_go_of_models() > 0
    gc.collect()
    assert kept() is not None
    later.pop()()
    gc.collect()
    assert kept() is None and upscale_models.let_go_of_models() == 0
