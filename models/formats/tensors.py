"""Tensors made of their descriptions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .element_types import ElementType
from .errors import RefusedError
from .records import StorageRecord, TensorRecord


def tensors_of(
    records: dict[str, TensorRecord], read: Callable[[StorageRecord, memoryview], None]
) -> dict[str, Tensor]:
    """The tensors that `records` describe; those in one storage share it. `read(storage, into)` fills in its bytes.

    Memory is taken for the storages that are needed, each once. Raises what `read` raises, `MemoryError`, and
    `RefusedError` for a type that this torch does not have.
    """
    storages: dict[str, Tensor] = {}
    tensors: dict[str, Tensor] = {}
    for name, record in records.items():
        storage = record.storage
        if storage.key not in storages:
            storages[storage.key] = _filled(storage, read)
        elements = storages[storage.key].view(_torch_type(storage.dtype))
        start = storage.first + record.offset if record.size else 0  # of no element there is no first
        tensors[name] = elements.as_strided(record.shape, record.strides, start)
    return tensors


def _filled(storage: StorageRecord, read: Callable[[StorageRecord, memoryview], None]) -> Tensor:
    try:
        content = torch.empty(storage.size, dtype=torch.uint8)
    except RuntimeError as error:  # torch's word for it on a CPU
        raise MemoryError(f"{storage.size} bytes for the weights are not to be had") from error
    read(storage, content.numpy().data)
    return content


def _torch_type(kind: ElementType) -> torch.dtype:
    found = getattr(torch, kind.name, None)
    if found is None:
        raise RefusedError(
            f"has a tensor of type {kind.name}, which torch {torch.__version__} lacks; save it in float32"
        )
    return found
