"""Latents enlarged: each family through the engine as its network computes it, and all that comes with a latent."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import latent_zoo
import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import Tensor, nn

from cudaspeed.api.errors import BadImageError, BadModelError, BadOptionError, BrokenOutputError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.host.standalone import StandaloneContext
from cudaspeed.latents.loader import load_latent_model
from cudaspeed.latents.model import LatentModel, LatentTraits
from cudaspeed.latents.options import LatentSize
from cudaspeed.latents.upscale import upscale_latent
from cudaspeed.upscale_engine import upscale_into

EXACT = UpscaleOptions(precision="fp32", compile=False)
OWN = LatentSize()


def enlarged(
    latent: Any, model: object, size: LatentSize = OWN, options: UpscaleOptions = EXACT, vae: object = None
) -> tuple[dict[str, Any], Any]:
    context = StandaloneContext("cpu")
    return upscale_latent(
        latent, model, size, lambda frames, target, scaled: upscale_into(frames, target, scaled, options, context), vae
    )


def samples(*shape: int, deviation: float = 5.0) -> Tensor:
    return deviation * torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("latents")


@pytest.fixture(scope="module")
def convolutions(folder: Path) -> LatentModel:
    return load_latent_model(latent_zoo.file_of("latent-upscaler-v1.0_SDv1-x2.0", folder))


@pytest.fixture(scope="module")
def sesqui(folder: Path) -> LatentModel:
    return load_latent_model(latent_zoo.file_of("upscaler_SDXL", folder))


@pytest.mark.parametrize("name", latent_zoo.NAMES)
def test_what_the_network_computes_comes_out_and_nothing_is_clamped(name: str, folder: Path) -> None:
    model = load_latent_model(latent_zoo.file_of(name, folder))
    given = samples(2, model.traits.channels, 16, 32)
    made, report = enlarged({"samples": given}, model)
    network, factor = latent_zoo.network(name), model.traits.factor
    size = made["samples"].shape[-2:]
    with torch.inference_mode():
        right = network(given * factor, (*size,)) / factor if model.traits.sized else network(given)
    assert made["samples"].shape == right.shape
    torch.testing.assert_close(made["samples"], right, rtol=1e-4, atol=1e-4 * float(right.std()))
    assert bool((made["samples"] < 0).any())
    assert report.input_size == (16, 32)
    assert report.output_size == (*size,)
    assert not report.warnings


@pytest.mark.parametrize("scale", [1.0, 1.15, 1.37, 1.5, 2.0])
def test_a_network_for_any_scale_is_given_the_latent_as_it_is(scale: float, sesqui: LatentModel) -> None:
    given = samples(1, 4, 13, 22)
    made, _ = enlarged({"samples": given}, sesqui, LatentSize(scale))
    size = int(13 * scale + 1e-3), int(22 * scale + 1e-3)
    with torch.inference_mode():
        right = latent_zoo.network("upscaler_SDXL")(given, size)
    torch.testing.assert_close(made["samples"], right, rtol=1e-4, atol=1e-3)


def test_all_that_comes_with_a_latent_is_kept_and_its_mask_grows(convolutions: LatentModel) -> None:
    latent = {
        "samples": samples(2, 4, 8, 12).to(torch.bfloat16),
        "noise_mask": torch.rand(1, 64, 96),
        "batch_index": [3, 4],
        "downscale_ratio_spacial": 8,
    }
    made, _ = enlarged(latent, convolutions)
    assert made["samples"].dtype == torch.bfloat16
    assert made["samples"].shape == (2, 4, 16, 24)
    assert made["batch_index"] == [3, 4]
    assert made["downscale_ratio_spacial"] == 8
    expected = F.interpolate(latent["noise_mask"][None], size=(128, 192), mode="bilinear")[0]
    torch.testing.assert_close(made["noise_mask"], expected)
    assert latent["samples"].shape == (2, 4, 8, 12)


def test_a_films_latent_is_enlarged_frame_by_frame(convolutions: LatentModel) -> None:
    given = samples(2, 4, 3, 8, 12)
    made, report = enlarged({"samples": given}, convolutions)
    assert made["samples"].shape == (2, 4, 3, 16, 24)
    assert report.frames == 6
    one, _ = enlarged({"samples": given[1:, :, 2]}, convolutions)
    torch.testing.assert_close(made["samples"][1:, :, 2], one["samples"], rtol=1e-5, atol=1e-4)


def test_folded_channels_are_unfolded_for_the_network_and_folded_again(folder: Path) -> None:
    model = load_latent_model(latent_zoo.file_of("upscaler_Flux2", folder))
    given = samples(1, 128, 6, 8)
    made, report = enlarged({"samples": given}, model, LatentSize(1.5))
    with torch.inference_mode():
        right = latent_zoo.network("upscaler_Flux2")(F.pixel_shuffle(given, 2), (18, 24))
    torch.testing.assert_close(made["samples"], F.pixel_unshuffle(right, 2), rtol=1e-4, atol=1e-3)
    assert report.output_size == (9, 12)


def test_flux2s_normalisation_is_undone_for_the_network_and_done_again(folder: Path) -> None:
    model = load_latent_model(latent_zoo.file_of("upscaler_Flux2", folder))
    norm = nn.BatchNorm2d(128, eps=1e-4, affine=False).eval()
    norm.running_mean, norm.running_var = samples(128, deviation=1.0), samples(128).square() + 0.5
    vae = SimpleNamespace(first_stage_model=SimpleNamespace(bn=norm))
    raw = samples(1, 128, 6, 8)
    given = {"samples": norm(raw).half()}

    made, report = enlarged(given, model, LatentSize(1.5), vae=vae)

    expected, plain = enlarged({"samples": raw}, model, LatentSize(1.5))
    error = norm(expected["samples"]) - made["samples"].float()
    assert error.square().mean().sqrt() < 0.01 * norm(expected["samples"]).std()
    assert made["samples"].dtype == torch.float16
    assert not report.notes and "connect Flux2's VAE" in plain.notes[0]
    with pytest.raises(BadImageError, match="the connected VAE normalises no latents"):
        enlarged(given, model, vae=SimpleNamespace(first_stage_model=nn.Identity()))


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 17)])
def test_sides_that_the_windows_do_not_divide_are_filled_and_cut_off(size: tuple[int, int], folder: Path) -> None:
    model = load_latent_model(latent_zoo.file_of("SwinFIR_sdxl", folder))
    made, _ = enlarged({"samples": samples(1, 4, *size)}, model)
    assert made["samples"].shape == (1, 4, 2 * size[0], 2 * size[1])
    assert bool(torch.isfinite(made["samples"]).all())


@pytest.mark.parametrize("tile", [80, 84, 96])
@pytest.mark.parametrize("sides", [(24, 104), (25, 105), (27, 120)])
@pytest.mark.parametrize("scale", [1.25, 1.5, 2.0])
def test_tiles_of_any_side_give_the_latent_in_one_piece(
    scale: float, sides: tuple[int, int], tile: int, folder: Path
) -> None:
    path = latent_zoo.file_of("latent-upscaler-v1.0_SDv1-x2.0", folder, f"some-x{'2.0' if scale == 2 else scale}")
    model, given = load_latent_model(path), {"samples": samples(1, 4, *sides)}
    whole, _ = enlarged(given, model)
    made, report = enlarged(given, model, options=UpscaleOptions(precision="fp32", compile=False, tile=tile))
    assert report.tiles > 1
    assert made["samples"].shape == whole["samples"].shape
    # sides that squares do not fill are filled up for tiles, which the lowest and the rightmost of them see
    values = {1.25: 4, 1.5: 2}.get(scale, 1)  # of a square's side
    height, width = (int(side * scale) - (16 if side % values else 0) for side in sides)
    seen = (..., slice(height), slice(width))
    torch.testing.assert_close(made["samples"][seen], whole["samples"][seen], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("scale", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 3)])
def test_tiny_latents_are_filled_for_a_network_that_mirrors_edges(
    scale: float, size: tuple[int, int], sesqui: LatentModel
) -> None:
    made, _ = enlarged({"samples": samples(1, 4, *size)}, sesqui, LatentSize(scale))
    assert made["samples"].shape[2:] == tuple(int(side * scale) for side in size)
    assert bool(torch.isfinite(made["samples"]).all())


def test_a_latent_of_one_pixel_is_judged_though_it_has_nothing_to_deviate_from(convolutions: LatentModel) -> None:
    alone = samples(1, 4, 1, 1)
    made, report = enlarged({"samples": alone}, convolutions)
    assert not report.warnings
    torch.testing.assert_close(made["samples"], convolutions.model(alone), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("how", ["area", "bislerp"])
def test_another_size_is_reached_by_resampling_where_that_is_asked_for(how: Any, convolutions: LatentModel) -> None:
    made, _ = enlarged({"samples": samples(1, 4, 8, 12)}, convolutions, LatentSize(1.5, how))
    assert made["samples"].shape == (1, 4, 12, 18)
    tiny, _ = enlarged({"samples": samples(1, 4, 1, 2)}, convolutions, LatentSize(0.25, how))
    assert tiny["samples"].shape == (1, 4, 1, 1)


def test_bislerp_keeps_what_is_even_and_its_length() -> None:
    from cudaspeed.latents.resample import resample

    even = torch.full((1, 4, 5, 5), 2.0)
    torch.testing.assert_close(resample(even, (9, 7), "bislerp"), torch.full((1, 4, 9, 7), 2.0))
    turning = F.normalize(samples(1, 4, 6, 6), dim=1)
    lengths = resample(turning, (11, 13), "bislerp").norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=1e-3, atol=1e-3)


def test_tiles_are_as_good_as_the_whole_where_the_network_looks_little_around(convolutions: LatentModel) -> None:
    given = {"samples": samples(1, 4, 64, 96)}
    whole, report = enlarged(given, convolutions)
    tiled, of_tiles = enlarged(given, convolutions, options=UpscaleOptions(precision="fp32", compile=False, tile=48))
    assert (report.tiles, of_tiles.tiles > 1) == (1, True)
    off = (whole["samples"] - tiled["samples"]).square().mean().sqrt() / whole["samples"].std()
    assert off < 0.01
    assert not of_tiles.warnings


def test_tiles_of_a_network_that_sees_all_are_warned_of(sesqui: LatentModel) -> None:
    options = UpscaleOptions(precision="fp32", compile=False, tile=48)
    _, report = enlarged({"samples": samples(1, 4, 64, 64)}, sesqui, options=options)
    assert "in tiles, which changes the result" in " ".join(report.warnings)


def test_half_precision_stays_within_a_hundredth(convolutions: LatentModel) -> None:
    given = {"samples": samples(1, 4, 32, 32)}
    exact, _ = enlarged(given, convolutions)
    half, report = enlarged(given, convolutions, options=UpscaleOptions(precision="bf16", compile=False))
    assert report.precision == "bf16"
    assert (exact["samples"] - half["samples"]).std() < 0.01 * exact["samples"].std()


class _Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2) / 0


@pytest.mark.parametrize(
    ("latent", "told"),
    [
        ({"samples": torch.full((1, 4, 8, 8), float("nan"))}, "256 of the latent's 256 values are NaN or infinite"),
        ({"samples": torch.zeros(1, 4, 0, 8)}, "has no values"),
        ({"samples": torch.zeros(4, 8, 8)}, "or with time before height, are needed"),
        ({"samples": torch.zeros(1, 4, 8, 8, dtype=torch.int32)}, "torch.int32"),
        ({"samples": torch.nested.nested_tensor([torch.zeros(4, 8, 8)])}, "several tensors in one"),
        ({}, "samples are a NoneType"),
        (
            {"samples": torch.zeros(1, 16, 8, 8)},
            r"16 channels \(Flux, SD3, .*\), and .* is for 4 \(SD 1.5\)",
        ),
    ],
)
def test_what_is_no_latent_for_the_model_is_one_error(latent: Any, told: str, convolutions: LatentModel) -> None:
    with pytest.raises(BadImageError, match=told):
        enlarged(latent, convolutions)


def test_a_scale_that_the_model_has_not_is_one_error(convolutions: LatentModel, sesqui: LatentModel) -> None:
    given = {"samples": samples(1, 4, 8, 8)}
    with pytest.raises(BadOptionError, match=r"scale_by is 1.37, and SD-Latent-Upscaler enlarges by 2; set scale_by"):
        enlarged(given, convolutions, LatentSize(1.37))
    with pytest.raises(BadOptionError, match=r"scale_by is 3, and SesquiLSR enlarges by 1 to 2"):
        enlarged(given, sesqui, LatentSize(3.0))
    with pytest.raises(BadOptionError, match=r"scale_by is 99.0; choose a number from 0.25 to 8"):
        LatentSize(99.0, "area")


def test_models_for_pictures_and_others_are_named(convolutions: LatentModel) -> None:
    with pytest.raises(BadModelError, match="enlarges pictures, not latents; use UpscaleImageCUDAspeed"):
        enlarged({"samples": samples(1, 4, 8, 8)}, zoo.compact())
    with pytest.raises(BadModelError, match="is a str; connect the output of LatentUpscaleModelLoaderCUDAspeed"):
        enlarged({"samples": samples(1, 4, 8, 8)}, "model")
    for asked in (lambda: convolutions.load_device, lambda: convolutions.resample_latent(None)):
        with pytest.raises(BadModelError, match="is for Upscale Latent CUDAspeed; ComfyUI's own nodes"):
            asked()


def test_a_network_that_gives_no_numbers_is_named() -> None:
    model = LatentModel(_Broken().eval(), LatentTraits("DAT", 4, (2, 2)))
    with pytest.raises(BrokenOutputError, match="DAT gave NaN or infinite values for latent 0, in fp32 too"):
        enlarged({"samples": samples(1, 4, 8, 8)}, model)
