"""The nodes as a host sees them, outside ComfyUI: widgets, results, errors. Inside it: comfyui/test_images.py."""

from __future__ import annotations

import json
from pathlib import Path

import latent_zoo
import pytest
import torch
import zoo

from cudaspeed import nodes
from cudaspeed.api.errors import BadModelError, BadOptionError
from cudaspeed.api.options import UpscaleOptions
from cudaspeed.api.surroundings import inside_comfyui
from cudaspeed.host.context import run_context
from cudaspeed.video.options import VideoOptions

DEFAULTS = {
    "use_autocast": "enable",
    "precision": "auto",
    "tile_size": 0,
    "overlap": 0,
    "enable_compile": "enable",
    "optimization_level": "balanced",
    "batch_size": 1,
}
# after the original pack's, so that its saved values keep their places
OURS = {
    **{"compile_mode": "auto", "tiling_mode": "none", "alpha_mode": "auto", "reproducible": "disable"},
    **{"scale_by": 0.0, "target_width": 0, "target_height": 0, "fit": "stretch", "resample": "lanczos", "devices": ""},
}


def test_widgets_are_the_original_packs() -> None:
    inputs = nodes.UpscaleImageCUDAspeed.INPUT_TYPES()
    widgets = {**inputs["required"], **inputs["optional"]}
    assert list(widgets) == ["upscale_model", "image", *DEFAULTS, *OURS]
    for name, default in {**DEFAULTS, **OURS}.items():
        assert widgets[name][1]["default"] == default
    assert [widgets["tile_size"][1][k] for k in ("min", "max", "step")] == [0, 2048, 8]
    assert [widgets["overlap"][1][k] for k in ("min", "max", "step")] == [0, 128, 8]
    assert [widgets["batch_size"][1][k] for k in ("min", "max", "step")] == [1, 16, 1]
    assert widgets["precision"][0] == ["auto", "fp16", "fp32", "bf16"]
    assert widgets["optimization_level"][0] == ["balanced", "speed", "memory"]
    assert widgets["tiling_mode"][0] == ["none", "wrap", "wrap_x", "wrap_y"]
    assert widgets["alpha_mode"][0] == ["auto", "model", "lanczos"]
    assert widgets["fit"][0] == ["stretch", "crop", "pad", "inside"]
    assert widgets["resample"][0] == ["area", "bicubic", "lanczos"]
    assert all("tooltip" in options for _, options in widgets.values())
    json.dumps(inputs)  # the host sends them to the browser


@pytest.mark.parametrize("kind", ["UpscaleImageCUDAspeed", "ImageUpscaleWithModelCUDAspeedFixed"])
def test_the_first_minute_needs_few_widgets_and_the_others_are_folded_away(kind: str) -> None:
    inputs = nodes.NODE_CLASS_MAPPINGS[kind].INPUT_TYPES()
    widgets = {**inputs["required"], **inputs["optional"]}
    seen = [name for name, (_, shown) in widgets.items() if not shown.get("advanced")]
    assert seen == ["upscale_model", "image", "precision", "tile_size", "enable_compile"]
    assert not any("advanced" in widgets[name][1] for name in seen), "an older page would read any value"


def test_a_small_tile_size_that_is_typed_does_not_become_automatic() -> None:
    """The page rounds what is typed to steps."""
    for inputs in (nodes.UpscaleImageCUDAspeed.INPUT_TYPES(), nodes.WarmUpUpscalerCUDAspeed.INPUT_TYPES()):
        step = inputs["required"]["tile_size"][1]["step"]
        assert [round(typed / step) * step for typed in (30, 100)] == [32, 96]


@pytest.mark.parametrize("changes", [{}, {"tile_size": 1280, "overlap": 8}, {"tile_size": 37, "batch_size": 3}])
@pytest.mark.parametrize("kind", ["UpscaleImageCUDAspeed", "ImageUpscaleWithModelCUDAspeedFixed"])
def test_the_node_upscales(kind: str, changes: dict[str, int]) -> None:
    node = nodes.NODE_CLASS_MAPPINGS[kind]()
    image = zoo.photograph(50, 60, frames=2)
    (result,) = getattr(node, node.FUNCTION)(zoo.compact(), image, **{**DEFAULTS, **changes})["result"]
    assert result.shape == (2, 100, 120, 3)
    assert result.dtype == torch.float32
    assert 0 <= float(result.min()) <= float(result.max()) <= 1


