"""What a host gives the engine: where to compute, what memory there is, progress and interrupts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .options import Precision


@dataclass(frozen=True)
class Switches:
    """What the host's own switches ask of every run in it.

    `precisions`: what "auto" may choose, best first; None: what is fast on the device. `torch_attention`, `cuda_graphs`
    and `pinned_memory`: whether these may be used on devices that have them. `weights_stay`: whether weights that are
    not computed with may lie on a device with memory of its own. `engine`: the name of the one that models are compiled
    by and computed with, whatever is faster; "" for none.
    """

    precisions: tuple[Precision, ...] | None = None
    torch_attention: bool = True
    cuda_graphs: bool = True
    pinned_memory: bool = True
    weights_stay: bool = True
    engine: str = ""


class Resident(Protocol):
    """A model of ours that a host brings to its device. `residence` is for the host to keep its own handle in."""

    module: nn.Module
    residence: object

    def release(self, weights: bool = False) -> None:
        """Give back the memory of what was made beside the weights, with `weights` theirs, too; called when the host
        unloads the model."""
        ...


class RunContext(Protocol):
    """What a host gives the engine, ComfyUI or a stand-alone program. One per run.

    `progress` and `say` may be called on another thread than the run's, one at a time, with its context variables; what
    they raise ends the run, and so does what `show` raises.
    """

    device: torch.device
    """Where the model computes."""
    output_device: torch.device
    """Where the result must lie."""
    output_dtype: torch.dtype
    """The result's type."""
    cache_folder: Path
    """Where compiled models are kept; perhaps not there yet."""
    switches: Switches
    """What the host's own switches ask for."""
    looked_at: bool
    """Whether somebody sees what is shown: nothing is made for `show` where nobody does."""
    texts_stay: bool
    """Whether the last text that was said stays, so that every run, quick as it is, ends with what was done."""
    alone: bool
    """Whether no other run takes of the memory that this one computes in, as far as the host knows."""
    peers: tuple[RunContext, ...]
    """Those of other devices that share the work; progress, interrupts and the result are this one's."""

    def make_resident(self, model: Resident, bytes_wanted: int) -> None:
        """Bring `model` to `device`, making room for `bytes_wanted` beside it if the host can."""
        ...

    def take_away(self, model: Resident) -> None:
        """Bring `model` back to main memory; nothing, if it was not brought to the device."""

    def room_beside(self, model: Resident, needed: int) -> int | None:
        """Bytes that the device can give this run beside what `model` has of it, when others have made way for `needed`
        bytes, as far as they do; None where weights wait in the same memory that is computed in, and where nothing
        tells."""
        ...

    def free_bytes(self) -> int:
        """Bytes the device can still give this run."""
        ...

    def peak_bytes(self) -> int | None:
        """The most bytes this run held on the device at once, or None where that is not measured."""
        ...

    def release_cached(self) -> None:
        """Give cached but unused device memory back, after an out-of-memory error."""
        ...

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether `error` means that the device's memory ran out."""
        ...

    def progress(self, done: float, total: int) -> None:
        """Tell the user that `done` of `total` tiles are finished, with the part that is done of one that takes long.
        The share never falls; the total may change."""
        ...

    def say(self, text: str) -> None:
        """Tell the user in a few words what is going on, or, at the end, what was done."""

    def show(self, picture: NDArray[np.uint8]) -> None:
        """Show `picture` [H, W, 3], how the result looks so far, small."""

    def raise_if_interrupted(self) -> None:
        """Raise the host's own exception if the user asked to stop. Asked often, some 20 times a second."""
        ...
