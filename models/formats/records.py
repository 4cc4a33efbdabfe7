"""Descriptions of tensors in a file: views of byte ranges, within their bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from .element_types import ElementType
from .errors import DamagedError

_MOST_DIMENSIONS = 16
MOST_ELEMENTS = 1 << 48  # more than memory can hold, and far from where torch's integers end


@dataclass(frozen=True)
class StorageRecord:
    """`count` elements of `dtype` under `key`; a tensor counts its own from element `first` of them."""

    key: str
    dtype: ElementType
    count: int
    first: int = 0

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * self.dtype.itemsize

    def seen_as(self, dtype: ElementType) -> StorageRecord:
        """The same bytes as elements of `dtype`. Raises `DamagedError` where they do not divide."""
        if self.size % dtype.itemsize or self.first:
            raise DamagedError(f"{self.size} bytes are no whole number of {dtype}")
        return replace(self, dtype=dtype, count=self.size // dtype.itemsize)


@dataclass(frozen=True)
class TensorRecord:
    """A tensor of `shape` whose elements lie `strides` apart in `storage`, the first at `offset`."""

    storage: StorageRecord
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        """Raises `DamagedError` unless all of it lies in the storage. It may have an element more than once."""
        for number in (self.offset, *self.shape, *self.strides):  # loops: there are thousands of tensors
            if type(number) is not int or not 0 <= number < MOST_ELEMENTS:
                raise DamagedError("a tensor has a shape that is none")
        if len(self.shape) != len(self.strides) or len(self.shape) > _MOST_DIMENSIONS:
            raise DamagedError(f"a tensor has {len(self.shape)} dimensions and {len(self.strides)} strides")
        elements, reach = 1, 0
        for side, stride in zip(self.shape, self.strides, strict=True):
            elements *= side or 1
            reach += (side - 1) * stride
        if elements >= MOST_ELEMENTS:
            raise DamagedError("a tensor has a shape larger than memory can be")
        if self.size and self.storage.first + self.offset + reach >= self.storage.count:
            raise DamagedError(f"a tensor of shape {self.shape} does not fit its {self.storage.count} elements")

    @property
    def size(self) -> int:
        """Bytes of its own elements."""
        return math.prod(self.shape) * self.storage.dtype.itemsize
