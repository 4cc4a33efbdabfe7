"""XLA as an engine, by JAX (https://docs.jax.dev): what is exported of a model for TPUs and whatever else XLA computes
on, in one file.

torchax (https://github.com/google/torchax) makes a JAX function of the module, of which JAX exports StableHLO for one
shape of tiles, one and several at once: no program of XLA's takes others. That is done by its CPU backend alone,
whatever the program is for: a TPU belongs to one process, and that is the one that upscales. There XLA compiles it
(`xla_forward.py`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..api.errors import first_line
from ..api.model_info import Forward
from .errors import CompileError, TraceError
from .interface import Work
from .packages import XLA
from .xla_file import XlaPrograms, as_array
from .xla_forward import XlaForward
from .xla_library import devices_of, jax_library
from .xla_products import OneTypeProducts

_TRACED_BY = "cpu"
_INNER = "module."  # as `OneTypeProducts` has a module's names
PLATFORMS = ("cpu", "cuda", "tpu")  # as JAX calls them; for one that is not here it can write a program all the same
_TOGETHER, _MOST_TOGETHER = 1 << 16, 8  # pixels of the tiles that a device takes at once, and tiles


@dataclass(frozen=True)
class Xla:
    """XLA on the devices that `name` means: "xla", "tpu", "xla:cpu". What torch has lies in main memory. What XLA
    compiles is kept in the folder `kept`."""

    name: str
    kept: Path

    def version(self) -> str:
        """Of JAX as it is installed, "" where it is not."""
        return XLA.version()

    def lacks(self, device: torch.device) -> str:
        """Why it cannot be used where torch computes on `device`, or ""."""
        if device.type != "cpu":
            return f"XLA takes what lies in main memory, and torch computes on {device.type}"
        return XLA.missing()

    def build(self, work: Work, target: Path) -> None:
        """Trace and export into the file `target`, for a CPU as well. Raises what `exported` raises."""
        self.exported(work, PLATFORMS).write(target)

    def exported(self, work: Work, platforms: tuple[str, ...]) -> XlaPrograms:
        """The programs for `platforms`. For a process of its own, which takes JAX's CPU backend for good. Raises
        `TraceError`, and `CompileError` where torchax lacks operations of the model, or does not fit this torch."""
        os.environ["JAX_PLATFORMS"] = _TRACED_BY  # before JAX is imported, in the process that compiles
        jax, export = jax_library(), jax_library("jax.export")
        jax.config.update("jax_traceback_in_locations_limit", 0)  # this machine's paths are nobody's business
        weights, function = _function_of(work.module)
        # A module of bfloat16 computes all of it in that, but for sums, those of products, normalisations and softmax,
        # which XLA and JAX make in float32 by themselves. One of float32 is multiplied in bfloat16 by a TPU if nothing
        # is said, which is what is meant by fp16.
        precision = "highest" if work.precision == "fp32" else None

        def forward(weights: Any, x: Any) -> Any:
            with jax.default_matmul_precision(precision):
                return function(weights, (x,)).astype("float32")

        wanted = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in weights.items()}
        size, programs = work.shapes.most, {}
        try:
            for count in sorted({1, tiles_together(*size)}):
                tiles = jax.ShapeDtypeStruct((count, work.example.shape[1], *size), np.float32)
                exported = export.export(jax.jit(forward), platforms=platforms)(wanted, tiles)
                programs[count] = bytes(exported.serialize())
        except Exception as error:  # whatever the model, torchax and JAX raise
            missing = _lacking(error)
            if missing:
                raise CompileError(f"torchax lacks an operation of it: {missing}") from error
            raise TraceError(f"it cannot be traced for {work.shapes}: {first_line(error)}") from error
        return XlaPrograms(XLA.version(), platforms, programs, weights)

    def bytes_held(self, file_bytes: int) -> int:
        """The file's weights, on every device. See `Engine.bytes_held`."""
        return file_bytes

    def load(self, path: Path, device: torch.device) -> Forward:
        """The forward in a file that `build` made, on all devices. See `Engine.load`."""
        return self.forward_of(XlaPrograms.read(path))

    def forward_of(self, programs: XlaPrograms) -> Forward:
        """What they compute, on all devices. Raises `CompileError` where XLA cannot compile them there."""
        try:
            return XlaForward(programs, devices_of(self.name), self.kept)
        except (ValueError, RuntimeError) as error:  # of another version, for other devices, no room
            made = f"made by JAX {programs.jax} for {', '.join(programs.platforms)}"
            raise CompileError(f"XLA cannot compile here what was {made}: {first_line(error)}") from error


def tiles_together(height: int, width: int) -> int:
    """How many tiles of that size a device takes at once, at most. Four of 128x128 took 0.7 of the time of one by one,
    on a processor (`bench/xla.py`)."""
    return min(_MOST_TOGETHER, max(1, _TOGETHER // (height * width)))


def _function_of(module: torch.nn.Module) -> tuple[dict[str, Any], Any]:
    """The weights of a module by their names, and the JAX function of them and of what it is given. Raises
    `CompileError` where torchax does not fit this torch."""
    try:
        torchax = jax_library("torchax")
    except Exception as error:  # it takes hold of much of torch while it is imported
        raise CompileError(
            f"torchax does not fit torch {torch.__version__} ({first_line(error)}): {XLA.install}"
        ) from error
    states, function = torchax.extract_jax(OneTypeProducts(module))
    weights = {name.removeprefix(_INNER): as_array(array) for name, array in states.items()}
    return weights, lambda weights, given: function({f"{_INNER}{name}": one for name, one in weights.items()}, given)


def _lacking(error: BaseException) -> str:
    """The operation that torchax has no way of computing, of what it raises; "" where that is not why it failed."""
    return str(error).removeprefix("Operator with name ") if type(error).__name__ == "OperatorNotFound" else ""
