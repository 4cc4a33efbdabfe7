"""How a model is computed: the mode, and the face of everything that runs a forward in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..api.model_info import Forward, Kernels
from ..api.options import Precision

DTYPES: dict[str, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


Backend = Literal["eager", "CUDA graph", "compiled"]
"""What runs a forward: torch, operation by operation; a recorded CUDA graph of that; a package of AOTInductor."""


@dataclass(frozen=True)
class ExecutionMode:
    """How a model computes. With `autocast` its weights stay fp32 and torch picks the type of every operation. With
    "winograd" kernels in half precision what is multiplied is rounded to it, and all else is fp32."""

    precision: Precision
    autocast: bool
    channels_last: bool
    kernels: Kernels = "plain"
    backend: Backend = "eager"

    @property
    def name(self) -> str:
        """For people: "fp16", "fp32 winograd", "bf16 compiled"."""
        more = [word for word, usual in ((self.kernels, "plain"), (self.backend, "eager")) if word != usual]
        return " ".join([self.precision, *more])

    def __str__(self) -> str:
        return self.name + " autocast" * self.autocast + " channels last" * self.channels_last

    @property
    def only_products(self) -> bool:
        """Whether half precision is for what is multiplied alone."""
        return self.kernels == "winograd" and self.precision != "fp32"

    @property
    def weight_dtype(self) -> torch.dtype:
        return torch.float32 if self.autocast or self.only_products else DTYPES[self.precision]

    @property
    def memory_dtype(self) -> torch.dtype:
        """The type most of a forward's tensors have."""
        return torch.float32 if self.only_products else DTYPES[self.precision]


class Executor(Protocol):
    """One way to run a model's forward on tiles: eager, as a CUDA graph, compiled."""

    @property
    def mode(self) -> ExecutionMode:
        """How it computes now. One that gave up its backend says "eager"."""
        ...

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether it takes a tile batch of this shape [N, C, h, w]."""
        ...

    def __call__(self, tiles: Tensor) -> Tensor:
        """Tiles [N, C, h, w] float32, 0..1, on its device -> [N, C', h*scale, w*scale], not clamped; the caller's."""
        ...

    def distrust(self, reason: str) -> None:
        """Its results were wrong, as was seen elsewhere: compute eagerly from now on."""

    def release(self) -> None:
        """Give back the memory of what was made beside the weights; it is made anew when it is wanted."""


class EagerExecutor:
    """The `Executor` that all others are measured by and give way to."""

    def __init__(self, forward: Forward, mode: ExecutionMode) -> None:
        self._forward, self.mode = forward, mode

    def accepts(self, shape: Sequence[int]) -> bool:
        """Sizes that satisfy the model's requirements, as all tiles of a plan do."""
        return True

    def __call__(self, tiles: Tensor) -> Tensor:
        return self._forward(tiles)

    def distrust(self, reason: str) -> None:
        """Nothing in the same mode is to be trusted more."""

    def release(self) -> None:
        """There is nothing beside the weights."""
