"""What a model is, told by the names and shapes of its tensors alone: the usual architectures, without loading any.

A file is told only if it has exactly the tensors that its architecture has, no other and none of another shape, so that
spandrel loads it. Whatever else there is has to be loaded to be known. A test holds it all against spandrel.

Sources: the architectures' own papers and code: Real-ESRGAN's SRVGGNetCompact (Wang et al. 2021), ESRGAN's RRDBNet
(Wang et al. 2018) under the names of its three code bases, SPAN (Wan et al. 2023).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]
"""Names of tensors -> their shapes."""

_MOST_SCALE = 16
_GROWTH = 32  # channels that each layer of a dense block adds
_SPAN_BLOCKS = 6


@dataclass(frozen=True)
class ModelFacts:
    """What `cudaspeed models` tells of a model; the architecture by the name that spandrel has for it."""

    scale: int
    architecture: str
    input_channels: int
    output_channels: int
    precisions: tuple[str, ...] = ("fp32", "fp16", "bf16")


def known_layout(shapes: Shapes) -> ModelFacts | None:
    """What a model with these tensors is; None where that has to be found out by loading it."""
    for tell in (_compact, _esrgan, _span):
        try:
            facts, expected = tell(shapes)
        except (LookupError, ValueError, ArithmeticError):  # it is none of these
            continue
        if shapes == expected and 0 < facts.scale <= _MOST_SCALE:
            return facts
    return None


def _convolution(name: str, outputs: int, inputs: int, side: int = 3) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs, side, side), f"{name}.bias": (outputs,)}


def _scale_and_outputs(shuffled: int, inputs: int) -> tuple[int, int]:
    """Of a pixel shuffle with that many channels before it: scale**2 * outputs, where the outputs are as many as the
    inputs if they can be, else 3, 4 or 1, as spandrel has it. Raises `ValueError` where none fits."""
    for outputs in (inputs, 3, 4, 1):
        scale = math.isqrt(shuffled // outputs)
        if scale * scale * outputs == shuffled:
            return scale, outputs
    raise ValueError(f"{shuffled} channels cannot be shuffled")


def _compact(shapes: Shapes) -> tuple[ModelFacts, Shapes]:
    features, inputs, *_ = shapes["body.0.weight"]
    last = 2 * sum(len(shape) == 4 for shape in shapes.values()) - 2
    if not last:
        raise ValueError("one convolution is no network of these")
    scale, outputs = _scale_and_outputs(shapes[f"body.{last}.weight"][0], inputs)
    expected = _convolution("body.0", features, inputs)
    for index in range(1, last, 2):  # activations, each with a convolution before it
        expected |= {f"body.{index}.weight": (features,)}
        expected |= _convolution(f"body.{index + 1}", features, features)
    expected |= _convolution(f"body.{last}", outputs * scale * scale, features)
    return ModelFacts(scale, "RealESRGAN Compact", inputs, outputs), expected


_CONVOLUTIONS_OF_BLOCK, _OTHER_CONVOLUTIONS = 15, 4  # of an RRDBNet, beside those that enlarge


def _esrgan(shapes: Shapes) -> tuple[ModelFacts, Shapes]:
    blocks, doublings = divmod(
        sum(len(shape) == 4 for shape in shapes.values()) - _OTHER_CONVOLUTIONS, _CONVOLUTIONS_OF_BLOCK
    )
    if blocks < 1:
        raise ValueError("there are no dense blocks")
    first, dense, *others = _names_of_esrgan(shapes, blocks, doublings)
    features, inputs, *_ = shapes[f"{first}.weight"]
    outputs = shapes[f"{others[-1]}.weight"][0]
    expected = _convolution(first, features, inputs)
    for block in range(blocks):
        for part in (1, 2, 3):
            for layer in range(1, 6):
                name, seen = dense.format(block, part, layer), features + (layer - 1) * _GROWTH
                expected |= _convolution(name, features if layer == 5 else _GROWTH, seen)
    for name in others[:-1]:
        expected |= _convolution(name, features, features)
    expected |= _convolution(others[-1], outputs, features)
    # Real-ESRGAN's for smaller scales take the picture's pixels, 2x2 or 4x4 of them, for channels
    side = {4 * outputs: 2, 16 * outputs: 4}.get(inputs, 1)
    return ModelFacts(2**doublings // side, "ESRGAN", inputs // side**2, outputs), expected


def _names_of_esrgan(shapes: Shapes, blocks: int, doublings: int) -> tuple[str, ...]:
    """The names of an RRDBNet's layers in one of its three code bases: the first, those in the blocks (by block, part
    and layer), and what comes after the blocks in its order."""
    ups = range(1, doublings + 1)
    if "model.0.weight" in shapes:
        ends = (3 * up for up in ups), (3 * doublings + 2, 3 * doublings + 4)
        after = (f"model.{number}" for numbers in ends for number in numbers)
        return "model.0", "model.1.sub.{}.RDB{}.conv{}.0", f"model.1.sub.{blocks}", *after
    if "conv_body.weight" in shapes:
        after = (f"conv_up{up}" for up in ups)
        return "conv_first", "body.{}.rdb{}.conv{}", "conv_body", *after, "conv_hr", "conv_last"
    after = (f"upconv{up}" for up in ups)
    return "conv_first", "RRDB_trunk.{}.RDB{}.conv{}", "trunk_conv", *after, "HRconv", "conv_last"


def _span(shapes: Shapes) -> tuple[ModelFacts, Shapes]:
    features, inputs, *_ = shapes["conv_1.sk.weight"]
    scale, outputs = _scale_and_outputs(shapes["upsampler.0.weight"][0], inputs)
    layers = [f"block_{block}.c{layer}_r" for block in range(1, _SPAN_BLOCKS + 1) for layer in (1, 2, 3)]
    expected = _trained_wide("conv_1", features, inputs)
    for name in (*layers, "conv_2"):
        expected |= _trained_wide(name, features, features)
    expected |= _convolution("conv_cat", features, 4 * features, 1)
    expected |= _convolution("upsampler.0", outputs * scale * scale, features)
    return ModelFacts(scale, "SPAN", inputs, outputs), expected


def _trained_wide(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    """A convolution of SPAN: that which is used, and the wider ones that it was trained as."""
    return {
        **_convolution(f"{name}.sk", outputs, inputs, 1),
        **_convolution(f"{name}.conv.0", 2 * inputs, inputs, 1),
        **_convolution(f"{name}.conv.1", 2 * outputs, 2 * inputs),
        **_convolution(f"{name}.conv.2", outputs, 2 * outputs, 1),
        **_convolution(f"{name}.eval_conv", outputs, inputs),
    }