def test_a_batch_without_frames_is_passed_on() -> None:
    node = nodes.UpscaleImageCUDAspeed()
    (result,) = node.upscale(upscale_model=zoo.compact(), image=zoo.photograph(50, 60)[:0], **DEFAULTS)["result"]
    assert result.shape == (0, 100, 120, 3)


def test_a_seamless_texture_with_alpha_stays_seamless_by_its_widgets() -> None:
    node, ends = nodes.UpscaleImageCUDAspeed(), torch.linspace(0, 2 * torch.pi, 33)[:-1]
    image = (0.5 + 0.4 * torch.sin(ends)[:, None] * torch.cos(3 * ends))[None, ..., None].repeat(1, 1, 1, 4)
    widgets = {**DEFAULTS, "precision": "fp32", "tiling_mode": "wrap", "alpha_mode": "lanczos"}
    pictures = (image, image.roll((16, 16), (1, 2)))
    results = [node.upscale(zoo.compact(), picture, **widgets)["result"][0] for picture in pictures]
    assert results[0].shape == (1, 64, 64, 4)
    assert torch.allclose(results[1], results[0].roll((32, 32), (1, 2)), atol=2 / 255)
    with pytest.raises(BadOptionError, match="tiling mode is 'both'; choose one of none, wrap, wrap_x, wrap_y"):
        node.upscale(zoo.compact(), image, **{**widgets, "tiling_mode": "both"})


@pytest.mark.parametrize(
    ("widgets", "size"),
    [
        ({"scale_by": 1.5}, (75, 90)),
        ({"scale_by": 4}, (200, 240)),
        ({"target_width": 30}, (25, 30)),
        ({"target_width": 64, "target_height": 64}, (64, 64)),
        ({"target_width": 64, "target_height": 64, "fit": "inside", "resample": "area"}, (53, 64)),
        ({"fit": "crop", "resample": "area"}, (100, 120)),
    ],
)
def test_results_come_in_the_size_of_the_widgets(widgets: dict[str, object], size: tuple[int, int]) -> None:
    node, image = nodes.UpscaleImageCUDAspeed(), zoo.photograph(50, 60, frames=2)
    (result,) = node.upscale(upscale_model=zoo.compact(), image=image, **{**DEFAULTS, **OURS, **widgets})["result"]
    assert result.shape == (2, *size, 3)


def test_a_factor_and_a_target_are_one_clear_error() -> None:
    widgets = {**DEFAULTS, **OURS, "scale_by": 2.0, "target_width": 64}
    with pytest.raises(BadOptionError, match="choose one of them"):
        nodes.UpscaleImageCUDAspeed().upscale(upscale_model=zoo.compact(), image=zoo.photograph(8, 8), **widgets)


def test_workflows_without_the_optional_widget_run() -> None:
    widgets = {name: value for name, value in DEFAULTS.items() if name != "batch_size"}
    node = nodes.UpscaleImageCUDAspeed()
    (result,) = node.upscale(upscale_model=zoo.compact(), image=zoo.photograph(8, 8), **widgets)["result"]
    assert result.shape == (1, 16, 16, 3)


def test_wrong_wires_and_values_are_one_clear_error() -> None:
    node, image = nodes.UpscaleImageCUDAspeed(), zoo.photograph(8, 8)
    with pytest.raises(BadModelError, match="connect the output of an UpscaleModelLoader"):
        node.upscale(upscale_model="4x.pth", image=image, **DEFAULTS)
    with pytest.raises(BadOptionError, match="batch size is 40; choose a whole number from 1 to 16"):
        node.upscale(upscale_model=zoo.compact(), image=image, **{**DEFAULTS, "batch_size": 40})


