"""Pinned memory: never more than its bound, what torch keeps of it included, and given back."""

from __future__ import annotations

import random
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace

import psutil
import pytest
import torch
from drivers import GIB, MIB
from torch import Tensor

from cudaspeed.devices import pinned
from cudaspeed.devices.pinned import PinnedMemory, block_bytes, most_pinned

KIB = 1 << 10


class Torch:
    """Its allocator: what is dropped is kept for whoever asks for as much, until it has to be given back."""

    def __init__(self, can_give_back: bool = True) -> None:
        self.fails = False
        self.can_give_back, self.given_back = can_give_back, 0
        self.blocks: Counter[int] = Counter()

    def allocate(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        if self.fails:
            raise RuntimeError("CUDA error: out of memory")
        return torch.empty(tuple(shape), dtype=dtype)

    def give_back(self) -> bool:
        self.given_back += self.can_give_back
        return self.can_give_back

    def memory(self, most: int) -> PinnedMemory:
        return PinnedMemory(self.allocate, self.give_back, lambda: most)


def test_a_tensor_is_what_was_asked_for_and_counts_as_the_block_that_torch_takes() -> None:
    memory = Torch().memory(MIB)
    tensor = memory.empty((3, 100, 7), torch.float16)
    assert tensor is not None
    assert (tensor.shape, tensor.dtype) == ((3, 100, 7), torch.float16)
    assert memory.held_bytes() == block_bytes(4200) == 8192
    view = tensor.view(torch.uint8)[1:]
    del tensor
    assert memory.clear() == 0, "it is in use"
    assert view.nbytes and memory.held_bytes() == 8192


def test_beyond_the_bound_there_is_none() -> None:
    allocator = Torch()
    memory = allocator.memory(64 * KIB)
    held = [memory.empty((16 * KIB,), torch.uint8) for _ in range(6)]
    assert [tensor is not None for tensor in held] == [True] * 4 + [False] * 2
    assert memory.empty((MIB,), torch.uint8) is None
    assert memory.held_bytes() == 64 * KIB
    held.clear()
    assert memory.empty((16 * KIB,), torch.uint8) is not None, "one that torch has kept"
    assert allocator.given_back == 0


def test_what_torch_keeps_counts_and_goes_back_when_the_room_is_needed() -> None:
    allocator = Torch()
    memory = allocator.memory(64 * KIB)
    tensor = memory.empty((64 * KIB,), torch.uint8)
    del tensor
    assert memory.held_bytes() == 64 * KIB
    small = memory.empty((KIB,), torch.uint8)
    assert small is not None
    assert (allocator.given_back, memory.held_bytes()) == (1, KIB)


def test_where_torch_cannot_give_back_what_it_keeps_goes_on_counting() -> None:
    memory = Torch(can_give_back=False).memory(64 * KIB)
    tensor = memory.empty((64 * KIB,), torch.uint8)
    del tensor
    assert memory.empty((KIB,), torch.uint8) is None
    assert (memory.clear(), memory.held_bytes()) == (0, 64 * KIB)
    assert memory.empty((64 * KIB,), torch.uint8) is not None


def test_it_is_given_back_when_that_is_asked_for() -> None:
    allocator = Torch()
    memory = allocator.memory(MIB)
    kept = memory.empty((5 * KIB,), torch.uint8)
    dropped = memory.empty((100 * KIB,), torch.uint8)
    del dropped
    assert memory.clear() == 128 * KIB
    assert (memory.clear(), allocator.given_back) == (0, 1), "there is nothing left"
    assert kept is not None
    assert memory.held_bytes() == 8 * KIB


def test_a_driver_that_allows_none_is_no_error() -> None:
    allocator = Torch()
    allocator.fails = True
    memory = allocator.memory(MIB)
    assert memory.empty((KIB,), torch.uint8) is None
    assert memory.held_bytes() == 0


def test_any_order_of_taking_and_dropping_stays_within_the_bound() -> None:
    chance, most = random.Random(1), 256 * KIB
    memory = Torch().memory(most)
    held: list[Tensor] = []
    for _ in range(1000):
        if held and chance.random() < 0.4:
            held.pop(chance.randrange(len(held)))
        tensor = memory.empty((chance.randrange(1, 100 * KIB),), torch.uint8)
        held += [] if tensor is None else [tensor]
        assert memory.held_bytes() <= most
        assert memory.held_bytes() >= sum(tensor.nbytes for tensor in held)


def test_threads_may_ask_at_once() -> None:
    memory = Torch().memory(100 * KIB)
    got: list[Tensor | None] = []
    threads = [
        threading.Thread(target=lambda: got.extend(memory.empty((KIB,), torch.uint8) for _ in range(50)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(tensor is not None for tensor in got) == 100
    assert memory.held_bytes() == 100 * KIB


@pytest.mark.parametrize(("platform", "share"), [("linux", 0.45), ("darwin", 0.45), ("win32", 0.40)])
def test_the_bound_is_a_share_of_main_memory(platform: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=32 * GIB, available=GIB))
    assert most_pinned() == int(32 * GIB * share)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: None)
    assert most_pinned() == 0


def test_this_machine_without_a_gpu_pins_nothing() -> None:
    if torch.cuda.is_available():
        pytest.skip("it has one")
    assert pinned.PINNED.empty((10,), torch.uint8) is None
    assert pinned.PINNED.clear() == 0
