"""A model whose weights do not all fit a device: they wait in pinned main memory, and come block by block while it
computes.

There are two places on the device that blocks come into, each with a stream that fills it: while one block computes,
the next one's weights are on their way, in the order in which the last forward called them. What belongs to no block,
and as many blocks as there is room for, stays. All of that is one piece of memory, a module that hosts bring to the
device, count, and take away as they do any other.

Forwards are the same operations on the same numbers, so the picture's bits stay.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..api.model_info import Forward
from ..devices.vram import VramState
from ..models.weight_units import Cut, Packing, cut, device_bytes, what_stays
from ..models.weight_use import WeightUse, weights_of
from .streams import Stream, StreamDevice
from .weight_blocks import ResidentWeights, WeightBlock, WeightSlot, pieces_for

_PARTS = (32, 128, 0)  # of a model, that blocks are as large as; 0: as small as can be
_LARGEST = 64 << 20  # bytes of a block; larger ones gain nothing more


class OffloadedWeights:
    """The weights of `module`, of which no more than a limit lies on `device` at once. A `Resident`: what hosts bring
    is the piece of memory there.

    While it is `on`, the module's weights lie in main memory, but for those that stay, and `forward` brings them where
    they are computed with. Any thread may call `forward`; they take turns. `use` is what a forward of `module` does,
    `plain` that forward with all weights in place. `state` is "low" where more stays on the device than what has to,
    else "no", as ComfyUI names it. `when_taken` is called when a host takes the weights away.
    """

    module: nn.Module
    residence: object

    def __init__(self, module: nn.Module, forward: Forward, use: WeightUse, device: StreamDevice) -> None:
        self.on, self.residence, self.plain = False, None, forward
        self.state: VramState = "no"
        self.when_taken: Callable[[], object] = lambda: None
        self._network, self._use, self._device = module, use, device
        self._lock = threading.RLock()
        self._hooks = ExitStack()
        self._blocks: list[WeightBlock] = []
        self._staying: list[WeightBlock] = []
        self._slots: list[WeightSlot] = []
        self._streams = device.pair()
        self._loaded: Tensor | None = None
        self._compute: Stream | None = None
        self._thread: int | None = None
        self._order: list[int] = []
        self._called: list[int] = []
        self._active: dict[int, int] = {}  # blocks that compute, and how often they were entered
        self.module = self._resident = ResidentWeights(0, device.device, lambda: None)

    @property
    def device(self) -> torch.device:
        """Where they come to."""
        return self._device.device

    @property
    def device_bytes(self) -> int:
        """What it takes of the device."""
        return self._resident.size

    @property
    def held_bytes(self) -> int:
        """What it has of the device now."""
        return 0 if self._resident.memory is None else self._resident.size

    @property
    def waiting_bytes(self) -> int:
        """What it takes of main memory: all weights, whether they are on the device, too, or not."""
        return sum(tensor.nbytes for tensor in weights_of(self._network))

    def keep_within(self, limit: int) -> None:
        """From now on no more than `limit` bytes, or than it takes at the least, are on the device. What is there
        already is left where it is, if it is what would be there."""
        with self._lock:
            pieces, stay = self._planned(limit)
            staying = [pieces.rest, *(pieces.units[place].tensors for place in sorted(stay))]
            coming = [place for place in range(len(pieces.units)) if place not in stay]
            others = [pieces.units[place].tensors for place in coming]
            if self.on and _ids(staying, others) == _ids(*map(_tensors, (self._staying, self._blocks))):
                return
            self._leave()
            self._hooks.close()
            for block in self._blocks:
                block.unpin()
            self._staying, self._blocks = [*map(WeightBlock, staying)], [*map(WeightBlock, others)]
            self._order = [coming.index(place) for place in pieces.order if place in coming]
            for index, place in enumerate(coming):
                self._listen(index, pieces.units[place].module)
            largest = max((block.packing.bytes for block in self._blocks), default=0)
            size = sum(block.packing.bytes for block in self._staying) + min(2, len(self._blocks)) * largest
            known = weakref.ref(self)
            self.module = self._resident = ResidentWeights(
                size, self._device.device, lambda: (offloaded := known()) and offloaded._leave()
            )
            self.residence, self.on = None, True

    def end(self) -> None:
        """All weights are in main memory, and whoever wants to may bring them to the device."""
        with self._lock:
            self.release()
            self._hooks.close()
            self._blocks, self._staying, self.residence, self.on = [], [], None, False

    def release(self, weights: bool = False) -> None:
        """Give back the memory of the device and what is pinned; `forward` takes it anew."""
        with self._lock:
            self._resident.leave()
            for block in self._blocks:
                block.unpin()
        if weights:
            self.when_taken()

    def forward(self, x: Tensor) -> Tensor:
        """As the module's, with its weights wherever they are."""
        with self._lock:
            if not self.on:
                return self.plain(x)
            with self._computing():
                return self.plain(x)

    # --- before a forward, and after it ------------------------------------------------------------------------------

    def _planned(self, limit: int) -> tuple[Cut, frozenset[int]]:
        """The model in units, those that stay, and the rest: the coarsest that keeps to the limit, else the finest."""
        total = sum(tensor.nbytes for tensor in weights_of(self._network))
        pieces, stay = Cut([], [], []), frozenset()
        for parts in _PARTS:
            pieces = cut(self._network, self._use, min(total // parts, _LARGEST) if parts else 0)
            sizes, rest = [Packing.of(unit.tensors).bytes for unit in pieces.units], Packing.of(pieces.rest).bytes
            stay = what_stays(sizes, rest, limit)
            self.state = "low" if stay > what_stays(sizes, rest, 0) else "no"
            if rest + device_bytes(sizes, stay) <= limit:
                break
        return pieces, stay

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Within it blocks that this thread computes have their weights on the device."""
        self._arrive()
        self._compute, self._thread, self._called = self._device.current(), threading.get_ident(), []
        try:
            yield
            self._order = self._called
        finally:
            self._thread = None
            for index in [*self._active]:
                self._leave_slot(index)

    def _arrive(self) -> None:
        """See to it that what stays is on the device, and everything else pinned."""
        memory = self._resident.arrive()
        if memory is self._loaded:
            return
        with torch.inference_mode(False), torch.no_grad():
            at = 0
            for block in self._staying:
                piece = memory[at : at + block.packing.bytes]
                block.packing.write(piece, block.home)
                block.point_to(block.packing.views(piece))
                at += block.packing.bytes
            waiting = [block for block in self._blocks if not block.pinned]
            for block, piece in zip(waiting, pieces_for(self._device, waiting), strict=True):
                block.pin(piece)
            here = self._device.current().record()  # what lay there before may still be computed with
            pieces = memory[at:].split(max(1, (len(memory) - at) // 2)) if len(self._blocks) > 1 else [memory[at:]]
            self._slots = [
                WeightSlot(piece, stream, here, self._blocks)
                for piece, stream in zip(pieces if self._blocks else (), self._streams, strict=False)
            ]
        for stream in self._streams:
            stream.keep(memory)
        self._loaded = memory

    def _leave(self) -> None:
        """Nothing of it is on the device, or on its way there."""
        with self._lock:
            for stream in self._streams if self._loaded is not None else ():
                stream.record().synchronize()
            self._slots, self._loaded = [], None  # first: whatever interrupts the rest, all of it arrives anew
            for block in (*self._staying, *self._blocks):
                block.point_to(block.home)
            self._resident.memory = None

    # --- while it computes -------------------------------------------------------------------------------------------

    def _listen(self, index: int, module: nn.Module) -> None:
        known = weakref.ref(self)  # the hooks are the module's, which this object keeps

        def begins(*_: Any) -> None:
            if (offloaded := known()) is not None and offloaded._thread == threading.get_ident():
                offloaded._begins(index)

        def ends(*_: Any) -> None:
            if (offloaded := known()) is not None and offloaded._thread == threading.get_ident():
                offloaded._ends(index)

        self._hooks.callback(module.register_forward_pre_hook(begins).remove)
        self._hooks.callback(module.register_forward_hook(ends).remove)

    def _begins(self, index: int) -> None:
        self._active[index] = self._active.get(index, 0) + 1
        if self._active[index] > 1:  # within itself
            return
        assert self._compute is not None
        slot = self._slot_of(index) or self._fetch(index)
        self._compute.wait_event(slot.arrived)
        self._blocks[index].point_to(slot.views(index))
        self._called.append(index)
        self._prefetch(index)

    def _ends(self, index: int) -> None:
        self._active[index] -= 1
        if not self._active[index]:
            self._leave_slot(index)

    def _leave_slot(self, index: int) -> None:
        del self._active[index]
        self._blocks[index].point_to(self._blocks[index].home)
        slot = self._slot_of(index)
        if slot is not None and self._compute is not None:
            slot.computed = self._compute.record()

    def _slot_of(self, index: int) -> WeightSlot | None:
        return next((slot for slot in self._slots if slot.block == index), None)

    def _fetch(self, index: int) -> WeightSlot:
        """Set a block's weights out for the place that nobody computes in and that was filled the longest ago."""
        free = [slot for slot in self._slots if slot.block not in self._active]
        if not free:
            raise RuntimeError("more than two blocks compute at once, which they did not before")
        slot = min(free, key=lambda slot: slot.turn)
        slot.turn = max(slot.turn for slot in self._slots) + 1
        slot.fill(index, self._blocks[index].memory)
        return slot

    def _prefetch(self, index: int) -> None:
        """Set out what comes next, as far as the last forward tells, after the block that has begun now; after the last
        one, what the next forward begins with."""
        order = self._order
        places = [place for place, called in enumerate(order) if called == index]
        if not places or len(self._slots) < 2:
            return
        begun = len(self._called) - 1
        here = next((place for place in places if place >= begun), places[0])
        following = (order[(here + more) % len(order)] for more in range(1, len(order)))
        coming = next((other for other in following if other != index), None)
        if coming is not None and self._slot_of(coming) is None and len(self._active) == 1:
            self._fetch(coming)


def _tensors(blocks: Sequence[WeightBlock]) -> list[list[Tensor]]:
    return [block.tensors for block in blocks]


def _ids(*groups: Sequence[Sequence[Tensor]]) -> list[list[list[int]]]:
    return [[[id(tensor) for tensor in tensors] for tensors in group] for group in groups]
