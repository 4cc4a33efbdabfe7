"""The memory of the result: pinned where the device writes by itself, within bounds, given back where it is needed."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest
import torch
from torch import Tensor

from cudaspeed.api.errors import OutOfMemoryError
from cudaspeed.devices.pinned import PinnedMemory
from cudaspeed.pipeline import output, streams

MIB, GIB = 1 << 20, 1 << 30
SHAPE = 1, 128, 128, 4
SIZE = 128 * 128 * 4 * 4  # a power of two, which torch takes a block of


class Context:
    """Of a CUDA device, as far as results go."""

    device, output_device, output_dtype = torch.device("cuda"), torch.device("cpu"), torch.float32
    switches = SimpleNamespace(pinned_memory=True)

    def is_out_of_memory(self, error: BaseException) -> bool:
        return False


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> PinnedMemory:
    """A machine with 16 GiB whose driver pins memory."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=16 * GIB, available=8 * GIB))
    pinned = PinnedMemory(lambda shape, dtype: torch.empty(tuple(shape), dtype=dtype), lambda: True)
    for module in (output, streams):
        monkeypatch.setattr(module, "PINNED", pinned)
    return pinned


def allocate() -> Tensor:
    return output.allocate_output(SHAPE, Context(), beside=0)  # type: ignore[arg-type]


def test_a_result_is_pinned_and_its_users(memory: PinnedMemory) -> None:
    result = allocate()
    assert memory.held_bytes() == SIZE
    assert (result.shape, result.dtype, result.is_inference()) == ((1, 128, 128, 4), torch.float32, False)
    result.add_(1)


def test_a_result_comes_in_ordinary_memory_where_too_much_is_pinned(
    memory: PinnedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_most", lambda: SIZE)
    first = allocate()
    assert allocate().shape == first.shape
    assert memory.held_bytes() == SIZE


def test_what_torch_keeps_pinned_is_given_back_before_a_result_is_refused(
    memory: PinnedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = memory.empty((GIB // 1024,), torch.uint8)
    del kept
    monkeypatch.setattr(output, "free_host_bytes", lambda: 0 if memory.held_bytes() else GIB)
    assert allocate().shape == (1, 128, 128, 4)
    monkeypatch.setattr(output, "free_host_bytes", lambda: 0)
    with pytest.raises(OutOfMemoryError, match=r"0\.00 GiB are free"):
        allocate()


def test_a_system_that_does_not_tell_its_memory_pins_no_results(
    memory: PinnedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: None)
    assert allocate().shape == (1, 128, 128, 4)
    assert memory.held_bytes() == 0


def test_staging_buffers_come_in_ordinary_memory_where_too_much_is_pinned(
    memory: PinnedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = object.__new__(streams.CudaDevice)  # its streams need a GPU
    monkeypatch.setattr(memory, "_most", lambda: 4 * MIB)
    buffers = [device.pinned(MIB) for _ in range(6)]
    assert all(buffer.shape == (MIB,) and buffer.dtype == torch.uint8 for buffer in buffers)
    assert memory.held_bytes() == 4 * MIB


def test_a_result_that_does_not_fit_is_told_with_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "free_host_bytes", lambda: 10 * SIZE + 5)
    with pytest.raises(OutOfMemoryError) as told:
        output.allocate_output((40, 128, 128, 4), Context(), beside=2 * SIZE)  # type: ignore[arg-type]
    assert "(8 would fit)" in str(told.value)
    assert "of at most 57x57" in str(told.value), "40 of them take what 8 of 128x128 do"
    monkeypatch.setattr(output, "free_host_bytes", lambda: 0)
    with pytest.raises(OutOfMemoryError) as told:
        output.allocate_output(SHAPE, Context(), beside=2 * SIZE)  # type: ignore[arg-type]
    assert "would fit" not in str(told.value)
    assert "at most" not in str(told.value)
