"""What was exported for XLA, on all devices of a kind, called with torch's tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .xla_cache import kept_in
from .xla_file import XlaProgram
from .xla_library import jax_library

_AXIS = "tiles"


class XlaForward:
    """x [N, C, h, w] float32 in main memory -> float32, the caller's own, N at most the tiles that all `devices` take
    at once: each takes as many as the program was made for, and what is missing of them is filled up with the last.

    The weights are put on every device once, and are arguments of the program: they are no constants in it. It is
    compiled here and now, which takes seconds the first time, or read from the folder `kept`. Raises what JAX raises.
    """

    def __init__(self, program: XlaProgram, devices: Sequence[Any], kept: Path) -> None:
        jax, export = jax_library(), jax_library("jax.export")
        exported = export.deserialize(bytearray(program.program))
        tiles = exported.in_avals[-1]  # after the weights
        mesh = jax.sharding.Mesh(np.array(devices), (_AXIS,))
        everywhere, apart = (jax.sharding.PartitionSpec(*axes) for axes in ((), (_AXIS,)))
        self._place = jax.sharding.NamedSharding(mesh, apart)
        self.most = tiles.shape[0] * len(devices)
        self._weights = jax.device_put(dict(program.weights), jax.sharding.NamedSharding(mesh, everywhere))
        each = jax.shard_map(exported.call, mesh=mesh, in_specs=(everywhere, apart), out_specs=apart, check_vma=False)
        of_all = jax.ShapeDtypeStruct((self.most, *tiles.shape[1:]), np.float32, sharding=self._place)
        with kept_in(kept):
            self._compiled = jax.jit(each).lower(self._weights, of_all).compile()
        self._jax, self._alone = jax, Lock()

    def __call__(self, x: Tensor) -> Tensor:
        missing = self.most - len(x)
        if missing:
            x = torch.cat([x, x[-1:].expand(missing, -1, -1, -1)])
        with self._alone:  # one batch at a time, as much as there is memory for
            placed = self._jax.device_put(x.contiguous().numpy(), self._place)
            result = np.array(self._compiled(self._weights, placed))  # copied: it is the caller's
        return torch.from_numpy(result)[: self.most - missing]
