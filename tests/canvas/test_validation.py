"""What is refused before a prompt runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import zoo

from cudaspeed import nodes
from cudaspeed.api.errors import BadOptionError

NODES = [nodes.UpscaleImageCUDAspeed, nodes.ImageUpscaleWithModelCUDAspeedFixed, nodes.UpscaleVideoCUDAspeed]


def asked(node: type, widgets: dict[str, Any]) -> Any:
    """As the host asks: of the inputs that the signature names, those that a prompt has."""
    named = inspect.getfullargspec(node.VALIDATE_INPUTS).args
    return node.VALIDATE_INPUTS(**{name: value for name, value in widgets.items() if name in named})


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize(
    ("widgets", "sentence"),
    [
        ({"scale_by": 9.0}, "scale_by is 9.0; choose a number from 0.05 to 8 (0 = off)"),
        ({"scale_by": 0.01}, "scale_by is 0.01; choose a number from 0.05 to 8 (0 = off)"),
        ({"target_width": -4}, "target width is -4; choose a whole number from 0 to 1000000"),
        ({"scale_by": 2.0, "target_height": 64}, "choose one of them and set the other to 0"),
    ],
)
def test_what_cannot_be_is_one_sentence_before_anything_runs(
    node: type, widgets: dict[str, Any], sentence: str
) -> None:
    told = asked(node, widgets)
    assert isinstance(told, str)
    assert sentence in told
    assert "\n" not in told


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize(
    "widgets",
    [
        {},
        {"scale_by": 0.0, "target_width": 0, "target_height": 0},
        {"scale_by": 2.0, "target_width": None},  # on a wire
        {"target_width": 64, "target_height": 64},
    ],
)
def test_what_can_be_or_is_not_known_yet_is_let_through(node: type, widgets: dict[str, Any]) -> None:
    assert asked(node, widgets) is True


def test_only_what_depends_on_one_another_is_taken_from_the_host() -> None:
    """It checks what is not named by itself, and marks every input that is."""
    for node in NODES:
        named = {*inspect.getfullargspec(node.VALIDATE_INPUTS).args} - {"cls"}
        assert named == {"scale_by", "target_width", "target_height"}
        assert named <= {*node.INPUT_TYPES()["optional"]}


ONE = nodes.UpscaleImageWithModelCUDAspeed


def test_on_the_node_with_a_model_a_wrong_size_does_not_mark_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host finds what is out of range, and marks that alone; what contradicts itself is known before the model is
    loaded."""
    assert {*inspect.getfullargspec(ONE.VALIDATE_INPUTS).args} == {"cls", "model_name"}
    for name in ("scale_by", "target_width", "target_height"):
        assert {"min", "max"} <= {*ONE.INPUT_TYPES()["optional"][name][1]}
    monkeypatch.setattr(nodes.upscale_models, "load_upscale_model", lambda *_, **__: pytest.fail("was loaded"))
    with pytest.raises(BadOptionError, match="choose one of them and set the other to 0"):
        ONE().upscale("any.pth", zoo.photograph(8, 8), scale_by=2.0, target_width=64)


@pytest.mark.parametrize(
    "call",
    [
        lambda **more: nodes.UpscaleImageCUDAspeed().upscale(zoo.compact(), zoo.photograph(8, 8), **more),
        lambda **more: nodes.ImageUpscaleWithModelCUDAspeedFixed().upscale(zoo.compact(), zoo.photograph(8, 8), **more),
        lambda **more: nodes.ImageUpscaleWithModelCUDAspeed().upscale(zoo.compact(), zoo.photograph(8, 8), **more),
        lambda **more: ONE().upscale("any.pth", zoo.photograph(8, 8), **more),
        lambda **more: nodes.UpscaleVideoCUDAspeed().upscale(zoo.compact(), None, **more),
        lambda **more: nodes.UpscaleLatentCUDAspeed().upscale(None, {}, **more),
        lambda **more: nodes.LatentUpscaleModelLoaderCUDAspeed().load_model("any.pth", **more),
        lambda **more: nodes.WarmUpUpscalerCUDAspeed().warm_up(zoo.compact(), 8, 8, **more),
        lambda **more: nodes.UpscaleModelLoaderCUDAspeed().load_model("any.pth", **more),
        lambda **more: nodes.UpscaleModelLoader().load_model("any.pth", **more),
    ],
    ids=["image", "old", "two cards", "one", "video", "latent", "latent loader", "warm up", "loader", "plain loader"],
)
def test_an_input_that_a_node_does_not_have_is_one_error_that_names_it(call: Callable[..., object]) -> None:
    """The host hands on what comes along a wire, whatever it is called."""
    with pytest.raises(BadOptionError, match=r"^this node has no input 'autocast', 'mask'; disconnect it, or update"):
        call(mask=torch.zeros(1, 8, 8), autocast=True)
    with pytest.raises(BadOptionError, match="this node has no input 'segments_'"):
        call(segments_="enable")


def test_nor_does_a_node_take_what_is_anothers() -> None:
    with pytest.raises(BadOptionError, match="no input 'codec'"):
        nodes.UpscaleImageCUDAspeed().upscale(zoo.compact(), zoo.photograph(8, 8), codec="libx264")
    with pytest.raises(BadOptionError, match="no input 'scale_by'"):
        nodes.WarmUpUpscalerCUDAspeed().warm_up(zoo.compact(), 8, 8, scale_by=2.0)
    with pytest.raises(BadOptionError, match="no input 'upscale_model'"):
        ONE().upscale("any.pth", zoo.photograph(8, 8), upscale_model=zoo.compact())
