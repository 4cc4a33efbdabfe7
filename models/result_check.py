"""What a model gives is looked at before anything else: nothing is stretched, cut or filled up to fit, in silence."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..api.errors import ModelFailedError
from ..api.model_info import ModelInfo

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_result(result: object, tiles: Tensor, info: ModelInfo) -> Tensor:
    """`result` itself where it is what the model has to give for `tiles` [N, C, h, w]: a dense tensor of floats of 16
    to 64 bits, exactly [N, C', h*scale, w*scale], on their device. What its values are is not asked: nothing waits.

    Raises `ModelFailedError`, with what it is and what it should be.
    """
    count, _, height, width = tiles.shape
    due = (count, info.out_channels, height * info.scale, width * info.scale)
    if (
        isinstance(result, Tensor)
        and result.dtype in _FLOATS
        and result.layout is torch.strided
        and not result.is_nested  # which has no shape to ask for
        and result.device == tiles.device
        and result.shape == due
    ):
        return result
    raise ModelFailedError(
        f"{info.name} gave {_described(result)} for tiles of {list(tiles.shape)}, where a tensor of floats "
        f"{list(due)} on {tiles.device} is needed; choose another model, or another file of this one"
    )


def checked(call: Callable[[nn.Module, Tensor], Tensor], info: ModelInfo) -> Callable[[nn.Module, Tensor], Tensor]:
    """An architecture's `call`, which raises `ModelFailedError` where `check_result` does."""
    return lambda module, x: check_result(call(module, x), x, info)


def _described(result: object) -> str:
    if not isinstance(result, Tensor):
        count = f" of {len(result)}" if isinstance(result, list | tuple | dict) else ""
        return f"a {type(result).__name__}{count}"
    kind = str(result.dtype).removeprefix("torch.")
    if result.is_nested:
        return f"a nested tensor of {kind}"
    layout = "" if result.layout is torch.strided else f"{str(result.layout).removeprefix('torch.')} "
    return f"a {layout}tensor of {kind} {list(result.shape)} on {result.device}"
