"""Models told by names and shapes of their tensors: exactly what spandrel says of them, or nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
from spandrel import ModelLoader
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN
from spandrel.architectures.SPAN import SPAN
from spandrel.architectures.SwinIR import SwinIR
from torch import Tensor, nn

from cudaspeed.models.layouts import ModelFacts, known_layout

State = dict[str, Tensor]

OLD_TO_REAL = (
    (r"model\.0\.", "conv_first."),
    (r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.", r"body.\1.rdb\2.conv\3."),
    (r"model\.1\.sub\.\d+\.", "conv_body."),
    (r"model\.3\.", "conv_up1."),
    (r"model\.6\.", "conv_up2."),
    (r"model\.8\.", "conv_hr."),
    (r"model\.10\.", "conv_last."),
)
OLD_TO_BSRGAN = (
    (r"model\.0\.", "conv_first."),
    (r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.", r"RRDB_trunk.\1.RDB\2.conv\3."),
    (r"model\.1\.sub\.\d+\.", "trunk_conv."),
    (r"model\.3\.", "upconv1."),
    (r"model\.6\.", "upconv2."),
    (r"model\.8\.", "HRconv."),
    (r"model\.10\.", "conv_last."),
)


def state_of(module: nn.Module) -> State:
    return dict(module.state_dict())


def compact(inputs: int = 3, outputs: int = 3, features: int = 8, convolutions: int = 2, scale: int = 2) -> State:
    return state_of(
        Compact(num_in_ch=inputs, num_out_ch=outputs, num_feat=features, num_conv=convolutions, upscale=scale)
    )


def esrgan(inputs: int = 3, outputs: int = 3, features: int = 8, blocks: int = 1, scale: int = 4) -> State:
    return state_of(ESRGAN(in_nc=inputs, out_nc=outputs, num_filters=features, num_blocks=blocks, scale=scale))


def renamed(state: State, names: tuple[tuple[str, str], ...]) -> State:
    """In another code base's names."""
    made = {}
    for name, tensor in state.items():
        pattern, new = next((pattern, new) for pattern, new in names if re.match(pattern, name))
        made[re.sub(pattern, new, name)] = tensor
    return made


def span(features: int = 8, scale: int = 2) -> State:
    return state_of(SPAN(num_in_ch=3, num_out_ch=3, feature_channels=features, upscale=scale))


def all_known() -> Iterator[tuple[str, State]]:
    for inputs in (1, 3, 4):
        for outputs in (1, 3, 4):
            for scale in (1, 2, 3, 4, 8):
                yield f"compact {inputs} {outputs} x{scale}", compact(inputs, outputs, convolutions=inputs, scale=scale)
    yield "compact without any between", compact(convolutions=0)
    for scale in (1, 2, 4, 8, 16):
        yield f"esrgan x{scale}", esrgan(scale=scale)
    yield "esrgan grey, two blocks", esrgan(1, 1, features=32, blocks=2)
    for inputs in (12, 48):
        yield f"esrgan of {inputs} channels", esrgan(inputs)
        yield f"real-esrgan of {inputs} channels", renamed(esrgan(inputs), OLD_TO_REAL)
    yield "esrgan with alpha", esrgan(4, 4)
    yield "real-esrgan", renamed(esrgan(blocks=2), OLD_TO_REAL)
    yield "bsrgan", renamed(esrgan(), OLD_TO_BSRGAN)
    for scale in (1, 2, 3, 4):
        yield f"span x{scale}", span(features=4 * scale, scale=scale)


KNOWN = dict(all_known())


def shapes_of(state: State) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_told_is_what_spandrel_says(name: str) -> None:
    model = ModelLoader().load_from_state_dict(dict(KNOWN[name]))
    supported = {"fp32": True, "fp16": model.supports_half, "bf16": model.supports_bfloat16}
    assert known_layout(shapes_of(KNOWN[name])) == ModelFacts(
        model.scale,
        model.architecture.name,
        model.input_channels,
        model.output_channels,
        tuple(precision for precision, works in supported.items() if works),
    )


@pytest.mark.parametrize("state", [compact(), esrgan(), renamed(esrgan(), OLD_TO_REAL), span()])
def test_one_tensor_more_or_less_or_of_another_shape_has_to_be_loaded(state: State) -> None:
    shapes = shapes_of(state)
    assert known_layout(shapes)
    assert known_layout({**shapes, "more": (1,)}) is None
    for name, shape in shapes.items():
        assert known_layout({other: of_other for other, of_other in shapes.items() if other != name}) is None, name
        assert known_layout({**shapes, name: (*shape, 1)}) is None, name
        assert known_layout({**shapes, name: ()}) is None, name
        wider = known_layout({**shapes, name: (shape[0] + 1, *shape[1:])})
        assert wider is None, name


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        {"body.0.weight": ()},
        {"body.0.weight": (0, 0, 0, 0)},
        {"body.0.weight": (8, 0, 3, 3), "body.0.bias": (8,)},
        {"conv_1.sk.weight": (8, 0, 1, 1), "upsampler.0.weight": (0,)},
        {"model.0.weight": (8, 3, 3, 3)},
        {f"model.{number}.weight": (8, 8, 3, 3) for number in range(1000)},
        {f"body.{number}.weight": (1 << 40, 1 << 40, 3, 3) for number in range(0, 2000, 2)},
    ],
)
def test_what_is_no_model_is_none(shapes: dict[str, tuple[int, ...]]) -> None:
    assert known_layout(shapes) is None


def test_what_is_not_among_the_usual_is_not_told() -> None:
    model = SwinIR(embed_dim=12, depths=[2], num_heads=[2], window_size=4, img_size=8)
    assert known_layout(shapes_of(state_of(model))) is None
    assert known_layout({"body.0.weight": tuple(torch.zeros(8, 3, 3, 3).shape)}) is None
