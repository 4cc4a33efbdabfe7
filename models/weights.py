"""The weights in a model file: what its header describes, as tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..memory import free_host_bytes
from .formats.errors import RefusedError
from .formats.tensors import tensors_of
from .header import opened_model

_PREFIXES = ("module.", "netG.")  # of training on several devices, and of GANs; spandrel leaves them off, too


def read_weights(path: Path, needed: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """Names -> tensors on the CPU, of those names that are `needed`; the content of others is not read. A prefix that
    all of them have because of how they were trained is left off.

    Raises `BadModelError` for what `opened_model` refuses, and for more than the memory that is free; `MemoryError`
    where there is none for the weights.
    """
    with opened_model(path) as header:
        check_room(header.stored_bytes)
        weights = tensors_of({name: header.tensors[name] for name in header.tensors if needed(name)}, header.read)
        for prefix in _PREFIXES:
            if all(name.startswith(prefix) for name in weights):
                weights = {name.removeprefix(prefix): weight for name, weight in weights.items()}
        return weights | {name: torch.zeros(1) for name in header.flags}  # whatever their values were


def check_room(size: int) -> None:
    """Raise `RefusedError` for a file whose tensors, of `size` bytes, do not fit the memory that is free."""
    free = free_host_bytes()
    if size > free:
        raise RefusedError(
            f"holds {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free; close other programs"
        )
