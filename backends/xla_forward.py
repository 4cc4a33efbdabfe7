"""What was exported for XLA, on all devices of a kind, called with torch's tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..api.errors import first_line
from ..devices.tpu import COMPUTING
from .errors import DeviceFullError
from .xla_cache import kept_in
from .xla_file import XlaPrograms
from .xla_library import jax_library

_AXIS = "tiles"
_NO_ROOM = "RESOURCE_EXHAUSTED"  # https://github.com/abseil/abseil-cpp/blob/master/absl/status/status.h


class XlaForward:
    """x [N, C, h, w] float32 in main memory -> float32, the caller's own. All `devices` share it: each takes as many
    tiles at once as there are programs for and the batch has for all of them; of its rest each takes one, and what is
    missing of that is filled up with the last.

    The weights are put on every device once, and are arguments of the programs: they are no constants in them. That for
    one tile is compiled here and now, which takes seconds the first time, or read from the folder `kept`; others when
    there are so many tiles, and not again where they have no room. Raises what JAX raises, `DeviceFullError` where not
    even single tiles have room.
    """

    def __init__(self, programs: XlaPrograms, devices: Sequence[Any], kept: Path) -> None:
        COMPUTING.update(dict.fromkeys(devices))
        self._jax, self._programs, self._kept, self._count = jax_library(), programs.programs, kept, len(devices)
        self._mesh = self._jax.sharding.Mesh(np.array(devices), (_AXIS,))
        everywhere, apart = (self._jax.sharding.PartitionSpec(*axes) for axes in ((), (_AXIS,)))
        self._specs = (everywhere, apart)
        self._place = self._jax.sharding.NamedSharding(self._mesh, apart)
        placed = self._jax.sharding.NamedSharding(self._mesh, everywhere)
        with _told_when_full():
            self._weights = self._jax.device_put(dict(programs.weights), placed)
        self._compiled = {1: self._compile(1)}
        self._alone = Lock()

    def __call__(self, x: Tensor) -> Tensor:
        with self._alone:  # one batch at a time, as much as there is memory for
            results = []
            while len(x):
                tiles = max((tiles for tiles in self._programs if tiles * self._count <= len(x)), default=1)
                try:
                    results.append(self._of_all(x[: tiles * self._count], tiles))
                except DeviceFullError:
                    if tiles == 1:
                        raise
                    self._programs = {count: one for count, one in self._programs.items() if count < tiles}
                    self._compiled.pop(tiles, None)
                    continue
                x = x[tiles * self._count :]
        return torch.cat(results) if len(results) > 1 else results[0]

    def _of_all(self, x: Tensor, tiles: int) -> Tensor:
        """The result of so many `tiles` on each device, or fewer."""
        missing = tiles * self._count - len(x)
        if missing:
            x = torch.cat([x, x[-1:].expand(missing, -1, -1, -1)])
        if tiles not in self._compiled:
            self._compiled[tiles] = self._compile(tiles)
        with _told_when_full():
            placed = self._jax.device_put(x.contiguous().numpy(), self._place)
            result = np.array(self._compiled[tiles](self._weights, placed))  # copied: it is the caller's
        return torch.from_numpy(result)[: len(x) - missing]

    def _compile(self, tiles: int) -> Any:
        exported = jax_library("jax.export").deserialize(bytearray(self._programs[tiles]))
        each = exported.in_avals[-1].shape  # after the weights
        of_all = self._jax.ShapeDtypeStruct((each[0] * self._count, *each[1:]), np.float32, sharding=self._place)
        apart = self._specs[1]
        shared = self._jax.shard_map(
            exported.call, mesh=self._mesh, in_specs=self._specs, out_specs=apart, check_vma=False
        )
        with kept_in(self._kept), _told_when_full():
            return self._jax.jit(shared).lower(self._weights, of_all).compile()


@contextmanager
def _told_when_full() -> Iterator[None]:
    """Within it, JAX's own error for a device without room is ours: it has no type for that, only a word."""
    try:
        yield
    except RuntimeError as error:
        if _NO_ROOM not in str(error):
            raise
        raise DeviceFullError(first_line(error)) from error
