"""Programs for XLA as a file: a line that says what follows, a line of JSON, StableHLO as JAX writes it, the weights.

cudaspeed XLA programs 2
{"jax": "0.10.2", "platforms": ["cpu", "tpu"], "programs": {"1": 15123, "4": 15260}}
<program for one tile><program for four><weights: safetensors>

StableHLO (https://openxla.org/stablehlo) can be read by other versions of JAX, for half a year after it was written at
least (https://docs.jax.dev/en/latest/export/export.html, compatibility guarantees).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save
from safetensors.torch import load
from torch import Tensor

from .errors import CompileError
from .xla_library import jax_library

_MARK = b"cudaspeed XLA programs 2\n"
_LONGEST_HEADER = 1 << 16  # bytes
_BFLOAT16 = "bfloat16"  # of ml_dtypes, which JAX brings


@dataclass(frozen=True)
class XlaPrograms:
    """`programs`, by the tiles n that they take at once, are one JAX function (weights, x) that was exported by version
    `jax` for `platforms`, x float32 [n, C, h, w] and its result float32; `weights` are float32, bfloat16 or
    integers."""

    jax: str
    platforms: tuple[str, ...]
    programs: Mapping[int, bytes]
    weights: Mapping[str, NDArray[Any]]

    def write(self, path: Path) -> None:
        """Raises `OSError` where it cannot be written."""
        header = {
            "jax": self.jax,
            "platforms": self.platforms,
            "programs": {str(tiles): len(program) for tiles, program in self.programs.items()},
        }
        line = json.dumps(header).encode() + b"\n"
        path.write_bytes(b"".join([_MARK, line, *self.programs.values(), save(dict(self.weights))]))

    @staticmethod
    def read(path: Path) -> XlaPrograms:
        """What `write` wrote. Raises `CompileError` for anything else, `OSError` where it cannot be read."""
        with path.open("rb") as file:
            if file.readline(len(_MARK)) != _MARK:
                raise CompileError("what was compiled is no program for XLA; it has to be compiled anew")
            line, content = file.readline(_LONGEST_HEADER), file.read()
        try:
            header = json.loads(line)
            jax, platforms = header["jax"], tuple(header["platforms"])
            if not all(isinstance(text, str) for text in (jax, *platforms)):
                raise ValueError("it says nothing of how it was made")
            programs = {}
            for tiles, length in header["programs"].items():
                if type(length) is not int or not 0 < length < len(content):
                    raise ValueError("it is cut short")
                programs[int(tiles)], content = content[:length], content[length:]
            if 1 not in programs:
                raise ValueError("it has nothing for one tile")
            weights = {name: as_array(tensor) for name, tensor in load(content).items()}
        except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise CompileError(f"what was compiled for XLA is damaged ({error}); it has to be compiled anew") from error
        return XlaPrograms(jax, platforms, programs, weights)


def as_array(value: Any, narrow: bool = False) -> NDArray[Any]:
    """A torch tensor or an array of JAX's as it is kept: contiguous, and where it is of a floating type bfloat16 if it
    is that or is to be (`narrow`), else float32."""
    if isinstance(value, Tensor):
        narrow |= value.dtype == torch.bfloat16
        value = value.float() if value.is_floating_point() else value  # numpy has no bfloat16 of its own
    array = np.asarray(value)
    if array.dtype.kind in "iub":
        return np.ascontiguousarray(array)
    narrow |= array.dtype.name == _BFLOAT16
    return np.ascontiguousarray(array, getattr(jax_library("ml_dtypes"), _BFLOAT16) if narrow else np.float32)
