"""A device's memory for a run: where it does not suffice, and what of the heap stays from one forward to the next."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ..api.context import RunContext
from ..api.errors import CudaspeedError, OutOfMemoryError
from ..api.options import UpscaleOptions
from ..memory import allowed_bytes, pixels_within, weights_bytes, working_bytes
from ..storage.heap import trim_heap
from ..storage.heap_reserve import HeapReserve
from ..storage.memory_limits import has_own_limits
from .engine_memory import EngineMemory
from .fallback import ForwardCost
from .scheduler import Limits
from .session_cache import MemoryLimit, SessionCache

_MUCH_MORE = 2.0  # times what was free when memory ran out: what was found out then says nothing now
# A forward's bytes, twice, since not all that is free is where it fits; and what else is in work. Less than the least
# the C library keeps by itself.
_FORWARDS = 2
_LEAST_RESERVE, _MOST_RESERVE = 32 << 20, 1 << 30
_PLENTY = 4  # times what is reserved has to be free: all of it may come to be held, with gaps in it


class Room:
    """A device's memory, for one run of the model with this `name`; `give_back` ends what the run reserved."""

    def __init__(self, name: str, options: UpscaleOptions, context: RunContext, shared: SessionCache) -> None:
        self._name, self._context = name, context
        self._remembers, self._found = not options.reproducible, shared.memory_limits
        # what an engine's device has no room for, main memory may have
        self._place = context.switches.engine or str(context.device)
        self._reserve = HeapReserve()

    @contextmanager
    def needed_for(self, what: str) -> Iterator[None]:
        """Within it, a lack of memory is our `OutOfMemoryError`: the device cannot hold even `what`."""
        try:
            yield
        except Exception as error:  # torch has several types for it; what is not a lack of memory goes on up
            if isinstance(error, CudaspeedError) or not self._context.is_out_of_memory(error):
                raise
            raise self.does_not_fit(what) from error

    def check_engine(self, memory: EngineMemory, pixels: int) -> None:
        """Raise `OutOfMemoryError` where the `memory` that an engine's device has does not suffice for a tile of so
        many input `pixels`."""
        lacks = memory.lacks(pixels)
        if lacks:
            side = math.isqrt(pixels)
            raise self.does_not_fit(f"one tile of {side}x{side}", *lacks)

    def does_not_fit(self, what: str, needed: int | None = None, free_on_engine: int | None = None) -> OutOfMemoryError:
        """The error for a device that cannot hold even `what`, which takes `needed` bytes if that is known; for an
        engine's, where so many are free on that."""
        numbers, device = "", self._context.device if free_on_engine is None else self._place
        if needed is not None:
            free = (self._context.free_bytes() if free_on_engine is None else free_on_engine) / 2**20
            numbers = f": about {needed / 2**20:.0f} MiB are needed and {free:.0f} are free"
        return OutOfMemoryError(
            f"{device} has too little memory even for {what} with {self._name}{numbers}; free memory "
            "(unload other models), use a smaller model, set precision to fp16 or bf16, or lower overlap or "
            "batch_size if you set it"
        )

    def check_copy(self, module: nn.Module) -> None:
        """Raise `MemoryError` where a copy of `module` takes more main memory than this process is allowed."""
        left = allowed_bytes(self._context.device)
        if left is not None and weights_bytes(module) > left:
            raise MemoryError(f"a copy of the model takes more than the {left} bytes that are allowed")

    def limits(self, cost: ForwardCost) -> Limits:
        """What an earlier run found out about the device's memory, for forwards of this `cost`."""
        device = self._context.device
        known = self._found.get(self._place)
        if known is None or not self._remembers or self._context.free_bytes() > _MUCH_MORE * known.free:
            return Limits()
        return Limits(max_pixels=pixels_within(cost.at_hand(device), known.working, device))

    def remember_limit(self, cost: ForwardCost, pixels: int) -> None:
        """Forwards of more input pixels than that ran out of memory; kept in bytes, since other models and precisions
        need more or less."""
        device = self._context.device
        working = working_bytes(cost.at_hand(device), pixels, device)
        self._found[self._place] = MemoryLimit(working, self._context.free_bytes())

    def reserve(self, cost: ForwardCost, pixels: int) -> None:
        """Have the heap keep what forwards of so many input pixels take, on a CPU, until `give_back`. Where memory is
        scarce, or the process has limits of its own, against which that counts, used or not, it is left alone."""
        device = self._context.device
        if device.type != "cpu":
            return
        size = min(_FORWARDS * working_bytes(cost.at_hand(device), pixels, device), _MOST_RESERVE)
        if size >= _LEAST_RESERVE and not has_own_limits():
            left, free = allowed_bytes(device), self._context.free_bytes()
            if _PLENTY * size <= (free if left is None else min(free, left)):
                self._reserve.hold(size)

    def trim_where_scarce(self, cost: ForwardCost, pixels: int) -> None:
        """Give back what lies free in the heap where not even two more forwards of so many input pixels would fit
        within what this process is allowed: with gaps it comes to hold half as much again as is in use, and who goes
        beyond a control group's limit is ended. Takes some milliseconds, on a CPU."""
        device = self._context.device
        left = allowed_bytes(device) if device.type == "cpu" else None
        if left is not None and left < _FORWARDS * working_bytes(cost.at_hand(device), pixels, device):
            trim_heap()

    def give_back(self) -> None:
        """The heap is the C library's again; also where nothing was reserved."""
        self._reserve.let_go()
