"""Programs for XLA from elsewhere: a look at them before one of them is compiled.

StableHLO computes with arrays, and nothing else, but for its custom calls: they name a function in this process, of
LAPACK or one that calls back into Python by an address, and may give it any bytes. torchax's programs have none.
"""

from __future__ import annotations

from typing import Any

from ..api.errors import first_line
from ..api.model_info import ModelInfo
from .errors import CompileError
from .packages import XLA
from .xla_file import XlaPrograms
from .xla_library import devices_of, jax_library

_CALL = "custom_call"
_NAMES = {"gpu": "cuda"}  # devices' names for what `jax.export` calls otherwise


def check_programs(programs: XlaPrograms, info: ModelInfo, tile: tuple[int, int], device: str) -> None:
    """Raise `CompileError`, whose text is the end of a sentence about the file, where they are not what computes a
    model of `info` on tiles of (height, width) on XLA's `device` ("tpu"), or call what is none of StableHLO's."""
    kind = devices_of(device)[0].platform
    platform = _NAMES.get(kind, kind)
    if platform not in programs.platforms:
        made_for = ", ".join(programs.platforms)
        raise CompileError(f"was exported for {made_for}, and {device} is {platform} here; export it for that, too")
    for tiles, program in programs.programs.items():
        try:
            exported = _read(program)
            calls, fits = _CALL in exported.mlir_module(), _fits(exported, programs, info, (tiles, *tile))
        except Exception as error:  # whatever its readers raise on what they do not know
            reason = f"{type(error).__name__}: {first_line(error):.200}"
            if programs.jax == XLA.version():
                raise CompileError(f"has a program that is damaged ({reason}); export it again") from error
            raise CompileError(
                f"was exported by JAX {programs.jax}, which JAX {XLA.version()} here cannot read "
                f"({type(error).__name__}: {first_line(error):.200}); export it by this one"
            ) from error
        if calls:
            raise CompileError("has a program that calls functions outside of it, which is refused")
        if not fits:
            raise CompileError("has a program for something else than its tiles or its weights; export it again")


def _read(program: bytes) -> Any:
    """Raises whatever JAX raises, `ValueError` for one of a newer JAX: it would be misread without a word."""
    library = jax_library("jax.export")
    exported = library.deserialize(bytearray(program))
    found, most = exported.calling_convention_version, library.maximum_supported_calling_convention_version
    if found > most:
        raise ValueError(f"its calling convention is {found}, and at most {most} is known")
    return exported


def _fits(exported: Any, programs: XlaPrograms, info: ModelInfo, tiles: tuple[int, int, int]) -> bool:
    """Whether it is a function of those weights and of so many tiles (n, height, width) at once."""
    count, height, width = tiles
    weights = dict.fromkeys(programs.weights, 0)
    *taken, x = exported.in_avals
    given_weights = [(array.shape, array.dtype) for _, array in sorted(programs.weights.items())]
    given = (count, info.out_channels, height * info.scale, width * info.scale)
    return (
        exported.nr_devices == 1
        and exported.in_tree == jax_library("jax.tree_util").tree_structure(((weights, 0), {}))
        and [(one.shape, one.dtype) for one in taken] == given_weights
        and (x.shape, x.dtype) == ((count, info.in_channels, height, width), "float32")
        and [(one.shape, one.dtype) for one in exported.out_avals] == [(given, "float32")]
    )
