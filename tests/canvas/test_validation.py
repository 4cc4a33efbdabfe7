"""What is refused before a prompt runs."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from cudaspeed import nodes

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
