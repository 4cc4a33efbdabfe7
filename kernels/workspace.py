"""Memory that kernels on a CPU need for a moment."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class _Workspace(threading.local):
    shared = False
    memory: Tensor | None = None


_WORKSPACE = _Workspace()


@contextmanager
def shared_workspace() -> Iterator[None]:
    """Within it all blocks of this thread take the same memory for what they need for a moment, one after the other; it
    is given back at the end.

    Large tensors are new to the processor every time they are asked for, and mapping their pages costs a fifth of the
    time.
    """
    before = _WORKSPACE.shared, _WORKSPACE.memory
    _WORKSPACE.shared, _WORKSPACE.memory = True, None
    try:
        yield
    finally:
        _WORKSPACE.shared, _WORKSPACE.memory = before


def workspace(*shape: int) -> Tensor:
    """float32 of `shape`, of any content, the caller's until the next one is asked for."""
    if not _WORKSPACE.shared:
        return torch.empty(shape)
    count, memory = math.prod(shape), _WORKSPACE.memory
    if memory is None or len(memory) < count:
        _WORKSPACE.memory = memory = None  # before the larger one is there
        _WORKSPACE.memory = memory = torch.empty(count)
    return memory[:count].view(shape)
