"""A model's weights in units that come and go with the module that reads them; how each lies in one piece of memory.

Pure: who brings them where, and when, is told in `pipeline/offload.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..api.upstream import children_of
from .weight_use import WeightUse, weights_of

_ALIGNED = 256  # bytes: at least as much as any device's kernels want of where a tensor begins
_WORTH_A_COPY = 16  # a unit is no smaller than the largest by this: setting out a copy takes its time, too

_MOST_LEFT = 1 / 2  # of a module's weights may be read by itself where units are made of what is in it


class Unit(NamedTuple):
    """Weights that are read while `module` computes, and at no other time."""

    module: nn.Module
    tensors: list[Tensor]


class Cut(NamedTuple):
    """A model in `units`, none of which computes within another, and the `rest` of its weights. `order` are places in
    `units`, as a forward calls them."""

    units: list[Unit]
    rest: list[Tensor]
    order: list[int]


@dataclass(frozen=True)
class Packing:
    """How `tensors` lie in `bytes` bytes, one after the other, each with the strides that it had."""

    places: tuple[tuple[int, torch.dtype, torch.Size, tuple[int, ...]], ...]
    bytes: int

    @staticmethod
    def of(tensors: Sequence[Tensor]) -> Packing:
        """Of tensors that have strides."""
        places, at = [], 0
        for tensor in tensors:
            places.append((at, tensor.dtype, tensor.shape, tensor.stride()))
            at += -(-_span(tensor.shape, tensor.stride()) * tensor.element_size() // _ALIGNED) * _ALIGNED
        return Packing(tuple(places), at)

    def views(self, memory: Tensor) -> list[Tensor]:
        """The tensors in `memory` [bytes] uint8, which begins where a tensor may."""
        found = []
        for at, dtype, shape, strides in self.places:
            piece = memory[at : at + _span(shape, strides) * dtype.itemsize].view(dtype)
            found.append(piece.as_strided(shape, strides))
        return found

    def write(self, memory: Tensor, tensors: Sequence[Tensor]) -> None:
        """Copy the values of `tensors`, which have the same strides, into `memory`."""
        for (at, dtype, shape, strides), tensor in zip(self.places, tensors, strict=True):
            span = _span(shape, strides)  # elements that share a place (an expanded tensor's) are copied once
            memory[at : at + span * dtype.itemsize].view(dtype).copy_(tensor.as_strided((span,), (1,)))


def can_be_cut(module: nn.Module) -> bool:
    """Whether all weights of `module` are plain tensors that views of other memory can stand for."""
    return all(
        type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not tensor.is_quantized
        for tensor in weights_of(module)
    )


def cut(module: nn.Module, use: WeightUse, most: int) -> Cut:
    """`module` in units of at most so many bytes where modules within it are as small, else of single ones; by the
    `use` that a forward made of it. Units much smaller than `most` are left with the rest; 0: as small as can be."""
    units = _units(module, use, most, set())
    chosen = {id(unit.module) for unit in units}
    alone = [unit for unit in units if not use.around.get(id(unit.module), frozenset()) & (chosen - {id(unit.module)})]
    units = [unit for unit in alone if _bytes(unit.tensors) * _WORTH_A_COPY >= most]
    places = {id(unit.module): place for place, unit in enumerate(units)}
    moved = _ids(units)
    rest = [tensor for tensor in weights_of(module) if id(tensor) not in moved]
    return Cut(units, rest, [places[called] for called in use.calls if called in places])


def what_stays(sizes: Sequence[int], rest: int, limit: int) -> frozenset[int]:
    """Which units of these `sizes` stay on a device for good, so that they, the `rest` and two places as large as the
    largest of the others take no more than `limit` bytes together; where that cannot be, as little as can be.

    First those that are so large that places for them would take more than they do; then, of equal ones, every second,
    so that the others' copies are spread over a forward.
    """
    largest = sorted(range(len(sizes)), key=lambda place: (-sizes[place], place % 2, place))
    heads = (set(largest[:count]) for count in range(len(sizes) + 1))
    stay = min(heads, key=lambda some: device_bytes(sizes, some))
    for place in largest:
        if rest + device_bytes(sizes, stay | {place}) <= limit:
            stay.add(place)
    return frozenset(stay)


def device_bytes(sizes: Sequence[int], stay: frozenset[int] | set[int]) -> int:
    """What those that `stay` take, and two places for the others."""
    others = [size for place, size in enumerate(sizes) if place not in stay]
    return sum(sizes[place] for place in stay) + min(2, len(others)) * max(others, default=0)


def _units(module: nn.Module, use: WeightUse, most: int, taken: set[int]) -> list[Unit]:
    """Those in `module`, of weights that are not `taken`."""
    weights = [tensor for tensor in weights_of(module) if id(tensor) not in taken]
    if not weights:
        return []
    called = id(module) in use.around or not any(id(tensor) in use.within for tensor in weights)
    whole = Unit(module, [tensor for tensor in weights if called and _moves_with(module, tensor, use)])
    if called and _bytes(weights) <= most:
        return [whole] if whole.tensors else []
    found, moved = [], set(taken)
    for child in children_of(module).values():
        more = _units(child, use, most, moved) if child is not None else []
        found, moved = found + more, moved | _ids(more)
    left = [tensor for tensor in whole.tensors if id(tensor) not in moved]
    if found and _bytes(left) <= _bytes(weights) * _MOST_LEFT:
        return found
    return [whole] if whole.tensors else []  # what it reads itself would be left with the rest


def _ids(units: Sequence[Unit]) -> set[int]:
    return {id(tensor) for unit in units for tensor in unit.tensors}


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _moves_with(module: nn.Module, tensor: Tensor, use: WeightUse) -> bool:
    within = use.within.get(id(tensor))
    return id(tensor) not in use.unfit and (within is None or id(module) in within)


def _span(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Elements from the first one in memory to the last."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
