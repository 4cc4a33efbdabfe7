"""What keeps the pixels of shifted windows apart, made once for a network and a size of latents.

spandrel's blocks (SwinIR, DRCT, DAT) keep a mask each for the one size that they were trained with, which is up to half
of a file, and make one anew for any other size in every forward, on the CPU. Here all blocks of a network share theirs,
which are no part of its weights.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...kernels.shifted_windows import apart

_KEPT = 4  # DAT has two for a size
_NO_SIZE = 0  # of latents that a block would have a mask of its own for

Pair = tuple[int, int]


class _Wanted(NamedTuple):
    """A mask, where a block of spandrel's would have one as a tensor: of it nothing is asked but where it is to be."""

    masks: Masks
    sides: Pair
    window: Pair
    shift: Pair
    dtype: torch.dtype

    def to(self, device: torch.device) -> Tensor | None:
        """[windows, pixels, pixels]; None where nothing was shifted."""
        return self.masks.on(device, self) if any(self.shift) else None


class Masks:
    """The masks of a network's blocks that were asked for last. A copy of the network begins without."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], Tensor] = {}

    def __deepcopy__(self, memo: dict[int, object]) -> Masks:
        return Masks()

    def on(self, device: torch.device, wanted: _Wanted) -> Tensor:
        """[windows, pixels, pixels] on `device`."""
        if torch.compiler.is_compiling():  # what is traced may not be kept, nor may what is kept be traced
            return _made(wanted, device)
        key = (*wanted[1:], device)
        mask = self._kept.get(key)
        if mask is None:
            mask = _made(wanted, device)
            if type(mask) is not Tensor:  # torchax traces
                return mask
            if len(self._kept) >= _KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = mask
        return mask


def _made(wanted: _Wanted, device: torch.device) -> Tensor:
    return apart(wanted.sides, wanted.window, wanted.shift)[:, 0].to(device, wanted.dtype)


class _OfSwin:
    """`calculate_mask` of a block of SwinIR's or DRCT's, whose own attention (windows.py) takes no mask as well."""

    def __init__(self, masks: Masks, window: int, shift: int) -> None:
        self._masks, self._window, self._shift = masks, (window, window), (shift, shift)

    def __call__(self, sides: Pair) -> _Wanted:
        return _Wanted(self._masks, (*sides,), self._window, self._shift, torch.float32)


class _OfDAT:
    """`calculate_mask` of DAT's attention, one for each half of its channels, of which the other has both turned."""

    def __init__(self, masks: Masks, window: Pair, shift: Pair) -> None:
        (rows, columns), (down, right) = window, shift
        self._masks = masks
        self._halves: list[tuple[Pair, Pair]] = [((rows, columns), (down, right)), ((columns, rows), (right, down))]

    def __call__(self, height: int, width: int, dtype: torch.dtype | None = None) -> list[_Wanted]:
        dtype = dtype or torch.float32
        return [_Wanted(self._masks, (height, width), window, shift, dtype) for window, shift in self._halves]


def with_shared_masks(network: nn.Module) -> None:
    """Gives spandrel's blocks in `network` masks that they share, in place of those that they have."""
    masks = Masks()
    for block in network.modules():
        some: Any = block
        if not hasattr(block, "calculate_mask"):
            continue
        if hasattr(block, "patches_resolution"):
            some.patches_resolution = _NO_SIZE
            some.calculate_mask = _OfDAT(masks, tuple(some.split_size), tuple(some.shift_size))
        else:
            some.input_resolution = (_NO_SIZE, _NO_SIZE)
            some.calculate_mask = _OfSwin(masks, some.window_size, some.shift_size)
        for name, mask in [*block.named_buffers(recurse=False)]:
            if is_constant(name):  # empty: that it is there tells that windows are shifted
                block.register_buffer(name, mask.new_empty(0), persistent=False)


def is_constant(key: str) -> bool:
    """Files have something under `key` that follows from the sizes of a network: a mask, or a row of a table."""
    return key.rsplit(".", 1)[-1] in ("attn_mask", "attn_mask_0", "attn_mask_1", "relative_position_index")


def with_shared_places(network: nn.Module) -> None:
    """Lets attentions of one window in `network` have one table of rows, which is no part of its weights."""
    shared: dict[tuple[int, ...], Tensor] = {}
    for module in network.modules():
        place = getattr(module, "relative_position_index", None)
        if not isinstance(place, Tensor):
            continue
        known = shared.setdefault((*place.shape, *place[:, 0].tolist()), place)
        module.register_buffer("relative_position_index", known, persistent=False)