@pytest.mark.parametrize(("widget", "option"), [("use_autocast", "autocast"), ("enable_compile", "compile")])
def test_switches_become_booleans_and_the_original_names_the_options(widget: str, option: str) -> None:
    assert nodes.options_of({**DEFAULTS, **OURS}) == nodes.options_of({}) == UpscaleOptions()
    assert nodes.options_of({**DEFAULTS, widget: "disable"}) == UpscaleOptions(**{option: False})
    named = {"tile_size": 64, "optimization_level": "memory", "overlap": 8, "tiling_mode": "wrap_x"}
    assert nodes.options_of(named) == UpscaleOptions(tile=64, level="memory", overlap=8, tiling_mode="wrap_x")
    for value in (True, "yes", None, []):
        with pytest.raises(BadOptionError, match=f"^{widget} is .*; choose enable or disable$"):
            nodes.options_of({**DEFAULTS, widget: value})


def test_the_loader_gives_the_bundled_model_by_its_name() -> None:
    loader = nodes.UpscaleModelLoader()
    names = loader.INPUT_TYPES()["required"]["model_name"][0]
    assert "cudaspeed-compact-x2.safetensors" in names
    (model,) = loader.load_model("cudaspeed-compact-x2.safetensors")
    assert model.scale == 2
    with pytest.raises(BadModelError, match="does not exist"):
        loader.load_model("gone.pth")


def test_outside_comfyui_the_standalone_twin_runs() -> None:
    assert not inside_comfyui()
    with run_context(zoo.compact()) as context:
        assert context.output_dtype == torch.float32


def test_the_warm_up_node_compiles_for_the_size_and_hands_the_model_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple] = []

    def warm_up(model: object, size: tuple[int, int], options: UpscaleOptions, context: object) -> str:
        asked.append((model, size, options))
        return "compiled"

    monkeypatch.setattr(nodes, "warm_up", warm_up)
    node, model = nodes.WarmUpUpscalerCUDAspeed(), zoo.compact()
    widgets = {name: DEFAULTS[name] for name in ("use_autocast", "precision", "tile_size")}
    inputs = node.INPUT_TYPES()["required"]
    assert [*inputs] == ["upscale_model", "width", "height", *widgets]
    assert [name for name, (_, shown) in inputs.items() if shown.get("advanced")] == ["use_autocast"]
    out = getattr(node, node.FUNCTION)(upscale_model=model, width=640, height=480, **widgets)
    assert out["result"] == (model, "compiled")
    assert out["ui"] == {"text": ("compiled",)}
    assert asked == [(model, (480, 640), UpscaleOptions())]


def test_the_film_node_has_few_widgets_to_see_and_those_of_pictures_folded_away() -> None:
    inputs = nodes.UpscaleVideoCUDAspeed.INPUT_TYPES()
    assert [*inputs["required"]] == ["upscale_model", "video"]
    seen = [name for name, (_, shown) in inputs["optional"].items() if not shown.get("advanced")]
    assert seen == ["codec", "crf", "bit_depth", "scale_by", "target_width", "target_height", "fit"]
    of_pictures = {*DEFAULTS, *OURS} - {"tiling_mode"}
    assert {*inputs["optional"]} == of_pictures | {"codec", "crf", "bit_depth", "segments"}
    assert all("tooltip" in shown for _, shown in inputs["optional"].values())
    json.dumps(inputs)
    untouched = {name: shown["default"] for name, (_, shown) in inputs["optional"].items()}
    assert nodes.options_of(untouched) == UpscaleOptions()
    assert nodes.video_options_of(untouched) == nodes.video_options_of({}) == VideoOptions()
    chosen = nodes.video_options_of({"codec": "libx265", "crf": 20, "bit_depth": "10"})
    assert chosen == VideoOptions("libx265", 20, 10)
    assert nodes.video_options_of({"segments": "enable"}).segment_seconds == 10
    with pytest.raises(BadOptionError, match="segments is True; choose enable or disable"):
        nodes.video_options_of({"segments": True})
    with pytest.raises(BadOptionError, match="bit_depth is '12'; choose one of auto, 8, 10"):
        nodes.video_options_of({"bit_depth": "12"})


ONE = "UpscaleImageWithModelCUDAspeed"
BUNDLED = "cudaspeed-compact-x2.safetensors"


@pytest.mark.parametrize("kind", [ONE, "UpscaleModelLoaderCUDAspeed"])
def test_the_lists_of_models_have_file_names_for_values_and_words_beside_them(kind: str) -> None:
    names, told = nodes.NODE_CLASS_MAPPINGS[kind].INPUT_TYPES()["required"]["model_name"]
    assert BUNDLED in names == nodes.UpscaleModelLoader.INPUT_TYPES()["required"]["model_name"][0]
    assert told["cudaspeed_labels"][BUNDLED] == "x2 RealESRGAN Compact"


