"""The pieces that a model's weights come to a device in, and the places that they come to.

A block waits in main memory; a slot is memory of the device that one block after the other has its weights in; all of
the device's memory for a model is one piece, which its host counts as it counts a module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..devices.pinned import block_bytes
from ..models.weight_units import Packing
from .streams import Event, Stream, StreamDevice

_TOGETHER = 8  # blocks of the largest kind, in one piece of pinned memory


class WeightBlock:
    """Weights that come and go together. `home` is where they are in main memory: where they were, or, `pin`ned, in
    `memory`."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = [*tensors]
        self.packing = Packing.of(self.tensors)
        self.home = [tensor.data for tensor in self.tensors]
        self.memory = torch.empty(0, dtype=torch.uint8)

    def point_to(self, values: Sequence[Tensor]) -> None:
        """Let the weights have these values, which are theirs, from other memory."""
        for tensor, value in zip(self.tensors, values, strict=True):
            tensor.data = value

    @property
    def pinned(self) -> bool:
        """Whether they lie in one piece, which the device copies."""
        return len(self.memory) > 0

    def pin(self, memory: Tensor) -> None:
        """Have them in `memory`, one piece."""
        self.packing.write(memory, self.home)
        self.home, self.memory = self.packing.views(memory), memory
        self.point_to(self.home)

    def unpin(self) -> None:
        """Have each in ordinary memory of its own, as before."""
        if self.pinned:
            self.home = [*map(_moved, self.home)]
            self.memory = torch.empty(0, dtype=torch.uint8)
            self.point_to(self.home)


def pieces_for(device: StreamDevice, blocks: Sequence[WeightBlock]) -> Iterator[Tensor]:
    """Memory for each of `blocks` that the device copies by itself, or, where there is too much of that, ordinary.

    Several together: torch takes powers of two, of which single blocks would leave up to a half.
    """
    left = sum(block.packing.bytes for block in blocks)
    most = block_bytes(_TOGETHER * max((block.packing.bytes for block in blocks), default=0))
    memory = torch.empty(0, dtype=torch.uint8)
    for block in blocks:
        size = block.packing.bytes
        if size > len(memory):
            memory = device.pinned(min(most, left))
        yield memory[:size]
        memory, left = memory[size:], left - size


def _moved(tensor: Tensor) -> Tensor:
    """The same values, by the same strides, in memory of their own."""
    with torch.inference_mode(False), torch.no_grad():
        alone = Packing.of([tensor])
        memory = torch.empty(alone.bytes, dtype=torch.uint8)
        alone.write(memory, [tensor])
        return alone.views(memory)[0]


class WeightSlot:
    """A place on the device that one block at a time has its weights in. `arrived`: the event when they are there;
    `computed`: when the one before was computed with for the last time. Of slots, that with the largest `turn` was
    filled last."""

    def __init__(self, memory: Tensor, stream: Stream, computed: Event, blocks: Sequence[WeightBlock]) -> None:
        self._memory, self._stream, self._blocks = memory, stream, blocks
        self.block: int | None = None
        self.arrived = self.computed = computed
        self.turn = 0
        self._views: dict[int, list[Tensor]] = {}

    def fill(self, block: int, source: Tensor) -> None:
        """Copy a block's weights here as soon as what is here was computed with."""
        self.block = None
        self._stream.wait_event(self.computed)
        if len(source):
            self._stream.copy(self._memory[: len(source)], source)
        self.arrived = self._stream.record()
        self.block = block

    def views(self, block: int) -> list[Tensor]:
        """A block's weights, where they lie here."""
        if block not in self._views:
            with torch.inference_mode(False), torch.no_grad():
                self._views[block] = self._blocks[block].packing.views(self._memory)
        return self._views[block]


class ResidentWeights(nn.Module):
    """`size` bytes of `device`, as a module, which hosts know how to bring there, count and take away."""

    def __init__(self, size: int, device: torch.device, left: Callable[[], object]) -> None:
        super().__init__()
        self.register_buffer("told", torch.empty(size, dtype=torch.uint8, device="meta"))  # for who counts
        self.size, self._where, self._left = size, device, left
        self.memory: Tensor | None = None

    def to(self, device: torch.device | str, *_: Any, **__: Any) -> ResidentWeights:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take the memory, if that is the device; else give it back."""
        if torch.device(device).type == self._where.type:
            self.arrive()
        else:
            self.leave()
        return self

    def arrive(self) -> Tensor:
        """The memory [size] uint8, taken now if it was not."""
        if self.memory is None:
            with torch.inference_mode(False):
                self.memory = torch.empty(self.size, dtype=torch.uint8, device=self._where)
        return self.memory

    def leave(self) -> None:
        """Give it back, once nobody has weights in it any more."""
        if self.memory is not None:
            self._left()
            self.memory = None
