"""Model files: upscalers load, everything else is refused with its reason, and no code in a file ever runs."""

import io
import os
import pickle
import shutil
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import spandrel
import torch
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from torch import nn

from cudaspeed.api.errors import BadModelError
from cudaspeed.models import loader
from cudaspeed.models.loader import check_model, find_models, load_model, model_folders, resolve_model


def tiny_state(scale: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return Compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=scale).state_dict()


@pytest.fixture
def packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pack of our own below tmp_path, with an empty folder of bundled models."""
    pack = tmp_path / "packs" / "pack"
    (pack / "models" / "bundled").mkdir(parents=True)
    monkeypatch.setattr(loader, "__file__", str(pack / "models" / "loader.py"))
    monkeypatch.delenv("CUDASPEED_MODELS", raising=False)
    return pack


class Burglar:
    """Unpickled by an ordinary unpickler, it makes the folder `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".pt", ".ckpt", ".PTH"])
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_models_load_ready_to_use_and_without_noise(tmp_path: Path, ending: str, form: str) -> None:
    path = tmp_path / f"model{ending}"
    if ending == ".safetensors":
        save_file(tiny_state(), path)
    else:
        torch.save({"params_ema": tiny_state()}, path, _use_new_zipfile_serialization=form == "zip")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_model(path)

    assert (model.scale, model.input_channels, model.architecture.name) == (2, 3, "RealESRGAN Compact")
    assert not model.model.training
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    torch.testing.assert_close(dict(model.model.state_dict()), dict(tiny_state()))
    assert model(torch.rand(1, 3, 5, 7)).shape == (1, 3, 10, 14)


@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle"])
@pytest.mark.parametrize("ending", [".pth", ".pt", ".ckpt"])
def test_a_pickle_with_code_is_refused_and_never_run(tmp_path: Path, ending: str, form: str) -> None:
    path, marker = tmp_path / f"model{ending}", tmp_path / "marker"
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(Burglar(marker), protocol=2))
    else:
        loot = {"extra": Burglar(marker), "params": tiny_state()}
        torch.save(loot, path, _use_new_zipfile_serialization=form == "zip")

    with pytest.raises(
        BadModelError, match=rf"model\{ending}: holds more than weights.* run {os.mkdir.__module__}\.mkdir"
    ):
        load_model(path)
    assert not marker.exists()

    # The trap is a real one: a loader that trusts the file walks into it.
    pickle.loads(path.read_bytes()) if form == "plain pickle" else torch.load(path, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("ending", [".pth", ".pt", ".ckpt"])
def test_torchscript_is_refused_before_torch_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    path = tmp_path / f"model{ending}"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__/net.py", "version"):
            archive.writestr(f"model/{name}", b"x")

    def must_not_be_called(*args: object, **kwargs: object) -> None:
        pytest.fail("torch was given a program to load")

    monkeypatch.setattr(torch.jit, "load", must_not_be_called)
    monkeypatch.setattr(torch, "load", must_not_be_called)
    with pytest.raises(BadModelError, match="TorchScript"):
        load_model(path)


def test_torchs_tar_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "content").write_bytes(b"x")
    shutil.make_archive(str(tmp_path / "model"), "tar", tmp_path, "content")
    (tmp_path / "model.tar").rename(tmp_path / "model.pth")
    with pytest.raises(BadModelError, match="tar archive"):
        load_model(tmp_path / "model.pth")


def test_missing_files_folders_and_endings_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadModelError, match=r"absent\.pth: does not exist"):
        load_model(tmp_path / "absent.pth")
    with pytest.raises(BadModelError, match="is not a file"):
        load_model(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(BadModelError, match=r"cannot load \.onnx; use \.safetensors, \.sft, \.pth, \.pt, \.ckpt, "):
        load_model(tmp_path / "model.onnx")


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".pt", ".ckpt"])
def test_a_damaged_file_is_refused_wherever_it_ends(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"model{ending}"
    save_file(tiny_state(), path) if ending == ".safetensors" else torch.save(tiny_state(), path)
    whole = path.read_bytes()
    for end in (0, 1, 9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(BadModelError, match=rf"model\{ending}: is damaged"):
            load_model(path)
    path.write_bytes(b"<!DOCTYPE html><title>Sign in</title>")  # what a failed download often is
    with pytest.raises(BadModelError, match="download it again"):
        load_model(path)


def test_a_truncated_legacy_pickle_is_refused(tmp_path: Path) -> None:
    path, buffer = tmp_path / "model.pth", io.BytesIO()
    torch.save(tiny_state(), buffer, _use_new_zipfile_serialization=False)
    for end in range(1, len(buffer.getvalue()), 101):
        path.write_bytes(buffer.getvalue()[:end])
        with pytest.raises(BadModelError, match=r"model\.pth"):
            load_model(path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.diffusion_model.input_blocks.0.0.weight", "text-to-image"),
        ("double_blocks.0.img_attn.proj.weight", "text-to-image"),
        ("lora_unet_down_blocks_0.lora_down.weight", "LoRA"),
        ("first_stage_model.encoder.conv_in.weight", "VAE"),
        ("control_model.input_blocks.0.0.weight", "ControlNet"),
        ("some.layer.of.mine.weight", "architecture that spandrel does not know"),
    ],
)
@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
def test_models_that_are_no_upscalers_are_called_what_they_are(
    tmp_path: Path, ending: str, name: str, kind: str
) -> None:
    path = tmp_path / f"model{ending}"
    state = {name: torch.zeros(2), "some.other.bias": torch.zeros(1)}
    save_file(state, path) if ending == ".safetensors" else torch.save({"state_dict": state, "epoch": 3}, path)
    with pytest.raises(BadModelError, match=kind):
        load_model(path)


def test_weights_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    state = tiny_state()
    state["body.2.weight"] = state["body.2.weight"][:3].clone()
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(BadModelError, match="do not fit together"):
        load_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize("content", [{"epoch": 3, "notes": "none"}, {}, [1, 2], torch.zeros(3), OrderedDict(a={})])
def test_a_file_without_weights_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(BadModelError, match="holds no weights"):
        load_model(tmp_path / "model.pth")


class Inpainting(spandrel.Architecture[nn.Module]):
    def __init__(self) -> None:
        super().__init__(id="inpainting", detect=lambda state: "mask_in.weight" in state)

    def load(self, state_dict: spandrel.StateDict) -> spandrel.MaskedImageModelDescriptor[nn.Module]:
        return spandrel.MaskedImageModelDescriptor(
            nn.ModuleDict({"mask_in": nn.Linear(2, 2)}),
            state_dict,
            architecture=self,
            purpose="Inpainting",
            tags=[],
            supports_half=False,
            supports_bfloat16=False,
            input_channels=3,
            output_channels=3,
        )


def test_an_inpainting_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = nn.ModuleDict({"mask_in": nn.Linear(2, 2)}).state_dict()
    save_file(state, tmp_path / "model.safetensors")
    architectures = spandrel.ArchRegistry()
    architectures.add(spandrel.ArchSupport.from_architecture(Inpainting()))
    really = spandrel.ModelLoader
    monkeypatch.setattr(spandrel, "ModelLoader", lambda: really(registry=architectures))

    with pytest.raises(BadModelError, match=r"inpainting model.*needs a mask"):
        load_model(tmp_path / "model.safetensors")
    with pytest.raises(BadModelError, match=r"inpainting model.*needs a mask"):
        check_model(Inpainting().load(state))


def test_check_model_lets_upscalers_through_and_names_what_else_it_got(tmp_path: Path) -> None:
    save_file(tiny_state(), tmp_path / "model.safetensors")
    model = load_model(tmp_path / "model.safetensors")
    assert check_model(model) is model
    for other, name in ((None, "NoneType"), (tiny_state(), "OrderedDict"), (nn.Identity(), "Identity")):
        with pytest.raises(BadModelError, match=rf"{name}.*UpscaleModelLoader"):
            check_model(other)


def test_models_are_found_in_three_places_and_the_first_wins(
    packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, yours = tmp_path / "mine", tmp_path / "yours"
    monkeypatch.setenv("CUDASPEED_MODELS", os.pathsep.join(map(str, (mine, yours, tmp_path / "absent"))))
    assert model_folders() == (packs / "models" / "bundled", mine, yours, tmp_path / "absent")

    for folder, names in (
        (packs / "models" / "bundled", ["a.safetensors"]),
        (mine, ["b.pth", "c.txt"]),
        (yours, ["b.pth", "d.PT"]),
    ):
        folder.mkdir(exist_ok=True)
        for name in names:
            (folder / name).write_bytes(b"")
    (mine / "folder.pth").mkdir()

    assert find_models() == {
        "a.safetensors": packs / "models" / "bundled" / "a.safetensors",
        "b.pth": mine / "b.pth",
        "d.PT": yours / "d.PT",
    }


def test_comfyuis_folder_is_one_of_them_for_a_pack_among_its_custom_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDASPEED_MODELS", raising=False)
    monkeypatch.setattr(loader, "__file__", str(tmp_path / "custom_nodes" / "pack" / "models" / "loader.py"))
    assert model_folders()[-1] == tmp_path / "models" / "upscale_models"


def test_a_model_is_meant_by_path_file_name_or_name(packs: Path, tmp_path: Path) -> None:
    bundled, elsewhere = packs / "models" / "bundled" / "net.v2.safetensors", tmp_path / "other.pth"
    bundled.write_bytes(b"")
    elsewhere.write_bytes(b"")
    assert resolve_model("net.v2.safetensors") == bundled
    assert resolve_model("net.v2") == bundled
    assert resolve_model(str(elsewhere)) == elsewhere
    with pytest.raises(BadModelError, match=r"^nets: .*there are: net\.v2\.safetensors$"):
        resolve_model("nets")


def test_what_is_missing_or_of_another_shape_is_told_by_its_name(tmp_path: Path) -> None:
    path, state, key = tmp_path / "mixture.safetensors", tiny_state(), "body.2.weight"
    save_file({name: weight for name, weight in state.items() if name != key}, path)
    with pytest.raises(BadModelError, match=rf"Missing key.*{key}"):
        load_model(path)
    save_file({**state, key: torch.zeros(3, 3, 1, 1)}, path)
    with pytest.raises(BadModelError, match=rf"{key}.*\[3, 3, 1, 1\].*\[8, 8, 3, 3\]"):
        load_model(path)