def test_the_one_node_shows_the_size_and_folds_all_else_away() -> None:
    inputs = nodes.UpscaleImageWithModelCUDAspeed.INPUT_TYPES()
    assert [*inputs["required"]] == ["model_name", "image"]
    seen = [name for name, (_, shown) in inputs["optional"].items() if not shown.get("advanced")]
    assert seen == ["scale_by", "target_width", "target_height", "fit"]
    assert {*inputs["optional"]} == {*DEFAULTS, *OURS}
    untouched = {name: shown["default"] for name, (_, shown) in inputs["optional"].items()}
    assert nodes.options_of(untouched) == UpscaleOptions()
    json.dumps(inputs)


def test_the_one_node_gives_the_bits_of_loader_and_upscaling_node() -> None:
    widgets, image = {"precision": "fp32", "reproducible": "enable", "scale_by": 1.5}, zoo.photograph(40, 50)
    (model,) = nodes.UpscaleModelLoaderCUDAspeed().load_model(BUNDLED)
    (two,) = nodes.UpscaleImageCUDAspeed().upscale(model, image, **widgets)["result"]
    (one,) = nodes.UpscaleImageWithModelCUDAspeed().upscale(BUNDLED, image, **widgets)["result"]
    assert torch.equal(one, two)
    assert one.shape == (1, 60, 75, 3)


@pytest.mark.parametrize("kind", [ONE, "UpscaleModelLoaderCUDAspeed"])
def test_what_is_the_same_does_not_run_again_and_another_file_does(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDASPEED_MODELS", str(tmp_path))
    (tmp_path / "a.pth").write_bytes(b"<html>")
    node = nodes.NODE_CLASS_MAPPINGS[kind]
    first = node.IS_CHANGED(model_name="a.pth")
    assert first == node.IS_CHANGED(model_name="a.pth")
    assert node.IS_CHANGED(model_name=None) == node.IS_CHANGED(model_name=None)
    assert "is a web page" in node.VALIDATE_INPUTS(model_name="a.pth")
    assert node.VALIDATE_INPUTS(model_name=BUNDLED) is node.VALIDATE_INPUTS(model_name=None) is True
    (tmp_path / "a.pth").write_bytes(b"<html></html>")
    assert node.IS_CHANGED(model_name="a.pth") != first


@pytest.mark.parametrize(
    "old",
    [
        {"enable_debug": False, "batch_size": 2},
        {"batch_size": False, "compile_mode": 2},
        {"multi_gpu_mode": "dual_gpu", "gpu_load_balance": 0.5},
    ],
)
def test_the_original_packs_formats_run(old: dict[str, object]) -> None:
    for node in (nodes.ImageUpscaleWithModelCUDAspeedFixed(), nodes.ImageUpscaleWithModelCUDAspeed()):
        (result,) = node.upscale(zoo.compact(), zoo.photograph(8, 8), **{**DEFAULTS, **old})["result"]
        assert result.shape == (1, 16, 16, 3)


def test_a_latent_goes_through_its_loader_and_its_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latent_zoo.file_of("latent-upscaler-v2.1_SDxl-x1.5", tmp_path)
    monkeypatch.setenv("CUDASPEED_MODELS", str(tmp_path))
    loader = nodes.LatentUpscaleModelLoaderCUDAspeed
    (name,) = loader.INPUT_TYPES()["required"]["model_name"][0]
    (model,) = loader().load_model(name)
    latent = {"samples": 5 * torch.randn(1, 4, 16, 24), "batch_index": [0]}
    made = nodes.UpscaleLatentCUDAspeed().upscale(model, latent, enable_compile="disable")
    (result,), told = made["result"], json.loads(made["ui"]["cudaspeed"][0])
    assert result["samples"].shape == (1, 4, 24, 36)
    assert result["batch_index"] == [0]
    assert told["summary"].startswith("24x16 -> 36x24")
    with pytest.raises(BadOptionError, match=r"resampling is 'nearest'"):
        nodes.UpscaleLatentCUDAspeed().upscale(model, latent, resampling="nearest")
