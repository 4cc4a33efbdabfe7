"""Latent upscalers' files: told apart by their weights, and what is wrong with others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import latent_zoo
import pytest
import spandrel
import torch
import zoo
from safetensors.torch import load_file, save_file
from spandrel.architectures.DAT import DAT
from torch import nn

from cudaspeed.api.errors import BadModelError, BadOptionError
from cudaspeed.latents.architectures import craft, swinfir
from cudaspeed.latents.loader import load_copied, load_latent_model
from cudaspeed.latents.names import base_of, scale_of
from cudaspeed.models.loader import check_model, load_model
from cudaspeed.models.weights import read_weights
from cudaspeed.storage.fingerprint import content_of

SMALL_DAT = {"embed_dim": 24, "split_size": [8, 12], "depth": [2], "num_heads": [2], "expansion_factor": 2}
FAMILIES = {
    "DAT2x2_1.5": ("DAT", (2, 2), "SD 1.5"),
    "DRCT_sdxl": ("DRCT", (2, 2), "SDXL"),
    "DRCTFIR_sdxl": ("DRCTFIR", (2, 2), "SDXL"),
    "SwinFIR_sdxl": ("SwinFIR", (2, 2), "SDXL"),
    "SwinFIR_x3_sdxl": ("SwinFIR", (3, 3), "SDXL"),
    "CRAFT_1.5": ("CRAFT", (2, 2), "SD 1.5"),
    "latent-upscaler-v2.1_SDxl-x1.5": ("SD-Latent-Upscaler", (1.5, 1.5), "SDXL"),
    "latent-upscaler-v1.0_SDv1-x2.0": ("SD-Latent-Upscaler", (2, 2), "SD 1.5"),
    "sd15_resizer": ("NNLatentUpscale", (1, 2), "SD 1.5"),
    "upscaler_SDXL": ("SesquiLSR", (1, 2), "SDXL"),
    "upscaler_Flux2": ("SesquiLSR", (1, 2), "Flux2"),
}


@pytest.mark.parametrize("name", latent_zoo.NAMES)
@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_a_family_is_told_by_its_weights(name: str, ending: str, tmp_path: Path) -> None:
    path = latent_zoo.file_of(name, tmp_path)
    if ending == "pth":
        weights, path = load_file(path), path.with_suffix(".pth")
        torch.save({"params": weights}, path)
    traits = load_latent_model(path).traits
    assert (traits.family, traits.scales, traits.base) == FAMILIES[name]


@pytest.mark.parametrize(
    ("network", "multiple"),
    [
        (lambda: swinfir.SwinFIR(swinfir.Sizes(embed=8, depths=(2,), heads=2, window=12, mlp=2.0, hidden=8)), 12),
        (lambda: craft.UnpaddedCRAFT(craft.Sizes(embed=96, depths=(1,), window=(4, 32))), 32),
        (lambda: DAT(in_chans=4, upsampler="pixelshuffle", upscale=2, img_size=48, **SMALL_DAT), 24),
    ],
    ids=["swinfir", "craft", "dat"],
)
def test_sides_are_filled_up_to_the_windows_that_a_file_has(
    network: Callable[[], nn.Module], multiple: int, tmp_path: Path
) -> None:
    path = tmp_path / "some_sdxl.safetensors"
    save_file({key: value.contiguous() for key, value in network().state_dict().items()}, path)
    model = load_latent_model(path)
    assert model.traits.divisor == multiple
    with torch.inference_mode():
        assert model.model(torch.randn(1, 4, multiple, 2 * multiple)).shape == (1, 4, 2 * multiple, 4 * multiple)


@pytest.mark.parametrize("depths", [[3, 3, 3, 3, 3], [3, 2, 3, 2], [1, 2, 3]])
def test_a_network_of_many_groups_computes_what_spandrels_does(depths: list[int], tmp_path: Path) -> None:
    sizes = {**SMALL_DAT, "split_size": [8, 16], "depth": depths, "num_heads": [2] * len(depths)}
    network = DAT(in_chans=4, upsampler="pixelshuffle", upscale=2, img_size=32, **sizes).eval()
    path, latents = tmp_path / "DAT_1.5.safetensors", torch.randn(1, 4, 32, 48)
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
    model = load_latent_model(path).model
    weights = [weight for weight in model.parameters() if weight.numel()]
    assert len({weight.data_ptr() for weight in weights}) == len(weights)
    with torch.inference_mode():
        torch.testing.assert_close(model(latents), network(latents), rtol=1e-4, atol=1e-5)


def test_a_file_that_asks_for_many_more_groups_than_it_has_weights_for_is_refused(tmp_path: Path) -> None:
    weights = load_file(latent_zoo.file_of("DRCT_sdxl", tmp_path))
    path = tmp_path / "many_sdxl.safetensors"
    save_file({**weights, **{f"layers.{group}.z": torch.zeros(1) for group in range(2, 900)}}, path)
    with pytest.raises(BadModelError, match="far more layers than they have weights for"):
        load_latent_model(path)


def test_a_renamed_file_without_a_scale_asks_for_it_and_does_not_guess(tmp_path: Path) -> None:
    path = latent_zoo.file_of("latent-upscaler-v2.1_SDxl-x1.5", tmp_path, "mine")
    with pytest.raises(BadOptionError, match=r"scale is not set, and neither .* set it to .*: 1.25, 1.5, 2"):
        load_latent_model(path)
    with pytest.raises(BadOptionError, match=r"scale is 1\.7"):
        load_latent_model(path, 1.7)
    assert load_latent_model(path, 1.25).traits.scales == (1.25, 1.25)


@pytest.mark.parametrize("wrapped", [lambda weights: weights, lambda weights: {"state_dict": weights, "epoch": 3}])
def test_what_training_on_several_devices_puts_before_names_is_left_off(
    wrapped: Callable[[dict[str, torch.Tensor]], object], tmp_path: Path
) -> None:
    weights = read_weights(latent_zoo.file_of("DRCT_sdxl", tmp_path))
    path = tmp_path / "trained_sdxl.pth"
    torch.save(wrapped({f"module.{name}": weight for name, weight in weights.items()}), path)
    assert load_latent_model(path).traits.family == "DRCT"
    with pytest.raises(BadModelError, match="latents, not pictures"):
        load_model(path)


@pytest.mark.parametrize("name", latent_zoo.NAMES)
def test_the_loader_of_models_for_pictures_names_the_one_for_latents(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadModelError, match="latents, not pictures; load it by LatentUpscaleModelLoaderCUDAspeed"):
        load_model(latent_zoo.file_of(name, tmp_path))


def test_so_does_a_node_that_core_loaded_one_for(tmp_path: Path) -> None:
    as_core_loads_it = spandrel.ModelLoader().load_from_file(latent_zoo.file_of("DAT2x2_1.5", tmp_path))
    with pytest.raises(BadModelError, match=r"the model \(DAT\) upscales latents"):
        check_model(as_core_loads_it)


def test_a_model_for_pictures_is_sent_to_its_loader(tmp_path: Path) -> None:
    path = tmp_path / "compact.safetensors"
    save_file({key: value.contiguous() for key, value in zoo.compact().model.state_dict().items()}, path)
    with pytest.raises(BadModelError, match=r"is a model for pictures \(.*Compact\): load it with UpscaleModelLoader"):
        load_latent_model(path)


def test_so_is_one_of_an_architecture_that_latents_have_too(tmp_path: Path) -> None:
    weights = {
        "layers.0.blocks.0.attn.attns.0.rpe_biases": torch.zeros(1),
        "conv_first.weight": torch.zeros(9, 3, 3, 3),
    }
    save_file(weights, tmp_path / "dat.safetensors")
    told = r"is DAT for 3 channels, which are no latent's \(4, 16, 32\); a model for pictures is loaded by Upscale"
    with pytest.raises(BadModelError, match=told):
        load_latent_model(tmp_path / "dat.safetensors")


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({"lora_unet_down.weight": torch.zeros(2, 2)}, "is a LoRA"),
        ({"model.diffusion_model.x": torch.zeros(2)}, "is a text-to-image checkpoint"),
        ({"decoder.up.0.weight": torch.zeros(2)}, r"is an autoencoder \(VAE\)"),
        (
            {"odd.weight": torch.zeros(2)},
            r"no latent upscaler .* \(SwinFIR, .*first weights are odd",
        ),
    ],
)
def test_what_else_a_file_is_is_said(weights: dict[str, torch.Tensor], told: str, tmp_path: Path) -> None:
    save_file(weights, tmp_path / "file.safetensors")
    with pytest.raises(BadModelError, match=told):
        load_latent_model(tmp_path / "file.safetensors")


def test_a_weight_that_is_missing_or_of_another_shape_is_named(tmp_path: Path) -> None:
    path = latent_zoo.file_of("upscaler_SDXL", tmp_path)
    weights = load_file(path)
    key = "tail_conv.0.weight"
    save_file({name: weight for name, weight in weights.items() if name != key}, path)
    with pytest.raises(BadModelError, match=rf"{key}: expected .* found none"):
        load_latent_model(path)
    save_file(weights | {key: torch.zeros(3, 3, 1, 1)}, path)
    with pytest.raises(BadModelError, match=rf"{key}: expected .* found \[3, 3, 1, 1\]"):
        load_latent_model(path)


@pytest.mark.parametrize("name", [name for name in latent_zoo.NAMES if "x3" not in name])
def test_both_shapes_are_told_where_names_are_long(name: str, tmp_path: Path) -> None:
    path = latent_zoo.file_of(name, tmp_path)
    weights = read_weights(path)
    key = max((key for key, weight in weights.items() if weight.ndim == 4), key=len)
    expected = [*weights[key].shape]
    save_file({name: weight.contiguous() for name, weight in weights.items()} | {key: torch.zeros(1, *expected)}, path)
    with pytest.raises(BadModelError) as caught:
        load_latent_model(path, scale=2.0)
    told = str(caught.value)
    assert key in told
    assert told.endswith(f"found {[1, *expected]}")


class _Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._path,)


def test_foreign_classes_are_refused_and_nothing_is_run(tmp_path: Path) -> None:
    torch.save(
        {"sequential.36.weight": torch.zeros(4, 64, 3, 3), "evil": _Evil(tmp_path / "ran")}, tmp_path / "evil.pth"
    )
    with pytest.raises(BadModelError, match=r"evil.pth: holds more than weights"):
        load_latent_model(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("scale", [2.0, 1.37])
def test_what_a_run_writes_down_to_be_compiled_is_the_same_model(scale: float, tmp_path: Path) -> None:
    model = load_latent_model(latent_zoo.file_of("upscaler_SDXL", tmp_path)).at_scale(scale)
    weights = {name: value.clone() for name, value in model.model.state_dict().items()}
    save_file(weights, tmp_path / "weights.safetensors")
    copied = load_copied(tmp_path / "weights.safetensors")
    assert content_of(copied.model) == content_of(model.model)
    assert copied.scale == model.scale


@pytest.mark.parametrize(
    ("stem", "base", "scale"),
    [
        ("DAT6x6_l1_eV2-b0_265k_1.5", "SD 1.5", None),
        ("DRCT-l_12x6_160k_l1_vaeDecode_l1_hfen_sdxl", "SDXL", None),
        ("latent-upscaler-v2.1_SDxl-x1.5", "SDXL", 1.5),
        ("latent-upscaler-v1.0_SDv1-x1.25", "SD 1.5", 1.25),
        ("upscaler_Flux", "Flux", None),
        ("upscaler_Flux2", "Flux2", None),
        ("upscaler_Wan21", "Wan, Qwen", None),
        ("mine", "", None),
    ],
)
def test_names_tell_what_a_file_is_for(stem: str, base: str, scale: float | None) -> None:
    assert base_of(stem) == base
    assert scale_of(stem) == scale
